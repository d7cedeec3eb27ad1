//! The document of the API: it says what is there, all of it, and nothing else.

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use self::schema::{misfits, resolved};
use super::super::openapi::DOCUMENT;
use super::*;
use crate::click::Scope;
use crate::click::{RawLink, key::RawKey, key::RawRotation};

static OPENAPI: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(DOCUMENT).unwrap());

/// What is open, and stands in no table.
const OPEN: [&str; 6] = ["/", "/api/v1/openapi.json", "/health", "/health/ready", "/metrics", "/slo"];

/// The operations of the document, by path and method.
fn operations() -> impl Iterator<Item = (&'static str, String, &'static Value)> {
    let paths = OPENAPI["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, operation)| (path.as_str(), method.to_uppercase(), operation))
    })
}

/// The operation of a request; a name in the path stands behind what is spelled out.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (wanted, given) = (template.split('/'), path.split('/'));
        wanted.clone().count() == given.clone().count()
            && wanted.zip(given).all(|(wanted, given)| wanted == given || wanted.starts_with('{') && !given.is_empty())
    };
    let method = if method == "HEAD" { "GET" } else { method };
    let names = |template: &str| template.matches('{').count();
    let all = operations().filter(|(template, of, _)| fits(template) && of == method);
    all.min_by_key(|(template, ..)| names(template)).map(|(.., operation)| operation)
}

/// Whether the document knows such an answer: every answer of these tests comes by here.
pub(super) fn judge(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = operation(method, path) else {
        let told = [401, 404, 405].contains(&answer.status.as_u16());
        return assert!(told, "{method} {path} is not in the document, and answers {}", answer.status);
    };
    let status = answer.status.as_u16();
    let response = &operation["responses"][status.to_string()];
    assert!(response.is_object(), "{method} {path} answers {status}, of which the document says nothing");
    let response = resolved(response);
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = resolved(header);
        let Some(value) = answer.headers.get(name) else {
            assert_ne!(header["required"], true, "{method} {path} {status} lacks {name}");
            continue;
        };
        let schema = &header["schema"];
        let value = match schema["type"].as_str() {
            Some("integer") => value.to_str().unwrap().parse::<u64>().unwrap().into(),
            _ => Value::from(value.to_str().unwrap()),
        };
        assert_eq!(misfits(schema, &value), [""; 0], "{name} of {method} {path} {status}");
    }
    let kind = answer.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().split(';').next().unwrap());
    let contents = response.get("content").and_then(Value::as_object);
    match (kind, contents) {
        (None, None) => assert_eq!(answer.text, ""),
        (Some(kind), Some(contents)) if contents.contains_key(kind) => {
            let schema = &contents[kind]["schema"];
            // The body of what is no JSON is a text to its schema.
            let body =
                if kind.ends_with("json") && !kind.ends_with("ndjson") { answer.json() } else { json!(answer.text) };
            let told = if method == "HEAD" { Vec::new() } else { misfits(schema, &body) };
            assert_eq!(told, [""; 0], "{method} {path} {status}: {}", answer.text);
        }
        _ => panic!("{method} {path} {status} is {kind:?}; the document knows {contents:?}"),
    }
}

#[test]
fn the_document_has_every_endpoint_with_what_it_needs_and_no_other() {
    let of_scope = |scope: Scope| json!([{ "token": [] }, { "key": [scope.name()] }]);
    let served = endpoints().into_iter().map(|endpoint| {
        let needs = match endpoint.needs {
            Needs::Token => json!([{ "token": [] }]),
            Needs::Scope(scope) => of_scope(scope),
        };
        ((format!("/api/v1{}", endpoint.path), endpoint.method.to_string()), needs)
    });
    let open = OPEN.iter().map(|path| (((*path).to_owned(), "GET".to_owned()), json!([])));
    let served: BTreeMap<_, _> = served.chain(open).collect();
    let told: BTreeMap<_, _> =
        operations().map(|(path, method, of)| ((path.to_owned(), method), of["security"].clone())).collect();
    assert_eq!(told, served);
}

#[test]
fn every_operation_has_a_name_a_summary_and_a_known_tag() {
    let tags: BTreeSet<_> =
        OPENAPI["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations() {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: the name of another");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{method} {path}");
    }
    assert_eq!(OPENAPI["info"]["version"], crate::VERSION);
}

/// The codes and their statuses, from the one place that gives them both.
fn codes() -> BTreeSet<(String, u16)> {
    let source = include_str!("../problem.rs");
    let table = source.split("const fn parts(self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
    let arms: Vec<_> = table.lines().filter(|line| line.contains(" => ")).collect();
    let code = |line: &&str| {
        let (_, right) = line.split_once("(StatusCode::")?;
        let (status, name) = right.split_once(", \"")?;
        Some((name.split('"').next()?.to_owned(), status_named(status)))
    };
    let codes: BTreeSet<_> = arms.iter().filter_map(code).collect();
    assert_eq!(codes.len(), arms.len(), "one a line, no two of one name");
    codes
}

fn status_named(name: &str) -> u16 {
    let words = name.replace('_', " ");
    let of = |status: &u16| {
        StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason()).map(str::to_uppercase)
    };
    (400..600).find(|status| of(status).as_deref() == Some(&words)).unwrap_or_else(|| panic!("no status {name}"))
}

#[test]
fn the_document_has_every_code_with_its_status_and_no_other() {
    let codes = codes();
    assert!(codes.contains(&(Code::CatalogFull.name().to_owned(), Code::CatalogFull.status().as_u16())));
    let schema = &OPENAPI["components"]["schemas"]["Problem"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let listed: BTreeSet<_> = schema["properties"]["code"]["enum"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(listed, codes.iter().map(|(name, _)| name.clone()).collect());
    let description = schema["description"].as_str().unwrap();
    for (name, status) in &codes {
        assert!(description.contains(&format!("- `{name}` ({status}): ")), "{name} is not described");
    }
    let mut of_answers = BTreeSet::new();
    for (name, response) in OPENAPI["components"]["responses"].as_object().unwrap() {
        let narrowed = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"];
        let status = narrowed["status"]["const"].as_u64().unwrap_or_else(|| panic!("{name} has no status"));
        let codes = narrowed["code"]["enum"].as_array().unwrap();
        of_answers.extend(codes.iter().map(|code| (text(code), u16::try_from(status).unwrap())));
    }
    assert_eq!(of_answers, codes);
    for (path, method, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let of = &resolved(response)["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"];
            let wanted = of["status"]["const"].as_u64().map(|of| of.to_string());
            assert!(wanted.is_none_or(|wanted| wanted == *status), "{method} {path} {status}");
        }
    }
}

/// The names in backticks behind a phrase.
fn quoted(text: &str, behind: &str) -> BTreeSet<String> {
    let list = text.split_once(behind).map_or("", |(_, list)| list);
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_document_has_the_parameters_that_each_endpoint_takes() {
    let bench = Bench::new().await;
    for endpoint in endpoints() {
        let path = endpoint.path.replace("{version}", "1").replace(['{', '}'], "");
        let body = operation(endpoint.method.as_str(), &format!("/api/v1{path}")).unwrap();
        let told = body["parameters"].as_array().into_iter().flatten().map(resolved);
        let told: BTreeSet<_> =
            told.filter(|one| one["in"] == "query").map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        let answer = bench.api(endpoint.method.as_str(), &format!("{path}?no_such=1"), "").await;
        let place = format!("{} {path}", endpoint.method);
        answer.assert_problem(400, "invalid_parameter");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("unknown field `no_such`"), "{place}: {detail}");
        assert_eq!(quoted(&detail, "expected"), told, "{place}: {detail}");
    }
}

fn properties(schema: &str) -> BTreeSet<String> {
    let schema = &OPENAPI["components"]["schemas"][schema];
    assert_eq!(schema["additionalProperties"], false);
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_document_has_the_fields_of_bodies_that_are_read_by_name() {
    fn taken<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
        let error = serde_json::from_value::<T>(json!({ "no_such": 1 })).err().unwrap().to_string();
        quoted(&error, "expected")
    }
    for (schema, fields) in [
        ("NewLink", taken::<RawLink>()),
        ("LinkChange", taken::<RawLink>()),
        ("NewKey", taken::<RawKey>()),
        ("KeyChange", taken::<RawKey>()),
        ("KeyRotation", taken::<RawRotation>()),
        ("VerifyRequest", taken::<super::super::verify::Body>()),
        ("MergeRequest", taken::<super::super::store::Body>()),
        ("ExportRequest", taken::<super::super::privacy::Export>()),
        ("EraseRequest", taken::<super::super::privacy::Erase>()),
    ] {
        assert_eq!(properties(schema), fields, "{schema}");
    }
}

#[tokio::test]
async fn the_document_has_the_fields_of_documents() {
    let bench = Bench::new().await;
    let campaign = json!({
        "no_such": 1,
        "rules": [{ "no_such": 1, "name": "r", "to": [{ "no_such": 1, "url": "https://a.example/" }], "cap": { "no_such": 1 } }],
        "dedup": { "no_such": 1 },
    });
    let question = json!({ "no_such": 1, "link": "a", "visit": { "no_such": 1 } });
    // What an answer has beside the document is taken out before it is read.
    let own = ["version", "created_at", "updated_at"];
    for (method, path, body, at, schema) in [
        ("PUT", "/campaigns/c", &campaign, "", "CampaignDocument"),
        ("PUT", "/campaigns/c", &campaign, "/rules/0", "Rule"),
        ("PUT", "/campaigns/c", &campaign, "/rules/0/to/0", "Destination"),
        ("PUT", "/campaigns/c", &campaign, "/rules/0/cap", "Cap"),
        ("PUT", "/campaigns/c", &campaign, "/dedup", "Dedup"),
        ("PUT", "/domains/go.example", &json!({ "no_such": 1 }), "", "DomainDocument"),
        ("POST", "/explain", &question, "", "Question"),
        ("POST", "/explain", &question, "/visit", "SupposedVisit"),
    ] {
        let answer = bench.api(method, path, &body.to_string()).await;
        answer.assert_problem(422, "invalid_fields");
        let pointer = format!("{at}/no_such");
        let errors = answer.json()["errors"].clone();
        let told = errors.as_array().unwrap().iter().find(|error| error["pointer"] == *pointer);
        let told = told.unwrap_or_else(|| panic!("{pointer} in {errors}"))["detail"].as_str().unwrap();
        let (_, list) = told.split_once("there are ").unwrap();
        let mut fields: BTreeSet<_> = list.split(", ").map(str::to_owned).collect();
        if ["CampaignDocument", "DomainDocument"].contains(&schema) {
            fields.extend(own.map(str::to_owned));
        }
        assert_eq!(properties(schema), fields, "{schema}");
    }
}

#[tokio::test]
async fn the_examples_are_taken_as_they_stand() {
    let bench = Bench::new().await;
    let mut taken = 0;
    for (name, schema) in OPENAPI["components"]["schemas"].as_object().unwrap() {
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(misfits(schema, example), [""; 0], "{name}");
            let (method, path) = match name.as_str() {
                "NewLink" => ("POST", "/links"),
                "LinkChange" => ("PATCH", "/links/spring"),
                "CampaignDocument" => ("PUT", "/campaigns/mail-7"),
                "DomainDocument" => ("PUT", "/domains/go.example"),
                "NewKey" => ("POST", "/keys"),
                _ => continue,
            };
            if name == "LinkChange" {
                bench.link("spring").await;
            }
            let answer = bench.api(method, path, &example.to_string()).await;
            // The link may be made already.
            assert!(answer.status.is_success() || answer.status == StatusCode::CONFLICT, "{name}: {}", answer.text);
            taken += 1;
        }
    }
    assert_eq!(taken, 5);
}

#[tokio::test]
async fn the_document_is_open_and_served_as_it_is_written() {
    let bench = Bench::new().await;
    let answer = bench.send("GET", "/api/v1/openapi.json", &[], "").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, DOCUMENT));
    assert_eq!(answer.headers[CONTENT_TYPE], JSON);
    let answer = bench.send("POST", "/api/v1/openapi.json", &[], "").await;
    answer.assert_problem(405, "method_not_allowed");
    assert_eq!(answer.headers[ALLOW], "GET,HEAD");
}

/// Instead of schemathesis, which cannot be told that other methods of the path of imports are those of a link called `bulk`.
#[tokio::test]
async fn what_a_path_takes_is_what_the_document_says_of_it() {
    let bench = Bench::new().await;
    let bearer = format!("Bearer {TOKEN}");
    let methods = |path: &str| -> BTreeSet<String> {
        let of_path = operations().filter(|(of, ..)| *of == path).map(|(_, method, _)| method);
        of_path
            .flat_map(|method| if method == "GET" { vec!["HEAD".to_owned(), method] } else { vec![method] })
            .collect()
    };
    for path in OPENAPI["paths"].as_object().unwrap().keys() {
        let mut told = methods(path);
        if path == "/api/v1/links/bulk" {
            told.extend(methods("/api/v1/links/{slug}"));
        }
        let answer =
            bench.send("OPTIONS", &path.replace(['{', '}'], ""), &[(AUTHORIZATION.as_str(), &bearer)], "").await;
        answer.assert_problem(405, "method_not_allowed");
        let allowed: BTreeSet<_> = answer.headers[ALLOW].to_str().unwrap().split(',').map(str::to_owned).collect();
        assert_eq!(allowed, told, "{path}");
    }
}
