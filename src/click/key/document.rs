//! What is sent to make, change or rotate a key, and what is wrong with it, each fault by its field.

use serde::Deserialize;
use serde_json::Value;

use super::{Key, Rate, Scope, Scopes};
use crate::click::document::kind;
use crate::click::life::{null_too, parse_moment};
use crate::click::link::{FieldError, NAME_BYTES_MAX};
use crate::click::org::{DEFAULT_ORG, Org};

/// How long the old secret may be taken beside the new one: a week.
pub const GRACE_MS_MAX: u64 = 7 * 86_400_000;
const RATE_MAX: u64 = 1_000_000;

/// A key as sent: unchecked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKey {
    /// `default` when absent; cannot be changed.
    pub org: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Required when a key is made.
    pub scopes: Option<Vec<String>>,
    /// `{"per_second": 100, "burst": 200}`; a JSON null removes it.
    #[serde(default, deserialize_with = "null_too")]
    pub rate: Option<Value>,
    /// RFC 3339; a JSON null removes it.
    #[serde(default, deserialize_with = "null_too")]
    pub expires_at: Option<Value>,
}

/// What is sent to rotate a key: unchecked.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRotation {
    /// How long the old secret is taken beside the new one, in seconds; 0 when absent.
    pub grace_s: Option<u64>,
}

/// What of a key is for people to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFields {
    /// See [`Key`], as with all of these.
    pub org: String,
    /// For people.
    pub name: String,
    /// At least one.
    pub scopes: Scopes,
    /// Without one it has no limit of its own.
    pub rate: Option<Rate>,
    /// Unix milliseconds.
    pub expires_ms: Option<u64>,
}

impl KeyFields {
    /// What a JSON null takes away.
    pub const REMOVABLE: [&str; 2] = ["rate", "expires_at"];

    /// Checks what was sent, over the key as it is.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn check(raw: RawKey, before: Option<&Key>, now_ms: u64) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let org = raw.org.unwrap_or_else(|| before.map_or(DEFAULT_ORG, |key| &key.org).to_owned());
        match before {
            Some(key) if key.org != org => errors.push(FieldError::new("org", "cannot be changed; make a new key")),
            Some(_) => {}
            None => errors.extend(Org::check(&org).err().map(|detail| FieldError::new("org", detail))),
        }
        let name = raw.name.unwrap_or_else(|| before.map_or("", |key| &key.name).to_owned());
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let detail = format!("over {NAME_BYTES_MAX} bytes, or holds a control character");
            errors.push(FieldError::new("name", detail));
        }
        let scopes = match raw.scopes {
            Some(names) => scopes(&names).map_err(|detail| FieldError::new("scopes", detail)),
            None => before.map(|key| key.scopes).ok_or_else(|| FieldError::new("scopes", missing_scopes())),
        };
        let scopes = scopes.unwrap_or_else(|error| {
            errors.push(error);
            Scopes::default()
        });
        let rate = match &raw.rate {
            None => before.and_then(|key| key.rate),
            Some(Value::Null) => None,
            Some(value) => rate(value).map_err(|detail| errors.push(FieldError::new("rate", detail))).ok(),
        };
        let expires_ms = match &raw.expires_at {
            None => before.and_then(|key| key.expires_ms),
            Some(Value::Null) => None,
            Some(value) => match expiry(value, now_ms) {
                Ok(unix_ms) => Some(unix_ms),
                Err(detail) => {
                    errors.push(FieldError::new("expires_at", detail));
                    None
                }
            },
        };
        if errors.is_empty() { Ok(Self { org, name, scopes, rate, expires_ms }) } else { Err(errors) }
    }
}

impl RawRotation {
    /// The grace in milliseconds.
    ///
    /// # Errors
    /// It is longer than [`GRACE_MS_MAX`].
    pub fn check(self) -> Result<u64, Vec<FieldError>> {
        let grace_ms = self.grace_s.unwrap_or_default().saturating_mul(1000);
        if grace_ms <= GRACE_MS_MAX {
            return Ok(grace_ms);
        }
        Err(vec![FieldError::new("grace_s", format!("must be 0 to {}, a week", GRACE_MS_MAX / 1000))])
    }
}

fn known_scopes() -> String {
    Scope::ALL.map(|(_, name)| name).join(", ")
}

fn missing_scopes() -> String {
    format!("is missing; say what the key may do: one or more of {}", known_scopes())
}

fn scopes(names: &[String]) -> Result<Scopes, String> {
    if names.is_empty() {
        return Err(missing_scopes());
    }
    let unknown = names.iter().find(|name| Scope::named(name).is_none());
    if let Some(unknown) = unknown {
        let shown: String = unknown.chars().take(64).collect();
        return Err(format!("`{shown}` is unknown; there are {}", known_scopes()));
    }
    Ok(names.iter().filter_map(|name| Scope::named(name)).collect())
}

fn rate(value: &Value) -> Result<Rate, String> {
    let wanted = "must be an object such as {\"per_second\": 100, \"burst\": 200}";
    let Value::Object(fields) = value else { return Err(format!("is {}; it {wanted}", kind(value))) };
    if let Some(unknown) = fields.keys().find(|name| !["per_second", "burst"].contains(&name.as_str())) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(format!("has the unknown field `{shown}`; it {wanted}"));
    }
    let number = |name: &str| {
        let number = fields.get(name)?.as_u64().filter(|number| (1..=RATE_MAX).contains(number));
        Some(number.and_then(|number| u32::try_from(number).ok()))
    };
    let range = format!("must be a whole number from 1 to {RATE_MAX}");
    let per_second = number("per_second").ok_or_else(|| format!("lacks `per_second`; it {wanted}"))?;
    let per_second = per_second.ok_or_else(|| format!("its `per_second` {range}"))?;
    let burst = number("burst").unwrap_or(Some(per_second)).ok_or_else(|| format!("its `burst` {range}"))?;
    Ok(Rate { per_second, burst })
}

fn expiry(value: &Value, now_ms: u64) -> Result<u64, String> {
    let Value::String(text) = value else { return Err(format!("is {}; a text is wanted", kind(value))) };
    let unix_ms = parse_moment(text)?;
    if unix_ms <= now_ms { Err("lies in the past; revoke the key instead".into()) } else { Ok(unix_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<KeyFields, Vec<(&'static str, String)>> {
        let raw = serde_json::from_str(json).unwrap();
        let errors = |errors: Vec<FieldError>| errors.into_iter().map(|e| (e.field, e.detail)).collect();
        KeyFields::check(raw, None, 5).map_err(errors)
    }

    #[test]
    fn a_plain_key_gets_the_defaults() {
        let fields = check(r#"{"scopes":["ingress"]}"#).unwrap();
        let scopes = Scopes::default().and(Scope::Ingress);
        let plain = KeyFields { org: "default".into(), name: String::new(), scopes, rate: None, expires_ms: None };
        assert_eq!(fields, plain);
        let rate = check(r#"{"scopes":["ingress"],"rate":{"per_second":7}}"#).unwrap().rate;
        assert_eq!(rate, Some(Rate { per_second: 7, burst: 7 }));
    }

    #[test]
    fn all_wrong_fields_of_a_key_are_named_at_once() {
        let errors = check(
            r#"{"org":"a b","name":"\u0007","scopes":["links"],"rate":5,"expires_at":"1970-01-01T00:00:00.005Z"}"#,
        )
        .unwrap_err();
        let fields: Vec<_> = errors.iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["org", "name", "scopes", "rate", "expires_at"]);
        assert!(errors[2].1.contains("`links` is unknown; there are ingress, links:read"), "{errors:?}");
        for (json, told) in [
            (r#"{}"#, "is missing; say what"),
            (r#"{"scopes":[]}"#, "is missing; say what"),
            (r#"{"scopes":["admin"],"rate":{}}"#, "lacks `per_second`"),
            (r#"{"scopes":["admin"],"rate":{"per_second":0}}"#, "`per_second` must be a whole number from 1"),
            (r#"{"scopes":["admin"],"rate":{"per_second":1,"burst":1000001}}"#, "`burst` must be"),
            (r#"{"scopes":["admin"],"rate":{"per_second":1,"per_minute":2}}"#, "unknown field `per_minute`"),
            (r#"{"scopes":["admin"],"expires_at":5}"#, "a text is wanted"),
            (r#"{"scopes":["admin"],"expires_at":"soon"}"#, "RFC 3339"),
        ] {
            let errors = check(json).unwrap_err();
            assert!(errors.len() == 1 && errors[0].1.contains(told), "{json}: {errors:?}");
        }
    }

    #[test]
    fn the_grace_of_a_rotation_has_an_end() {
        let check = |grace_s| RawRotation { grace_s }.check().ok();
        assert_eq!([check(None), check(Some(604_800)), check(Some(604_801))], [Some(0), Some(GRACE_MS_MAX), None]);
        assert_eq!(check(Some(u64::MAX)), None);
    }
}
