//! Campaigns in memory: one snapshot of all, replaced by each edit. Readers hold no lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::caps::{Caps, TooManyCaps};
use super::releases::{Change, Releases};
use super::revalidation::{compared, range_of};
use super::writer::{FIXED, NOT_YOURS, Writer};
use super::{CatalogError, Domains, Page};
use crate::BoxFuture;
use crate::click::{Campaign, Misfit};
use crate::clock::Clock;
use crate::telemetry::catalog::ReleaseKind;

type ByName = BTreeMap<Box<str>, Arc<Campaign>>;

/// One snapshot.
#[derive(Debug, Default)]
struct All {
    by_name: ByName,
    /// Those with a `when` by organisation, in the order of their names: `/in` asks them.
    conditional: BTreeMap<Box<str>, Vec<Arc<Campaign>>>,
}

impl All {
    fn new(by_name: ByName) -> Self {
        let mut conditional = BTreeMap::<Box<str>, Vec<_>>::new();
        for campaign in by_name.values().filter(|campaign| campaign.when.is_some()) {
            conditional.entry((*campaign.org).into()).or_default().push(Arc::clone(campaign));
        }
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
    /// Another organisation has one of this name.
    #[error("the name of the campaign is taken")]
    Taken,
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

/// The port: where campaigns are read. [`super::ReleaseStore`] writes them.
pub trait CampaignStore: Send + Sync {
    /// Every campaign, in any order.
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>>;
    /// Campaigns in the order of their names, behind `after`, at most `limit`, with those that cannot be read.
    fn page_of_campaigns<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Campaign>, CatalogError>>;
}

/// All campaigns of this node.
pub struct Campaigns {
    all: ArcSwap<All>,
    campaigns_max: usize,
    domains: Arc<Domains>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn CampaignStore>,
    caps: Option<Arc<Caps>>,
    /// Keeps what is written; its turn is held over one edit: catalog and memory change in the same order.
    releases: Arc<Releases>,
}

impl Campaigns {
    /// Loads every campaign.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn CampaignStore>,
        releases: Arc<Releases>,
        domains: Arc<Domains>,
        campaigns_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let all = store.load_campaigns().await?;
        let all: ByName = all.into_iter().map(|one| (one.id.as_str().into(), Arc::new(one))).collect();
        releases.figures().campaigns.set(all.len() as u64);
        let all = ArcSwap::from_pointee(All::new(all));
        Ok(Self { all, campaigns_max, domains, clock, store, caps: None, releases })
    }

    /// Counts the caps of all campaigns here, before any is served. Without it no cap keeps anybody out.
    ///
    /// # Errors
    /// There are more than `caps.counters_max`.
    pub fn with_caps(mut self, caps: Arc<Caps>) -> Result<Self, CatalogError> {
        let all = self.list(None, None, usize::MAX).into_iter();
        let changes: Vec<_> =
            all.map(|one| Change::Campaign { before: Some(Arc::clone(&one)), after: Some(one) }).collect();
        caps.check_changes(&changes).map_err(|error| CatalogError::Unavailable(error.to_string()))?;
        self.caps = Some(caps);
        self.publish(&changes);
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

    /// Calls `f` with the campaigns of this organisation that have a `when`, in the order of their names. No lock, no copy,
    /// no list made.
    pub fn with_conditional<R>(&self, org: &str, f: impl FnOnce(&[Arc<Campaign>]) -> R) -> R {
        f(self.all.load().conditional.get(org).map_or(&[], Vec::as_slice))
    }

    /// The campaign of this name, shared.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Campaign>> {
        self.all.load().by_name.get(id).cloned()
    }

    /// The same, of this organisation alone if it is given.
    #[must_use]
    pub fn get_of(&self, org: Option<&str>, id: &str) -> Option<Arc<Campaign>> {
        self.get(id).filter(|campaign| org.is_none_or(|org| *campaign.org == *org))
    }

    /// Campaigns behind `after` in the order of their names, at most `limit`; of one organisation, if it is given.
    #[must_use]
    pub fn list(&self, org: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Campaign>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.all.load();
        all.by_name
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, campaign)| campaign)
            .filter(|campaign| org.is_none_or(|org| *campaign.org == *org))
            .take(limit)
            .map(Arc::clone)
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
    /// returns. True when it is new; and the number of the release. It keeps its organisation, and a new one is of the
    /// writer's.
    ///
    /// # Errors
    /// [`CampaignError`]; nothing is changed then.
    pub async fn put(
        &self,
        by: &Writer,
        id: &str,
        over: Option<u64>,
        mut document: serde_json::Value,
    ) -> Result<(Arc<Campaign>, bool, u64), CampaignError> {
        let edit = self.releases.edit(&by.actor).await;
        let earlier = self.get(id);
        by.place(&mut document, earlier.as_ref().map(|earlier| &earlier.org));
        let mut campaign = self.check(id, document).map_err(CampaignError::Document)?;
        if !by.may(&campaign.org) {
            return Err(wrong_org(NOT_YOURS));
        }
        match &earlier {
            Some(earlier) if !by.may(&earlier.org) => return Err(CampaignError::Taken),
            Some(earlier) if earlier.org != campaign.org => return Err(wrong_org(FIXED)),
            _ => {}
        }
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
        if let Some(caps) = &self.caps {
            caps.check_campaign(&mut campaign)?;
        }
        let now_ms = self.clock.wall_ms();
        campaign.version = match &earlier {
            Some(_) => is + 1,
            None => self.releases.first_version("campaign", id).await?,
        };
        campaign.created_ms = earlier.as_ref().map_or(now_ms, |earlier| earlier.created_ms);
        campaign.updated_ms = now_ms;
        let (campaign, is_new) = (Arc::new(campaign), earlier.is_none());
        let changes = vec![Change::Campaign { before: earlier, after: Some(Arc::clone(&campaign)) }];
        let release =
            edit.commit(ReleaseKind::Campaign, String::new(), changes, |changes| self.publish(changes)).await?;
        Ok((campaign, is_new, release))
    }

    /// Removes a campaign; gone when this returns, with the number of the release. Links that name it go to their own destination, and its clicks stay.
    ///
    /// # Errors
    /// [`CampaignError`]; nothing is changed then.
    pub async fn remove(&self, by: &Writer, id: &str) -> Result<u64, CampaignError> {
        let edit = self.releases.edit(&by.actor).await;
        let before = Some(self.get(id).filter(|campaign| by.may(&campaign.org)).ok_or(CampaignError::Unknown)?);
        let changes = vec![Change::Campaign { before, after: None }];
        Ok(edit.commit(ReleaseKind::Campaign, String::new(), changes, |changes| self.publish(changes)).await?)
    }

    /// Campaigns served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.load().by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts what has changed into memory. To be called in a turn to write.
    pub(super) fn publish(&self, changes: &[Change]) {
        if !changes.iter().any(|change| matches!(change, Change::Campaign { .. })) {
            return;
        }
        let mut copy = self.all.load().by_name.clone();
        for change in changes {
            match change {
                Change::Campaign { after: Some(campaign), .. } => {
                    let mut campaign = Arc::clone(campaign);
                    if let Some(caps) = &self.caps {
                        caps.adopt_campaign(Arc::make_mut(&mut campaign));
                    }
                    copy.insert(campaign.id.as_str().into(), campaign);
                }
                Change::Campaign { after: None, .. } => {
                    let id = change.entry().1;
                    copy.remove(&*id);
                    self.caps.iter().for_each(|caps| caps.forget_campaign(&id));
                }
                Change::Link { .. } | Change::Domain { .. } => {}
            }
        }
        if let Some(caps) = &self.caps {
            caps.publish();
        }
        self.releases.figures().campaigns.set(copy.len() as u64);
        self.all.store(Arc::new(All::new(copy)));
    }

    /// How many campaigns there may be.
    pub(super) const fn campaigns_max(&self) -> usize {
        self.campaigns_max
    }

    /// What is different in a page of the source, which begins behind `after`; how many campaigns are the same. To be
    /// called in a turn to write.
    pub(super) fn compare(&self, after: Option<&str>, page: &Page<Campaign>) -> (Vec<Change>, usize) {
        let all = self.all.load();
        let served =
            all.by_name.range::<str, _>(range_of(after, page)).map(|(id, campaign)| (&**id, campaign)).collect();
        compared(served, page, |campaign| &campaign.id, |before, after| Change::Campaign { before, after })
    }

    /// A page of the source.
    pub(super) fn page<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Campaign>, CatalogError>> {
        self.store.page_of_campaigns(after, limit)
    }
}

fn wrong_org(detail: &str) -> CampaignError {
    CampaignError::Document(vec![Misfit { pointer: "/org".into(), detail: detail.into() }])
}

impl std::fmt::Debug for Campaigns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Campaigns").field("count", &self.all.load().by_name.len()).finish_non_exhaustive()
    }
}
