//! Imports of links: each line is judged as a link that is made or changed alone, and a thousand go into one release.
//!
//! Between two releases other writers have their turn. A link that is refused keeps none from being written. Bounds:
//! [`RELEASE_LINKS_MAX`] links a release; how many there are in all is the caller's to bound.

use std::collections::HashSet;
use std::sync::Arc;

use super::link_edits::random_slug;
use super::links::{Entry, Links};
use super::prospect::Prospect;
use super::releases::{Change, full_name};
use super::source::{CatalogError, LinkError, Name};
use super::writer::Writer;
use crate::click::domain::{ANY, check_name};
use crate::click::{FieldError, Link, OwnHosts, RawLink};
use crate::telemetry::catalog::ReleaseKind;

/// Links of one release, and so of one transaction.
pub const RELEASE_LINKS_MAX: usize = 1000;

/// What becomes of a link that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the line is refused.
    #[default]
    Refused,
    /// The fields that the line names are changed.
    Changed,
}

/// What was done for a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A link was made.
    Created,
    /// One that was there was changed.
    Changed,
    /// It said what the line says.
    Unchanged,
}

/// What became of an import.
#[derive(Debug, Default)]
pub struct Imported {
    /// Of each line, in their order.
    pub lines: Vec<Result<(Done, Arc<Entry>), LinkError>>,
    /// The releases that it made, in their order.
    pub releases: Vec<u64>,
    /// Why it ended before its end.
    pub away: Option<CatalogError>,
}

impl Links {
    /// Makes these links, or changes those that are there; all that are not refused are live when this returns. When the
    /// catalog does not answer, it ends there, and every line from then on has its error.
    pub async fn import(&self, by: &Writer, raws: Vec<RawLink>, existing: Existing) -> Imported {
        let (mut imported, mut names) = (Imported::default(), HashSet::new());
        let (all, mut raws) = (raws.len(), raws.into_iter());
        loop {
            let some: Vec<_> = raws.by_ref().take(RELEASE_LINKS_MAX).collect();
            if some.is_empty() {
                return imported;
            }
            let away = self.import_some(by, some, existing, &mut names, &mut imported).await;
            if let Err(error) = away {
                imported.lines.resize_with(all, || Err(LinkError::Catalog(error.clone())));
                imported.away = Some(error);
                return imported;
            }
        }
    }

    /// One release of them.
    async fn import_some(
        &self,
        by: &Writer,
        raws: Vec<RawLink>,
        existing: Existing,
        names: &mut HashSet<Name>,
        imported: &mut Imported,
    ) -> Result<(), CatalogError> {
        let edit = self.releases.edit(&by.actor).await;
        let (own, prospect) = (OwnHosts::clone(&self.domains.own_hosts()), self.domains.prospect());
        let mut plan = Plan { links: self, by, existing, own, prospect, names, writes: Vec::new(), made: 0 };
        let judged: Vec<_> = raws.into_iter().map(|raw| plan.judge(raw)).collect();
        let writes = plan.writes;
        let fresh = writes.iter().filter(|write| write.before.is_none()).map(|write| full_name(&write.link)).collect();
        let mut known = self.releases.store.revisions("link", fresh).await?.into_iter();
        let now_ms = self.clock.wall_ms();
        let changes = writes.into_iter().map(|Write { before, mut link }| {
            match &before {
                Some(before) => link.version = before.link.version + 1,
                None => (link.version, link.created_ms) = (known.next().unwrap_or_default() + 1, now_ms),
            }
            link.updated_ms = now_ms;
            Change::Link { before, after: Some(Arc::new(Entry::new(link))) }
        });
        let changes: Vec<_> = changes.collect();
        let refused = self.beyond_caps(&changes);
        let mut lines = Vec::with_capacity(judged.len());
        for line in judged {
            lines.push(match line {
                Ok(Judged::Same(entry)) => Ok((Done::Unchanged, entry)),
                Ok(Judged::Write(at)) => match (&changes[at], &refused[at]) {
                    (_, Some(error)) => Err(error.clone()),
                    (Change::Link { before: None, after: Some(entry) }, None) => Ok((Done::Created, Arc::clone(entry))),
                    (Change::Link { after: Some(entry), .. }, None) => Ok((Done::Changed, Arc::clone(entry))),
                    _ => Err(LinkError::Unknown),
                },
                Err(error) => Err(error),
            });
        }
        let kept: Vec<_> = changes
            .into_iter()
            .zip(&refused)
            .filter(|(_, refused)| refused.is_none())
            .map(|(change, _)| change)
            .collect();
        if !kept.is_empty() {
            let committed =
                edit.commit(ReleaseKind::Link, "import".into(), kept, |changes| self.publish(changes)).await;
            imported.releases.push(committed.map_err(|error| match error {
                // One that another program has put there: which one it was nobody says.
                CatalogError::Taken => CatalogError::Unavailable(
                    "it holds a link of these that this node has not read yet; send them again in some minutes".into(),
                ),
                other => other,
            })?);
        }
        imported.lines.append(&mut lines);
        Ok(())
    }

    /// Of each change whether there is no room for its caps.
    fn beyond_caps(&self, changes: &[Change]) -> Vec<Option<LinkError>> {
        let mut refused = vec![None; changes.len()];
        let Some(caps) = self.caps.as_ref().filter(|caps| caps.check_changes(changes).is_err()) else { return refused };
        let mut taken: Vec<Change> = Vec::new();
        for (change, refused) in changes.iter().zip(&mut refused) {
            let Change::Link { after: Some(entry), .. } = change else { continue };
            if entry.link.caps.is_none() {
                continue;
            }
            taken.push(change.clone());
            if let Err(error) = caps.check_changes(&taken) {
                taken.pop();
                *refused = Some(error.into());
            }
        }
        refused
    }
}

/// A link to be written, over the one that is there.
struct Write {
    before: Option<Arc<Entry>>,
    link: Link,
}

/// What a line comes to, as far as memory knows.
enum Judged {
    /// By its place among the writes.
    Write(usize),
    Same(Arc<Entry>),
}

/// One release in the making.
struct Plan<'p> {
    links: &'p Links,
    by: &'p Writer,
    existing: Existing,
    /// The names of this service with what is planned.
    own: OwnHosts,
    prospect: Prospect,
    /// Of all lines so far that were not refused.
    names: &'p mut HashSet<Name>,
    writes: Vec<Write>,
    made: usize,
}

impl Plan<'_> {
    fn judge(&mut self, raw: RawLink) -> Result<Judged, LinkError> {
        let there = match (self.existing, &raw.slug) {
            (Existing::Changed, Some(slug)) => {
                let domain = check_name(raw.domain.as_deref().unwrap_or(ANY)).unwrap_or_default();
                self.links.get(&domain, slug).filter(|entry| self.by.may(&entry.link.org))
            }
            _ => None,
        };
        match there {
            Some(before) => self.change(before, raw),
            None => self.create(raw),
        }
    }

    fn change(&mut self, before: Arc<Entry>, raw: RawLink) -> Result<Judged, LinkError> {
        let link = before.link.changed(raw, &self.own).map_err(LinkError::Fields)?;
        self.is_first(&link)?;
        self.names.insert(name_of(&link));
        if link == before.link {
            return Ok(Judged::Same(before));
        }
        Ok(self.write(Write { before: Some(before), link }))
    }

    fn create(&mut self, mut raw: RawLink) -> Result<Judged, LinkError> {
        let links = self.links;
        if links.len() + self.made >= links.links_max() {
            return Err(LinkError::Full(links.links_max()));
        }
        let has_slug = raw.slug.is_some();
        raw.slug.get_or_insert_with(random_slug);
        raw.org = raw.org.or_else(|| self.by.org.as_deref().map(str::to_owned));
        let mut link = Link::check(raw, &self.own).map_err(LinkError::Fields)?;
        links.check_org(self.by, &link)?;
        while !has_slug && (links.get(link.domain(), &link.slug).is_some() || self.names.contains(&name_of(&link))) {
            link.slug = random_slug().into();
        }
        self.is_first(&link)?;
        if links.get(link.domain(), &link.slug).is_some() {
            return Err(CatalogError::Taken.into());
        }
        if let Some(domain) = &link.domain {
            let before = self.prospect.len();
            self.prospect.take(domain)?;
            if self.prospect.len() > before {
                self.own = links.domains.own_hosts_after(&self.prospect);
            }
        }
        self.names.insert(name_of(&link));
        self.made += 1;
        Ok(self.write(Write { before: None, link }))
    }

    /// The second line of one name is a mistake: which of them is meant nobody knows.
    fn is_first(&self, link: &Link) -> Result<(), LinkError> {
        if !self.names.contains(&name_of(link)) {
            return Ok(());
        }
        let detail = "is that of an earlier line, under the same domain".to_owned();
        Err(LinkError::Fields(vec![FieldError { field: "slug", detail }]))
    }

    fn write(&mut self, write: Write) -> Judged {
        self.writes.push(write);
        Judged::Write(self.writes.len() - 1)
    }
}

fn name_of(link: &Link) -> Name {
    (link.domain().to_owned(), link.slug.to_string())
}
