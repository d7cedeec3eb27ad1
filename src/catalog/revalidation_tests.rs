//! Revalidation over a real file that others write to as well, and over a store that fails when it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;
use tokio::sync::Notify;

use super::domains::Known;
use super::releases::{Keep, Releases};
use super::revalidation::{PAGE, RETRY_AFTER, ROUNDS, Revalidation};
use super::source::Name;
use super::{Campaigns, Caps, Catalog, CatalogError, Domains, LinkPage, LinkStore, Links, Page, Writer};
use crate::BoxFuture;
use crate::backend::sqlite_catalog::SqliteCatalog;
use crate::click::{Link, OwnHosts, RawLink};
use crate::clock::Clock as _;
use crate::testing::ManualClock;

/// Hosts that no link leads to: such a one would be a loop, which cannot be read and stays as it was served.
const DOMAINS: [&str; 3] = ["x.example", "y.example", "z.example"];
const AFTER: Duration = Duration::from_secs(900);

/// Reads of links fail while this is set.
struct Failing {
    inner: Arc<SqliteCatalog>,
    fails: AtomicBool,
    /// The next page is read, told of, and handed over when `go` says so.
    holds: AtomicBool,
    has_read: Notify,
    go: Notify,
}

impl LinkStore for Failing {
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>> {
        self.inner.list(page)
    }

    fn page<'a>(&'a self, after: Option<Name>, limit: usize) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>> {
        match self.fails.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(CatalogError::Unavailable("told to fail".into())) }),
            false => Box::pin(async move {
                let page = self.inner.page(after, limit).await;
                if self.holds.swap(false, Ordering::Relaxed) {
                    self.has_read.notify_one();
                    self.go.notified().await;
                }
                page
            }),
        }
    }

    fn load<'a>(&'a self, take: &'a mut (dyn FnMut(Link) + Send)) -> BoxFuture<'a, Result<(), CatalogError>> {
        self.inner.load(take)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>> {
        self.inner.ping()
    }
}

fn by() -> Writer {
    Writer::of_all("a test")
}

struct Bench {
    clock: Arc<ManualClock>,
    store: Arc<Failing>,
    catalog: Catalog,
    revalidation: Revalidation,
    /// Another program's.
    shell: Connection,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with(0).await
    }

    /// With so many links, from `s-0000` on.
    async fn with(links: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        drop(SqliteCatalog::open(&path).unwrap());
        let shell = Connection::open(&path).unwrap();
        let fill = "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT ?1) INSERT INTO links
             SELECT '*', printf('s-%04d', n), 'https://a.example/', 302, 'ignore', '', 0, '[]', '', 1, 1, 1, NULL, NULL, NULL, NULL, NULL, 'default'
             FROM n WHERE ?1 > 0";
        shell.execute(fill, [links as i64]).unwrap();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let inner = Arc::new(SqliteCatalog::open(&path).unwrap());
        let store = Arc::new(Failing {
            inner: Arc::clone(&inner),
            fails: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            has_read: Notify::new(),
            go: Notify::new(),
        });
        let keep = Keep { releases_max: 100_000, changes_max: 1_000_000 };
        let releases = Releases::open(inner.clone(), keep, clock.clone()).await.unwrap();
        let own = OwnHosts::default();
        let domains = Domains::open(inner.clone(), releases.clone(), own, 100, clock.clone()).await.unwrap();
        let domains = Arc::new(domains);
        let links = Links::open(store.clone(), releases.clone(), domains.clone(), 100_000, clock.clone()).await;
        let campaigns = Campaigns::open(inner, releases.clone(), domains.clone(), 1000, clock.clone()).await.unwrap();
        let caps = Arc::new(Caps::new(0, 10, false, clock.clone()));
        let links = Arc::new(links.unwrap().with_caps(Arc::clone(&caps)).unwrap());
        let campaigns = Arc::new(campaigns.with_caps(Arc::clone(&caps)).unwrap());
        let catalog = Catalog { releases, domains, links, campaigns, caps };
        let revalidation = Revalidation::new(catalog.clone(), AFTER, clock.clone());
        Self { clock, store, catalog, revalidation, shell, _folder: folder }
    }

    async fn link(&self, slug: &str) {
        let raw = RawLink { slug: Some(slug.into()), url: Some("https://a.example/".into()), ..RawLink::default() };
        self.catalog.links.create(&by(), raw).await.unwrap();
    }

    /// One step, with the wait before it.
    async fn step(&mut self, pause: Duration) -> Duration {
        self.clock.advance(pause);
        self.revalidation.step().await
    }

    /// Lets this much time pass, with the steps that belong to it; how many there were.
    async fn pass(&mut self, time: Duration) -> usize {
        let (end, mut steps) = (self.clock.now() + time, 0);
        let mut pause = self.revalidation.pause();
        while self.clock.now() + pause <= end {
            pause = self.step(pause).await;
            steps += 1;
        }
        self.clock.advance(end - self.clock.now());
        steps
    }

    fn url(&self, slug: &str) -> Option<String> {
        self.catalog.links.with(slug, |entry| entry.map(|entry| entry.link.url.clone()))
    }

    fn sql(&self, statement: &str) {
        assert!(self.shell.execute(statement, []).unwrap() > 0, "{statement}");
    }

    /// What metrics say: same, refreshed, failed.
    fn counts(&self) -> [u64; 3] {
        let metrics = crate::telemetry::metrics::Metrics::new(0, 0, &[], || 0).unwrap();
        metrics.show_catalog(self.catalog.releases.figures());
        let text = metrics.render(0);
        ["same", "refreshed", "failed"].map(|result| {
            let name = format!("trellis_catalog_revalidations_total{{result=\"{result}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }

    /// Memory is what the source is, in full.
    async fn assert_same_as_source(&self) {
        let stored =
            self.store.inner.list(LinkPage { org: None, domain: None, after: None, limit: usize::MAX }).await.unwrap();
        assert_eq!(self.catalog.links.len(), stored.len());
        for link in &stored {
            let served = self.catalog.links.get(link.domain(), &link.slug);
            assert_eq!(&served.unwrap_or_else(|| panic!("{}", link.slug)).link, link);
        }
        let page = self.catalog.domains.page(None, 1000).await.unwrap();
        let served = self.catalog.domains.list(None, None, 1000);
        assert_eq!(served.iter().map(|domain| (**domain).clone()).collect::<Vec<_>>(), page.entries);
        // Names are in use for the links and the domains that there are, and for no other.
        for (name, has_links) in DOMAINS.map(|name| (name, stored.iter().any(|link| link.domain() == name))) {
            let is_known = has_links || served.iter().any(|domain| domain.name == name);
            assert_eq!(self.catalog.domains.find(name), Known { is_known, has_links, is_claimed: false }, "{name}");
        }
        let page = self.catalog.campaigns.page(None, usize::MAX >> 1).await.unwrap();
        assert_eq!(
            self.catalog.campaigns.list(None, None, 1000).iter().map(|c| (**c).clone()).collect::<Vec<_>>(),
            page.entries
        );
    }
}

#[tokio::test]
async fn what_another_program_writes_is_served_within_the_time_and_is_a_release() {
    let mut bench = Bench::with(1200).await;
    bench.catalog.campaigns.put(&by(), "c", None, json!({"fallback_url": "https://f.example/"})).await.unwrap();
    bench.catalog.campaigns.put(&by(), "gone", None, json!({"fallback_url": "https://f.example/"})).await.unwrap();
    bench.pass(AFTER).await;
    assert_eq!(bench.counts()[1..], [0, 0], "nothing was different");
    let served = bench.catalog.releases.served();
    bench.sql("UPDATE links SET url = 'https://b.example/' WHERE slug = 's-0003'");
    bench.sql("DELETE FROM links WHERE slug IN ('s-0700', 's-1199')");
    bench.sql("INSERT INTO links SELECT '*', 'added', url, status, query, campaign, paused, tags, external_id, 1, 1, 1, NULL, NULL, NULL, NULL, NULL, 'default' FROM links LIMIT 1");
    bench.sql("UPDATE campaigns SET document = '{\"fallback_url\":\"https://g.example/\"}' WHERE id = 'c'");
    bench.sql("DELETE FROM campaigns WHERE id = 'gone'");
    assert_eq!(bench.url("s-0003").unwrap(), "https://a.example/", "until it is looked at");
    bench.pass(AFTER).await;
    assert_eq!(bench.url("s-0003").unwrap(), "https://b.example/");
    assert_eq!((bench.url("s-0700"), bench.url("s-1199")), (None, None));
    assert_eq!(bench.url("added").unwrap(), "https://a.example/");
    assert!(bench.catalog.campaigns.get("c").unwrap().document["fallback_url"] == "https://g.example/");
    assert_eq!((bench.catalog.campaigns.get("gone"), bench.counts()[1..].to_vec()), (None, vec![6, 0]));
    bench.assert_same_as_source().await;
    let (found, _) =
        bench.catalog.releases.differences([served, bench.catalog.releases.served()], None, 100).await.unwrap();
    let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["c", "gone", "*/added", "*/s-0003", "*/s-0700", "*/s-1199"]);
    assert_eq!(bench.catalog.releases.list(u64::MAX, 1).await.unwrap()[0].kind, "outside");
    // What came from outside can be undone like any other write.
    super::rollback(&bench.catalog, "a test", served).await.unwrap();
    assert_eq!(bench.url("s-0003").unwrap(), "https://a.example/");
    assert!(
        bench.url("s-0700").is_some() && bench.url("added").is_none() && bench.catalog.campaigns.get("gone").is_some()
    );
    bench.assert_same_as_source().await;
}

#[tokio::test]
async fn an_edit_waits_for_no_page_that_is_read_and_is_not_undone_by_it() {
    let mut bench = Bench::new().await;
    bench.link("a").await;
    bench.store.holds.store(true, Ordering::Relaxed);
    let (store, links) = (Arc::clone(&bench.store), Arc::clone(&bench.catalog.links));
    let edit = async {
        store.has_read.notified().await;
        links.remove(&by(), "*", "a").await.unwrap();
        store.go.notify_one();
    };
    tokio::join!(bench.revalidation.step(), edit);
    assert_eq!((bench.url("a"), bench.counts(), bench.catalog.releases.served()), (None, [0, 0, 0], 2));
    bench.assert_same_as_source().await;
}

#[tokio::test]
async fn links_of_domains_and_domains_that_come_and_go_outside_are_followed_and_counted() {
    let mut bench = Bench::new().await;
    let insert = |domain: &str, slug: &str| {
        format!(
            "INSERT INTO links VALUES ('{domain}', '{slug}', 'https://{slug}.example/', 302, 'ignore', '', 0, '[]', '', 1, 1,
             1, NULL, NULL, NULL, NULL, NULL, 'default')"
        )
    };
    bench.link("x").await;
    let put = json!({"root_url": "https://r.example/"});
    bench.catalog.domains.put(&by(), "b.example", None, put).await.unwrap();
    for (domain, slug) in [("a.example", "x"), ("a.example", "y"), ("b.example", "x")] {
        bench.sql(&insert(domain, slug));
    }
    bench.sql("INSERT INTO domains VALUES ('c.example', '{\"record_orphans\":true}', 1, 1, 1)");
    bench.sql("UPDATE domains SET document = '{}' WHERE name = 'b.example'");
    bench.pass(AFTER).await;
    bench.assert_same_as_source().await;
    let follow = |bench: &Bench, host: &str| {
        bench.catalog.links.with_asked(host, "x", |entry| entry.map(|entry| entry.link.domain().to_owned()))
    };
    assert_eq!(["a.example", "c.example"].map(|host| follow(&bench, host).unwrap()), ["a.example", "*"]);
    assert!(bench.catalog.domains.get("b.example").unwrap().root.is_none());
    for gone in ["slug = 'y'", "domain = 'b.example'"] {
        bench.sql(&format!("DELETE FROM links WHERE {gone}"));
    }
    bench.sql("DELETE FROM domains WHERE name = 'c.example'");
    bench.pass(AFTER).await;
    bench.assert_same_as_source().await;
    bench.sql("DELETE FROM links WHERE domain = 'a.example'");
    bench.pass(AFTER).await;
    bench.assert_same_as_source().await;
    assert_eq!((bench.catalog.domains.len(), follow(&bench, "a.example").as_deref()), (1, Some("*")));
}

#[tokio::test]
async fn steps_are_spread_over_the_time_and_each_entry_is_compared_in_it() {
    let mut bench = Bench::with(2500).await;
    let (mut pause, mut shortest) = (bench.revalidation.pause(), AFTER);
    let end = bench.clock.now() + AFTER;
    while bench.clock.now() + pause <= end {
        pause = bench.step(pause).await;
        shortest = shortest.min(pause);
    }
    // 6 pages, a look through memory, the campaigns and the domains: 9 steps, two and a half rounds.
    assert_eq!((shortest, bench.counts()), (AFTER.div_f64(ROUNDS) / 9, [5000 + 2000, 0, 0]));
}

#[tokio::test]
async fn a_source_that_fails_changes_nothing_is_counted_and_tried_again_soon() {
    let mut bench = Bench::new().await;
    bench.link("a").await;
    bench.sql("UPDATE links SET url = 'https://b.example/'");
    bench.store.fails.store(true, Ordering::Relaxed);
    let pause = bench.step(Duration::ZERO).await;
    assert_eq!(pause, RETRY_AFTER);
    let steps = bench.pass(AFTER).await;
    assert_eq!((bench.url("a").unwrap().as_str(), bench.counts()), ("https://a.example/", [0, 0, 1 + steps as u64]));
    bench.store.fails.store(false, Ordering::Relaxed);
    bench.step(RETRY_AFTER).await;
    assert_eq!((bench.url("a").unwrap().as_str(), bench.counts()[1]), ("https://b.example/", 1));
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_served_as_it_was() {
    let mut bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link(slug).await;
    }
    bench.catalog.campaigns.put(&by(), "c", None, json!({"fallback_url": "https://f.example/"})).await.unwrap();
    bench.sql("UPDATE links SET url = 'mailto:a@b.example' WHERE slug = 'b'");
    bench.sql("UPDATE links SET url = 'https://c.example/' WHERE slug = 'c'");
    bench.sql("UPDATE campaigns SET document = '5'");
    bench.pass(AFTER).await;
    assert_eq!(
        ["a", "b", "c"].map(|slug| bench.url(slug).unwrap()),
        ["https://a.example/", "https://a.example/", "https://c.example/"]
    );
    assert!(bench.catalog.campaigns.get("c").is_some());
    assert_eq!(bench.counts()[1..], [1, 5], "three looks at the links, two at the campaigns");
    assert_eq!(bench.revalidation.told.len(), 2);
    bench.sql("UPDATE links SET url = 'https://b.example/' WHERE slug = 'b'");
    bench.pass(AFTER).await;
    assert_eq!((bench.url("b").unwrap().as_str(), bench.revalidation.told.len()), ("https://b.example/", 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn edits_from_inside_and_outside_end_in_what_the_source_says(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(edit_from_both_sides(fastrand::Rng::with_seed(seed)));
    }
}

async fn edit_from_both_sides(mut rng: fastrand::Rng) {
    // More than a page, so that edits fall before and behind the cursor.
    const LINKS: usize = PAGE + 100;
    let mut bench = Bench::with(LINKS).await;
    for round in 0..200 {
        // Mostly links of any domain; those of domains come and go.
        let of = rng.usize(..DOMAINS.len() + 2);
        let domain = DOMAINS.get(of).copied().unwrap_or("*");
        let slug = if domain == "*" { format!("s-{:04}", rng.usize(..LINKS)) } else { format!("d-{}", rng.u8(..3)) };
        let (url, id) = (format!("https://e.example/{round}"), format!("c-{}", rng.u8(..5)));
        let raw = RawLink { url: Some(url.clone()), ..RawLink::default() };
        let (links, campaigns, domains) = (&bench.catalog.links, &bench.catalog.campaigns, &bench.catalog.domains);
        let insert =
            "INSERT INTO links SELECT ?1, ?2, url, status, query, campaign, paused, tags, external_id, 1, 1, 1, NULL,
             NULL, NULL, NULL, NULL, 'default' FROM links LIMIT 1";
        // What the two sides do at once may be refused: then it is as the source says.
        match rng.u8(..12) {
            0 => drop(links.create(&by(), RawLink { domain: Some(domain.into()), slug: Some(slug), ..raw }).await),
            1 => drop(links.change(&by(), domain, &slug, raw).await),
            2 => drop(links.remove(&by(), domain, &slug).await),
            3 => drop(campaigns.put(&by(), &id, None, json!({"rules": [], "fallback_url": url})).await),
            4 => drop(campaigns.remove(&by(), &id).await),
            5 => drop(bench.shell.execute("UPDATE links SET url = ?1 WHERE slug = ?2", [&url, &slug])),
            6 => drop(bench.shell.execute("DELETE FROM links WHERE domain = ?1 AND slug = ?2", [domain, &slug])),
            7 => {
                let back = bench.catalog.releases.served().saturating_sub(rng.u64(..4));
                drop(super::rollback(&bench.catalog, "a test", back).await);
            }
            8 => drop(domains.put(&by(), domain, None, json!({"root_url": url})).await),
            9 => drop(domains.remove(&by(), domain).await),
            10 => drop(bench.shell.execute(insert, [domain, &slug])),
            _ => drop(bench.step(Duration::ZERO).await),
        }
    }
    bench.pass(AFTER).await;
    bench.assert_same_as_source().await;
    // The releases tell all of how it came about: back to the first, it is what it was.
    super::rollback(&bench.catalog, "a test", 0).await.unwrap();
    let Catalog { links, campaigns, domains, .. } = &bench.catalog;
    assert_eq!((links.len(), campaigns.len(), domains.len(), domains.is_empty()), (LINKS, 0, 0, true));
    assert!((0..LINKS).all(|n| bench.url(&format!("s-{n:04}")).as_deref() == Some("https://a.example/")));
    bench.assert_same_as_source().await;
}

#[tokio::test]
async fn unknown_slugs_leave_nothing_behind_and_a_link_is_found_when_it_is_made() {
    let bench = Bench::new().await;
    bench.link("a").await;
    let size = bench.catalog.links.slots();
    for n in 0..100_000 {
        let slug = format!("nobody-{n}");
        assert!(
            bench.catalog.links.with(&slug, |entry| entry.is_none()) && bench.catalog.links.get("*", &slug).is_none()
        );
    }
    assert_eq!((bench.catalog.links.len(), bench.catalog.links.slots()), (1, size));
    bench.link("nobody-7").await;
    assert!(bench.url("nobody-7").is_some());
}
