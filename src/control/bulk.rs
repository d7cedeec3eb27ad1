//! `POST /api/v1/links/bulk`: many links in one request, a JSON object a line (NDJSON).
//!
//! Judges nothing itself: each line is read as the body of `POST /links`, and `catalog::link_import` makes or changes it. A
//! line that is refused is told with what is wrong and keeps no other from being written. Behind the token. Bounds:
//! `control.import_bytes_max` and `control.import_links_max`.

use axum::Extension;
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Parts;
use super::access::Caller;
use super::extract::{Fields, Query, parse};
use super::links::{check_nulls, to_the_end};
use super::problem::{Code, Problem};
use super::releases::released;
use super::write::Brief;
use crate::catalog::link_import::{Existing, Imported};
use crate::click::RawLink;
use crate::click::key::without_keys;

/// Its path in the table of endpoints.
pub(super) const PATH: &str = "/links/bulk";
const KINDS: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
/// Lines that are read without a pause for other requests.
const LINES_AT_ONCE: usize = 500;
/// What became of a line, in the order of [`Done`](crate::catalog::link_import::Done); a refused one behind them.
const WORDS: [&str; 4] = ["created", "changed", "unchanged", "refused"];
const REFUSED: usize = 3;
const OF_ANSWERS: [&str; 3] = ["version", "created_at", "updated_at"];

/// How much one request may bring.
#[derive(Clone, Copy, Debug)]
pub struct ImportLimits {
    /// Bytes of its body.
    pub bytes_max: usize,
    /// Links.
    pub links_max: usize,
}

/// What `POST /links/bulk` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    existing: Option<String>,
}

impl Asked {
    fn existing(&self) -> Result<Existing, Problem> {
        match self.existing.as_deref() {
            None | Some("refuse") => Ok(Existing::Refused),
            Some("change") => Ok(Existing::Changed),
            Some(_) => Err(Problem::parameter("existing", "must be `refuse` or `change`")),
        }
    }
}

/// The body.
pub(super) struct Lines(Bytes);

impl FromRequest<Parts> for Lines {
    type Rejection = Problem;

    async fn from_request(request: Request, parts: &Parts) -> Result<Self, Problem> {
        if !is_ndjson(request.headers()) {
            let detail = "the body must be NDJSON, a link a line; send Content-Type: application/x-ndjson";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let body = to_bytes(request.into_body(), parts.import.bytes_max).await;
        body.map(Self).map_err(|_| {
            let detail =
                "the body did not arrive whole, or is longer than control.import_bytes_max allows; send it in parts";
            Problem::new(Code::BodyTooLarge, detail)
        })
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind))
}

pub(super) async fn import(
    State(parts): State<Parts>,
    caller: Caller,
    Query(asked): Query<Asked>,
    Lines(body): Lines,
) -> Result<Response, Problem> {
    let existing = asked.existing()?;
    let lines = (1..).zip(body.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    let lines: Vec<(usize, &[u8])> = lines.collect();
    if lines.is_empty() {
        return Err(Problem::new(Code::InvalidJson, "the body has no line; send a link a line"));
    }
    let most = parts.import.links_max;
    if lines.len() > most {
        let detail =
            format!("the body has {} links, and control.import_links_max allows {most}; send it in parts", lines.len());
        return Err(Problem::new(Code::BodyTooLarge, detail));
    }
    let (mut raws, mut told) = (Vec::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
    for some in lines.chunks(LINES_AT_ONCE) {
        for (number, line) in some {
            told.push((*number, read(line, existing).map(|raw| raws.push(raw))));
        }
        tokio::task::yield_now().await;
    }
    let by = caller.writer(&parts);
    let imported = to_the_end(async move { Ok::<_, Problem>(parts.links.import(&by, raws, existing).await) }).await?;
    match imported.away {
        Some(away) if imported.releases.is_empty() => Err(away.into()),
        _ => Ok(answer(told, imported)),
    }
}

fn read(line: &[u8], existing: Existing) -> Result<RawLink, Problem> {
    // What an answer has beside the link is passed over: what was listed can be imported.
    let shorter = serde_json::from_slice::<Map<String, Value>>(line).ok().and_then(|mut object| {
        let own = OF_ANSWERS.iter().filter(|field| object.remove(**field).is_some()).count();
        (own > 0).then(|| Value::Object(object).to_string())
    });
    let Fields { value, nulls } = parse(shorter.as_deref().map_or(line, str::as_bytes))?;
    if existing == Existing::Changed {
        check_nulls(nulls)?;
    }
    Ok(value)
}

/// `told`: the number of each line, and of one that is no link what is wrong with it.
fn answer(told: Vec<(usize, Result<(), Problem>)>, imported: Imported) -> Response {
    let (mut lines, mut counts) = (imported.lines.into_iter(), [0_usize; 4]);
    let mut results = Vec::with_capacity(told.len());
    for (number, read) in told {
        let line = read.map(|()| lines.next()).transpose();
        let (word, mut result) = match line {
            Some(Ok(Ok((done, entry)))) => {
                let link = &entry.link;
                (done as usize, json!({ "domain": link.domain(), "slug": link.slug.as_str(), "version": link.version }))
            }
            Some(Ok(Err(error))) => (REFUSED, Problem::from(error).of_line()),
            Some(Err(problem)) => (REFUSED, problem.of_line()),
            // There are as many as were asked for.
            None => continue,
        };
        counts[word] += 1;
        (result["line"], result["result"]) = (number.into(), WORDS[word].into());
        results.push(result);
    }
    let mut told = json!({ "releases": imported.releases, "results": null });
    WORDS.iter().zip(counts).for_each(|(word, count)| told[*word] = count.into());
    let brief = Brief(told.to_string().into());
    told["results"] = results.into();
    // Somebody may have put a key where it does not belong: it is not repeated.
    let body = without_keys(&told.to_string()).into_owned();
    let release = imported.releases.last().map(|version| released(*version));
    (release, Extension(brief), [(CONTENT_TYPE, "application/json")], body).into_response()
}
