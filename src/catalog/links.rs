//! Links in memory. Readers take a snapshot of one shard and hold no lock; a writer replaces one shard.
//!
//! 256 shards: an edit of one among 100,000 links copies some 400 pointers, and a look-up touches one shard.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashTable};
use hyper::header::HeaderValue;
use tokio::sync::Mutex;

use super::caps::{Caps, TooManyCaps};
use super::domains::{Domains, DomainsFull};
use crate::BoxFuture;
use crate::click::domain::ANY;
use crate::click::{FieldError, Link, RawLink};
use crate::clock::Clock;

const SHARDS: usize = 256;
/// Links read at a time when the node starts.
const PAGE: usize = 10_000;

/// By the hash of the slug, or of domain and slug, which the entry has: so a link costs the map one pointer.
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

    fn is(&self, domain: Option<&str>, slug: &str) -> bool {
        self.link.slug == slug && self.link.domain.as_deref() == domain
    }
}

/// What a catalog cannot do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The slug is taken, in its domain.
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
    /// `catalog.domains_max` is reached, and its domain would be one more.
    #[error(transparent)]
    DomainsFull(#[from] DomainsFull),
    /// `caps.counters_max` would be passed.
    #[error(transparent)]
    Caps(#[from] TooManyCaps),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The port: where links are kept.
pub trait LinkStore: Send + Sync {
    /// Keeps a new link.
    fn insert<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Replaces a link by domain and slug.
    fn update<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Forgets a link.
    fn delete<'a>(&'a self, domain: &'a str, slug: &'a str) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Links in the order of their domains and slugs.
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>>;
    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>>;
}

/// Which links to list. Domains are given as they are compared, and [`ANY`] stands for the links of any.
#[derive(Clone, Copy, Debug)]
pub struct LinkPage<'a> {
    /// Only of this domain.
    pub domain: Option<&'a str>,
    /// Behind this domain and slug.
    pub after: Option<(&'a str, &'a str)>,
    /// At most so many.
    pub limit: usize,
}

/// All links of this node.
pub struct Links {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: foldhash::quality::RandomState,
    count: AtomicUsize,
    links_max: usize,
    domains: Arc<Domains>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn LinkStore>,
    caps: Option<Arc<Caps>>,
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
        domains: Arc<Domains>,
        links_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let hasher = foldhash::quality::RandomState::default();
        let mut shards: Vec<_> = (0..SHARDS).map(|_| Shard::default()).collect();
        let rehash = |entry: &Arc<Entry>| hash(&hasher, entry.link.domain.as_deref(), &entry.link.slug);
        let (mut count, mut after) = (0, None::<(String, String)>);
        let mut of_domains: HashMap<Box<str>, usize, _> = HashMap::with_hasher(hasher.clone());
        loop {
            let after_all = after.as_ref().map(|(domain, slug)| (domain.as_str(), slug.as_str()));
            let page = store.list(LinkPage { domain: None, after: after_all, limit: PAGE }).await?;
            let Some(last) = page.last() else { break };
            (count, after) = (count + page.len(), Some((last.domain().to_owned(), last.slug.clone())));
            for link in page {
                let hash = hash(&hasher, link.domain.as_deref(), &link.slug);
                if let Some(domain) = &link.domain {
                    *of_domains.entry(domain.clone()).or_default() += 1;
                }
                shards[shard_of(hash)].insert_unique(hash, Arc::new(Entry::new(link)), rehash);
            }
        }
        of_domains.iter().for_each(|(domain, links)| domains.count_links(domain, *links));
        Ok(Self {
            shards: shards.into_iter().map(ArcSwap::from_pointee).collect(),
            hasher,
            count: AtomicUsize::new(count),
            links_max,
            domains,
            clock,
            store,
            caps: None,
            edits: Mutex::new(()),
        })
    }

    /// Counts the caps of all links here, before any is served. Without it no cap keeps anybody out.
    ///
    /// # Errors
    /// There are more than `caps.counters_max`.
    pub fn with_caps(mut self, caps: Arc<Caps>) -> Result<Self, CatalogError> {
        let all: Vec<_> = self.shards.iter().map(ArcSwap::load_full).collect();
        let capped = all.iter().flat_map(|shard| shard.iter()).filter(|entry| entry.link.caps.is_some());
        for mut link in capped.map(|entry| entry.link.clone()) {
            caps.check_link(&link).map_err(|error| CatalogError::Unavailable(error.to_string()))?;
            caps.adopt_link(&mut link);
            self.publish(link);
        }
        caps.publish();
        self.caps = Some(caps);
        Ok(self)
    }

    /// Calls `f` with the link of this slug that belongs to no domain. No lock, no copy, no reference count.
    pub fn with<R>(&self, slug: &str, f: impl FnOnce(Option<&Entry>) -> R) -> R {
        let hash = hash(&self.hasher, None, slug);
        let shard = self.shards[shard_of(hash)].load();
        f(shard.find(hash, |entry| entry.is(None, slug)).map(Arc::as_ref))
    }

    /// Calls `f` with the link of this slug that a visitor of this host follows: that of the domain, else that of any.
    pub fn with_asked<R>(&self, host: &str, slug: &str, f: impl FnOnce(Option<&Entry>) -> R) -> R {
        if self.domains.find(host).has_links {
            let hash = hash(&self.hasher, Some(host), slug);
            let shard = self.shards[shard_of(hash)].load();
            if let Some(entry) = shard.find(hash, |entry| entry.is(Some(host), slug)) {
                return f(Some(entry));
            }
        }
        self.with(slug, f)
    }

    /// The link of this domain and slug, shared; [`ANY`] for one that belongs to none.
    #[must_use]
    pub fn get(&self, domain: &str, slug: &str) -> Option<Arc<Entry>> {
        let domain = (domain != ANY).then_some(domain);
        let hash = hash(&self.hasher, domain, slug);
        self.shards[shard_of(hash)].load().find(hash, |entry| entry.is(domain, slug)).cloned()
    }

    /// The link that a visitor of this host follows, shared.
    #[must_use]
    pub fn get_asked(&self, host: &str, slug: &str) -> Option<Arc<Entry>> {
        self.get(host, slug).or_else(|| self.get(ANY, slug))
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
        let mut link = Link::check(raw, &self.domains.own_hosts()).map_err(LinkError::Fields)?;
        link.version = 1;
        link.created_ms = self.clock.wall_ms();
        link.updated_ms = link.created_ms;
        self.check_caps(&link)?;
        if let Some(domain) = &link.domain {
            self.domains.take(domain)?;
        }
        if let Err(error) = self.store.insert(&link).await {
            link.domain.iter().for_each(|domain| self.domains.release(domain));
            return Err(error.into());
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(self.publish_capped(link))
    }

    /// Changes the fields that `change` names; live when this returns.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn change(&self, domain: &str, slug: &str, change: RawLink) -> Result<Arc<Entry>, LinkError> {
        let _edit = self.edits.lock().await;
        let entry = self.get(domain, slug).ok_or(LinkError::Unknown)?;
        let mut link = entry.link.changed(change, &self.domains.own_hosts()).map_err(LinkError::Fields)?;
        link.version += 1;
        link.updated_ms = self.clock.wall_ms();
        self.check_caps(&link)?;
        self.store.update(&link).await?;
        Ok(self.publish_capped(link))
    }

    /// Removes a link; gone when this returns. Its clicks stay.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn remove(&self, domain: &str, slug: &str) -> Result<(), LinkError> {
        let _edit = self.edits.lock().await;
        let entry = self.get(domain, slug).ok_or(LinkError::Unknown)?;
        self.store.delete(domain, slug).await?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.edit(&entry.link, None);
        entry.link.domain.iter().for_each(|domain| self.domains.release(domain));
        if let Some(caps) = &self.caps {
            caps.forget_link(domain, slug);
        }
        Ok(())
    }

    /// A page of links in the order of their domains and slugs.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn list(&self, page: LinkPage<'_>) -> Result<Vec<Link>, CatalogError> {
        self.store.list(page).await
    }

    /// Whether the catalog answers. The edge does not need it to.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn ping(&self) -> Result<(), CatalogError> {
        self.store.ping().await
    }

    fn check_caps(&self, link: &Link) -> Result<(), TooManyCaps> {
        self.caps.as_ref().map_or(Ok(()), |caps| caps.check_link(link))
    }

    fn publish_capped(&self, mut link: Link) -> Arc<Entry> {
        if let Some(caps) = &self.caps {
            caps.adopt_link(&mut link);
            caps.publish();
        }
        self.publish(link)
    }

    fn publish(&self, link: Link) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(link));
        self.edit(&entry.link, Some(&entry));
        entry
    }

    /// Puts an entry in the place of that of this link, or takes that one away.
    fn edit(&self, link: &Link, new: Option<&Arc<Entry>>) {
        let of = |link: &Link| hash(&self.hasher, link.domain.as_deref(), &link.slug);
        let hash = of(link);
        self.shards[shard_of(hash)].rcu(|shard| {
            let mut copy = Shard::clone(shard);
            if let Ok(old) = copy.find_entry(hash, |entry| entry.is(link.domain.as_deref(), &link.slug)) {
                old.remove();
            }
            if let Some(new) = new {
                copy.insert_unique(hash, Arc::clone(new), |entry| of(&entry.link));
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

fn hash(hasher: &foldhash::quality::RandomState, domain: Option<&str>, slug: &str) -> u64 {
    match domain {
        None => hasher.hash_one(slug),
        Some(domain) => hasher.hash_one((domain, slug)),
    }
}

/// By the top bits: the table itself uses the low ones, and some of the top.
const fn shard_of(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

fn random_slug() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(7).collect()
}
