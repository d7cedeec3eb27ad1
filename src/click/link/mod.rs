//! Links: what an operator sends ([`RawLink`]) and what the edge serves ([`Link`]).

#[cfg(test)]
mod tests;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::domain::{self, ANY};
use super::life::{Life, RawLife, Stage, null_too};
use super::link_caps::LinkCaps;
use super::{Org, Template};

/// Bytes of a destination, macros included.
pub const URL_BYTES_MAX: usize = 4096;
/// Characters of a slug.
pub const SLUG_BYTES_MAX: usize = 128;
/// Tags of a link, and characters of a tag, a campaign or an external id.
pub const TAGS_MAX: usize = 32;
/// See [`TAGS_MAX`].
pub const NAME_BYTES_MAX: usize = 128;

/// First path segments that mean something else on the edge.
pub const RESERVED_SLUGS: [&str; 7] =
    ["in", "robots.txt", "favicon.ico", "health", "metrics", ".well-known", "apple-app-site-association"];

/// What happens to the visitor's query string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryMode {
    /// It is recorded, and goes no further.
    #[default]
    Ignore,
    /// It is appended to the destination's own.
    Forward,
}

/// A link as sent: unchecked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLink {
    /// Absent: one is made.
    pub slug: Option<String>,
    /// Required when a link is made.
    pub url: Option<String>,
    /// 301, 302, 303, 307 or 308; 302 when absent.
    pub status: Option<u16>,
    /// `ignore` when absent.
    pub query: Option<QueryMode>,
    /// The organisation that it belongs to, `default` when absent; cannot be changed.
    pub org: Option<String>,
    /// A name to count by; empty when absent.
    pub campaign: Option<String>,
    /// A paused link answers like an unknown one.
    pub paused: Option<bool>,
    /// Words of the operator.
    pub tags: Option<Vec<String>>,
    /// The operator's own id for this link.
    pub external_id: Option<String>,
    /// RFC 3339: until then the link answers like an unknown one. Of this and the next two a JSON null is kept: it removes.
    #[serde(default, deserialize_with = "null_too")]
    pub starts_at: Option<serde_json::Value>,
    /// RFC 3339: from then on the link has expired.
    #[serde(default, deserialize_with = "null_too")]
    pub expires_at: Option<serde_json::Value>,
    /// Where the visitors of an expired link go.
    #[serde(default, deserialize_with = "null_too")]
    pub expired_url: Option<serde_json::Value>,
    /// A host name; any domain when absent.
    pub domain: Option<String>,
    /// So many clicks of people, and the link has expired. Of this and the next a JSON null is kept: it removes.
    #[serde(default, deserialize_with = "null_too")]
    pub max_clicks: Option<serde_json::Value>,
    /// How many clicks it takes in a period: see [`super::cap`].
    #[serde(default, deserialize_with = "null_too")]
    pub cap: Option<serde_json::Value>,
}

/// A checked link, ready to be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name in the path; unique within its domain. A short one is in the link itself, where each look-up finds it.
    pub slug: CompactString,
    /// The host name that it answers to, as it is compared; `None`: to any.
    pub domain: Option<Box<str>>,
    /// The destination as the operator wrote it.
    pub url: String,
    /// The destination, parsed.
    pub target: Template,
    /// Status of the answer.
    pub status: u16,
    /// What happens to the visitor's query.
    pub query: QueryMode,
    /// The organisation that it belongs to, and its clicks.
    pub org: Org,
    /// A name to count by; may be empty.
    pub campaign: String,
    /// Answers like an unknown link.
    pub paused: bool,
    /// Words of the operator.
    pub tags: Vec<String>,
    /// The operator's own id; may be empty.
    pub external_id: String,
    /// When it is followed; always, without one. In a box: most links have none.
    pub life: Option<Box<Life>>,
    /// How many clicks it takes; any number, without one. In a box, likewise.
    pub caps: Option<Box<LinkCaps>>,
    /// Grows by one with every change; stored with each click.
    pub version: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

/// One field that is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Name of the field.
    pub field: &'static str,
    /// What is wrong and how to mend it.
    pub detail: String,
}

impl FieldError {
    pub(super) fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }
}

/// The names under which this service is reached: a link that points here would be a loop.
#[derive(Clone, Debug, Default)]
pub struct OwnHosts {
    /// Host names, on any port, in lower case.
    pub hosts: Vec<String>,
    /// `host:port` pairs, in lower case.
    pub sockets: Vec<String>,
}

impl OwnHosts {
    /// These and one more, unless it is [`ANY`].
    pub(super) fn and(&self, domain: Option<&str>) -> Self {
        let mut all = self.clone();
        all.hosts.extend(domain.filter(|domain| *domain != ANY).map(str::to_owned));
        all
    }

    fn holds(&self, url: &url::Url) -> bool {
        if self.hosts.is_empty() && self.sockets.is_empty() {
            return false;
        }
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        let socket = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        self.hosts.contains(&host) || self.sockets.contains(&socket)
    }
}

impl Link {
    /// Checks a link as sent. `version` and the times are the caller's to set.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn check(raw: RawLink, own: &OwnHosts) -> Result<Self, Vec<FieldError>> {
        Self::check_over(None, raw, own)
    }

    /// `before`: what life and caps were, where they are not sent.
    fn check_over(before: Option<&Self>, raw: RawLink, own: &OwnHosts) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let slug = raw.slug.unwrap_or_default();
        errors.extend(check_slug(&slug).err().map(|e| FieldError::new("slug", e)));
        let domain = check_domain(raw.domain.as_deref(), &mut errors);
        let with_domain = domain.as_deref().map(|domain| own.and(Some(domain)));
        let own = with_domain.as_ref().unwrap_or(own);
        let url = raw.url.unwrap_or_default();
        let target = check_url(&url, own).map_err(|e| errors.push(FieldError::new("url", e))).ok();
        let org = raw.org.as_deref().map(Org::check).unwrap_or_else(|| Ok(Org::default()));
        let org = org.map_err(|e| errors.push(FieldError::new("org", e))).unwrap_or_default();
        let status = raw.status.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            errors.push(FieldError::new("status", format!("{status} is no redirect; use 301, 302, 303, 307 or 308")));
        }
        let tags = raw.tags.unwrap_or_default();
        if tags.len() > TAGS_MAX {
            errors.push(FieldError::new("tags", format!("{} tags; {TAGS_MAX} at most", tags.len())));
        }
        let campaign = raw.campaign.unwrap_or_default();
        let external_id = raw.external_id.unwrap_or_default();
        for (field, text) in [("campaign", &campaign), ("external_id", &external_id)]
            .into_iter()
            .chain(tags.iter().take(TAGS_MAX).map(|t| ("tags", t)))
        {
            if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
                errors
                    .push(FieldError::new(field, format!("over {NAME_BYTES_MAX} bytes, or holds a control character")));
            }
        }
        let life = RawLife { starts_at: raw.starts_at, expires_at: raw.expires_at, expired_url: raw.expired_url };
        let before_caps = before.and_then(|link| link.caps.as_deref());
        let caps = LinkCaps::check((raw.cap, raw.max_clicks), before_caps, own, &mut errors);
        let has_max = caps.as_ref().is_some_and(|caps| caps.max_clicks.is_some());
        let before_life = before.and_then(|link| link.life.as_deref());
        let life = Life::check(&life, before_life, has_max, own, &mut errors);
        match target {
            Some(target) if errors.is_empty() => Ok(Self {
                slug: slug.into(),
                domain,
                url,
                target,
                status,
                query: raw.query.unwrap_or_default(),
                org,
                campaign,
                paused: raw.paused.unwrap_or_default(),
                tags,
                external_id,
                life,
                caps,
                version: 0,
                created_ms: 0,
                updated_ms: 0,
            }),
            _ => Err(errors),
        }
    }

    /// The link with the fields that `change` names replaced; the slug stays.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn changed(&self, change: RawLink, own: &OwnHosts) -> Result<Self, Vec<FieldError>> {
        let mut fixed = Vec::new();
        if change.slug.as_ref().is_some_and(|slug| *slug != self.slug) {
            fixed.push("slug");
        }
        let is_ours = |domain: &str| domain::check_name(domain).is_ok_and(|domain| domain == self.domain());
        if change.domain.is_some_and(|domain| !is_ours(&domain)) {
            fixed.push("domain");
        }
        if change.org.is_some_and(|org| org != self.org.as_str()) {
            fixed.push("org");
        }
        if !fixed.is_empty() {
            let told = |field| FieldError::new(field, "cannot be changed; create a new link");
            return Err(fixed.into_iter().map(told).collect());
        }
        let merged = RawLink {
            slug: Some(self.slug.to_string()),
            url: Some(change.url.unwrap_or_else(|| self.url.clone())),
            status: Some(change.status.unwrap_or(self.status)),
            query: Some(change.query.unwrap_or(self.query)),
            org: Some(self.org.as_str().to_owned()),
            campaign: Some(change.campaign.unwrap_or_else(|| self.campaign.clone())),
            paused: Some(change.paused.unwrap_or(self.paused)),
            tags: Some(change.tags.unwrap_or_else(|| self.tags.clone())),
            external_id: Some(change.external_id.unwrap_or_else(|| self.external_id.clone())),
            starts_at: change.starts_at,
            expires_at: change.expires_at,
            expired_url: change.expired_url,
            domain: self.domain.as_deref().map(str::to_owned),
            max_clicks: change.max_clicks,
            cap: change.cap,
        };
        let link = Self::check_over(Some(self), merged, own)?;
        Ok(Self { version: self.version, created_ms: self.created_ms, updated_ms: self.updated_ms, ..link })
    }

    /// The domain that it belongs to; [`ANY`] for one that belongs to none.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or(ANY)
    }

    /// Where its visitors go once it has expired.
    #[must_use]
    pub fn expired(&self) -> Option<&Template> {
        self.life.as_ref()?.expired.as_ref().map(|expired| &expired.target)
    }

    /// Where it stands in its life at this moment, Unix milliseconds.
    #[must_use]
    pub fn stage(&self, unix_ms: u64) -> Stage<'_> {
        self.life.as_ref().map_or(Stage::Alive, |life| life.stage(unix_ms))
    }
}

/// Whether the slug may name a link.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_slug(slug: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    if slug.is_empty() || slug.len() > SLUG_BYTES_MAX || !slug.bytes().all(fits) {
        Err(format!("must be 1 to {SLUG_BYTES_MAX} of the characters A-Z a-z 0-9 - _ . ~"))
    } else if matches!(slug, "." | "..") || RESERVED_SLUGS.contains(&slug) {
        Err(format!("`{slug}` is taken by the service itself"))
    } else {
        Ok(())
    }
}

/// `None` for any, and for one that is wrong.
fn check_domain(domain: Option<&str>, errors: &mut Vec<FieldError>) -> Option<Box<str>> {
    match domain.map(domain::check_name)? {
        Ok(domain) => (domain != ANY).then(|| domain.into()),
        Err(error) => {
            errors.push(FieldError::new("domain", error));
            None
        }
    }
}

/// Whether a link, or anything else, may send visitors there.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_url(url: &str, own: &OwnHosts) -> Result<Template, String> {
    if url.is_empty() {
        return Err("is missing; give an absolute http or https URL".into());
    }
    if url.len() > URL_BYTES_MAX {
        return Err(format!("has {} bytes; {URL_BYTES_MAX} at most", url.len()));
    }
    let (template, parsed) = Template::parse(url)?;
    if own.holds(&parsed) {
        return Err(format!("points at this service itself ({}): a loop", parsed.host_str().unwrap_or_default()));
    }
    Ok(template)
}
