//! Clicks and rows for the tests of this module. Compiled for tests only.

use std::time::Duration;

use uuid::Uuid;

use crate::catalog::agents::Agent;
use crate::catalog::geo::Place;
use crate::catalog::releases::{Change, Keep, Write};
use crate::click::class::AgentReasons;
use crate::click::{Class, Click, ClickId, Fingerprint, Privacy, Reasons};
use crate::config::Retention;
use crate::pipeline::{Batch, Label, Row, StoredClick};
use crate::telemetry::catalog::ReleaseKind;

/// A bot's click on `spring` at 1_700_000_000_123 with this query string.
pub(super) fn click(query: &str) -> Click<'_> {
    Click {
        id: ClickId::new(1_700_000_000_123, &[9; 10]),
        fingerprint: Some(Fingerprint([3; 16])),
        window: None,
        head: false,
        prefetch: false,
        bound: false,
        marks: Default::default(),
        status: 302,
        route_version: 7,
        address: Some([203, 0, 113, 0].into()),
        country: None,
        privacy: Privacy::default(),
        org: "default",
        campaign: "spring",
        domain: "go.example",
        link: "summer",
        path: b"/x",
        rule: "phones",
        variant: "b",
        destination: b"https://a.example/?x=1",
        referrer: b"https://b.example/",
        ua: b"curl/8",
        language: b"de",
        query,
    }
}

/// Thirty days; an hour for `brief`.
pub(super) fn retention() -> Retention {
    let (hour, days) = (Duration::from_secs(3600), Duration::from_secs(30 * 86_400));
    Retention::new(days, [("brief".to_owned(), hour)].into())
}

/// The row of this click.
pub(super) fn row(click: &Click<'_>) -> Row {
    let mut frame = Vec::new();
    click.encode(&mut frame);
    let reasons = Reasons::AGENT_CRAWLER;
    let found = AgentReasons { found: reasons, enforced: reasons, ..AgentReasons::default() };
    Row {
        frame: frame.into(),
        country: Some(*b"DE"),
        place: Place { region: "BE", city: "Berlin", asn: 3320 },
        class: Class::Bot,
        reasons,
        fraud_score: 60,
        dedup: Label::Unique,
        agent: Agent { browser: "curl", os: "Linux", device: "bot", reasons: found },
    }
}

/// What a store gives back for `row(click)` in `batch_of`; the click has the query `click_id=a%20b&source=mail&x=%22…`.
pub(super) fn stored(click: &Click<'_>) -> StoredClick {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    StoredClick {
        click_id: click.id.to_string(),
        ts: "2023-11-14T22:13:20.123Z".into(),
        org: "default".into(),
        campaign: "spring".into(),
        domain: "go.example".into(),
        link: "summer".into(),
        path: "/x".into(),
        rule: "phones".into(),
        variant: "b".into(),
        destination: text(click.destination),
        status: 302,
        external_click_id: "a b".into(),
        source: "mail".into(),
        class: Class::Bot.name().into(),
        reasons: vec!["agent_crawler".into()],
        dedup: "unique".into(),
        fraud_score: 60,
        country: "DE".into(),
        region: "BE".into(),
        city: "Berlin".into(),
        asn: 3320,
        device: "bot".into(),
        os: "Linux".into(),
        browser: "curl".into(),
        language: "de".into(),
        referrer: text(click.referrer),
        ua: text(click.ua),
        ip: "203.0.113.0".into(),
        privacy: "full".into(),
        query: [("click_id", "a b"), ("source", "mail"), ("x", "\"")].map(|(k, v)| (k.into(), v.into())).into(),
        route_version: 7,
        node: "node-1".into(),
        batch_id: "00000000-0000-0000-0000-000000000005".into(),
    }
}

/// A batch of these rows.
pub(super) fn batch_of(rows: impl IntoIterator<Item = Row>) -> Batch {
    Batch { id: Uuid::from_u128(5), part: 0, node: "node-1".into(), rows: rows.into_iter().collect() }
}

/// One click a millisecond from this time on; links l0 to l9 in turn, the even ones in the campaign `spring`, labels in
/// turn.
pub(super) fn batch(unix_ms: u64, rows: usize) -> Batch {
    batch_of((0..rows).map(|i| {
        let link = format!("l{}", i % 10);
        let click = Click {
            id: ClickId::new(unix_ms + i as u64, &[9; 10]),
            link: &link,
            campaign: if i % 2 == 0 { "spring" } else { "" },
            ..click("a=1")
        };
        Row { dedup: Label::ALL[i % 3], ..row(&click) }
    }))
}

/// A write of these changes; much is kept.
pub(super) fn write(changes: Vec<Change>) -> Write {
    let keep = Keep { releases_max: 1000, changes_max: 1000 };
    let (kind, actor, note) = (ReleaseKind::Link, "a test".into(), String::new());
    Write { kind, at_ms: 1_700_000_000_000, actor, note, changes, above: 0, keep }
}
