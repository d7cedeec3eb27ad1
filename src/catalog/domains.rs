//! The domains in use: those that links belong to, and those that say where visits go that are to no link. One snapshot,
//! replaced when a name comes or goes. Readers hold no lock, and where no domain is in use they look nothing up.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as BriefMutex, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use tokio::sync::Mutex;

use super::CatalogError;
use crate::BoxFuture;
use crate::click::domain::{ANY, check_name};
use crate::click::{Domain, Misfit, OwnHosts};
use crate::clock::Clock;

/// What can go wrong with an edit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DomainError {
    /// The document is wrong.
    #[error("the domain has faults")]
    Document(Vec<Misfit>),
    /// Nothing was said of this domain.
    #[error("there is no such domain")]
    Unknown,
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
pub struct DomainsFull(usize);

/// The port: where domains are kept.
pub trait DomainStore: Send + Sync {
    /// Every domain, in any order.
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>>;
    /// Keeps a domain, over an earlier one of its name.
    fn put_domain<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Forgets a domain.
    fn delete_domain<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), CatalogError>>;
}

/// What a name is in use for.
#[derive(Clone, Debug, Default)]
struct Use {
    /// Links that belong to it; shared by the snapshots, so that counting one makes no new one.
    links: Arc<AtomicUsize>,
    domain: Option<Arc<Domain>>,
}

type Names = HashMap<Box<str>, Use, foldhash::quality::RandomState>;

/// What is known of the host of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// It is in use.
    pub is_known: bool,
    /// Links belong to it.
    pub has_links: bool,
}

/// All domains of this node.
pub struct Domains {
    names: ArcSwap<Names>,
    /// How many there are: most nodes have none, and look nothing up.
    count: AtomicUsize,
    domains_max: usize,
    /// The names of this service without those in use here, and with them.
    fixed: ArcSwap<OwnHosts>,
    own: ArcSwap<OwnHosts>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn DomainStore>,
    /// Held over one edit: catalog and memory change in the same order.
    edits: Mutex<()>,
    /// Held while a snapshot is replaced: edits of links do so too.
    changing: BriefMutex<()>,
}

impl Domains {
    /// Loads every domain. Those of links are told by [`Links`](super::Links), which is opened with this.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn DomainStore>,
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
            edits: Mutex::new(()),
            changing: BriefMutex::new(()),
        };
        domains.publish(loaded.into_iter().map(names).collect());
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
        Known { is_known: found.is_some(), has_links }
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

    /// Domains of which something was said, behind `after` in the order of their names, at most `limit`.
    #[must_use]
    pub fn list(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Domain>> {
        let names = self.names.load();
        let said = names.iter().filter_map(|(name, found)| Some((&**name, found.domain.as_ref()?)));
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
    /// returns. True when nothing was said before.
    ///
    /// # Errors
    /// [`DomainError`]; nothing is changed then.
    pub async fn put(
        &self,
        name: &str,
        over: Option<u64>,
        document: serde_json::Value,
    ) -> Result<(Arc<Domain>, bool), DomainError> {
        let _edit = self.edits.lock().await;
        let mut domain = Domain::check(name, document, &self.own_hosts()).map_err(DomainError::Document)?;
        let earlier = self.get(&domain.name);
        let is = earlier.as_ref().map_or(0, |earlier| earlier.version);
        if let Some(was) = over.filter(|was| *was != is) {
            return Err(DomainError::Changed { was, is });
        }
        self.room_for(&domain.name)?;
        let now_ms = self.clock.wall_ms();
        domain.version = is + 1;
        domain.created_ms = earlier.as_ref().map_or(now_ms, |earlier| earlier.created_ms);
        domain.updated_ms = now_ms;
        self.store.put_domain(&domain).await?;
        let domain = Arc::new(domain);
        self.change(|names| names.entry(domain.name.as_str().into()).or_default().domain = Some(Arc::clone(&domain)));
        Ok((domain, earlier.is_none()))
    }

    /// Forgets what was said of a domain; gone when this returns. Its links stay, and so do clicks.
    ///
    /// # Errors
    /// [`DomainError`]; nothing is changed then.
    pub async fn remove(&self, name: &str) -> Result<(), DomainError> {
        let _edit = self.edits.lock().await;
        let name = check_name(name).ok().filter(|name| self.get(name).is_some()).ok_or(DomainError::Unknown)?;
        self.store.delete_domain(&name).await?;
        self.change(|names| {
            if let Some(found) = names.get_mut(name.as_str()) {
                found.domain = None;
            }
        });
        Ok(())
    }

    /// Counts a link that is to belong to this domain.
    ///
    /// # Errors
    /// There is no room for another domain; nothing is counted then.
    pub(super) fn take(&self, name: &str) -> Result<(), DomainsFull> {
        self.room_for(name)?;
        self.count_links(name, 1);
        Ok(())
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

    /// A link of this domain is gone.
    pub(super) fn release(&self, name: &str) {
        let last = |found: &Use| found.links.fetch_sub(1, Ordering::Relaxed) == 1;
        if self.names.load().get(name).is_some_and(last) {
            self.change(|_| {});
        }
    }

    fn room_for(&self, name: &str) -> Result<(), DomainsFull> {
        let names = self.names.load();
        let is_new = !names.contains_key(name);
        if is_new && names.len() >= self.domains_max { Err(DomainsFull(self.domains_max)) } else { Ok(()) }
    }

    /// Replaces the snapshot by a changed one, without names that are in use for nothing.
    fn change(&self, change: impl FnOnce(&mut Names)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = Names::clone(&self.names.load());
        change(&mut names);
        names.retain(|_, found| found.domain.is_some() || found.links.load(Ordering::Relaxed) > 0);
        self.publish(names);
    }

    fn publish(&self, names: Names) {
        let mut own = OwnHosts::clone(&self.fixed.load());
        own.hosts.extend(names.keys().filter(|name| ***name != *ANY).map(|name| name.to_string()));
        self.own.store(Arc::new(own));
        self.count.store(names.len(), Ordering::Relaxed);
        self.names.store(Arc::new(names));
    }
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domains").field("in_use", &self.count).finish_non_exhaustive()
    }
}
