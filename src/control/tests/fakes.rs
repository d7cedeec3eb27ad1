//! What stands behind the router in its tests: a clock that stands still, and stores in memory that can be away or silent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::BoxFuture;
use crate::catalog::{CampaignStore, CatalogError, DomainStore, LinkPage, LinkStore};
use crate::click::{Campaign, ClickId, Domain, Link};
use crate::clock::Clock;
use crate::pipeline::store::{ClickCursor, Difference, Expired, Level};
use crate::pipeline::{Batch, ClickFilter, Counts, Sealed, Store, StoreError, StoredClick};

/// Always the same moment.
#[derive(Debug)]
pub(super) struct Noon;

impl Clock for Noon {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

/// Domain and slug.
type Name = (String, String);

fn name(link: &Link) -> Name {
    (link.domain().to_owned(), link.slug.clone())
}

/// Links and clicks.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) away: AtomicBool,
    pub(super) silent: AtomicBool,
    pub(super) links: Mutex<BTreeMap<Name, Link>>,
    pub(super) asked: Mutex<Vec<ClickFilter>>,
    /// Minutes whose rollups are wrong.
    pub(super) wrong_minutes: Mutex<Vec<u64>>,
}

impl Fake {
    fn links(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<Name, Link>>, CatalogError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(CatalogError::Unavailable("the disk is gone".into())),
            false => Ok(self.links.lock().unwrap()),
        }
    }
}

impl LinkStore for Fake {
    fn insert<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async {
            // As a real one, it takes a moment.
            tokio::task::yield_now().await;
            let mut links = self.links()?;
            if links.contains_key(&name(link)) {
                return Err(CatalogError::Taken);
            }
            links.insert(name(link), link.clone());
            Ok(())
        })
    }

    fn update<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(|mut links| drop(links.insert(name(link), link.clone()))) })
    }

    fn delete<'a>(&'a self, domain: &'a str, slug: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(|mut links| drop(links.remove(&(domain.into(), slug.into())))) })
    }

    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>> {
        Box::pin(async move {
            let asked = |link: &&Link| {
                page.after.is_none_or(|after| (link.domain(), link.slug.as_str()) > after)
                    && page.domain.is_none_or(|domain| domain == link.domain())
            };
            Ok(self.links()?.values().filter(asked).take(page.limit).cloned().collect())
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }
}

impl CampaignStore for Fake {
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>> {
        Box::pin(async { self.links().map(|_| Vec::new()) })
    }

    fn put_campaign<'a>(&'a self, _: &'a Campaign) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }

    fn delete_campaign<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }
}

impl DomainStore for Fake {
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>> {
        Box::pin(async { self.links().map(|_| Vec::new()) })
    }

    fn put_domain<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }

    fn delete_domain<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }
}

/// Five clicks, a millisecond apart.
pub(super) fn clicks() -> Vec<StoredClick> {
    let click = |n: u64| {
        let id = ClickId::new(1_700_000_000_000 + n, &[7; 10]).to_string();
        let click = json!({
            "click_id": id, "ts": "2023-11-14T22:13:20.000Z", "org": "default", "campaign": "", "domain": "*", "link": "a", "path": "",
            "rule": "", "variant": "", "destination": "https://a.example/", "status": 302, "external_click_id": "", "source": "",
            "class": "human", "reasons": [], "dedup": "unique", "fraud_score": 0, "country": "", "region": "", "city": "", "asn": 0, "device": "", "os": "",
            "browser": "", "language": "", "referrer": "", "ua": "", "ip": "", "privacy": "full", "query": {},
            "route_version": 1, "node": "n",
            "batch_id": "",
        });
        serde_json::from_value(click).unwrap()
    };
    (0..5).rev().map(click).collect()
}

impl Store for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn seal(&self, _: Batch) -> Sealed {
        unreachable!("the operator side stores nothing")
    }

    fn insert<'a>(&'a self, _: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        unreachable!("the operator side stores nothing")
    }

    fn stored_of(
        &self,
        _: uuid::Uuid,
        _: std::ops::RangeInclusive<u64>,
    ) -> BoxFuture<'_, Result<Vec<crate::click::ClickId>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        unreachable!("app migrates")
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        unreachable!("app pings")
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        self.asked.lock().unwrap().push(filter.clone());
        Box::pin(async {
            if self.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.away.load(Ordering::Relaxed) {
                return Err(StoreError::Transient("connection refused".into()));
            }
            Ok(Counts { total: 5, unique: 5, by_class: BTreeMap::from([("human".into(), 5)]), ..Counts::default() })
        })
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        self.asked.lock().unwrap().push(filter.clone());
        Box::pin(async move {
            if self.away.load(Ordering::Relaxed) {
                return Err(StoreError::Transient("connection refused".into()));
            }
            let older = |click: &StoredClick| behind.is_none_or(|b| click.click_id < b.id.to_string());
            Ok(clicks().into_iter().filter(older).take(limit).collect())
        })
    }

    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.wrong_minutes.lock().unwrap().retain(|wrong| !minutes.contains(wrong));
        Box::pin(std::future::ready(Ok(())))
    }

    fn compare(&self, minutes: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>> {
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Err(StoreError::Transient("connection refused".into()))));
        }
        let wrong = self.wrong_minutes.lock().unwrap();
        let wrong = wrong.iter().filter(|minute| minutes.contains(minute));
        let difference =
            |minute: &u64| Difference { level: Level::Minute, minute: *minute, groups: 1, clicks: 5, counted: 4 };
        Box::pin(std::future::ready(Ok(wrong.map(difference).collect())))
    }

    fn counts_by_minute<'a>(&'a self, _: &'a str, _: Range<u64>) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn expire(&self, _: u64) -> BoxFuture<'_, Result<Expired, StoreError>> {
        unreachable!("app expires")
    }
}
