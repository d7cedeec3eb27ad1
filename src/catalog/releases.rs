//! Releases: every write to the catalog makes an immutable version of it, in the same transaction.
//!
//! A release keeps what it changed, entry by entry, before and after, and nothing else: it costs what the write costs,
//! however large the catalog is. Any two releases can be compared, and the catalog can [go back](super::rollback()) to one,
//! which is a new release. Numbers grow, are never used again, and survive restarts. What was written past this program,
//! with a database shell or by a restored file, is found by [`super::Revalidation`] and becomes a release as well.
//!
//! Writes of links, campaigns and domains wait for each other here, so that the release that is served is all of it. Readers
//! wait for nobody. Bounds: `catalog.releases_max` releases and `catalog.changes_max` changes are kept, the oldest go first.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::documents::{LinkDocument, campaign_document, domain_document, say_the_same};
use super::{CatalogError, Entry};
use crate::BoxFuture;
use crate::click::{Campaign, Domain, Link};
use crate::clock::Clock;
use crate::telemetry::catalog::{CatalogShard, ReleaseKind};

/// Changes of entries in memory that a write makes, each entry once.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of the link of one domain and slug; one of both is there at least.
    Link {
        /// What was served.
        before: Option<Arc<Entry>>,
        /// What is served from now on.
        after: Option<Arc<Entry>>,
    },
    /// Of the campaign of one name; one of both is there at least.
    Campaign {
        /// What was served.
        before: Option<Arc<Campaign>>,
        /// What is served from now on.
        after: Option<Arc<Campaign>>,
    },
    /// Of the domain of one name; one of both is there at least.
    Domain {
        /// What was served.
        before: Option<Arc<Domain>>,
        /// What is served from now on.
        after: Option<Arc<Domain>>,
    },
}

/// A link among all links: `go.example/spring`, or `*/spring` for any domain. No domain has a `/`.
pub(super) fn full_name(link: &Link) -> String {
    format!("{}/{}", link.domain(), link.slug)
}

impl Change {
    /// What is changed: its kind, and its name among those of its kind, which is `domain/slug` for a link.
    #[must_use]
    pub fn entry(&self) -> (&'static str, Cow<'_, str>) {
        match self {
            Self::Link { before, after } => {
                let entry = after.as_ref().or(before.as_ref());
                ("link", entry.map(|entry| full_name(&entry.link)).unwrap_or_default().into())
            }
            Self::Campaign { before, after } => {
                ("campaign", after.as_ref().or(before.as_ref()).map_or("", |campaign| campaign.id.as_str()).into())
            }
            Self::Domain { before, after } => {
                ("domain", after.as_ref().or(before.as_ref()).map_or("", |domain| domain.name.as_str()).into())
            }
        }
    }

    /// Both as JSON.
    #[must_use]
    pub fn documents(&self) -> [Option<Value>; 2] {
        match self {
            Self::Link { before, after } => {
                [before, after].map(|entry| entry.as_ref().map(|entry| json!(LinkDocument::new(&entry.link))))
            }
            Self::Campaign { before, after } => {
                [before, after].map(|campaign| campaign.as_ref().map(|campaign| campaign_document(campaign)))
            }
            Self::Domain { before, after } => {
                [before, after].map(|domain| domain.as_ref().map(|domain| domain_document(domain)))
            }
        }
    }

    /// The greater of both versions.
    #[must_use]
    pub fn revision(&self) -> u64 {
        let versions = match self {
            Self::Link { before, after } => {
                [before, after].map(|entry| entry.as_ref().map_or(0, |entry| entry.link.version))
            }
            Self::Campaign { before, after } => {
                [before, after].map(|campaign| campaign.as_ref().map_or(0, |campaign| campaign.version))
            }
            Self::Domain { before, after } => {
                [before, after].map(|domain| domain.as_ref().map_or(0, |domain| domain.version))
            }
        };
        versions[0].max(versions[1])
    }

    /// Whether it was there, and is.
    #[must_use]
    pub const fn is_there(&self) -> [bool; 2] {
        match self {
            Self::Link { before, after } => [before.is_some(), after.is_some()],
            Self::Campaign { before, after } => [before.is_some(), after.is_some()],
            Self::Domain { before, after } => [before.is_some(), after.is_some()],
        }
    }
}

/// A write and what its release says of it.
#[derive(Debug)]
pub struct Write {
    /// What makes it. Of [`ReleaseKind::Outside`] the entries are in the source already.
    pub kind: ReleaseKind,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who makes it.
    pub actor: String,
    /// More of it, in words; may be empty.
    pub note: String,
    /// Sorted by [`Change::entry`].
    pub changes: Vec<Change>,
    /// The number of its release must be greater.
    pub above: u64,
    /// How much is kept.
    pub keep: Keep,
}

/// How many releases are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Releases, this one included.
    pub releases_max: u64,
    /// Changes of all releases together; those of the last one are kept in any case.
    pub changes_max: u64,
}

/// What a release says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its number.
    pub version: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// [`ReleaseKind::name`].
    pub kind: String,
    /// Who made it.
    pub actor: String,
    /// More of it, in words.
    pub note: String,
    /// Entries that it changed.
    pub changes: u64,
}

/// The releases that can be compared and gone back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The oldest: the state before the first change that is kept.
    pub oldest: u64,
    /// The newest; 0 when nothing was ever written.
    pub newest: u64,
}

/// What became of an entry between two releases, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChange {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// JSON; `None` when it was not there.
    pub before: Option<String>,
    /// JSON; `None` when it is no longer there.
    pub after: Option<String>,
    /// The greatest version that it had in between.
    pub revision: u64,
}

impl NetChange {
    /// Both documents; text that is no JSON is null.
    pub(super) fn documents(&self) -> [Option<Value>; 2] {
        [&self.before, &self.after].map(|text| text.as_ref().map(|text| serde_json::from_str(text).unwrap_or_default()))
    }

    /// Whether nothing is left of the changes in between.
    pub(super) fn is_none(&self) -> bool {
        match self.documents() {
            [Some(before), Some(after)] => say_the_same(&before, &after),
            [before, after] => before.is_none() && after.is_none(),
        }
    }
}

/// The port: where the catalog is written, and its releases are kept.
pub trait ReleaseStore: Send + Sync {
    /// Makes a write and its release, both or none; the release's number.
    fn commit(&self, write: Arc<Write>) -> BoxFuture<'_, Result<u64, CatalogError>>;
    /// The greatest version of each of these entries that releases know; 0 where they know none.
    fn revisions(&self, kind: &'static str, names: Vec<String>) -> BoxFuture<'_, Result<Vec<u64>, CatalogError>>;
    /// Which releases are kept.
    fn kept(&self) -> BoxFuture<'_, Result<Kept, CatalogError>>;
    /// Releases below this number, newest first, at most `limit`.
    fn releases(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Release>, CatalogError>>;
    /// What the releases behind `from` up to `to` changed, each entry once, in the order of kind and name, behind `after`,
    /// at most `limit`.
    fn differences<'a>(
        &'a self,
        from: u64,
        to: u64,
        after: Option<(&'a str, &'a str)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<NetChange>, CatalogError>>;
}

/// What can go wrong with a question about releases.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReleaseError {
    /// There was never such a release.
    #[error("there is no release {version}; the newest is {newest}")]
    Unknown {
        /// Asked for.
        version: u64,
        /// The last one.
        newest: u64,
    },
    /// It is too old.
    #[error(
        "release {version} is no longer kept; the oldest is {oldest} (`catalog.releases_max`, `catalog.changes_max`)"
    )]
    Gone {
        /// Asked for.
        version: u64,
        /// The oldest one.
        oldest: u64,
    },
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The releases of this node's catalog, and the order of its writes.
pub struct Releases {
    pub(super) store: Arc<dyn ReleaseStore>,
    clock: Arc<dyn Clock>,
    keep: Keep,
    served: AtomicU64,
    figures: Arc<CatalogShard>,
    edits: Mutex<()>,
}

impl Releases {
    /// Finds out which release is served.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn ReleaseStore>,
        keep: Keep,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, CatalogError> {
        let newest = store.kept().await?.newest;
        let figures = Arc::new(CatalogShard::default());
        figures.version.set(newest);
        let (served, edits) = (AtomicU64::new(newest), Mutex::default());
        Ok(Arc::new(Self { store, clock, keep, served, figures, edits }))
    }

    /// The release that visitors are served from.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Acquire)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// What metrics show of it.
    #[must_use]
    pub fn figures(&self) -> Arc<CatalogShard> {
        Arc::clone(&self.figures)
    }

    /// Which releases can be compared and gone back to.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn kept(&self) -> Result<Kept, CatalogError> {
        self.store.kept().await
    }

    /// Releases below this number, newest first, at most `limit`.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn list(&self, below: u64, limit: usize) -> Result<Vec<Release>, CatalogError> {
        self.store.releases(below, limit).await
    }

    /// One release.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub async fn get(&self, version: u64) -> Result<Release, ReleaseError> {
        let found = self.store.releases(version.saturating_add(1), 1).await?;
        let Some(release) = found.into_iter().find(|release| release.version == version) else {
            let kept = self.kept().await?;
            // The oldest is a state without a release of its own.
            return match version <= kept.oldest {
                true if version > 0 => Err(ReleaseError::Gone { version, oldest: kept.oldest + 1 }),
                _ => Err(ReleaseError::Unknown { version, newest: kept.newest }),
            };
        };
        Ok(release)
    }

    /// What is different at `to`, seen from `from`, which may be the later one; in the order of kind and name, behind
    /// `after`, at most `limit`, and where to go on. What was changed and changed back is left out, so a page may be short.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub async fn differences(
        &self,
        [from, to]: [u64; 2],
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<(Vec<NetChange>, Option<(String, String)>), ReleaseError> {
        let kept = self.kept().await?;
        known(from, kept)?;
        known(to, kept)?;
        let mut found = self.store.differences(from.min(to), from.max(to), after, limit + 1).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| (last.kind.clone(), last.name.clone()));
        found.retain(|difference| !difference.is_none());
        if from > to {
            found.iter_mut().for_each(|one| std::mem::swap(&mut one.before, &mut one.after));
        }
        Ok((found, next))
    }

    /// The version of an entry that is made: above all that releases know of its name, so that no version comes twice.
    pub(super) async fn first_version(&self, kind: &'static str, name: &str) -> Result<u64, CatalogError> {
        let known = self.store.revisions(kind, vec![name.to_owned()]).await?;
        Ok(known.first().map_or(1, |known| known + 1))
    }

    /// Waits for the writes before; nobody else writes until it is dropped. `actor`: who does.
    pub(super) async fn edit<'r>(&'r self, actor: &'r str) -> Edit<'r> {
        Edit { releases: self, actor, _turn: self.edits.lock().await, began: self.clock.now() }
    }
}

/// Whether the state at this release is known.
pub(super) fn known(version: u64, Kept { oldest, newest }: Kept) -> Result<(), ReleaseError> {
    match version {
        _ if version > newest => Err(ReleaseError::Unknown { version, newest }),
        _ if version < oldest => Err(ReleaseError::Gone { version, oldest }),
        _ => Ok(()),
    }
}

/// A turn to write.
pub(super) struct Edit<'r> {
    releases: &'r Releases,
    actor: &'r str,
    _turn: MutexGuard<'r, ()>,
    began: Duration,
}

impl Edit<'_> {
    /// Keeps the changes as a release, then lets `publish` put them into memory; the release's number.
    ///
    /// # Errors
    /// The catalog's; nothing is changed then.
    pub(super) async fn commit(
        &self,
        kind: ReleaseKind,
        note: String,
        mut changes: Vec<Change>,
        publish: impl FnOnce(&[Change]),
    ) -> Result<u64, CatalogError> {
        let releases = self.releases;
        changes.sort_by_cached_key(|change| {
            let (kind, name) = change.entry();
            (kind, name.into_owned())
        });
        let write = Arc::new(Write {
            kind,
            at_ms: releases.clock.wall_ms(),
            actor: self.actor.to_owned(),
            note,
            changes,
            above: releases.served(),
            keep: releases.keep,
        });
        let version = releases.store.commit(Arc::clone(&write)).await?;
        publish(&write.changes);
        releases.served.store(version, Ordering::Release);
        releases.figures.version.set(version);
        releases.figures.release(kind);
        releases.figures.apply_duration.observe_duration(releases.clock.now().saturating_sub(self.began));
        Ok(version)
    }
}

impl std::fmt::Debug for Releases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Releases").field("served", &self.served()).finish_non_exhaustive()
    }
}
