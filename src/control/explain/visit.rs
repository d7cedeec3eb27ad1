//! A visit that somebody supposes: read from the body of a question, and asked as a real one is.
//!
//! It becomes the same [`Visit`] and headers that the edge would have, and facts are read from these by the same functions
//! (`click::facts`). Only what the question names itself (`country`, `region`, `city`, `asn`, `device`, `os`, `browser`) is taken as it is said.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use axum::http::header::{
    ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT,
};
use axum::http::uri::PathAndQuery;
use serde_json::Value;

use super::Explainer;
use crate::catalog::agents;
use crate::catalog::geo::{self, Geo};
use crate::click::campaign::{Local, Zone};
use crate::click::class::{AgentReasons, Verdict};
use crate::click::condition::{Facts, Map, Number, Text};
use crate::click::document::{Object, kind};
use crate::click::domain::{self, check_name};
use crate::click::link::{NAME_BYTES_MAX, TAGS_MAX};
use crate::click::query::{self, Parameters};
use crate::click::template::Values;
use crate::click::visitor::VisitorId;
use crate::click::{ClickId, Marks, Reasons, Visit, facts};
use crate::control::extract::time;

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// What the question says of the visit.
pub(super) struct Supposed {
    query: String,
    head: bool,
    address: IpAddr,
    headers: HeaderMap,
    /// Unix milliseconds.
    pub(super) at: Option<u64>,
    pub(super) click_id: Option<ClickId>,
    /// `Some(None)`: of no country.
    country: Option<Option<[u8; 2]>>,
    region: Option<String>,
    city: Option<String>,
    asn: Option<u32>,
    device: Option<&'static str>,
    os: Option<&'static str>,
    browser: Option<&'static str>,
    slug: String,
    tags: Vec<String>,
}

impl Supposed {
    /// What is wrong is noted in the object, and something else put in its place. `of_link`: slug and tags are the link's.
    pub(super) fn read(visit: Object<'_>, of_link: bool) -> Self {
        let head = match visit.text("method") {
            None | Some("GET") => false,
            Some("HEAD") => true,
            Some(other) => {
                visit.wrong("method", format!("is `{other}`; links answer `GET` and `HEAD`"));
                false
            }
        };
        let address = visit.text("ip").and_then(|text| {
            let address = text.parse::<IpAddr>();
            if address.is_err() {
                visit.wrong("ip", format!("`{text}` is no address such as 203.0.113.9 or 2001:db8::1"));
            }
            Some(address.ok()?.to_canonical())
        });
        let click_id = visit.text("click_id").and_then(|text| {
            // Of a moment that can be told.
            let id = text.parse::<ClickId>().ok().filter(|id| time(&id.unix_ms().to_string()).is_ok());
            if id.is_none() {
                visit.wrong("click_id", "is not the id of a click, as `X-Click-Id` has it");
            }
            id
        });
        let at = visit.text("at").and_then(|text| time(text).map_err(|detail| visit.wrong("at", detail)).ok());
        let country = visit.text("country").map(|text| match text.as_bytes() {
            [a @ b'A'..=b'Z', b @ b'A'..=b'Z'] => Some([*a, *b]),
            [] => None,
            _ => {
                visit.wrong("country", "must be two capital letters, such as `DE`, or empty for none");
                None
            }
        });
        let tags: Vec<_> = visit.list("tags", TAGS_MAX).unwrap_or_default().iter().map(|tag| tag.as_str()).collect();
        if tags.contains(&None) {
            visit.wrong("tags", "must be texts");
        }
        let slug = name(&visit, "slug").unwrap_or_default();
        for field in ["slug", "tags"] {
            if of_link && visit.value(field).is_some() {
                visit.wrong(field, "is the link's own; leave it out, or ask by `campaign` or `document`");
            }
        }
        let supposed = Self {
            query: read_query(&visit),
            head,
            address: address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            headers: read_headers(&visit),
            at: at.or(click_id.map(|id| id.unix_ms())),
            click_id,
            country,
            region: name(&visit, "region"),
            city: name(&visit, "city"),
            asn: visit.whole("asn", 0..=u32::MAX.into()).and_then(|asn| u32::try_from(asn).ok()),
            device: one_of(&visit, "device", &agents::DEVICES),
            os: one_of(&visit, "os", &agents::SYSTEMS),
            browser: one_of(&visit, "browser", &agents::browsers()),
            slug,
            tags: tags.into_iter().flatten().map(str::to_owned).collect(),
        };
        visit.end();
        supposed
    }

    /// Region, city and network, as they are given or as this address has them.
    pub(super) fn place(&self, geo: &Geo, address: Option<IpAddr>) -> (&str, &str, u32) {
        let place = address.map(|address| geo.place(address)).unwrap_or_default();
        let region = self.region.as_deref().unwrap_or(place.region);
        (region, self.city.as_deref().unwrap_or(place.city), self.asn.unwrap_or(place.asn))
    }

    fn header(&self, name: &HeaderName) -> &[u8] {
        self.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes)
    }

    /// As the edge would have it.
    pub(super) fn visit(&self) -> Visit<'_> {
        Visit {
            host: self.header(&HOST),
            query: &self.query,
            head: self.head,
            prefetch: facts::looks_ahead(self.header(&SEC_PURPOSE)) || facts::looks_ahead(self.header(&PURPOSE)),
            // Nobody writes down every header of a browser: what is missing here says nothing.
            marks: Marks::default(),
            address: self.address,
            ua: self.header(&USER_AGENT),
            referrer: self.header(&REFERER),
            language: self.header(&ACCEPT_LANGUAGE),
        }
    }
}

/// One of the names that the agent list has; no other will ever be found.
fn one_of(visit: &Object<'_>, field: &'static str, known: &[&'static str]) -> Option<&'static str> {
    let text = visit.text(field)?;
    let found = known.iter().find(|name| **name == text).copied();
    if found.is_none() {
        visit.wrong(field, format!("is `{text}`; there are {}", known.join(", ")));
    }
    found
}

/// As long as a name may be.
fn name(visit: &Object<'_>, field: &'static str) -> Option<String> {
    let text = visit.text(field)?;
    if text.len() > NAME_BYTES_MAX {
        visit.wrong(field, format!("has {} bytes; {NAME_BYTES_MAX} at most", text.len()));
    }
    Some(text.to_owned())
}

fn read_query(visit: &Object<'_>) -> String {
    match visit.value("query") {
        None => String::new(),
        Some(Value::String(text)) => {
            let target = PathAndQuery::try_from(format!("/?{text}"));
            if text.starts_with('?') {
                visit.wrong("query", "starts with `?`; leave that out");
            } else if !text.is_empty() && target.ok().and_then(|t| Some(t.query()? == text)) != Some(true) {
                visit.wrong("query", "holds what no request can carry; percent-encode it, or give an object");
            }
            text.clone()
        }
        Some(Value::Object(_)) => {
            let mut out = Vec::new();
            for (name, value) in visit.object("query").map(|query| query.texts()).unwrap_or_default() {
                if !out.is_empty() {
                    out.push(b'&');
                }
                query::encode_value(name.as_bytes(), &mut out);
                out.push(b'=');
                query::encode_value(value.as_bytes(), &mut out);
            }
            // Percent-encoding is ASCII.
            out.into_iter().map(char::from).collect()
        }
        Some(other) => {
            visit.wrong("query", format!("is {}; a query string or an object of texts is wanted", kind(other)));
            String::new()
        }
    }
}

/// The headers, and what has a field of its own in its place among them.
fn read_headers(visit: &Object<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(given) = visit.object("headers") {
        for (name, text) in given.texts() {
            let (header, value) = (HeaderName::from_bytes(name.as_bytes()), header_value(text));
            match (header, value) {
                (Ok(header), Some(value)) if !headers.contains_key(&header) => {
                    headers.insert(header, value);
                }
                (Ok(_), Some(_)) => given.wrong(name, "stands there twice: capitals make no other header"),
                (Err(_), _) => given.wrong(name, "is no name of a header"),
                (_, None) => given.wrong(name, "holds a control character"),
            }
        }
    }
    let mut put = |field, header: &HeaderName, text: &str| match header_value(text) {
        _ if headers.contains_key(header) => {
            visit.wrong(field, format!("stands in `headers` as `{header}` too; give one of them"));
        }
        Some(value) => drop(headers.insert(header, value)),
        None => visit.wrong(field, "holds a control character"),
    };
    if let Some(text) = visit.text("domain") {
        if let Err(detail) = check_name(text) {
            visit.wrong("domain", detail);
        }
        put("domain", &HOST, text);
    }
    for (field, header) in [("user_agent", &USER_AGENT), ("language", &ACCEPT_LANGUAGE), ("referrer", &REFERER)] {
        if let Some(text) = visit.text(field) {
            put(field, header, text);
        }
    }
    if let Some(ahead) = visit.truth("prefetch") {
        put("prefetch", &SEC_PURPOSE, if ahead { "prefetch" } else { "" });
    }
    if let Some(cookies) = visit.object("cookies") {
        let mut line = String::new();
        for (name, value) in cookies.texts() {
            // As they would be cut apart again.
            if name.trim() != name || value.trim() != value || name.contains(['=', ';']) || value.contains(';') {
                cookies.wrong(name, "holds what no cookie can: `;`, a space at its end, or `=` in its name");
            }
            line = format!("{line}{}{name}={value}", if line.is_empty() { "" } else { "; " });
        }
        put("cookies", &COOKIE, &line);
    }
    headers
}

/// Without the blanks at its ends, which a server never sees.
fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.trim_matches([' ', '\t']).as_bytes()).ok()
}

/// What there is to know of a supposed visit.
pub(super) struct Seen<'v> {
    supposed: &'v Supposed,
    visit: &'v Visit<'v>,
    external_click_id: &'v [u8],
    slug: &'v str,
    tags: &'v [String],
    device: &'static str,
    os: &'static str,
    browser: &'static str,
    verdict: Verdict,
    country: Option<[u8; 2]>,
    region: &'v str,
    city: &'v str,
    asn: u32,
    local: Local,
}

impl<'v> Seen<'v> {
    pub(super) fn new(
        explainer: &Explainer,
        supposed: &'v Supposed,
        visit: &'v Visit<'v>,
        link: Option<(&'v str, &'v [String])>,
        external_click_id: &'v [u8],
        (zone, unix_ms): (&Zone, u64),
    ) -> Self {
        let agent = explainer.agents.read(visit.ua);
        let listed = Reasons::AGENT_CRAWLER;
        let crawler = AgentReasons { found: listed, enforced: listed, ..AgentReasons::default() };
        // Who says what the agent is need not write one: that is no visit without an agent.
        let is_described = supposed.device.or(supposed.os).or(supposed.browser).is_some();
        let reasons = match supposed.device {
            Some("bot") => crawler,
            Some(_) => AgentReasons::default(),
            None if visit.ua.is_empty() && is_described => AgentReasons::default(),
            None => agent.reasons,
        };
        let verdict = explainer.agents.classifier().classify(visit.head, visit.prefetch, visit.marks, reasons);
        let (region, city, asn) = supposed.place(&explainer.geo, Some(visit.address));
        let (slug, tags) = link.unwrap_or((&supposed.slug, &supposed.tags));
        Self {
            supposed,
            visit,
            external_click_id,
            slug,
            tags,
            device: supposed.device.unwrap_or(agent.device),
            os: supposed.os.unwrap_or(agent.os),
            browser: supposed.browser.unwrap_or(agent.browser),
            verdict,
            country: supposed.country.unwrap_or_else(|| explainer.geo.country(visit.address)),
            region,
            city,
            asn,
            local: zone.local(unix_ms),
        }
    }

    /// What macros may draw on, but for what the decision adds.
    pub(super) fn values(&self) -> Values<'v> {
        Values {
            link: self.slug,
            country: self.country,
            device: self.device,
            os: self.os,
            browser: self.browser,
            local: Some(self.local),
            ..Values::of(self.visit)
        }
    }

    fn cookie_lines(&self) -> impl Iterator<Item = &str> {
        self.supposed.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok())
    }

    /// By the cookie of campaigns that are sticky by it.
    pub(super) fn visitor(&self) -> Option<VisitorId> {
        VisitorId::find(self.cookie_lines())
    }

    /// Everything that a condition could ask. Of a repeated key the first; null for a value that is no text.
    pub(super) fn shown(&self) -> Value {
        let mut shown: serde_json::Map<String, Value> =
            crate::click::condition::explain::known(self).map(|(name, value)| (name.to_owned(), value)).collect();
        let mut parameters = Parameters::default();
        parameters.read(&self.supposed.query);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entries = |of: Map, keys: Vec<String>| -> Value {
            let value = |key: &str| self.entry(of, key).map_or(Value::Null, |value| value.into());
            keys.into_iter().map(|key| (key.clone(), value(&key))).collect()
        };
        let headers = self.supposed.headers.keys().map(|name| name.as_str().to_owned()).collect();
        let cookies = facts::cookies(self.cookie_lines()).map(|(name, _)| name.to_owned()).collect();
        shown.extend([
            ("query".to_owned(), entries(Map::Query, parameters.iter().map(|(name, _)| text(name)).collect())),
            ("header".to_owned(), entries(Map::Header, headers)),
            ("cookie".to_owned(), entries(Map::Cookie, cookies)),
            ("tags".to_owned(), self.tags.into()),
            ("reasons".to_owned(), self.verdict.reasons.names().collect()),
            // They need the clicks before this one, or are found for the record alone: no decision goes by them.
            ("reasons_found_later".to_owned(), Reasons::OF_WORKER.names().collect()),
        ]);
        shown.into()
    }
}

impl Facts for Seen<'_> {
    fn text(&self, name: Text) -> Cow<'_, str> {
        match name {
            Text::Country => self.country.as_ref().map_or_else(Cow::default, |code| String::from_utf8_lossy(code)),
            Text::Continent => self.country.and_then(geo::continent).unwrap_or_default().into(),
            Text::Region => self.region.into(),
            Text::City => self.city.into(),
            Text::Device => self.device.into(),
            Text::Os => self.os.into(),
            Text::Browser => self.browser.into(),
            Text::Language => facts::first_language(self.visit.language),
            Text::Referrer => String::from_utf8_lossy(self.visit.referrer),
            Text::ReferrerDomain => facts::domain(self.visit.referrer),
            Text::Source => self.entry(Map::Query, "source").unwrap_or_default(),
            Text::ExternalClickId => String::from_utf8_lossy(self.external_click_id),
            Text::Date => self.local.to_string().into(),
            Text::Class => self.verdict.class.name().into(),
            Text::Slug => self.slug.into(),
            Text::Domain => domain::host(self.visit.host),
        }
    }

    fn number(&self, name: Number) -> i64 {
        match name {
            Number::Hour => self.local.hour.into(),
            Number::Weekday => self.local.weekday.into(),
            Number::Asn => self.asn.into(),
        }
    }

    fn entry(&self, of: Map, key: &str) -> Option<Cow<'_, str>> {
        match of {
            Map::Query => facts::parameter(self.visit.query, key),
            // As on the edge.
            Map::Header if key == AUTHORIZATION.as_str() => None,
            Map::Header => Some(self.supposed.headers.get(key)?.to_str().ok()?.into()),
            Map::Cookie => facts::cookie(self.cookie_lines(), key).map(Cow::Borrowed),
        }
    }

    fn is_bot(&self) -> bool {
        self.verdict.class.is_bot()
    }

    fn address(&self) -> IpAddr {
        self.visit.address
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }
}
