//! Links as operators send them: what is checked, and what a change keeps.

use super::*;

fn own() -> OwnHosts {
    OwnHosts { hosts: vec!["go.example".into()], sockets: vec!["127.0.0.1:8080".into()] }
}

fn raw(slug: &str, url: &str) -> RawLink {
    RawLink { slug: Some(slug.into()), url: Some(url.into()), ..RawLink::default() }
}

#[test]
fn a_plain_link_gets_the_defaults() {
    let link = Link::check(raw("spring", "https://a.example/"), &own()).unwrap();
    assert_eq!((link.status, link.query, link.paused), (302, QueryMode::Ignore, false));
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let link = RawLink {
        status: Some(200),
        tags: Some(vec!["x".repeat(129)]),
        starts_at: Some(serde_json::json!(7)),
        expires_at: Some(serde_json::json!("tomorrow")),
        expired_url: Some(serde_json::json!("mailto:a@b.example")),
        domain: Some("a.example:80".into()),
        max_clicks: Some(serde_json::json!(0)),
        cap: Some(serde_json::json!({"limit": 1})),
        ..raw("in", "mailto:a@b.example")
    };
    let fields: Vec<_> = Link::check(link, &own()).unwrap_err().into_iter().map(|e| e.field).collect();
    let expected =
        ["slug", "domain", "url", "status", "tags", "cap/per", "max_clicks", "starts_at", "expires_at", "expired_url"];
    assert_eq!(fields, expected);
}

#[test]
fn own_hosts_and_long_urls_are_refused() {
    for url in ["https://go.example/x", "https://GO.example.:99/", "http://127.0.0.1:8080/a"] {
        let error = Link::check(raw("a", url), &own()).unwrap_err();
        assert!(error[0].detail.contains("loop"), "{url}");
    }
    assert!(Link::check(raw("a", "http://127.0.0.1:8081/"), &own()).is_ok());
    let long = format!("https://a.example/{}", "x".repeat(URL_BYTES_MAX));
    assert!(Link::check(raw("a", &long), &own()).unwrap_err()[0].detail.contains("4096 at most"));
}

#[test]
fn a_link_belongs_to_one_domain_or_to_any_and_stays_there() {
    let of = |domain: &str, url| Link::check(RawLink { domain: Some(domain.into()), ..raw("a", url) }, &own());
    let link = of("GO.Example.", "https://a.example/").unwrap();
    assert_eq!((link.domain(), link.domain.as_deref()), ("go.example", Some("go.example")));
    assert_eq!(of("*", "https://a.example/").unwrap().domain, None);
    assert!(of("b.example", "https://b.example:99/x").unwrap_err()[0].detail.contains("loop"));
    let change = |domain: &str| RawLink { domain: Some(domain.into()), ..RawLink::default() };
    assert_eq!(link.changed(change("go.EXAMPLE"), &own()).unwrap().domain(), "go.example");
    for domain in ["*", "b.example", "a b"] {
        let change = RawLink { slug: Some("b".into()), ..change(domain) };
        let fields: Vec<_> = link.changed(change, &own()).unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["slug", "domain"], "{domain}");
    }
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let link = Link::check(RawLink { campaign: Some("c".into()), ..raw("a", "https://a.example/") }, &own()).unwrap();
    let change = RawLink { url: Some("https://b.example/".into()), ..RawLink::default() };
    let changed = link.changed(change, &own()).unwrap();
    assert_eq!((changed.url.as_str(), changed.campaign.as_str()), ("https://b.example/", "c"));
    assert!(link.changed(raw("b", "https://b.example/"), &own()).is_err());
}

#[test]
fn a_link_keeps_its_organisation() {
    let of = |org: &str| RawLink { org: Some(org.into()), ..RawLink::default() };
    let sent = RawLink { org: Some("acme".into()), ..raw("a", "https://a.example/") };
    let link = Link::check(sent, &own()).unwrap();
    assert_eq!(link.changed(RawLink::default(), &own()).unwrap().org.as_str(), "acme");
    assert!(link.changed(of("acme"), &own()).is_ok());
    assert_eq!(link.changed(of("other"), &own()).unwrap_err()[0].field, "org");
    let bad = RawLink { org: Some("a b".into()), ..raw("a", "https://a.example/") };
    assert_eq!(Link::check(bad, &own()).unwrap_err()[0].field, "org");
    assert_eq!(Link::check(raw("a", "https://a.example/"), &own()).unwrap().org.as_str(), "default");
}

#[test]
fn a_change_sets_and_removes_times_and_keeps_those_that_it_does_not_name() {
    let read = |text: &str| serde_json::from_str::<RawLink>(text).unwrap();
    let link = Link::check(raw("a", "https://a.example/"), &own()).unwrap();
    assert_eq!((link.life.as_ref(), link.stage(0)), (None, Stage::Alive));
    let times = r#"{"starts_at":"1970-01-01T00:00:00.005Z","expires_at":"1970-01-01T00:00:00.009Z"}"#;
    let link = link.changed(read(times), &own()).unwrap();
    let link = link.changed(read(r#"{"paused":true}"#), &own()).unwrap();
    assert_eq!([4, 5, 9].map(|ms| link.stage(ms)), [Stage::Early, Stage::Alive, Stage::Expired(None)]);
    let link = link.changed(read(r#"{"starts_at":null}"#), &own()).unwrap();
    assert_eq!([4, 9].map(|ms| link.stage(ms)), [Stage::Alive, Stage::Expired(None)]);
    let link = link.changed(read(r#"{"expires_at":null}"#), &own()).unwrap();
    assert_eq!(link.life, None);
}
