//! The caps of a link: `cap`, and `max_clicks`, after which it has expired.

use serde_json::Value;

use super::Cap;
use super::cap::LIMIT_MAX;
use super::document::Misfit;
use super::link::{FieldError, OwnHosts};

/// Fields that a JSON null takes away again.
pub const REMOVABLE_CAPS: [&str; 2] = ["cap", "max_clicks"];

/// How many clicks a link takes; at least one of them is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCaps {
    /// Beyond it visitors go to its overflow; without one the link answers like an expired one, until the period ends.
    pub cap: Option<Cap>,
    /// `cap` as the operator wrote it.
    pub document: Option<Value>,
    /// Of people, ever; then the link has expired.
    pub max_clicks: Option<Cap>,
}

impl LinkCaps {
    /// Checks what was sent, over what was there before; what is wrong goes to `errors`. `None` when nothing is left.
    pub(super) fn check(
        (cap, max_clicks): (Option<Value>, Option<Value>),
        before: Option<&Self>,
        own: &OwnHosts,
        errors: &mut Vec<FieldError>,
    ) -> Option<Box<Self>> {
        let mut caps = before.cloned().unwrap_or(Self { cap: None, document: None, max_clicks: None });
        match cap {
            None => {}
            Some(Value::Null) => (caps.cap, caps.document) = (None, None),
            Some(document) => match Cap::check(&document, own) {
                Ok(cap) => (caps.cap, caps.document) = (Some(cap), Some(document)),
                Err(misfits) => errors.extend(misfits.into_iter().map(wrong)),
            },
        }
        match max_clicks {
            None => {}
            Some(Value::Null) => caps.max_clicks = None,
            Some(number) => match number.as_u64().filter(|number| (1..=LIMIT_MAX).contains(number)) {
                Some(number) => caps.max_clicks = Some(Cap::total(number)),
                None => {
                    let wanted = format!("is {number}; a whole number from 1 to {LIMIT_MAX} is wanted");
                    errors.push(FieldError::new("max_clicks", wanted));
                }
            },
        }
        (caps.cap.is_some() || caps.max_clicks.is_some()).then(|| Box::new(caps))
    }

    /// Both, that of `max_clicks` first.
    pub fn iter(&self) -> impl Iterator<Item = &Cap> {
        self.max_clicks.iter().chain(&self.cap)
    }
}

/// A field of a link has a fixed name.
fn wrong(misfit: Misfit) -> FieldError {
    let known = ["cap/limit", "cap/per", "cap/of", "cap/overflow_url"];
    let field = known.into_iter().find(|field| field.strip_prefix("cap") == Some(&misfit.pointer));
    match (field, misfit.pointer.as_str()) {
        (Some(field), _) => FieldError::new(field, misfit.detail),
        (None, "") => FieldError::new("cap", misfit.detail),
        (None, pointer) => FieldError::new("cap", format!("`{}` {}", &pointer[1..], misfit.detail)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(before: Option<&LinkCaps>, fields: &Value) -> (Option<Box<LinkCaps>>, Vec<FieldError>) {
        let mut errors = Vec::new();
        let sent = (fields.get("cap").cloned(), fields.get("max_clicks").cloned());
        let caps = LinkCaps::check(sent, before, &OwnHosts::default(), &mut errors);
        (caps, errors)
    }

    #[test]
    fn a_change_keeps_the_cap_that_it_does_not_name_and_null_removes() {
        let (both, errors) = check(None, &json!({"cap": {"limit": 2, "per": "day"}, "max_clicks": 7}));
        assert_eq!(errors, []);
        let limits = |caps: &Option<Box<LinkCaps>>| {
            caps.as_ref().map(|caps| [&caps.max_clicks, &caps.cap].map(|cap| cap.as_ref().map(|cap| cap.limit)))
        };
        assert_eq!(limits(&both), Some([Some(7), Some(2)]));
        assert_eq!(check(both.as_deref(), &json!({})).0, both);
        let (one, _) = check(both.as_deref(), &json!({"cap": null}));
        assert_eq!((limits(&one), one.as_ref().and_then(|one| one.document.as_ref())), (Some([Some(7), None]), None));
        assert_eq!(check(one.as_deref(), &json!({"max_clicks": null})).0, None);
        assert_eq!(check(None, &json!({"cap": null, "max_clicks": null})).0, None);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field() {
        let bad = json!({"cap": {"limit": 0, "overflow_url": "mailto:a@b.example", "till": 1}, "max_clicks": 0});
        let fields: Vec<_> = check(None, &bad).1.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["cap/limit", "cap/per", "cap/overflow_url", "cap", "max_clicks"]);
        for bad in
            [json!({"cap": 5}), json!({"max_clicks": "5"}), json!({"max_clicks": 1.5}), json!({"max_clicks": -1})]
        {
            assert_eq!(check(None, &bad).1.len(), 1, "{bad}");
        }
    }
}
