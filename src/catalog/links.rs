//! Links in memory. Readers take a snapshot of one shard and hold no lock; a writer replaces one shard.
//!
//! 256 shards: an edit of one among 100,000 links copies some 400 pointers, and a look-up touches one shard.
//!
//! All links are in memory, so one that is not found asks nobody and leaves nothing behind: unknown slugs cost a look-up
//! each, there is no memory of them that could grow or be wrong, and a link is found as soon as it is made.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;

use super::caps::Caps;
use super::domains::Domains;
use super::link_table::LinkTable;
use super::releases::{Change, Releases};
use super::source::{CatalogError, LinkPage, LinkStore, Name, Page};
use crate::BoxFuture;
use crate::click::Link;
use crate::click::domain::ANY;
use crate::clock::Clock;

const SHARDS: usize = 256;

/// A link as the edge follows it.
#[derive(Debug)]
pub struct Entry {
    /// The link.
    pub link: Link,
    /// The `Location` when it is the same for every visit.
    pub location: Option<HeaderValue>,
    /// The last round of revalidation that found it in the source, or in which it was published.
    round: AtomicU32,
}

impl Entry {
    /// As it is served.
    #[must_use]
    pub fn new(link: Link) -> Self {
        let location = link.target.constant().and_then(|text| HeaderValue::try_from(text).ok());
        Self { link, location, round: AtomicU32::new(0) }
    }

    fn is(&self, domain: Option<&str>, slug: &str) -> bool {
        self.link.slug == slug && self.link.domain.as_deref() == domain
    }
}

/// All links of this node.
pub struct Links {
    shards: Box<[ArcSwap<LinkTable>]>,
    hasher: foldhash::quality::RandomState,
    count: AtomicUsize,
    pub(super) links_max: usize,
    pub(super) domains: Arc<Domains>,
    pub(super) clock: Arc<dyn Clock>,
    store: Arc<dyn LinkStore>,
    pub(super) caps: Option<Arc<Caps>>,
    /// Keeps what is written; its turn is held over one edit: catalog and map change in the same order.
    pub(super) releases: Arc<Releases>,
    /// Of revalidation.
    round: AtomicU32,
}

impl Links {
    /// Loads every link.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn LinkStore>,
        releases: Arc<Releases>,
        domains: Arc<Domains>,
        links_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let hasher = foldhash::quality::RandomState::default();
        let mut shards: Vec<_> = (0..SHARDS).map(|_| LinkTable::default()).collect();
        let (mut count, mut counts) = (0, BTreeMap::<Box<str>, usize>::new());
        store
            .load(&mut |link| {
                let hash = hash(&hasher, link.domain.as_deref(), &link.slug);
                if let Some(domain) = &link.domain {
                    *counts.entry(domain.clone()).or_default() += 1;
                }
                count += 1;
                shards[shard_of(hash)].insert(hash, Arc::new(Entry::new(link)));
            })
            .await?;
        counts.iter().for_each(|(domain, links)| domains.count_links(domain, *links));
        Ok(Self {
            shards: shards.into_iter().map(ArcSwap::from_pointee).collect(),
            hasher,
            count: AtomicUsize::new(count),
            links_max,
            domains,
            clock,
            store,
            caps: None,
            releases,
            round: AtomicU32::new(0),
        })
    }

    /// Counts the caps of all links here, before any is served. Without it no cap keeps anybody out.
    ///
    /// # Errors
    /// There are more than `caps.counters_max`.
    pub fn with_caps(mut self, caps: Arc<Caps>) -> Result<Self, CatalogError> {
        let all: Vec<_> = self.shards.iter().map(ArcSwap::load_full).collect();
        let capped = all.iter().flat_map(|shard| shard.iter()).filter(|entry| entry.link.caps.is_some());
        let changes: Vec<_> = capped
            .map(|entry| Change::Link { before: Some(Arc::clone(entry)), after: Some(Arc::clone(entry)) })
            .collect();
        caps.check_changes(&changes).map_err(|error| CatalogError::Unavailable(error.to_string()))?;
        self.caps = Some(caps);
        self.publish(&changes);
        Ok(self)
    }

    /// Calls `f` with the link of this slug that belongs to no domain. No lock, no copy, no reference count.
    pub fn with<R>(&self, slug: &str, f: impl FnOnce(Option<&Entry>) -> R) -> R {
        let hash = hash(&self.hasher, None, slug);
        let shard = self.shards[shard_of(hash)].load();
        f(shard.find(hash, |entry| entry.is(None, slug)).map(Arc::as_ref))
    }

    /// Calls `f` with the link of this slug that a visitor of this host follows: that of the domain, else that of any; only of
    /// the organisation that has claimed the host, where one has.
    pub fn with_asked<R>(&self, host: &str, slug: &str, f: impl FnOnce(Option<&Entry>) -> R) -> R {
        let known = self.domains.find(host);
        if known.has_links {
            let hash = hash(&self.hasher, Some(host), slug);
            let shard = self.shards[shard_of(hash)].load();
            if let Some(entry) = shard.find(hash, |entry| entry.is(Some(host), slug)) {
                return f(Some(entry));
            }
        }
        if known.is_claimed {
            return self.with(slug, |entry| f(entry.filter(|entry| self.domains.is_of(host, &entry.link.org))));
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
        let of_any = || self.get(ANY, slug).filter(|entry| self.domains.is_of(host, &entry.link.org));
        self.get(host, slug).or_else(of_any)
    }

    /// The link of this domain and slug, if it is of this organisation or none is given.
    #[must_use]
    pub fn get_of(&self, org: Option<&str>, domain: &str, slug: &str) -> Option<Arc<Entry>> {
        self.get(domain, slug).filter(|entry| org.is_none_or(|org| *entry.link.org == *org))
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

    /// Puts what has changed into the map, each shard once, and counts the links of domains. To be called in a turn to
    /// write.
    pub(super) fn publish(&self, changes: &[Change]) {
        let of = |link: &Link| hash(&self.hasher, link.domain.as_deref(), &link.slug);
        let mut edits: Vec<_> = changes
            .iter()
            .filter_map(|change| {
                let Change::Link { before, after } = change else { return None };
                let link = &after.as_ref().or(before.as_ref())?.link;
                Some((shard_of(of(link)), of(link), link, after.as_ref().map(|entry| self.capped(entry))))
            })
            .collect();
        if let Some(caps) = &self.caps {
            caps.publish();
        }
        edits.sort_by_key(|(shard, ..)| *shard);
        let round = self.round.load(Ordering::Relaxed);
        // The name of a domain comes before its first link, and goes after the last.
        for (domain, links) in of_domains(edits.iter().filter_map(|edit| edit.3.as_ref())) {
            self.domains.count_links(domain, links);
        }
        let mut gone = Vec::new();
        for edits in edits.chunk_by(|a, b| a.0 == b.0) {
            let shard = &self.shards[edits[0].0];
            let mut copy = LinkTable::clone(&shard.load());
            let before = copy.len();
            for (_, hash, link, new) in edits {
                // A removed one, or what stood in the place of a new one.
                gone.extend(copy.remove(*hash, |entry| entry.is(link.domain.as_deref(), &link.slug)));
                if let Some(new) = new {
                    new.round.store(round, Ordering::Relaxed);
                    copy.insert(*hash, Arc::clone(new));
                }
            }
            // One shard: what it lost may be more than what is added.
            self.count.fetch_add(copy.len(), Ordering::Relaxed);
            self.count.fetch_sub(before, Ordering::Relaxed);
            shard.store(Arc::new(copy));
        }
        for (domain, links) in of_domains(&gone) {
            self.domains.release_links(domain, links);
        }
        if let Some(caps) = &self.caps {
            let links = gone.iter().map(|entry| &entry.link).filter(|link| link.caps.is_some());
            let links =
                links.filter(|link| self.get(link.domain(), &link.slug).is_none_or(|is| is.link.caps.is_none()));
            links.for_each(|link| caps.forget_link(link.domain(), &link.slug));
        }
    }

    /// The entry with the gates of its caps. They are opened by [`Caps::publish`].
    fn capped(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        match &self.caps {
            Some(caps) if entry.link.caps.is_some() => {
                let mut link = entry.link.clone();
                caps.adopt_link(&mut link);
                Arc::new(Entry::new(link))
            }
            _ => Arc::clone(entry),
        }
    }

    /// How many links there may be.
    pub(super) const fn links_max(&self) -> usize {
        self.links_max
    }

    /// What is different in a page of the source, in its order; how many links are the same. Those that are there count as
    /// found in this round of revalidation. To be called in a turn to write.
    pub(super) fn compare(&self, page: &Page<Link, Name>) -> (Vec<Change>, usize) {
        let round = self.round.load(Ordering::Relaxed);
        let found = |domain: &str, slug: &str| {
            let entry = self.get(domain, slug);
            entry.iter().for_each(|entry| entry.round.store(round, Ordering::Relaxed));
            entry
        };
        let mut changes = Vec::new();
        for link in &page.entries {
            let before = found(link.domain(), &link.slug);
            if before.as_ref().is_none_or(|entry| entry.link != *link) {
                changes.push(Change::Link { before, after: Some(Arc::new(Entry::new(link.clone()))) });
            }
        }
        page.unreadable.iter().for_each(|((domain, slug), _)| drop(found(domain, slug)));
        let same = page.entries.len() - changes.len();
        (changes, same)
    }

    /// Looks through shards from this one on, until `looked_max` links were looked at: those that this round of revalidation
    /// has not found are gone from the source. The shard to go on with. To be called in a turn to write.
    pub(super) fn vanished(&self, from: usize, looked_max: usize) -> (Vec<Change>, Option<usize>) {
        let round = self.round.load(Ordering::Relaxed);
        let (mut changes, mut looked, mut shard) = (Vec::new(), 0, from);
        while shard < SHARDS && looked < looked_max {
            let entries = self.shards[shard].load();
            let gone = entries.iter().filter(|entry| entry.round.load(Ordering::Relaxed) != round);
            changes.extend(gone.map(|entry| Change::Link { before: Some(Arc::clone(entry)), after: None }));
            looked += entries.len();
            shard += 1;
        }
        (changes, (shard < SHARDS).then_some(shard))
    }

    /// Begins a round of revalidation. To be called in a turn to write.
    pub(super) fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Places for entries that memory is taken for.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().slots()).sum()
    }

    /// A page of the source.
    pub(super) fn page<'a>(
        &'a self,
        after: Option<Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>> {
        self.store.page(after, limit)
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

/// How many of these belong to each domain.
fn of_domains<'a>(entries: impl IntoIterator<Item = &'a Arc<Entry>>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for domain in entries.into_iter().filter_map(|entry| entry.link.domain.as_deref()) {
        *counts.entry(domain).or_default() += 1;
    }
    counts
}
