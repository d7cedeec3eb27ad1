//! From what is to be answered to the answer.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Response, StatusCode};

use super::admission;
use super::core::Core;
use super::ingress::Refusal;
use super::resolve::Resolved;
use super::spell::Place;
use crate::click::ClickId;
use crate::failpoint::{self, Point};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::phases::{Lap, Laps};

pub(super) type Body = Full<Bytes>;
pub(super) type Answer = Response<Body>;

static X_CLICK_ID: HeaderName = HeaderName::from_static("x-click-id");
static X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// What a connection over the cap gets.
pub(super) const OVERLOADED: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: application/problem+json\r\ncontent-length: 97\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Too many connections\",\"status\":503,\"code\":\"too_many_connections\"}\n";

/// What a new connection gets under overload.
pub(super) const SHED: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: application/problem+json\r\ncontent-length: 100\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Overloaded; come back in a moment\",\"status\":503,\"code\":\"overloaded\"}\n";

/// What a connection of an address gets that has too many.
pub(super) const TOO_MANY_OF_ADDRESS: &str = "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: application/problem+json\r\ncontent-length: 114\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Too many connections from one address\",\"status\":429,\
    \"code\":\"too_many_connections\"}\n";

const UNKNOWN_LINK: &str = "{\"type\":\"about:blank\",\"title\":\"There is no such link\",\"status\":404,\
    \"code\":\"unknown_link\"}\n";
const EXPIRED_LINK: &str = "{\"type\":\"about:blank\",\"title\":\"This link has expired\",\"status\":410,\
    \"code\":\"expired_link\"}\n";
const METHOD_NOT_ALLOWED: &str = "{\"type\":\"about:blank\",\"title\":\"Links are followed with GET or HEAD\",\
    \"status\":405,\"code\":\"method_not_allowed\"}\n";
const URI_TOO_LONG: &str = "{\"type\":\"about:blank\",\"title\":\"The request target is too long\",\"status\":414,\
    \"code\":\"uri_too_long\"}\n";
/// Nobody needs to index redirects; links are for people who were given them.
const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// Waits for the journal, where there is something to wait for, and builds the answer. `began` is the clock when the head
/// was complete; `laps` of a request that is measured.
pub(super) async fn respond(core: &Rc<Core>, resolved: Resolved, began: Duration, laps: &mut Option<Laps>) -> Answer {
    match resolved {
        Resolved::Redirect { ticket, id, status, place, cookie, taken } => {
            let kept = ticket.await;
            core.end_of(laps, Lap::Journal);
            failpoint::hit(Point::Respond);
            // One that was written and could not be forced may be stored all the same.
            if !kept && !core.intake.borrow().waits_for_sync() {
                taken.give_back(core);
            }
            core.metrics.count(if kept { Outcome::Redirected } else { Outcome::Untracked });
            let answered = core.intake.borrow().last_answered();
            core.metrics.redirect_duration.observe_duration(answered.saturating_sub(began));
            let mut answer = redirect(status, place, id, kept);
            if let Some(cookie) = cookie {
                answer.headers_mut().insert(SET_COOKIE, cookie);
            }
            answer
        }
        Resolved::Nowhere { ticket, id } => {
            let kept = ticket.await;
            core.end_of(laps, Lap::Journal);
            failpoint::hit(Point::Respond);
            let outcome = if kept { Outcome::UnknownLink } else { Outcome::UntrackedOrphan };
            let mut answer = problem(core, outcome, StatusCode::NOT_FOUND, UNKNOWN_LINK);
            if kept {
                put_id(answer.headers_mut(), id.hyphenated(&mut [0; 36]));
            }
            answer
        }
        Resolved::Unrecorded(location) => {
            core.metrics.count(Outcome::Orphan);
            send(StatusCode::FOUND, location)
        }
        Resolved::UnknownLink => problem(core, Outcome::UnknownLink, StatusCode::NOT_FOUND, UNKNOWN_LINK),
        Resolved::ExpiredLink => problem(core, Outcome::Expired, StatusCode::GONE, EXPIRED_LINK),
        Resolved::MethodNotAllowed => {
            let mut answer = problem(core, Outcome::Refused, StatusCode::METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer
        }
        Resolved::UriTooLong => problem(core, Outcome::Refused, StatusCode::URI_TOO_LONG, URI_TOO_LONG),
        Resolved::Refused(why) => {
            let (outcome, status, body) = why.problem();
            let mut answer = problem(core, outcome, status, body);
            match status {
                StatusCode::UNAUTHORIZED => {
                    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                StatusCode::SERVICE_UNAVAILABLE => {
                    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                _ => {}
            }
            answer
        }
        // It has been asked for, and what it said leads elsewhere.
        Resolved::AskWarden => {
            let (outcome, status, body) = Refusal::WardenAway.problem();
            problem(core, outcome, status, body)
        }
        Resolved::Limited(limited) => admission::refuse(core, &limited),
        Resolved::Shed => admission::shed(core),
        Resolved::Robots => {
            core.metrics.count(Outcome::Other);
            text(StatusCode::OK, "text/plain; charset=utf-8", "public, max-age=86400", ROBOTS)
        }
        Resolved::Association(file) => {
            core.metrics.count(Outcome::Other);
            // An hour: the setting is read at the start, so a restart may bring another one.
            text(StatusCode::OK, "application/json", "public, max-age=3600", file)
        }
    }
}

fn redirect(status: u16, place: Place, id: ClickId, kept: bool) -> Answer {
    // Links are checked to have one of the redirect statuses.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let mut buffer = [0; 36];
    let id = id.hyphenated(&mut buffer);
    if !kept {
        return send(status, without_id(place, id));
    }
    let mut answer = send(status, place.location);
    put_id(answer.headers_mut(), id);
    answer
}

fn put_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(&X_CLICK_ID, id);
    }
}

/// The redirect, whoever was recorded.
fn send(status: StatusCode, location: HeaderValue) -> Answer {
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.reserve(8);
    headers.insert(LOCATION, location);
    // hyper adds it for GET alone, and HEAD is to get the same headers.
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What browsers do by default, said aloud: the destination learns the site that the visitor came from, not the page.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin"));
    headers.insert(&X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    answer
}

/// The destination must not carry the id of a click that was not kept.
fn without_id(Place { location, without_id }: Place, id: &str) -> HeaderValue {
    if let Some(location) = without_id {
        return location;
    }
    let spelled = location.to_str().ok().filter(|text| text.contains(id)).map(|text| text.replace(id, ""));
    spelled.and_then(|text| HeaderValue::try_from(text).ok()).unwrap_or(location)
}

pub(super) fn problem(core: &Core, outcome: Outcome, status: StatusCode, body: &'static str) -> Answer {
    core.metrics.count(outcome);
    text(status, "application/problem+json", "no-store", body)
}

fn text(status: StatusCode, kind: &'static str, cache: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    answer.headers_mut().insert(&X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_answers_are_valid() {
        for body in [UNKNOWN_LINK, EXPIRED_LINK, METHOD_NOT_ALLOWED, URI_TOO_LONG] {
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(problem["code"].is_string() && problem["status"].is_number());
        }
        for (_, status, body) in Refusal::ALL.map(Refusal::problem) {
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(problem["code"].is_string() && problem["status"] == status.as_u16());
        }
        for answer in [OVERLOADED, SHED, TOO_MANY_OF_ADDRESS] {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("\r\ncontent-length: {}", body.len())), "{}", body.len());
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(head.contains(&format!(" {} ", problem["status"])));
        }
    }

    #[test]
    fn an_untracked_redirect_carries_no_id_at_all() {
        let id = ClickId::new(5, &[1; 10]);
        let location = HeaderValue::try_from(format!("https://a.example/?id={id}&x=1")).unwrap();
        let own = HeaderValue::from_static("https://a.example/?id=none");
        for (without_id, expected) in [(None, "https://a.example/?id=&x=1"), (Some(own), "https://a.example/?id=none")]
        {
            let answer = redirect(302, Place { location: location.clone(), without_id }, id, false);
            assert_eq!(answer.headers()[LOCATION], expected);
            assert!(!answer.headers().contains_key("x-click-id"));
        }
    }
}
