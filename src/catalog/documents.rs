//! Entries of the catalog as JSON, as answers show them and as releases keep them; and back, checked again.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::click::org::DEFAULT_ORG;
use crate::click::{Campaign, Domain, FieldError, Link, Misfit, OwnHosts, QueryMode, RawLink};
use crate::clock::rfc_3339;

/// A link as the API shows it, and as releases keep it.
#[derive(Debug, Serialize)]
pub struct LinkDocument<'a> {
    domain: &'a str,
    org: &'a str,
    slug: &'a str,
    url: &'a str,
    status: u16,
    query: QueryMode,
    campaign: &'a str,
    paused: bool,
    tags: &'a [String],
    external_id: &'a str,
    starts_at: Option<String>,
    expires_at: Option<String>,
    expired_url: Option<&'a str>,
    cap: Option<&'a Value>,
    max_clicks: Option<u64>,
    version: u64,
    created_at: String,
    updated_at: String,
}

impl<'a> LinkDocument<'a> {
    /// What is shown of this link.
    #[must_use]
    pub fn new(link: &'a Link) -> Self {
        // Taken apart by name: a field that is added to links and forgotten here would be lost in a roll-back.
        let Link {
            slug,
            domain: _,
            url,
            target: _,
            status,
            query,
            org,
            campaign,
            paused,
            tags,
            external_id,
            life,
            caps,
            version,
            created_ms,
            updated_ms,
        } = link;
        let (life, caps) = (life.as_deref(), caps.as_deref());
        Self {
            domain: link.domain(),
            org,
            slug,
            url,
            status: *status,
            query: *query,
            campaign,
            paused: *paused,
            tags,
            external_id,
            starts_at: life.and_then(|life| life.starts_ms).map(rfc_3339),
            expires_at: life.and_then(|life| life.expires_ms).map(rfc_3339),
            expired_url: life.and_then(|life| life.expired.as_ref()).map(|expired| expired.url.as_str()),
            cap: caps.and_then(|caps| caps.document.as_ref()),
            max_clicks: caps.and_then(|caps| caps.max_clicks.as_ref()).map(|cap| cap.limit),
            version: *version,
            created_at: rfc_3339(*created_ms),
            updated_at: rfc_3339(*updated_ms),
        }
    }
}

/// A campaign as the API shows it, and as releases keep it: the document, and what the catalog knows of it.
#[must_use]
pub fn campaign_document(campaign: &Campaign) -> Value {
    let mut shown = campaign.document.clone();
    shown["id"] = json!(campaign.id);
    shown["org"] = json!(campaign.org.as_str());
    with_own(shown, campaign.version, [campaign.created_ms, campaign.updated_ms])
}

/// A domain, likewise.
#[must_use]
pub fn domain_document(domain: &Domain) -> Value {
    let mut shown = domain.document.clone();
    shown["domain"] = json!(domain.name);
    shown["org"] = json!(domain.org.as_str());
    with_own(shown, domain.version, [domain.created_ms, domain.updated_ms])
}

fn with_own(mut document: Value, version: u64, [created_ms, updated_ms]: [u64; 2]) -> Value {
    document["version"] = json!(version);
    document["created_at"] = json!(rfc_3339(created_ms));
    document["updated_at"] = json!(rfc_3339(updated_ms));
    document
}

/// Fields of a document that no operator sends: every write sets them.
const OWN: [&str; 3] = ["version", "created_at", "updated_at"];

/// Whether two documents say the same, whenever they were written.
pub(super) fn say_the_same(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let within = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter().all(|(field, value)| OWN.contains(&field.as_str()) || is_also(b, field, value))
    };
    within(a, b) && within(b, a)
}

/// Whether another document says this too. One from before there were organisations is of the only one that there was.
fn is_also(document: &Map<String, Value>, field: &str, value: &Value) -> bool {
    document.get(field).map_or(field == "org" && value == DEFAULT_ORG, |other| other == value)
}

/// Takes a document's own fields out; when it was made, Unix milliseconds.
fn take_own(document: &mut Map<String, Value>) -> u64 {
    let made = document.get("created_at").and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    OWN.iter().for_each(|field| drop(document.remove(*field)));
    made.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or_default()
}

/// The link of a [`LinkDocument`], checked as one that is sent now; its version and its last change are the caller's to set.
pub(super) fn link_of(mut document: Map<String, Value>, own: &OwnHosts) -> Result<Link, Vec<FieldError>> {
    let created_ms = take_own(&mut document);
    let raw: RawLink = serde_json::from_value(Value::Object(document))
        .map_err(|error| vec![FieldError { field: "", detail: format!("cannot be read by this program: {error}") }])?;
    Ok(Link { created_ms, ..Link::check(raw, own)? })
}

/// The campaign of a [`campaign_document`], likewise.
pub(super) fn campaign_of(id: &str, mut document: Map<String, Value>, own: &OwnHosts) -> Result<Campaign, Vec<Misfit>> {
    let created_ms = take_own(&mut document);
    document.remove("id");
    Ok(Campaign { created_ms, ..Campaign::check(id, Value::Object(document), own)? })
}

/// The domain of a [`domain_document`], likewise.
pub(super) fn domain_of(name: &str, mut document: Map<String, Value>, own: &OwnHosts) -> Result<Domain, Vec<Misfit>> {
    let created_ms = take_own(&mut document);
    Ok(Domain { created_ms, ..Domain::check(name, Value::Object(document), own)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_from_before_there_were_organisations_is_of_the_default_one() {
        let old =
            json!({"slug": "a", "url": "https://a.example/", "version": 1, "created_at": "2023-11-14T22:13:20.000Z"});
        let Value::Object(fields) = old.clone() else { unreachable!() };
        let link = link_of(fields, &OwnHosts::default()).unwrap();
        assert_eq!((&*link.org, link.created_ms), (DEFAULT_ORG, 1_700_000_000_000));
        let of = |org: &str| json!({"slug": "a", "url": "https://a.example/", "org": org, "version": 7});
        for (a, b, same) in [
            (&old, &of("default"), true),
            (&of("default"), &old, true),
            (&old, &of("acme"), false),
            (&of("acme"), &old, false),
            (&of("acme"), &of("acme"), true),
            (&of("acme"), &of("other"), false),
        ] {
            assert_eq!(say_the_same(a, b), same, "{a} {b}");
        }
    }
}
