//! What stands behind the router in its tests: a clock that stands still, and stores in memory that can be away or silent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::BoxFuture;
use crate::catalog::releases::{Change, Kept, NetChange, Release, Write};
use crate::catalog::source::Name;
use crate::catalog::{CampaignStore, CatalogError, DomainStore, KeyStore, LinkPage, LinkStore, Page, ReleaseStore};
use crate::click::kept::Keeping;
use crate::click::{Campaign, ClickId, Domain, Key, Link};
use crate::clock::Clock;
use crate::handoff::Journals;
use crate::pipeline::dead_letter::{Actor, DeadLetters};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::persons::Desk;
use crate::pipeline::store::{ClickCursor, Difference, Expired, Level, LinkCount};
use crate::pipeline::{Batch, ClickFilter, Counts, Sealed, Store, StoreError, StoredClick};
use crate::testing::FaultDisk;

/// Of a store that knows no persons, and of no journal.
pub(super) fn persons(store: Arc<Fake>, ledger: &Arc<Ledger>, letters: &Arc<DeadLetters>) -> Arc<Desk> {
    Arc::new(Desk {
        store,
        ledger: Arc::clone(ledger),
        letters: Arc::clone(letters),
        journals: Journals::at_rest(Arc::new(FaultDisk::new(0)), std::path::Path::new("/nowhere")),
        addresses: Keeping::Truncate,
        clock: Arc::new(Noon),
        actor: Actor::Token,
        work: tokio::sync::Mutex::default(),
    })
}

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

fn name(link: &Link) -> Name {
    (link.domain().to_owned(), link.slug.to_string())
}

/// Links and clicks.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) away: AtomicBool,
    pub(super) silent: AtomicBool,
    pub(super) links: Mutex<BTreeMap<Name, Link>>,
    pub(super) written: Mutex<Vec<Arc<Write>>>,
    /// The oldest release that is kept.
    pub(super) oldest: AtomicU64,
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
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>> {
        Box::pin(async move {
            let asked = |link: &&Link| {
                page.after.is_none_or(|after| (link.domain(), link.slug.as_str()) > after)
                    && page.org.is_none_or(|org| *link.org == *org)
                    && page.domain.is_none_or(|domain| domain == link.domain())
            };
            Ok(self.links()?.values().filter(asked).take(page.limit).cloned().collect())
        })
    }

    fn page<'a>(&'a self, _: Option<Name>, _: usize) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>> {
        unreachable!("app revalidates")
    }

    fn load<'a>(&'a self, take: &'a mut (dyn FnMut(Link) + Send)) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(|links| links.values().cloned().for_each(take)) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }
}

impl CampaignStore for Fake {
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>> {
        Box::pin(async { self.links().map(|_| Vec::new()) })
    }

    fn page_of_campaigns<'a>(
        &'a self,
        _: Option<&'a str>,
        _: usize,
    ) -> BoxFuture<'a, Result<Page<Campaign>, CatalogError>> {
        unreachable!("app revalidates")
    }
}

impl ReleaseStore for Fake {
    fn commit(&self, write: Arc<Write>) -> BoxFuture<'_, Result<u64, CatalogError>> {
        Box::pin(async move {
            // As a real one, it takes a moment.
            tokio::task::yield_now().await;
            let mut links = self.links()?;
            for change in &write.changes {
                match change {
                    Change::Link { before: None, after: Some(entry) } if links.contains_key(&name(&entry.link)) => {
                        return Err(CatalogError::Taken);
                    }
                    Change::Link { after: Some(entry), .. } => {
                        links.insert(name(&entry.link), entry.link.clone());
                    }
                    Change::Link { before, after: None } => {
                        before.iter().for_each(|entry| drop(links.remove(&name(&entry.link))));
                    }
                    Change::Campaign { .. } | Change::Domain { .. } => {}
                }
            }
            let mut written = self.written.lock().unwrap();
            written.push(write);
            Ok(written.len() as u64)
        })
    }

    fn revisions(&self, kind: &'static str, names: Vec<String>) -> BoxFuture<'_, Result<Vec<u64>, CatalogError>> {
        Box::pin(async move {
            drop(self.links()?);
            let written = self.written.lock().unwrap();
            let of = |name: &String| {
                let changes = written.iter().flat_map(|write| &write.changes);
                changes.filter(|change| change.entry() == (kind, name.into())).map(Change::revision).max()
            };
            Ok(names.iter().map(|name| of(name).unwrap_or_default()).collect())
        })
    }

    fn kept(&self) -> BoxFuture<'_, Result<Kept, CatalogError>> {
        Box::pin(async {
            let newest = self.links().map(|_| self.written.lock().unwrap().len() as u64)?;
            Ok(Kept { oldest: self.oldest.load(Ordering::Relaxed), newest })
        })
    }

    fn releases(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Release>, CatalogError>> {
        Box::pin(async move {
            drop(self.links()?);
            let written = self.written.lock().unwrap();
            let kept = written.iter().zip(1..).skip(self.oldest.load(Ordering::Relaxed) as usize);
            let releases = kept.map(|(write, version)| Release {
                version,
                at_ms: write.at_ms,
                kind: write.kind.name().into(),
                actor: write.actor.clone(),
                note: write.note.clone(),
                changes: write.changes.len() as u64,
            });
            let below = releases.filter(|release| release.version < below).collect::<Vec<_>>();
            Ok(below.into_iter().rev().take(limit).collect())
        })
    }

    fn differences<'a>(
        &'a self,
        from: u64,
        to: u64,
        after: Option<(&'a str, &'a str)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<NetChange>, CatalogError>> {
        Box::pin(async move {
            drop(self.links()?);
            let mut found: BTreeMap<_, NetChange> = BTreeMap::new();
            for change in self.written.lock().unwrap()[from as usize..to as usize].iter().flat_map(|w| &w.changes) {
                let ((kind, name), [before, now]) =
                    (change.entry(), change.documents().map(|d| d.map(|d| d.to_string())));
                let (kind, name, revision) = (kind.to_owned(), name.into_owned(), change.revision());
                let one = NetChange { kind: kind.clone(), name: name.clone(), before, after: None, revision };
                let one = found.entry((kind, name)).or_insert(one);
                (one.after, one.revision) = (now, one.revision.max(revision));
            }
            let behind =
                found.into_iter().filter(|((kind, name), _)| after.is_none_or(|after| (&**kind, &**name) > after));
            Ok(behind.map(|(_, one)| one).take(limit).collect())
        })
    }
}

impl DomainStore for Fake {
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>> {
        Box::pin(async { self.links().map(|_| Vec::new()) })
    }

    fn page_of_domains<'a>(
        &'a self,
        _: Option<&'a str>,
        _: usize,
    ) -> BoxFuture<'a, Result<Page<Domain>, CatalogError>> {
        unreachable!("app revalidates")
    }
}

impl KeyStore for Fake {
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>> {
        Box::pin(async { self.links().map(|_| Vec::new()) })
    }

    fn put_key<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(async { self.links().map(drop) })
    }

    fn delete_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
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

    fn top_links(&self, _: Range<u64>, _: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>> {
        Box::pin(async {
            if self.away.load(Ordering::Relaxed) {
                return Err(StoreError::Transient("connection refused".into()));
            }
            let hostile = "<script>alert(1)</script>".to_owned();
            Ok(vec![LinkCount { link: hostile, people: 1_234, clicks: 5_678 }])
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
