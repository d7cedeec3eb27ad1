//! Roll-backs over a real file, with links of domains.

use std::sync::Arc;

use serde_json::json;

use super::domains::Known;
use super::releases::{Keep, Releases};
use super::rollback::{RollbackError, rollback};
use super::{Campaigns, Caps, Catalog, Domains, Links, Writer};
use crate::backend::sqlite_catalog::SqliteCatalog;
use crate::click::{OwnHosts, RawLink};
use crate::testing::ManualClock;

fn by() -> Writer {
    Writer::of_all("a test")
}

struct Bench {
    catalog: Catalog,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { catalog: open(&folder).await, folder }
    }

    async fn link(&self, domain: &str, slug: &str, url: &str) {
        let [domain, slug, url] = [domain, slug, url].map(|text| Some(text.to_owned()));
        self.catalog.links.create(&by(), RawLink { domain, slug, url, ..RawLink::default() }).await.unwrap();
    }

    async fn back(&self, target: u64) -> u64 {
        rollback(&self.catalog, "a test", target).await.unwrap().version
    }

    /// Where a visitor of this host goes.
    fn follow(&self, host: &str, slug: &str) -> Option<String> {
        self.catalog.links.with_asked(host, slug, |entry| entry.map(|entry| entry.link.url.clone()))
    }

    fn find(&self, name: &str) -> (bool, bool) {
        let Known { is_known, has_links, .. } = self.catalog.domains.find(name);
        (is_known, has_links)
    }
}

async fn open(folder: &tempfile::TempDir) -> Catalog {
    let store = Arc::new(SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap());
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let keep = Keep { releases_max: 100, changes_max: 1000 };
    let releases = Releases::open(store.clone(), keep, clock.clone()).await.unwrap();
    let domains = Domains::open(store.clone(), releases.clone(), OwnHosts::default(), 2, clock.clone()).await.unwrap();
    let domains = Arc::new(domains);
    let links = Links::open(store.clone(), releases.clone(), domains.clone(), 3, clock.clone()).await.unwrap();
    let campaigns = Campaigns::open(store, releases.clone(), domains.clone(), 100, clock.clone()).await.unwrap();
    let caps = Arc::new(Caps::new(0, 2, false, clock));
    let links = Arc::new(links.with_caps(Arc::clone(&caps)).unwrap());
    let campaigns = Arc::new(campaigns.with_caps(Arc::clone(&caps)).unwrap());
    Catalog { releases, domains, links, campaigns, caps }
}

#[tokio::test]
async fn a_link_of_a_domain_that_comes_back_is_followed_there_and_counted_once() {
    let bench = Bench::new().await;
    bench.link("*", "a", "https://any.example/").await;
    bench.link("go.example", "a", "https://one.example/").await;
    bench.catalog.links.remove(&by(), "go.example", "a").await.unwrap();
    assert_eq!(bench.follow("go.example", "a").as_deref(), Some("https://any.example/"));
    assert_eq!(bench.find("go.example"), (false, false));
    bench.back(2).await;
    assert_eq!(bench.follow("go.example", "a").as_deref(), Some("https://one.example/"));
    assert_eq!(bench.find("go.example"), (true, true));
    // Changed and gone back to, it is still one: when it goes the name goes.
    let change = RawLink { paused: Some(true), ..RawLink::default() };
    let (entry, release) = bench.catalog.links.change(&by(), "go.example", "a", change).await.unwrap();
    assert_eq!(entry.link.version, 3);
    bench.back(release - 1).await;
    assert!(!bench.catalog.links.get("go.example", "a").unwrap().link.paused);
    bench.back(1).await;
    assert_eq!((bench.find("go.example"), bench.catalog.links.len()), ((false, false), 1));
    assert_eq!(bench.follow("go.example", "a").as_deref(), Some("https://any.example/"));
    assert_eq!(open(&bench.folder).await.links.len(), 1, "the file says so too");
}

#[tokio::test]
async fn domains_are_gone_back_to_like_links() {
    let bench = Bench::new().await;
    let domains = &bench.catalog.domains;
    let put = async |url: &str| domains.put(&by(), "go.example", None, json!({"root_url": url})).await.unwrap();
    assert_eq!(put("https://a.example/").await.2, 1);
    put("https://b.example/").await;
    domains.remove(&by(), "go.example").await.unwrap();
    let root = |catalog: &Catalog| catalog.domains.get("go.example").map(|domain| domain.root.clone().unwrap().url);
    assert_eq!(root(&bench.catalog), None);
    for (target, url) in [(2, "https://b.example/"), (1, "https://a.example/")] {
        bench.back(target).await;
        assert_eq!(root(&bench.catalog).as_deref(), Some(url));
    }
    assert_eq!(domains.get("go.example").unwrap().version, 4, "versions grow on");
    assert_eq!(root(&open(&bench.folder).await).as_deref(), Some("https://a.example/"));
    bench.back(0).await;
    assert!(domains.is_empty() && open(&bench.folder).await.domains.is_empty());
}

#[tokio::test]
async fn what_points_at_a_domain_is_a_loop_only_where_both_are_there_at_once() {
    let bench = Bench::new().await;
    bench.link("*", "out", "https://later.example/").await;
    bench.catalog.links.remove(&by(), "*", "out").await.unwrap();
    bench.catalog.domains.put(&by(), "later.example", None, json!({})).await.unwrap();
    // At 1 there was the link, and not the domain.
    let again = bench.back(1).await;
    assert_eq!(bench.find("later.example"), (false, false));
    assert!(bench.follow("x", "out").is_some());
    // And back: the domain, and not the link.
    bench.back(again - 1).await;
    assert_eq!((bench.find("later.example"), bench.follow("x", "out")), ((true, false), None));
}

#[tokio::test]
async fn names_in_use_are_bounded_in_a_roll_back_too() {
    let bench = Bench::new().await;
    let Catalog { domains, links, .. } = &bench.catalog;
    for name in ["a.example", "b.example"] {
        bench.link(name, "x", "https://t.example/").await;
    }
    links.remove(&by(), "a.example", "x").await.unwrap();
    let (.., served) = domains.put(&by(), "c.example", None, json!({})).await.unwrap();
    let known = || ["a.example", "b.example", "c.example"].map(|name| bench.find(name).0);
    assert!(domains.put(&by(), "d.example", None, json!({})).await.is_err());
    bench.back(2).await;
    assert_eq!(known(), [true, true, false], "one came and one went");
    bench.back(served).await;
    assert_eq!(known(), [false, true, true]);
    domains.remove(&by(), "c.example").await.unwrap();
    // What the file has got from outside is part of no release, and takes a name.
    let shell = rusqlite::Connection::open(bench.folder.path().join("catalog.db")).unwrap();
    shell.execute("INSERT INTO domains VALUES ('o.example', '{}', 1, 1, 1)", []).unwrap();
    let other = open(&bench.folder).await;
    let refused = rollback(&other, "a test", 2).await.unwrap_err();
    assert!(matches!(refused, RollbackError::Full { kind: "domain", wanted: 3, max: 2 }), "{refused}");
    assert!(!other.domains.find("a.example").is_known && other.domains.find("o.example").is_known);
}

#[tokio::test]
async fn an_entry_that_is_made_again_goes_on_from_its_last_version() {
    let bench = Bench::new().await;
    let Catalog { links, campaigns, domains, .. } = &bench.catalog;
    bench.link("go.example", "a", "https://a.example/").await;
    let change = RawLink { paused: Some(true), ..RawLink::default() };
    links.change(&by(), "go.example", "a", change).await.unwrap();
    links.remove(&by(), "go.example", "a").await.unwrap();
    campaigns.put(&by(), "c", None, json!({"fallback_url": "https://f.example/"})).await.unwrap();
    campaigns.remove(&by(), "c").await.unwrap();
    domains.put(&by(), "d.example", None, json!({})).await.unwrap();
    domains.remove(&by(), "d.example").await.unwrap();
    bench.link("go.example", "a", "https://a.example/").await;
    bench.link("*", "a", "https://a.example/").await;
    let version = |domain| links.get(domain, "a").unwrap().link.version;
    assert_eq!((version("go.example"), version("*")), (3, 1));
    let campaign = campaigns.put(&by(), "c", None, json!({"fallback_url": "https://f.example/"})).await.unwrap().0;
    let domain = domains.put(&by(), "d.example", None, json!({})).await.unwrap().0;
    assert_eq!((campaign.version, domain.version), (2, 2));
}

#[tokio::test]
async fn links_are_bounded_in_a_roll_back_too() {
    let bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link("*", slug, "https://t.example/").await;
    }
    bench.catalog.links.remove(&by(), "*", "a").await.unwrap();
    let shell = rusqlite::Connection::open(bench.folder.path().join("catalog.db")).unwrap();
    let insert =
        "INSERT INTO links SELECT domain, 'o', url, status, query, campaign, paused, tags, external_id, 1, 1, 1, NULL,
         NULL, NULL, NULL, NULL, 'default' FROM links LIMIT 1";
    shell.execute(insert, []).unwrap();
    let other = open(&bench.folder).await;
    let refused = rollback(&other, "a test", 3).await.unwrap_err();
    assert!(matches!(refused, RollbackError::Full { kind: "link", wanted: 4, max: 3 }), "{refused}");
    assert!(other.links.get("*", "a").is_none() && other.links.len() == 3);
}

#[tokio::test]
async fn caps_come_back_with_their_links_and_campaigns_and_keep_to_their_number() {
    let bench = Bench::new().await;
    let Catalog { links, campaigns, caps, .. } = &bench.catalog;
    let capped = |slug: &str| -> RawLink {
        serde_json::from_value(json!({"slug": slug, "url": "https://t.example/", "max_clicks": 5})).unwrap()
    };
    let of = |field, name| caps.show(&[(field, name)]).iter().map(|cap| cap.limit).collect::<Vec<_>>();
    links.create(&by(), capped("a")).await.unwrap();
    let rule = json!({"name": "r", "cap": {"limit": 7, "per": "day"}, "to": [{"url": "https://t.example/"}]});
    let (.., both) =
        campaigns.put(&by(), "c", None, json!({"rules": [rule], "fallback_url": "https://f.example/"})).await.unwrap();
    assert_eq!((of("link", "a"), of("campaign", "c")), (vec![5], vec![7]));
    links.change(&by(), "*", "a", serde_json::from_value(json!({"max_clicks": 6})).unwrap()).await.unwrap();
    campaigns.remove(&by(), "c").await.unwrap();
    assert_eq!((of("link", "a"), of("campaign", "c")), (vec![6], vec![]));
    bench.back(both).await;
    assert_eq!((of("link", "a"), of("campaign", "c")), (vec![5], vec![7]));
    // What is served is what counts: its gate is the one that was shown.
    let gate = links.get("*", "a").unwrap().link.caps.as_ref().unwrap().max_clicks.as_ref().unwrap().gate.clone();
    assert!(Arc::strong_count(&gate) > 2, "shared with the books of caps");
    bench.back(0).await;
    assert_eq!((of("link", "a"), of("campaign", "c")), (vec![], vec![]));
    links.create(&by(), capped("b")).await.unwrap();
    let (_, only) = links.create(&by(), capped("d")).await.unwrap();
    let refused = rollback(&bench.catalog, "a test", both).await.map(|_| ());
    assert!(refused.is_ok(), "the new ones go: {refused:?}");
    bench.back(only).await;
    let shell = rusqlite::Connection::open(bench.folder.path().join("catalog.db")).unwrap();
    shell.execute("UPDATE links SET max_clicks = NULL WHERE slug = 'b'", []).unwrap();
    let insert =
        "INSERT INTO links SELECT domain, 'o', url, status, query, campaign, paused, tags, external_id, 1, 1, 1, NULL,
         NULL, NULL, NULL, 3, 'default' FROM links LIMIT 1";
    shell.execute(insert, []).unwrap();
    let other = open(&bench.folder).await;
    let refused = rollback(&other, "a test", both).await.unwrap_err();
    assert!(matches!(refused, RollbackError::Caps(_)), "{refused}");
}
