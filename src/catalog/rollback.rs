//! Going back to an earlier release: one call, one transaction, and a release of its own.
//!
//! What every entry was then is read from the releases since; entries that no release has touched stay as they are. Each is
//! checked as if it were sent now, beside the domains of then: one that would be refused keeps everything as it is. Versions of entries grow on,
//! so that clicks tell the entry of before from the one of after. Bound: as many entries in memory as
//! `catalog.changes_max` allows, [`FAULTS_MAX`] faults told.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::caps::TooManyCaps;
use super::documents::{campaign_of, domain_of, link_of, say_the_same};
use super::prospect::Prospect;
use super::releases::{Change, NetChange, ReleaseError, Releases, known};
use super::{Catalog, CatalogError, Entry};
use crate::click::domain::ANY;
use crate::click::{Campaign, Domain, Link, Misfit, OwnHosts};
use crate::telemetry::catalog::ReleaseKind;

/// Entries that are read at a time.
const PAGE: usize = 1000;
/// Faults that are told; a roll-back with more names the first ones.
pub(super) const FAULTS_MAX: usize = 64;

/// What a roll-back has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The release that is served now: a new one, or, when nothing was to be done, the one that was.
    pub version: u64,
    /// Entries that are there again.
    pub added: usize,
    /// Entries that are as they were.
    pub changed: usize,
    /// Entries that are gone again.
    pub removed: usize,
}

/// An entry that would be refused today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `link`, `campaign` or `domain`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The field, or the JSON pointer of the place, that is wrong.
    pub place: String,
    /// What is wrong and how to mend it.
    pub detail: String,
}

/// Why nothing was rolled back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RollbackError {
    /// The release is not there, or the catalog refused.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Entries of then would be refused today.
    #[error("entries of that release would be refused today; nothing was changed")]
    Refused(Vec<Fault>),
    /// There would be more caps than may be.
    #[error(transparent)]
    Caps(#[from] TooManyCaps),
    /// There would be more entries than may be.
    #[error("it would need {wanted} {kind}s, and `catalog.{kind}s_max` allows {max}; nothing was changed")]
    Full {
        /// `link`, `campaign` or `domain`.
        kind: &'static str,
        /// How many there would be.
        wanted: usize,
        /// How many there may be.
        max: usize,
    },
}

impl From<CatalogError> for RollbackError {
    fn from(error: CatalogError) -> Self {
        Self::Release(error.into())
    }
}

/// Makes the catalog what it was at release `target`, of all organisations; live when this returns.
///
/// # Errors
/// [`RollbackError`]; nothing is changed then.
pub async fn rollback(catalog: &Catalog, actor: &str, target: u64) -> Result<RolledBack, RollbackError> {
    let releases = &catalog.releases;
    let edit = releases.edit(actor).await;
    let kept = releases.kept().await?;
    known(target, kept)?;
    let differences = differences(releases, [target, kept.newest]).await?;
    // Of then: what pointed at a domain that was not in use was no loop.
    let own = catalog.domains.own_hosts_after(&prospect(catalog, &differences));
    let mut plan = Plan { catalog, own, changes: Vec::new(), faults: Vec::new() };
    differences.iter().for_each(|one| plan.undo(one));
    let Plan { changes, mut faults, .. } = plan;
    if !faults.is_empty() {
        faults.truncate(FAULTS_MAX);
        return Err(RollbackError::Refused(faults));
    }
    catalog.caps.check_changes(&changes)?;
    room_for(catalog, &changes, prospect(catalog, &differences).len())?;
    let mut done = RolledBack { version: releases.served(), added: 0, changed: 0, removed: 0 };
    for change in &changes {
        match change.is_there() {
            [false, _] => done.added += 1,
            [true, true] => done.changed += 1,
            [true, false] => done.removed += 1,
        }
    }
    if !changes.is_empty() {
        let publish = |changes: &[Change]| catalog.publish(changes);
        done.version = edit.commit(ReleaseKind::Rollback, format!("to {target}"), changes, publish).await?;
    }
    Ok(done)
}

/// All of them, in the order of kind and name.
async fn differences(releases: &Releases, [from, to]: [u64; 2]) -> Result<Vec<NetChange>, CatalogError> {
    let mut all: Vec<NetChange> = Vec::new();
    loop {
        let behind = all.last().map(|last| (last.kind.as_str(), last.name.as_str()));
        let page = releases.store.differences(from, to, behind, PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// Domain and slug of a link, from its name in a release.
fn name_of(link: &str) -> (&str, &str) {
    link.split_once('/').unwrap_or((ANY, link))
}

/// The names in use when these changes are undone.
fn prospect(catalog: &Catalog, differences: &[NetChange]) -> Prospect {
    let mut prospect = catalog.domains.prospect();
    for one in differences {
        let wanted = one.before.is_some();
        match one.kind.as_str() {
            "link" => {
                let (domain, slug) = name_of(&one.name);
                let is = catalog.links.get(domain, slug).is_some();
                if domain != ANY {
                    prospect.links(domain, isize::from(wanted) - isize::from(is));
                }
            }
            "domain" => prospect.say(&one.name, wanted),
            _ => {}
        }
    }
    prospect
}

fn room_for(catalog: &Catalog, changes: &[Change], names: usize) -> Result<(), RollbackError> {
    // Links, then campaigns.
    let mut more = [0_isize; 2];
    for change in changes {
        let [before, after] = change.is_there().map(isize::from);
        match change {
            Change::Link { .. } => more[0] += after - before,
            Change::Campaign { .. } => more[1] += after - before,
            Change::Domain { .. } => {}
        }
    }
    let Catalog { links, campaigns, domains, .. } = catalog;
    let in_use = domains.prospect().len();
    for (kind, is, wanted, max) in [
        ("link", links.len(), links.len().saturating_add_signed(more[0]), links.links_max()),
        ("campaign", campaigns.len(), campaigns.len().saturating_add_signed(more[1]), campaigns.campaigns_max()),
        ("domain", in_use, names, domains.domains_max()),
    ] {
        if wanted > is && wanted > max {
            return Err(RollbackError::Full { kind, wanted, max });
        }
    }
    Ok(())
}

/// What is to be done, entry by entry.
struct Plan<'c> {
    catalog: &'c Catalog,
    /// The names of this service when it is done.
    own: OwnHosts,
    changes: Vec<Change>,
    faults: Vec<Fault>,
}

impl Plan<'_> {
    fn undo(&mut self, difference: &NetChange) {
        let wanted = match difference.documents() {
            [None, _] => None,
            [Some(Value::Object(document)), _] => Some(document),
            [Some(_), _] => return self.fault(difference, "", "is damaged in the releases; it cannot be gone back to"),
        };
        let (name, updated_ms) = (difference.name.as_str(), self.catalog.releases.now_ms());
        let mut served = match difference.kind.as_str() {
            "link" => {
                let (domain, slug) = name_of(name);
                Change::Link { before: self.catalog.links.get(domain, slug), after: None }
            }
            "campaign" => Change::Campaign { before: self.catalog.campaigns.get(name), after: None },
            "domain" => Change::Domain { before: self.catalog.domains.get(name), after: None },
            _ => {
                let told = "is of a kind that this program does not know: start a newer trellis";
                return self.fault(difference, "", told);
            }
        };
        if is_already(&served, wanted.as_ref()) {
            return;
        }
        let version = difference.revision.max(served.revision()) + 1;
        if let Some(document) = wanted {
            let checked = match &mut served {
                Change::Link { after, .. } => link_of(document, &self.own)
                    .map(|link| *after = Some(Arc::new(Entry::new(Link { version, updated_ms, ..link }))))
                    .map_err(|errors| errors.into_iter().map(|one| (one.field.to_owned(), one.detail)).collect()),
                Change::Campaign { after, .. } => campaign_of(name, document, &self.own)
                    .map(|campaign| *after = Some(Arc::new(Campaign { version, updated_ms, ..campaign })))
                    .map_err(places),
                Change::Domain { after, .. } => domain_of(name, document, &self.own)
                    .map(|domain| *after = Some(Arc::new(Domain { version, updated_ms, ..domain })))
                    .map_err(places),
            };
            if let Err(wrong) = checked {
                return wrong.iter().for_each(|(place, detail)| self.fault(difference, place, detail));
            }
        }
        self.changes.push(served);
    }

    fn fault(&mut self, of: &NetChange, place: &str, detail: &str) {
        if self.faults.len() < FAULTS_MAX {
            let (kind, name) = (of.kind.clone(), of.name.clone());
            self.faults.push(Fault { kind, name, place: place.to_owned(), detail: detail.to_owned() });
        }
    }
}

fn places(misfits: Vec<Misfit>) -> Vec<(String, String)> {
    misfits.into_iter().map(|one| (one.pointer, one.detail)).collect()
}

/// Whether what is served, the `before` of this change, is what is wanted.
fn is_already(served: &Change, wanted: Option<&Map<String, Value>>) -> bool {
    match (&served.documents()[0], wanted) {
        (Some(served), Some(wanted)) => say_the_same(served, &Value::Object(wanted.clone())),
        (served, wanted) => served.is_none() && wanted.is_none(),
    }
}
