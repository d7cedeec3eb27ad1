//! JSON Schema as far as the document uses it; a keyword that is not known here fails the test that meets it.

use serde_json::{Map, Value};

use super::OPENAPI;

/// What a reference into the document stands for; anything else as it is.
pub(super) fn resolved(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        None => value,
        Some(to) => OPENAPI.pointer(&to[1..]).unwrap_or_else(|| panic!("{to} is not in the document")),
    }
}

/// What of a value does not fit, each with its place.
pub(super) fn misfits(schema: &'static Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "", &mut found);
    found
}

fn fits(schema: &'static Value, value: &Value) -> bool {
    misfits(schema, value).is_empty()
}

fn check(schema: &'static Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else { panic!("{schema} is no schema") };
    for (keyword, wanted) in keywords {
        if !holds(keyword, wanted, keywords, value, at, found) {
            found.push(format!("{at}: {value} does not fit {keyword} {wanted}"));
        }
    }
}

/// Whether one keyword holds; what is inside of the value is told by itself.
fn holds(
    keyword: &str,
    wanted: &'static Value,
    beside: &'static Map<String, Value>,
    value: &Value,
    at: &str,
    found: &mut Vec<String>,
) -> bool {
    let list = || wanted.as_array().expect("a list").iter();
    let text = value.as_str();
    match (keyword, value) {
        ("description" | "default" | "examples", _) => true,
        ("$ref", _) => {
            check(
                OPENAPI.pointer(&wanted.as_str().expect("a reference")[1..]).expect("in the document"),
                value,
                at,
                found,
            );
            true
        }
        ("type", _) => match wanted {
            Value::Array(types) => types.iter().any(|one| is_of(one, value)),
            one => is_of(one, value),
        },
        ("const", _) => value == wanted,
        ("enum", _) => list().any(|one| one == value),
        ("allOf", _) => {
            list().for_each(|one| check(one, value, at, found));
            true
        }
        ("anyOf", _) => list().any(|one| fits(one, value)),
        ("oneOf", _) => list().filter(|one| fits(one, value)).count() == 1,
        ("minimum", _) => value.as_f64().is_none_or(|number| number >= wanted.as_f64().expect("a number")),
        ("maximum", _) => value.as_f64().is_none_or(|number| number <= wanted.as_f64().expect("a number")),
        ("minLength", _) => text.is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().expect("a length")),
        ("maxLength", _) => text.is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().expect("a length")),
        ("minItems", _) => {
            value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().expect("a length"))
        }
        ("maxItems", _) => {
            value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().expect("a length"))
        }
        ("pattern", _) => {
            let pattern = regex::Regex::new(wanted.as_str().expect("a pattern")).expect("a pattern");
            text.is_none_or(|text| pattern.is_match(text))
        }
        ("format", _) => match wanted.as_str() {
            Some("date-time") => text.is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok()),
            Some("uuid") => text.is_none_or(|text| text.parse::<uuid::Uuid>().is_ok()),
            other => panic!("the format {other:?} is not known here"),
        },
        ("required", Value::Object(fields)) => list().all(|name| fields.contains_key(name.as_str().expect("a name"))),
        ("properties", Value::Object(fields)) => {
            for (name, schema) in wanted.as_object().expect("properties") {
                if let Some(value) = fields.get(name) {
                    check(schema, value, &format!("{at}/{name}"), found);
                }
            }
            true
        }
        ("additionalProperties", Value::Object(fields)) => {
            let named = |name: &String| beside.get("properties").is_some_and(|known| known.get(name).is_some());
            for (name, value) in fields.iter().filter(|(name, _)| !named(name)) {
                match wanted {
                    Value::Bool(true) => {}
                    Value::Bool(false) => found.push(format!("{at}/{name}: is not in the document")),
                    schema => check(schema, value, &format!("{at}/{name}"), found),
                }
            }
            true
        }
        ("items", Value::Array(items)) => {
            items.iter().enumerate().for_each(|(n, item)| check(wanted, item, &format!("{at}/{n}"), found));
            true
        }
        ("required" | "properties" | "additionalProperties" | "items", _) => true,
        _ => panic!("the keyword {keyword} is not known here"),
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let link = &OPENAPI["components"]["schemas"]["Link"];
    let good = link["examples"][0].clone();
    assert_eq!(misfits(link, &good), [""; 0]);
    for (pointer, bad, told) in [
        ("/status", serde_json::json!(304), "/status: 304 does not fit enum"),
        ("/version", serde_json::json!(0), "/version: 0 does not fit minimum"),
        ("/tags/0", serde_json::json!(7), "/tags/0: 7 does not fit type"),
        ("/slug", serde_json::json!("a b"), "/slug: \"a b\" does not fit pattern"),
        ("/updated_at", serde_json::json!("now"), "/updated_at: \"now\" does not fit format"),
        ("/cap", serde_json::json!({ "limit": 1, "per": "day", "till": 2 }), "does not fit oneOf"),
    ] {
        let mut link_ = good.clone();
        *link_.pointer_mut(pointer).expect("a field") = bad;
        let found = misfits(link, &link_);
        assert!(found.len() == 1 && found[0].contains(told), "{pointer}: {found:?}");
    }
    let mut lacking = good;
    lacking.as_object_mut().expect("an object").remove("url");
    assert_eq!(misfits(link, &lacking).len(), 1);
}
