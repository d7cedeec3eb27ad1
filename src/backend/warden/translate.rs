//! Between what travels and what the program knows. What comes from elsewhere is checked here, and nowhere else.

use std::sync::Arc;

use super::wire::{self, Denial, Reason, ValidateKeyResponse, validate_key_response::Answer};
use crate::catalog::{Checked, Why};
use crate::click::key::{Rate, Scope, Scopes};
use crate::click::{Grant, Org};

/// Words of what a key may do.
const SCOPES_MAX: usize = 32;
const RATE_MAX: u32 = 1_000_000;

/// What the Warden said of the key of this id.
///
/// # Errors
/// It is no answer.
pub(super) fn checked(key_id: &str, response: ValidateKeyResponse) -> Result<Checked, String> {
    match response.answer {
        Some(Answer::Granted(granted)) => grant(key_id, granted).map(|grant| Checked::Granted(Arc::new(grant))),
        Some(Answer::Denied(denial)) => Ok(Checked::Denied(match denial.reason() {
            Reason::Unknown | Reason::Unspecified => Why::Unknown,
            Reason::Revoked => Why::Revoked,
            Reason::Expired => Why::Expired,
        })),
        None => Err("it answered neither yes nor no".into()),
    }
}

fn grant(key_id: &str, granted: wire::Grant) -> Result<Grant, String> {
    let wire::Grant { org, scopes, rate, expires_ms } = granted;
    Org::check(&org).map_err(|error| format!("it answered with an organisation that {error}"))?;
    if scopes.len() > SCOPES_MAX {
        return Err(format!("it answered with {} scopes, {SCOPES_MAX} at most", scopes.len()));
    }
    let within = |number: u32| (1..=RATE_MAX).contains(&number);
    if rate.is_some_and(|rate| !within(rate.per_second) || !within(rate.burst)) {
        return Err(format!("it answered with a rate that is not 1 to {RATE_MAX}"));
    }
    Ok(Grant {
        key_id: key_id.into(),
        org: org.into(),
        // Words of a later version allow nothing here.
        scopes: scopes.iter().filter_map(|name| Scope::named(name)).collect::<Scopes>(),
        rate: rate.map(|wire::Rate { per_second, burst }| Rate { per_second, burst }),
        expires_ms: (expires_ms != 0).then_some(expires_ms),
    })
}

/// What is said of a key.
pub(super) fn response(checked: Result<Arc<Grant>, Why>) -> ValidateKeyResponse {
    let reason = |why| match why {
        Why::Revoked => Reason::Revoked,
        Why::Expired => Reason::Expired,
        // That an id exists is not told to who has not its secret.
        Why::Malformed | Why::Unknown | Why::WrongSecret => Reason::Unknown,
    };
    let answer = match checked {
        Ok(grant) => Answer::Granted(wire::Grant {
            org: grant.org.as_ref().to_owned(),
            scopes: grant.scopes.iter().map(|scope| scope.name().to_owned()).collect(),
            rate: grant.rate.map(|Rate { per_second, burst }| wire::Rate { per_second, burst }),
            expires_ms: grant.expires_ms.unwrap_or(0),
        }),
        Err(why) => Answer::Denied(Denial { reason: reason(why).into() }),
    };
    ValidateKeyResponse { answer: Some(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Grant {
        Grant {
            key_id: "abcd".into(),
            org: "acme".into(),
            scopes: [Scope::Ingress, Scope::StatsRead].into_iter().collect(),
            rate: Some(Rate { per_second: 5, burst: 7 }),
            expires_ms: Some(9),
        }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let plain = Grant { rate: None, expires_ms: None, scopes: Scopes::default(), ..full() };
        for grant in [full(), plain] {
            let said = checked("abcd", response(Ok(Arc::new(grant.clone()))));
            assert_eq!(said, Ok(Checked::Granted(Arc::new(grant))));
        }
        for (why, told) in [
            (Why::Unknown, Why::Unknown),
            (Why::WrongSecret, Why::Unknown),
            (Why::Malformed, Why::Unknown),
            (Why::Revoked, Why::Revoked),
            (Why::Expired, Why::Expired),
        ] {
            assert_eq!(checked("abcd", response(Err(why))), Ok(Checked::Denied(told)));
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_none() {
        let sent = |change: fn(&mut wire::Grant)| {
            let ValidateKeyResponse { answer: Some(Answer::Granted(mut grant)) } = response(Ok(Arc::new(full())))
            else {
                panic!("granted")
            };
            change(&mut grant);
            checked("abcd", ValidateKeyResponse { answer: Some(Answer::Granted(grant)) })
        };
        for (change, told) in [
            ((|grant| grant.org.clear()) as fn(&mut wire::Grant), "organisation that must be 1 to 64"),
            (|grant| grant.org = "a b".into(), "organisation that must be"),
            (|grant| grant.org = "x".repeat(10_000), "organisation that must be"),
            (|grant| grant.scopes = vec![String::new(); 33], "33 scopes, 32 at most"),
            (|grant| grant.rate = Some(wire::Rate { per_second: 0, burst: 1 }), "a rate that is not"),
            (|grant| grant.rate = Some(wire::Rate { per_second: 1, burst: 1_000_001 }), "a rate that is not"),
        ] {
            let said = sent(change).unwrap_err();
            assert!(said.contains(told), "{said}");
        }
        assert!(checked("abcd", ValidateKeyResponse { answer: None }).unwrap_err().contains("neither yes nor no"));
        let Ok(Checked::Granted(later)) = sent(|grant| grant.scopes.push("teleport".into())) else { panic!("granted") };
        assert_eq!(later.scopes, full().scopes, "a word that is not known allows nothing");
        let odd = Answer::Denied(Denial { reason: 77 });
        assert_eq!(checked("abcd", ValidateKeyResponse { answer: Some(odd) }), Ok(Checked::Denied(Why::Unknown)));
    }
}
