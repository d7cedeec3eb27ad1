//! Who sends a visit to `/in`: the holder of a key, or, where keys are optional, anybody.
//!
//! Checks from memory; only a key that a remote Warden has not told of yet is asked for, and nothing else waits for it. No
//! part of an `Authorization` goes anywhere from here.

use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};

use super::core::Core;
use super::ingress::Refusal;
use crate::catalog::{Checked, Peek, Unavailable, Why};
use crate::click::key::{PREFIX, bearer};
use crate::click::{Campaign, Grant, Scope};
use crate::config::IngressKeys;
use crate::telemetry::auth::AuthOutcome;
use crate::telemetry::caches::Cache;

/// What is known of whoever sent a visit, and how long it took to know it.
pub(super) struct Access {
    verdict: Verdict,
    took: Duration,
}

enum Verdict {
    /// There is no key, and none is needed.
    Open,
    Granted(Arc<Grant>),
    Denied,
    Away(Unavailable),
}

impl Access {
    /// From memory; `None`: the Warden is to be asked.
    pub(super) fn peek(core: &Core, headers: &HeaderMap) -> Option<Self> {
        if core.parts.ingress.keys == IngressKeys::Optional && !headers.get_all(AUTHORIZATION).iter().any(holds_key) {
            return Some(Self { verdict: Verdict::Open, took: Duration::ZERO });
        }
        let began = core.parts.clock.now();
        let peeked = core.parts.warden.peek(presented(headers), core.turn_ms.get());
        // What is no key is looked for nowhere.
        if peeked != Peek::Denied(Why::Malformed) {
            core.caches.count(Cache::Keys, peeked != Peek::Ask);
        }
        let verdict = match peeked {
            Peek::Granted(grant) => Verdict::Granted(grant),
            Peek::Denied(_) => Verdict::Denied,
            Peek::Ask => return None,
        };
        Some(Self { verdict, took: core.parts.clock.now().saturating_sub(began) })
    }

    /// From the Warden.
    pub(super) async fn ask(core: &Core, headers: &HeaderMap) -> Self {
        let began = core.parts.clock.now();
        let verdict = match core.parts.warden.load(presented(headers)).await {
            Ok(Checked::Granted(grant)) => Verdict::Granted(grant),
            Ok(Checked::Denied(_)) => Verdict::Denied,
            Err(error) => Verdict::Away(error),
        };
        Self { verdict, took: core.parts.clock.now().saturating_sub(began) }
    }

    /// Of a good key.
    pub(super) fn grant(&self) -> Option<&Grant> {
        if let Verdict::Granted(grant) = &self.verdict { Some(grant) } else { None }
    }

    /// The organisation for which the visit may go by this campaign, if there is one of the name that it gave; counted.
    pub(super) fn judge<'a>(&'a self, core: &'a Core, campaign: Option<&Campaign>) -> Result<&'a str, Refusal> {
        // Compared whatever the key: a bad one takes as long as one of another organisation.
        let org = if let Verdict::Granted(grant) = &self.verdict { &*grant.org } else { "" };
        let is_its_own = campaign.is_none_or(|campaign| *campaign.org == *org);
        let (outcome, judged) = match &self.verdict {
            Verdict::Open => return Ok(&core.parts.ingress.org),
            Verdict::Denied => (AuthOutcome::Denied, Err(Refusal::Unauthorized)),
            Verdict::Granted(grant) if !grant.scopes.allow(Scope::Ingress) => {
                (AuthOutcome::Forbidden, Err(Refusal::Forbidden))
            }
            // As if there were no such key.
            Verdict::Granted(_) if !is_its_own => (AuthOutcome::Denied, Err(Refusal::Unauthorized)),
            Verdict::Granted(_) => (AuthOutcome::Granted, Ok(org)),
            Verdict::Away(Unavailable::Timeout) => (AuthOutcome::Timeout, Err(Refusal::WardenAway)),
            Verdict::Away(Unavailable::Error(_)) => (AuthOutcome::Error, Err(Refusal::WardenAway)),
        };
        core.metrics.auth.observe(outcome, self.took);
        judged
    }
}

/// What stands behind `Bearer ` in the one `Authorization`; empty, which is no key, when there is none or another scheme.
fn presented(headers: &HeaderMap) -> &[u8] {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => bearer(value.as_bytes()).unwrap_or_default(),
        _ => &[],
    }
}

/// Whether an `Authorization` carries a key, whatever its scheme.
fn holds_key(value: &HeaderValue) -> bool {
    value.as_bytes().windows(PREFIX.len()).any(|part| part == PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_seen_whatever_stands_around_it() {
        for (value, expected) in [
            ("Bearer wdn_sk_live_1", true),
            ("bearer  wdn_sk_", true),
            ("wdn_sk_x", true),
            ("Basic dXNlcjpwdw==", false),
            ("Bearer wdn_pk_1", false),
            ("", false),
        ] {
            assert_eq!(holds_key(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }

    #[test]
    fn only_one_authorization_with_the_scheme_bearer_presents_a_key() {
        let of = |values: &[&'static str]| {
            let headers = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value)));
            presented(&headers.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            }))
            .to_vec()
        };
        assert_eq!(of(&["Bearer k"]), b"k");
        assert_eq!(of(&["bearer  k "]), b"k");
        for none in [&[][..], &["k"], &["Basic k"], &["Bearer k", "Bearer k"], &["Bearer k", "Basic x"]] {
            assert_eq!(of(none), b"", "{none:?}");
        }
    }
}
