//! Campaigns in memory: one snapshot of all, replaced by each edit. Readers hold no lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::caps::{Caps, TooManyCaps};
use super::{CatalogError, Domains};
use crate::BoxFuture;
use crate::click::{Campaign, Misfit};
use crate::clock::Clock;

type ByName = BTreeMap<Box<str>, Arc<Campaign>>;

/// One snapshot.
#[derive(Debug, Default)]
struct All {
    by_name: ByName,
    /// Those with a `when`, in the order of their names: `/in` asks them.
    conditional: Vec<Arc<Campaign>>,
}

impl All {
    fn new(by_name: ByName) -> Self {
        let conditional = by_name.values().filter(|campaign| campaign.when.is_some()).map(Arc::clone).collect();
        Self { by_name, conditional }
    }
}

/// What can go wrong with an edit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CampaignError {
    /// The document is wrong.
    #[error("the campaign has faults")]
    Document(Vec<Misfit>),
    /// No such campaign.
    #[error("there is no such campaign")]
    Unknown,
    /// It is not the version that was to be replaced.
    #[error("the campaign is at version {is} by now, and version {was} was to be replaced; read it again")]
    Changed {
        /// The one that was read; 0 for none.
        was: u64,
        /// The one that is served; 0 for none.
        is: u64,
    },
    /// `catalog.campaigns_max` is reached.
    #[error("this node serves {0} campaigns already, the most that `catalog.campaigns_max` allows")]
    Full(usize),
    /// `caps.counters_max` would be passed.
    #[error(transparent)]
    Caps(#[from] TooManyCaps),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The port: where campaigns are kept.
pub trait CampaignStore: Send + Sync {
    /// Every campaign, in any order.
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>>;
    /// Keeps a campaign, over an earlier one of its name.
    fn put_campaign<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Forgets a campaign.
    fn delete_campaign<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), CatalogError>>;
}

/// All campaigns of this node.
pub struct Campaigns {
    all: ArcSwap<All>,
    campaigns_max: usize,
    domains: Arc<Domains>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn CampaignStore>,
    caps: Option<Arc<Caps>>,
    /// Held over one edit: catalog and memory change in the same order.
    edits: Mutex<()>,
}

impl Campaigns {
    /// Loads every campaign.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn CampaignStore>,
        domains: Arc<Domains>,
        campaigns_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let all = store.load_campaigns().await?;
        let all = all.into_iter().map(|one| (one.id.as_str().into(), Arc::new(one))).collect();
        let all = ArcSwap::from_pointee(All::new(all));
        Ok(Self { all, campaigns_max, domains, clock, store, caps: None, edits: Mutex::new(()) })
    }

    /// Counts the caps of all campaigns here, before any is served. Without it no cap keeps anybody out.
    ///
    /// # Errors
    /// There are more than `caps.counters_max`.
    pub fn with_caps(mut self, caps: Arc<Caps>) -> Result<Self, CatalogError> {
        let mut by_name = self.all.load().by_name.clone();
        for campaign in by_name.values_mut() {
            let campaign = Arc::make_mut(campaign);
            caps.check_campaign(campaign).map_err(|error| CatalogError::Unavailable(error.to_string()))?;
            caps.adopt_campaign(campaign);
        }
        caps.publish();
        self.all.store(Arc::new(All::new(by_name)));
        self.caps = Some(caps);
        Ok(self)
    }

    /// Calls `f` with the campaign of this name. No lock, no copy, no reference count.
    pub fn with<R>(&self, id: &str, f: impl FnOnce(Option<&Campaign>) -> R) -> R {
        // Most links name none.
        if id.is_empty() {
            return f(None);
        }
        f(self.all.load().by_name.get(id).map(Arc::as_ref))
    }

    /// Calls `f` with the campaigns that have a `when`, in the order of their names. No lock, no copy, no list made.
    pub fn with_conditional<R>(&self, f: impl FnOnce(&[Arc<Campaign>]) -> R) -> R {
        f(&self.all.load().conditional)
    }

    /// The campaign of this name, shared.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Campaign>> {
        self.all.load().by_name.get(id).cloned()
    }

    /// Campaigns behind `after` in the order of their names, at most `limit`.
    #[must_use]
    pub fn list(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Campaign>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.all.load();
        all.by_name
            .range::<str, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(_, campaign)| Arc::clone(campaign))
            .collect()
    }

    /// Checks a campaign as [`Campaigns::put`] would, and keeps nothing.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(&self, id: &str, document: serde_json::Value) -> Result<Campaign, Vec<Misfit>> {
        Campaign::check(id, document, &self.domains.own_hosts())
    }

    /// Saves a campaign, in place of an earlier one of its name, which must be `over` if that is given; live when this
    /// returns. True when it is new.
    ///
    /// # Errors
    /// [`CampaignError`]; nothing is changed then.
    pub async fn put(
        &self,
        id: &str,
        over: Option<u64>,
        document: serde_json::Value,
    ) -> Result<(Arc<Campaign>, bool), CampaignError> {
        let _edit = self.edits.lock().await;
        let mut campaign = self.check(id, document).map_err(CampaignError::Document)?;
        let earlier = self.get(id);
        let is = earlier.as_ref().map_or(0, |earlier| earlier.version);
        if let Some(was) = over.filter(|was| *was != is) {
            return Err(CampaignError::Changed { was, is });
        }
        if earlier.is_none() && self.all.load().by_name.len() >= self.campaigns_max {
            return Err(CampaignError::Full(self.campaigns_max));
        }
        if let Some(caps) = &self.caps {
            caps.check_campaign(&mut campaign)?;
        }
        let now_ms = self.clock.wall_ms();
        campaign.version = is + 1;
        campaign.created_ms = earlier.as_ref().map_or(now_ms, |earlier| earlier.created_ms);
        campaign.updated_ms = now_ms;
        self.store.put_campaign(&campaign).await?;
        if let Some(caps) = &self.caps {
            caps.adopt_campaign(&mut campaign);
            caps.publish();
        }
        let campaign = Arc::new(campaign);
        self.edit(|all| {
            all.insert(id.into(), Arc::clone(&campaign));
        });
        Ok((campaign, earlier.is_none()))
    }

    /// Removes a campaign; gone when this returns. Links that name it go to their own destination, and its clicks stay.
    ///
    /// # Errors
    /// [`CampaignError`]; nothing is changed then.
    pub async fn remove(&self, id: &str) -> Result<(), CampaignError> {
        let _edit = self.edits.lock().await;
        if self.get(id).is_none() {
            return Err(CampaignError::Unknown);
        }
        self.store.delete_campaign(id).await?;
        self.edit(|all| {
            all.remove(id);
        });
        if let Some(caps) = &self.caps {
            caps.forget_campaign(id);
        }
        Ok(())
    }

    fn edit(&self, change: impl Fn(&mut ByName)) {
        self.all.rcu(|all| {
            let mut copy = all.by_name.clone();
            change(&mut copy);
            All::new(copy)
        });
    }
}

impl std::fmt::Debug for Campaigns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Campaigns").field("count", &self.all.load().by_name.len()).finish_non_exhaustive()
    }
}
