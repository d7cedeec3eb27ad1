//! `/api/v1/links`: make, list, read, change and remove links.
//!
//! Judges nothing itself: `click::link` checks, `catalog::links` keeps, and an edit is live when it is answered. Behind
//! the token. Bounds: [`LIMIT_MAX`] links a page.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::http::request::Parts as Head;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::access::Caller;
use super::bulk;
use super::extract::{Fields, NoParameters, Query, domain, limit};
use super::problem::{Code, Problem, Wrong};
use super::releases::released;
use crate::catalog::{LinkDocument, LinkError, LinkPage};
use crate::click::RawLink;
use crate::click::domain::{ANY, check_name};
use crate::click::life::REMOVABLE;
use crate::click::link::check_slug;
use crate::click::link_caps::REMOVABLE_CAPS;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "l2.";

/// Makes an edit in a task of its own: a client that goes away, or the deadline, must not leave it in the catalog and out
/// of the memory that links are served from.
pub(super) async fn to_the_end<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    edit: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(edit).await {
        Ok(edited) => edited.map_err(Into::into),
        Err(_) => {
            Err(Problem::new(Code::CatalogUnavailable, "the edit broke off; read again to see whether it was made"))
        }
    }
}

pub(super) async fn create(
    State(parts): State<Parts>,
    caller: Caller,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<RawLink>,
) -> Result<Response, Problem> {
    let by = caller.writer(&parts);
    let (entry, release) = to_the_end(async move { parts.links.create(&by, body.value).await }).await?;
    // Domain and slug have only what may stand in a URL.
    let of = entry.link.domain.as_deref().map(|domain| format!("?domain={domain}")).unwrap_or_default();
    let place = format!("/api/v1/links/{}{of}", entry.link.slug);
    Ok((StatusCode::CREATED, released(release), [(LOCATION, place)], Json(LinkDocument::new(&entry.link)))
        .into_response())
}

/// What `GET /links` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    domain: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let domain = domain(page.domain.as_deref())?;
    let after = page.cursor.as_deref().map(read_cursor).transpose()?;
    // One more than asked for: it tells whether there is another page.
    let (org, domain) = (caller.org(), domain.as_deref());
    let mut links = parts.links.list(LinkPage { org, domain, after, limit: limit + 1 }).await?;
    let more = links.len() > limit;
    links.truncate(limit);
    let next = links.last().filter(|_| more).map(|link| format!("{CURSOR}{}/{}", link.domain(), link.slug));
    let links: Vec<_> = links.iter().map(LinkDocument::new).collect();
    Ok(Json(json!({ "links": links, "next_cursor": next })))
}

/// Domain and slug of the last link.
fn read_cursor(text: &str) -> Result<(&str, &str), Problem> {
    let name = text.strip_prefix(CURSOR).and_then(|name| name.split_once('/'));
    let is_name = |(domain, slug): &(&str, &str)| {
        check_name(domain).is_ok_and(|checked| checked == *domain) && check_slug(slug).is_ok()
    };
    name.filter(is_name)
        .ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}

/// The name in a path; `None` for one that is no UTF-8, which names no link.
pub(super) struct Slug(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Slug {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Infallible> {
        Ok(Self(match Path::<String>::from_request_parts(head, state).await {
            Ok(Path(slug)) => Some(slug),
            // The path of imports is that of the link of this name too.
            Err(_) => head.uri.path().ends_with(bulk::PATH).then(|| "bulk".into()),
        }))
    }
}

/// Of which domain a link is; any when it is not said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Under {
    domain: Option<String>,
}

impl Under {
    fn domain(&self) -> Result<String, Problem> {
        Ok(domain(self.domain.as_deref())?.unwrap_or_else(|| ANY.into()))
    }
}

fn known(slug: Slug) -> Result<String, Problem> {
    slug.0.ok_or_else(|| LinkError::Unknown.into())
}

pub(super) async fn read(
    State(parts): State<Parts>,
    caller: Caller,
    slug: Slug,
    Query(under): Query<Under>,
) -> Result<Response, Problem> {
    let entry = parts.links.get_of(caller.org(), &under.domain()?, &known(slug)?).ok_or(LinkError::Unknown)?;
    Ok(Json(LinkDocument::new(&entry.link)).into_response())
}

pub(super) async fn change(
    State(parts): State<Parts>,
    caller: Caller,
    slug: Slug,
    Query(under): Query<Under>,
    body: Fields<RawLink>,
) -> Result<Response, Problem> {
    check_nulls(body.nulls)?;
    let (by, domain, slug) = (caller.writer(&parts), under.domain()?, known(slug)?);
    let (entry, release) = to_the_end(async move { parts.links.change(&by, &domain, &slug, body.value).await }).await?;
    Ok((released(release), Json(LinkDocument::new(&entry.link))).into_response())
}

/// Whether what is null can be removed.
pub(super) fn check_nulls(nulls: Vec<String>) -> Result<(), Problem> {
    let nulls = nulls.into_iter().filter(|field| !REMOVABLE.iter().chain(&REMOVABLE_CAPS).any(|known| known == field));
    let wrong: Vec<_> = nulls.map(|field| Wrong::new(field, "is null; leave it out, or give the new value")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Problem::fields(wrong)) }
}

pub(super) async fn remove(
    State(parts): State<Parts>,
    caller: Caller,
    slug: Slug,
    Query(under): Query<Under>,
) -> Result<Response, Problem> {
    let (by, domain, slug) = (caller.writer(&parts), under.domain()?, known(slug)?);
    let release = to_the_end(async move { parts.links.remove(&by, &domain, &slug).await }).await?;
    Ok((StatusCode::NO_CONTENT, released(release)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_taken_only_as_it_was_given() {
        assert_eq!(read_cursor("l2.*/spring").unwrap(), ("*", "spring"));
        assert_eq!(read_cursor("l2.go.example/spring").unwrap(), ("go.example", "spring"));
        for bad in ["", "spring", "l2.*/", "l2.*/a b", "l2.*/in", "l1.spring", "L2.*/a", "l2.*/a/b", "l2.A.b/a", "l2.a"]
        {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
