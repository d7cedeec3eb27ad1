//! The rows of the scripted store as a real store gives them back. Pure.

use crate::click::Click;
use crate::click::query::Parameters;
use crate::pipeline::{Batch, ClickFilter, Row, StoredClick};

/// Whether a question is about this click.
pub(super) fn matches(filter: &ClickFilter, unix_ms: u64, click: &StoredClick) -> bool {
    filter.domain.as_ref().is_none_or(|domain| *domain == click.domain)
        && filter.link.as_ref().is_none_or(|link| *link == click.link)
        && filter.campaign.as_ref().is_none_or(|campaign| *campaign == click.campaign)
        && filter.from_ms.is_none_or(|from| unix_ms >= from)
        && filter.to_ms.is_none_or(|to| unix_ms < to)
}

/// The row as a real store gives it back, and its time.
pub(super) fn stored(batch: &Batch, row: &Row) -> (u64, StoredClick) {
    let click = Click::decode(&row.frame).expect("decoded when it was stored");
    let mut parameters = Parameters::default();
    parameters.read(click.query);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let unix_ms = click.id.unix_ms();
    let time = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap_or_default());
    let stored = StoredClick {
        click_id: click.id.to_string(),
        ts: time.map_or_else(|_| String::new(), |time| format!("{time:.3}")),
        org: click.org.into(),
        campaign: click.campaign.into(),
        domain: click.domain.into(),
        link: click.link.into(),
        path: text(click.path),
        rule: click.rule.into(),
        variant: click.variant.into(),
        destination: text(click.destination),
        status: click.status,
        external_click_id: text(parameters.get("click_id")),
        source: text(parameters.get("source")),
        class: row.class.name().into(),
        reasons: row.reasons.names().map(str::to_owned).collect(),
        dedup: row.dedup.name().into(),
        fraud_score: row.fraud_score,
        country: row.country.map_or_else(String::new, |country| text(&country)),
        region: row.place.region.into(),
        city: row.place.city.into(),
        asn: row.place.asn,
        device: row.agent.device.into(),
        os: row.agent.os.into(),
        browser: row.agent.browser.into(),
        language: text(click.language),
        referrer: text(click.referrer),
        ua: text(click.ua),
        ip: click.address.map_or_else(String::new, |address| address.to_string()),
        privacy: click.privacy.level.name().into(),
        query: parameters.iter().map(|(key, value)| (text(key), text(value))).collect(),
        route_version: click.route_version,
        node: batch.node.to_string(),
        batch_id: batch.id.to_string(),
    };
    (unix_ms, stored)
}
