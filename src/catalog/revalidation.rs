//! Compares every entry in memory with its source, again and again, so that what was written past this program, with a
//! database shell or by a restored file, is served too.
//!
//! Step by step, a page at a time, spread evenly over the time. A round goes through the links of the source, through the
//! links in memory for those that no page had, through the campaigns, and through the domains. Two rounds fit into `catalog.revalidate_after`:
//! an entry that has vanished behind the cursor of one round is missed by the next. A step reads
//! without the turn to write, and once more within it when an edit fell in between, which would be undone else. What differs becomes a release; what cannot be read is
//! served on, counted, told once, and tried again. `app` runs it, on no thread that answers visitors. Bounds: [`PAGE`]
//! links, [`CAMPAIGNS`] campaigns or domains, or about [`LOOKED`] entries in memory a step, and at least [`PAUSE_MIN`] between two.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::releases::{Change, Edit, Releases, full_name};
use super::source::Name;
use super::{Catalog, CatalogError, Page};
use crate::BoxFuture;
use crate::clock::Clock;
use crate::telemetry::catalog::{ReleaseKind, Revalidated};

/// Links of a step: a few milliseconds, and an edit may have to wait for them.
pub(super) const PAGE: usize = 500;
/// Campaigns or domains of a step; one may be long.
pub(super) const CAMPAIGNS: usize = 50;
/// Entries in memory that a step looks at.
pub(super) const LOOKED: usize = 10_000;
/// Between two steps, however many there are.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(5);
/// A step that failed is tried again after this time at the latest.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Names of unreadable entries that are remembered, so that each is told once.
const TOLD_MAX: usize = 1000;
/// Rounds in the time that an entry may stay uncompared, and room for a slow one.
pub(super) const ROUNDS: f64 = 2.5;

/// The actor of what was written past this program.
const OUTSIDE: &str = "outside";

/// Where a round is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Links of the source behind this one.
    Links(Option<Name>),
    /// Links in memory from this shard on.
    Memory(usize),
    /// Campaigns behind this name.
    Campaigns(Option<String>),
    /// Domains behind this name.
    Domains(Option<String>),
}

/// The comparing of one catalog.
#[derive(Debug)]
pub struct Revalidation {
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    round: Duration,
    place: Place,
    failing: bool,
    pub(super) told: BTreeSet<String>,
}

impl Revalidation {
    /// Compares every entry within `after` of its load, and of the last time.
    #[must_use]
    pub fn new(catalog: Catalog, after: Duration, clock: Arc<dyn Clock>) -> Self {
        let (place, told) = (Place::Links(None), BTreeSet::new());
        Self { catalog, clock, round: after.div_f64(ROUNDS), place, failing: false, told }
    }

    /// Steps of a round, about: links come and go.
    fn steps(&self) -> usize {
        let Catalog { domains, links, campaigns, .. } = &self.catalog;
        let pages = |entries: usize, of: usize| entries / of + 1;
        pages(links.len(), PAGE)
            + pages(links.len(), LOOKED)
            + pages(campaigns.len(), CAMPAIGNS)
            + pages(domains.len(), CAMPAIGNS)
    }

    /// How long to wait before the first step.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let steps = u32::try_from(self.steps()).unwrap_or(u32::MAX);
        (self.round / steps).max(PAUSE_MIN)
    }

    /// One step; how long to wait before the next.
    pub async fn step(&mut self) -> Duration {
        let began = self.clock.now();
        let compared = self.compare().await;
        let pause = self.pause();
        let took = self.clock.now().saturating_sub(began);
        match compared {
            Ok(next) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the catalog is compared with its source again");
                }
                self.place = next;
                pause.saturating_sub(took).max(PAUSE_MIN)
            }
            Err(error) => {
                self.catalog.releases.figures().revalidate(Revalidated::Failed, 1);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the catalog cannot be compared with its source; what it serves stays");
                }
                pause.min(RETRY_AFTER)
            }
        }
    }

    /// Where to go on.
    async fn compare(&mut self) -> Result<Place, CatalogError> {
        let Catalog { releases, links, campaigns, domains, .. } = self.catalog.clone();
        match self.place.clone() {
            Place::Links(after) => {
                let (edit, page) = read(&releases, || links.page(after.clone(), PAGE)).await?;
                if after.is_none() {
                    links.begin_round();
                }
                let (changes, same) = links.compare(&page);
                self.take_over(&edit, changes, same).await?;
                self.forget("link", page.entries.iter().map(full_name));
                let unreadable = page.unreadable.into_iter();
                self.tell("link", unreadable.map(|((domain, slug), why)| (format!("{domain}/{slug}"), why)).collect());
                Ok(page.last.map_or(Place::Memory(0), |last| Place::Links(Some(last))))
            }
            Place::Memory(shard) => {
                let edit = releases.edit(OUTSIDE).await;
                let (changes, next) = links.vanished(shard, LOOKED);
                self.take_over(&edit, changes, 0).await?;
                Ok(next.map_or(Place::Campaigns(None), Place::Memory))
            }
            Place::Campaigns(after) => {
                let (edit, page) = read(&releases, || campaigns.page(after.as_deref(), CAMPAIGNS)).await?;
                let (changes, same) = campaigns.compare(after.as_deref(), &page);
                self.take_over(&edit, changes, same).await?;
                self.forget("campaign", page.entries.iter().map(|campaign| campaign.id.clone()));
                self.tell("campaign", page.unreadable);
                Ok(page.last.map_or(Place::Domains(None), |last| Place::Campaigns(Some(last))))
            }
            Place::Domains(after) => {
                let (edit, page) = read(&releases, || domains.page(after.as_deref(), CAMPAIGNS)).await?;
                let (changes, same) = domains.compare(after.as_deref(), &page);
                self.take_over(&edit, changes, same).await?;
                self.forget("domain", page.entries.iter().map(|domain| domain.name.clone()));
                self.tell("domain", page.unreadable);
                Ok(page.last.map_or(Place::Links(None), |last| Place::Domains(Some(last))))
            }
        }
    }

    /// Makes what the source says what is served.
    async fn take_over(&self, edit: &Edit<'_>, changes: Vec<Change>, same: usize) -> Result<(), CatalogError> {
        let (figures, refreshed) = (self.catalog.releases.figures(), changes.len());
        if refreshed > 0 {
            let checked = self.catalog.caps.check_changes(&changes);
            checked.map_err(|error| CatalogError::Unavailable(error.to_string()))?;
            let (note, publish) = ("found by revalidation".into(), |changes: &[Change]| self.catalog.publish(changes));
            let release = edit.commit(ReleaseKind::Outside, note, changes, publish).await?;
            tracing::info!(
                release,
                entries = refreshed,
                "the catalog was changed from outside; it is served as it is now"
            );
        }
        figures.revalidate(Revalidated::Same, same);
        figures.revalidate(Revalidated::Refreshed, refreshed);
        Ok(())
    }

    /// What can be read is told again when it cannot be some day.
    fn forget(&mut self, kind: &str, read: impl Iterator<Item = String>) {
        if !self.told.is_empty() {
            for name in read {
                self.told.remove(&format!("{kind} {name}"));
            }
        }
    }

    /// Counts what cannot be read, and tells each once.
    fn tell(&mut self, kind: &str, unreadable: Vec<(String, String)>) {
        self.catalog.releases.figures().revalidate(Revalidated::Failed, unreadable.len());
        for (name, problem) in unreadable {
            let key = format!("{kind} {name}");
            if self.told.len() < TOLD_MAX && self.told.insert(key) {
                tracing::error!(kind, name, problem, "an entry of the catalog cannot be read; what was served stays");
            }
        }
    }
}

/// A page of the source as it is now, with the turn to write. It is read before the turn, for which edits wait, and again in
/// it when one came in between.
async fn read<'a, T, N>(
    releases: &'a Releases,
    page: impl Fn() -> BoxFuture<'a, Result<Page<T, N>, CatalogError>>,
) -> Result<(Edit<'a>, Page<T, N>), CatalogError> {
    let served = releases.served();
    let early = page().await?;
    let edit = releases.edit(OUTSIDE).await;
    let page = if releases.served() == served { early } else { page().await? };
    Ok((edit, page))
}

/// The names that a page of the source stands for, which begins behind `after`.
pub(super) fn range_of<'a, T>(after: Option<&'a str>, page: &'a Page<T>) -> (Bound<&'a str>, Bound<&'a str>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), page.last.as_deref().map_or(Bound::Unbounded, Bound::Included))
}

/// What is different in a page of the source from what is `served` of the names that it stands for; how many entries are the
/// same.
pub(super) fn compared<T: Clone + PartialEq>(
    mut served: BTreeMap<&str, &Arc<T>>,
    page: &Page<T>,
    name: impl Fn(&T) -> &str,
    change: impl Fn(Option<Arc<T>>, Option<Arc<T>>) -> Change,
) -> (Vec<Change>, usize) {
    for (name, _) in &page.unreadable {
        served.remove(name.as_str());
    }
    let (mut changes, mut same) = (Vec::new(), 0);
    for entry in &page.entries {
        match served.remove(name(entry)) {
            Some(before) if **before == *entry => same += 1,
            before => changes.push(change(before.map(Arc::clone), Some(Arc::new(entry.clone())))),
        }
    }
    changes.extend(served.into_values().map(|gone| change(Some(Arc::clone(gone)), None)));
    (changes, same)
}
