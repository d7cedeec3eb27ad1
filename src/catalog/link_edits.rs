//! Edits of links, each in a turn to write: checked, kept as a release, and live when they return.

use std::sync::Arc;

use super::links::{Entry, Links};
use super::releases::{Change, Edit, full_name};
use super::source::{CatalogError, LinkError};
use super::writer::{NOT_YOURS, Writer};
use crate::click::domain::ANY;
use crate::click::{FieldError, Link, RawLink};
use crate::telemetry::catalog::ReleaseKind;

impl Links {
    /// Makes a link; live when this returns, with the number of its release. A link without a slug gets one of seven
    /// letters and digits.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn create(&self, by: &Writer, mut raw: RawLink) -> Result<(Arc<Entry>, u64), LinkError> {
        let edit = self.releases.edit(&by.actor).await;
        if self.len() >= self.links_max {
            return Err(LinkError::Full(self.links_max));
        }
        raw.slug.get_or_insert_with(random_slug);
        raw.org = raw.org.or_else(|| by.org.as_deref().map(str::to_owned));
        let mut link = Link::check(raw, &self.domains.own_hosts()).map_err(LinkError::Fields)?;
        self.check_org(by, &link)?;
        // Also when another program has taken it out of the source, until revalidation has found that.
        if self.get(link.domain(), &link.slug).is_some() {
            return Err(CatalogError::Taken.into());
        }
        if let Some(domain) = &link.domain {
            self.domains.prospect().take(domain)?;
        }
        link.version = self.releases.first_version("link", &full_name(&link)).await?;
        link.created_ms = self.clock.wall_ms();
        link.updated_ms = link.created_ms;
        self.write(&edit, None, link).await
    }

    /// Whether the writer may make a link of its organisation, under its domain.
    pub(super) fn check_org(&self, by: &Writer, link: &Link) -> Result<(), LinkError> {
        let (org, domain) = (&*link.org, link.domain());
        let (field, detail) = if !by.may(&link.org) {
            ("org", NOT_YOURS.to_owned())
        } else if domain != ANY && self.domains.org_of(domain) != link.org {
            let told = "with the control token gives it one";
            ("domain", format!("is no domain of the organisation {org}; `PUT /api/v1/domains/{domain}` {told}"))
        } else {
            return Ok(());
        };
        Err(LinkError::Fields(vec![FieldError { field, detail }]))
    }

    /// Changes the fields that `change` names; live when this returns, with the number of its release.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn change(
        &self,
        by: &Writer,
        domain: &str,
        slug: &str,
        change: RawLink,
    ) -> Result<(Arc<Entry>, u64), LinkError> {
        let edit = self.releases.edit(&by.actor).await;
        let entry = self.get_for(by, domain, slug)?;
        let mut link = entry.link.changed(change, &self.domains.own_hosts()).map_err(LinkError::Fields)?;
        link.version += 1;
        link.updated_ms = self.clock.wall_ms();
        self.write(&edit, Some(entry), link).await
    }

    async fn write(
        &self,
        edit: &Edit<'_>,
        before: Option<Arc<Entry>>,
        link: Link,
    ) -> Result<(Arc<Entry>, u64), LinkError> {
        let entry = Arc::new(Entry::new(link));
        if let Some(caps) = &self.caps {
            caps.check_link(&entry.link)?;
        }
        let change = Change::Link { before, after: Some(Arc::clone(&entry)) };
        let release =
            edit.commit(ReleaseKind::Link, String::new(), vec![change], |changes| self.publish(changes)).await?;
        Ok((entry, release))
    }

    /// Removes a link; gone when this returns, with the number of its release. Its clicks stay.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is changed then.
    pub async fn remove(&self, by: &Writer, domain: &str, slug: &str) -> Result<u64, LinkError> {
        let edit = self.releases.edit(&by.actor).await;
        let before = Some(self.get_for(by, domain, slug)?);
        let changes = vec![Change::Link { before, after: None }];
        Ok(edit.commit(ReleaseKind::Link, String::new(), changes, |changes| self.publish(changes)).await?)
    }

    fn get_for(&self, by: &Writer, domain: &str, slug: &str) -> Result<Arc<Entry>, LinkError> {
        self.get(domain, slug).filter(|entry| by.may(&entry.link.org)).ok_or(LinkError::Unknown)
    }
}

pub(super) fn random_slug() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(7).collect()
}
