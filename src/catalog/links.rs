//! Links in memory. Readers take a snapshot of one shard and hold no lock; a writer replaces one shard.
//!
//! 256 shards: an edit of one among 100,000 links copies some 400 pointers, and a look-up touches one shard.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use hyper::header::HeaderValue;
use tokio::sync::Mutex;

use crate::BoxFuture;
use crate::click::{FieldError, Link, OwnHosts, RawLink};
use crate::clock::Clock;

const SHARDS: usize = 256;
/// Links read at a time when the node starts.
const PAGE: usize = 10_000;

/// By the hash of the slug, which the entry has: so a link costs the map one pointer.
type Shard = HashTable<Arc<Entry>>;

/// A link as the edge follows it.
#[derive(Debug)]
pub struct Entry {
    /// The link.
    pub link: Link,
    /// The `Location` when it is the same for every visit.
    pub location: Option<HeaderValue>,
}

impl Entry {
    fn new(link: Link) -> Self {
        let location = link.target.constant().and_then(|text| HeaderValue::try_from(text).ok());
        Self { link, location }
    }
}

/// What a catalog cannot do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The slug is taken.
    #[error("the slug is taken")]
    Taken,
    /// The catalog did not answer, or holds what this program cannot read.
    #[error("catalog: {0}")]
    Unavailable(String),
}

/// What can go wrong with an edit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// Fields that are wrong.
    #[error("the link has wrong fields")]
    Fields(Vec<FieldError>),
    /// No such link.
    #[error("there is no such link")]
    Unknown,
    /// `catalog.links_max` is reached.
    #[error("this node serves {0} links already, the most that `catalog.links_max` allows")]
    Full(usize),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The port: where links are kept.
pub trait LinkStore: Send + Sync {
    /// Keeps a new link.
    fn insert<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Replaces a link by slug.
    fn update<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Forgets a link.
    fn delete<'a>(&'a self, slug: &'a str) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Links in the order of their slugs, behind `after`, at most `limit`.
    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>>;
    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>>;
}

/// All links of this node.
pub struct Links {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: foldhash::quality::RandomState,
    count: AtomicUsize,
    links_max: usize,
    own: ArcSwap<OwnHosts>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn LinkStore>,
    /// Held over one edit: catalog and map change in the same order.
    edits: Mutex<()>,
}

impl Links {
    /// Loads every link.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn LinkStore>,
        own: OwnHosts,
        links_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let hasher = foldhash::quality::RandomState::default();
        let mut shards: Vec<_> = (0..SHARDS).map(|_| Shard::default()).collect();
        let rehash = |entry: &Arc<Entry>| hasher.hash_one(entry.link.slug.as_str());
        let (mut count, mut after) = (0, None);
        loop {
            let page = store.list(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            (count, after) = (count + page.len(), Some(last.slug.clone()));
            for link in page {
                let hash = hasher.hash_one(link.slug.as_str());
                shards[shard_of(hash)].insert_unique(hash, Arc::new(Entry::new(link)), rehash);
            }
        }
        Ok(Self {
            shards: shards.into_iter().map(ArcSwap::from_pointee).collect(),
            hasher,
            count: AtomicUsize::new(count),
            links_max,
            own: ArcSwap::from_pointee(own),
            clock,
            store,
            edits: Mutex::new(()),
        })
    }

    /// Calls `f` with the link of this slug. No lock, no copy, no reference count.
    pub fn with<R>(&self, slug: &str, f: impl FnOnce(Option<&Entry>) -> R) -> R {
        let hash = self.hasher.hash_one(slug);
        let shard = self.shards[shard_of(hash)].load();
        f(shard.find(hash, |entry| entry.link.slug == slug).map(Arc::as_ref))
    }

    /// The link of this slug, shared.
    #[must_use]
    pub fn get(&self, slug: &str) -> Option<Arc<Entry>> {
        let hash = self.hasher.hash_one(slug);
        self.shards[shard_of(hash)].load().find(hash, |entry| entry.link.slug == slug).cloned()
    }

    /// Links served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the names of this service, when the listening port is known.
    pub fn set_own_hosts(&self, own: OwnHosts) {
        self.own.store(Arc::new(own));
    }

    /// Makes a link; live when this returns. A link without a slug gets one of seven letters and digits.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn create(&self, mut raw: RawLink) -> Result<Arc<Entry>, LinkError> {
        let _edit = self.edits.lock().await;
        if self.len() >= self.links_max {
            return Err(LinkError::Full(self.links_max));
        }
        raw.slug.get_or_insert_with(random_slug);
        let mut link = Link::check(raw, &self.own.load()).map_err(LinkError::Fields)?;
        link.version = 1;
        link.created_ms = self.clock.wall_ms();
        link.updated_ms = link.created_ms;
        self.store.insert(&link).await?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(self.publish(link))
    }

    /// Changes the fields that `change` names; live when this returns.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn change(&self, slug: &str, change: RawLink) -> Result<Arc<Entry>, LinkError> {
        let _edit = self.edits.lock().await;
        let entry = self.get(slug).ok_or(LinkError::Unknown)?;
        let mut link = entry.link.changed(change, &self.own.load()).map_err(LinkError::Fields)?;
        link.version += 1;
        link.updated_ms = self.clock.wall_ms();
        self.store.update(&link).await?;
        Ok(self.publish(link))
    }

    /// Removes a link; gone when this returns. Its clicks stay.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn remove(&self, slug: &str) -> Result<(), LinkError> {
        let _edit = self.edits.lock().await;
        if self.get(slug).is_none() {
            return Err(LinkError::Unknown);
        }
        self.store.delete(slug).await?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.edit(slug, None);
        Ok(())
    }

    /// A page of links in the order of their slugs.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Link>, CatalogError> {
        self.store.list(after, limit).await
    }

    /// Whether the catalog answers. The edge does not need it to.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn ping(&self) -> Result<(), CatalogError> {
        self.store.ping().await
    }

    fn publish(&self, link: Link) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(link));
        self.edit(&entry.link.slug, Some(&entry));
        entry
    }

    /// Puts an entry in the place of the one of this slug, or takes that one away.
    fn edit(&self, slug: &str, new: Option<&Arc<Entry>>) {
        let hash = self.hasher.hash_one(slug);
        self.shards[shard_of(hash)].rcu(|shard| {
            let mut copy = Shard::clone(shard);
            if let Ok(old) = copy.find_entry(hash, |entry| entry.link.slug == slug) {
                old.remove();
            }
            if let Some(new) = new {
                copy.insert_unique(hash, Arc::clone(new), |entry| self.hasher.hash_one(entry.link.slug.as_str()));
            }
            copy
        });
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("count", &self.len()).finish_non_exhaustive()
    }
}

/// By the top bits: the table itself uses the low ones, and some of the top.
const fn shard_of(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

fn random_slug() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(7).collect()
}
