//! The domains in use: those that links belong to, and those that say where visits go that are to no link. One snapshot,
//! replaced when a name comes or goes. Readers hold no lock, and where no domain is in use they look nothing up.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::releases::{Change, Releases};
use super::revalidation::{compared, range_of};
use super::source::{CatalogError, Page};
use super::writer::{FIXED, Writer};
use crate::BoxFuture;
use crate::click::domain::{ANY, check_name};
use crate::click::{Domain, Misfit, Org, OwnHosts};
use crate::clock::Clock;
use crate::telemetry::catalog::ReleaseKind;

/// What can go wrong with an edit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DomainError {
    /// The document is wrong.
    #[error("the domain has faults")]
    Document(Vec<Misfit>),
    /// Nothing was said of this domain.
    #[error("there is no such domain")]
    Unknown,
    /// It cannot be given or taken away: links belong to it, of the organisation that has it now.
    #[error("links of the organisation {} belong to this domain; remove them first", &**.0)]
    HasLinks(Org),
    /// It is not the version that was to be replaced.
    #[error("the domain is at version {is} by now, and version {was} was to be replaced; read it again")]
    Changed {
        /// The one that was read; 0 for none.
        was: u64,
        /// The one that is served; 0 for none.
        is: u64,
    },
    /// `catalog.domains_max` is reached.
    #[error(transparent)]
    Full(#[from] DomainsFull),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// `catalog.domains_max` is reached.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this node has {0} domains in use already, the most that `catalog.domains_max` allows")]
pub struct DomainsFull(pub(super) usize);

/// The port: where domains are read. [`super::ReleaseStore`] writes them.
pub trait DomainStore: Send + Sync {
    /// Every domain, in any order.
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>>;
    /// Domains in the order of their names, behind `after`, at most `limit`, with those that cannot be read.
    fn page_of_domains<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Domain>, CatalogError>>;
}

/// What a name is in use for.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    /// Links that belong to it; shared by the snapshots, so that counting one makes no new one.
    pub(super) links: Arc<AtomicUsize>,
    pub(super) domain: Option<Arc<Domain>>,
}

pub(super) type Names = HashMap<Box<str>, Use, foldhash::quality::RandomState>;

/// What is known of the host of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// It is in use.
    pub is_known: bool,
    /// Links belong to it.
    pub has_links: bool,
    /// An organisation has it for itself: only its links are followed there.
    pub is_claimed: bool,
}

/// All domains of this node.
pub struct Domains {
    pub(super) names: ArcSwap<Names>,
    /// How many there are: most nodes have none, and look nothing up.
    count: AtomicUsize,
    domains_max: usize,
    /// The names of this service without those in use here, and with them.
    pub(super) fixed: ArcSwap<OwnHosts>,
    own: ArcSwap<OwnHosts>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn DomainStore>,
    /// Keeps what is written; its turn is held over one edit: catalog and memory change in the same order.
    releases: Arc<Releases>,
    /// Held while a snapshot is replaced.
    changing: Mutex<()>,
}

impl Domains {
    /// Loads every domain. Those of links are told by [`Links`](super::Links), which is opened with this.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn DomainStore>,
        releases: Arc<Releases>,
        own: OwnHosts,
        domains_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let loaded = store.load_domains().await?;
        let names =
            |domain: Domain| (domain.name.as_str().into(), Use { domain: Some(Arc::new(domain)), ..Use::default() });
        let domains = Self {
            names: ArcSwap::default(),
            count: AtomicUsize::new(0),
            domains_max,
            fixed: ArcSwap::from_pointee(own),
            own: ArcSwap::default(),
            clock,
            store,
            releases,
            changing: Mutex::new(()),
        };
        domains.replace(loaded.into_iter().map(names).collect());
        Ok(domains)
    }

    /// Whether none is in use: then nobody needs to know which host was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// What is known of a host, given as [`host`](crate::click::domain::host) reads it. No lock, no copy.
    #[must_use]
    pub fn find(&self, host: &str) -> Known {
        if self.is_empty() {
            return Known::default();
        }
        let names = self.names.load();
        let found = names.get(host);
        let has_links = found.is_some_and(|found| found.links.load(Ordering::Relaxed) > 0);
        let is_claimed =
            found.and_then(|found| found.domain.as_ref()).is_some_and(|domain| domain.org != Org::default());
        Known { is_known: found.is_some(), has_links, is_claimed }
    }

    /// Calls `f` with what was said of this host or else of any. No lock, no copy, no reference count.
    pub fn with<R>(&self, host: &str, f: impl FnOnce(Option<&Domain>) -> R) -> R {
        if self.is_empty() {
            return f(None);
        }
        let names = self.names.load();
        let said = |name| names.get(name)?.domain.as_deref();
        f(said(host).or_else(|| said(ANY)))
    }

    /// What was said of this domain itself, shared.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Domain>> {
        self.names.load().get(name)?.domain.clone()
    }

    /// The same, of this organisation alone if it is given.
    #[must_use]
    pub fn get_of(&self, org: Option<&str>, name: &str) -> Option<Arc<Domain>> {
        self.get(name).filter(|domain| org.is_none_or(|org| *domain.org == *org))
    }

    /// The organisation of links under this domain: the one that it was given to, else the default one.
    pub(super) fn org_of(&self, name: &str) -> Org {
        self.get(name).map_or_else(Org::default, |domain| domain.org.clone())
    }

    /// Whether links of this organisation that belong to no domain are followed at this host: where nobody has it for
    /// itself, and where this one has. No lock, no copy.
    pub(super) fn is_of(&self, host: &str, org: &Org) -> bool {
        let names = self.names.load();
        let domain = names.get(host).and_then(|found| found.domain.as_ref());
        domain.is_none_or(|domain| domain.org == *org || domain.org == Org::default())
    }

    /// Domains of which something was said, behind `after` in the order of their names, at most `limit`; of one organisation,
    /// if it is given.
    #[must_use]
    pub fn list(&self, org: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Domain>> {
        let names = self.names.load();
        let said = names.iter().filter_map(|(name, found)| Some((&**name, found.domain.as_ref()?)));
        let said = said.filter(|(_, domain)| org.is_none_or(|org| *domain.org == *org));
        let sorted: BTreeMap<&str, &Arc<Domain>> = said.collect();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        sorted.range::<str, _>((from, Bound::Unbounded)).take(limit).map(|(_, domain)| Arc::clone(domain)).collect()
    }

    /// The names of this service, with those in use: what points there is a loop.
    #[must_use]
    pub fn own_hosts(&self) -> Arc<OwnHosts> {
        self.own.load_full()
    }

    /// Sets the names of this service, when the listening port is known.
    pub fn set_own_hosts(&self, own: OwnHosts) {
        self.fixed.store(Arc::new(own));
        self.change(|_| {});
    }

    /// Says something of a domain, in place of what was said, which must be `over` if that is given; live when this
    /// returns. True when nothing was said before; and the number of the release. A domain keeps its organisation; one of
    /// which nothing was said is unknown to all but who may write for all: they give it to an organisation.
    ///
    /// # Errors
    /// [`DomainError`]; nothing is changed then.
    pub async fn put(
        &self,
        by: &Writer,
        name: &str,
        over: Option<u64>,
        mut document: serde_json::Value,
    ) -> Result<(Arc<Domain>, bool, u64), DomainError> {
        let edit = self.releases.edit(&by.actor).await;
        let earlier = check_name(name).ok().and_then(|name| self.get(&name));
        if by.org.is_some() && earlier.as_ref().is_none_or(|earlier| !by.may(&earlier.org)) {
            return Err(DomainError::Unknown);
        }
        by.place(&mut document, earlier.as_ref().map(|earlier| &earlier.org));
        let mut domain = Domain::check(name, document, &self.own_hosts()).map_err(DomainError::Document)?;
        match &earlier {
            Some(earlier) if earlier.org != domain.org => {
                let misfit = Misfit { pointer: "/org".into(), detail: FIXED.into() };
                return Err(DomainError::Document(vec![misfit]));
            }
            None if domain.org != Org::default() && self.find(&domain.name).has_links => {
                return Err(DomainError::HasLinks(Org::default()));
            }
            _ => {}
        }
        let is = earlier.as_ref().map_or(0, |earlier| earlier.version);
        if let Some(was) = over.filter(|was| *was != is) {
            return Err(DomainError::Changed { was, is });
        }
        let mut prospect = self.prospect();
        let before = prospect.len();
        prospect.say(&domain.name, true);
        if prospect.len() > before && prospect.len() > self.domains_max {
            return Err(DomainsFull(self.domains_max).into());
        }
        let now_ms = self.clock.wall_ms();
        domain.version = match &earlier {
            Some(_) => is + 1,
            None => self.releases.first_version("domain", &domain.name).await?,
        };
        domain.created_ms = earlier.as_ref().map_or(now_ms, |earlier| earlier.created_ms);
        domain.updated_ms = now_ms;
        let (domain, is_new) = (Arc::new(domain), earlier.is_none());
        let changes = vec![Change::Domain { before: earlier, after: Some(Arc::clone(&domain)) }];
        let release = edit.commit(ReleaseKind::Domain, String::new(), changes, |changes| self.publish(changes)).await?;
        Ok((domain, is_new, release))
    }

    /// Forgets what was said of a domain; gone when this returns, with the number of the release. Its links stay, and so do
    /// clicks.
    ///
    /// # Errors
    /// [`DomainError`]; nothing is changed then.
    pub async fn remove(&self, by: &Writer, name: &str) -> Result<u64, DomainError> {
        let edit = self.releases.edit(&by.actor).await;
        let before = check_name(name).ok().and_then(|name| self.get(&name)).filter(|domain| by.may(&domain.org));
        let before = before.ok_or(DomainError::Unknown)?;
        if before.org != Org::default() && self.find(&before.name).has_links {
            return Err(DomainError::HasLinks(before.org.clone()));
        }
        let changes = vec![Change::Domain { before: Some(before), after: None }];
        Ok(edit.commit(ReleaseKind::Domain, String::new(), changes, |changes| self.publish(changes)).await?)
    }

    /// Domains of which something was said.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.load().values().filter(|found| found.domain.is_some()).count()
    }

    /// How many names may be in use.
    pub(super) const fn domains_max(&self) -> usize {
        self.domains_max
    }

    /// Puts what has changed into memory; links count themselves. To be called in a turn to write.
    pub(super) fn publish(&self, changes: &[Change]) {
        if !changes.iter().any(|change| matches!(change, Change::Domain { .. })) {
            return;
        }
        self.change(|names| {
            for change in changes {
                if let Change::Domain { after, .. } = change {
                    names.entry((*change.entry().1).into()).or_default().domain.clone_from(after);
                }
            }
        });
    }

    /// What is different in a page of the source, which begins behind `after`; how many domains are the same. To be called
    /// in a turn to write.
    pub(super) fn compare(&self, after: Option<&str>, page: &Page<Domain>) -> (Vec<Change>, usize) {
        let (names, range) = (self.names.load(), range_of(after, page));
        let said = names.iter().filter_map(|(name, found)| Some((&**name, found.domain.as_ref()?)));
        let served = said.filter(|(name, _)| RangeBounds::<str>::contains(&range, *name)).collect();
        compared(served, page, |domain| &domain.name, |before, after| Change::Domain { before, after })
    }

    /// A page of the source.
    pub(super) fn page<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Domain>, CatalogError>> {
        self.store.page_of_domains(after, limit)
    }

    /// Counts links that belong to this domain, whether there is room or not: they are kept already.
    pub(super) fn count_links(&self, name: &str, links: usize) {
        let known =
            |names: &Names| names.get(name).map(|found| found.links.fetch_add(links, Ordering::Relaxed)).is_some();
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !known(&self.names.load()) {
            drop(changing);
            self.change(|names| {
                names.entry(name.into()).or_default().links.fetch_add(links, Ordering::Relaxed);
            });
        }
    }

    /// So many links of this domain are gone.
    pub(super) fn release_links(&self, name: &str, links: usize) {
        let last = |found: &Use| found.links.fetch_sub(links, Ordering::Relaxed) == links;
        if self.names.load().get(name).is_some_and(last) {
            self.change(|_| {});
        }
    }

    /// Replaces the snapshot by a changed one, without names that are in use for nothing.
    fn change(&self, change: impl FnOnce(&mut Names)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = Names::clone(&self.names.load());
        change(&mut names);
        names.retain(|_, found| found.domain.is_some() || found.links.load(Ordering::Relaxed) > 0);
        self.replace(names);
    }

    fn replace(&self, names: Names) {
        let mut own = OwnHosts::clone(&self.fixed.load());
        own.hosts.extend(names.keys().filter(|name| ***name != *ANY).map(|name| name.to_string()));
        self.own.store(Arc::new(own));
        self.count.store(names.len(), Ordering::Relaxed);
        let said = names.values().filter(|found| found.domain.is_some()).count();
        self.releases.figures().domains.set(said as u64);
        self.names.store(Arc::new(names));
    }
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domains").field("in_use", &self.count).finish_non_exhaustive()
    }
}
