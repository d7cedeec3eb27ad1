//! L2: what the edge may look up, always from memory.
//!
//! [`links`] are served from a sharded map that readers never lock; edits go to the [`ReleaseStore`] first and to the map
//! then, so an edit that was answered survives a restart and is live; [`campaigns`] and [`domains`] likewise. Every write
//! makes a [release](releases) that can be compared and gone back to, and [`Revalidation`] finds what was written past this
//! program. [`audit`] says what is kept of writes to the operator side. [`caps`] are shared by edge and workers. [`keys`] are apart from it, and [`warden`] is how they are checked.
//! [`agents`] and [`geo`] say what a user agent and an address stand for. Nothing in here does I/O on a look-up.
//! Bounds: `catalog.links_max`, `catalog.campaigns_max`, `catalog.domains_max`, `catalog.releases_max`,
//! `catalog.changes_max`, `caps.counters_max`, `warden.keys_max`.

mod agent_memo;
mod agent_words;
pub mod agents;
pub mod audit;
pub mod campaigns;
pub mod caps;
mod crawlers;
mod documents;
pub mod domains;
pub mod geo;
pub mod keys;
mod link_edits;
pub mod link_import;
mod link_table;
pub mod links;
mod prospect;
pub mod releases;
pub mod remote_keys;
mod revalidation;
#[cfg(test)]
mod revalidation_tests;
mod rollback;
#[cfg(test)]
mod rollback_tests;
pub mod source;
mod told_agent;
pub mod warden;
mod writer;

use std::sync::Arc;

pub use agent_memo::AgentMemo;
pub use audit::AuditStore;
pub use campaigns::{CampaignError, CampaignStore, Campaigns};
pub use caps::Caps;
pub use documents::{LinkDocument, campaign_document, domain_document};
pub use domains::{DomainError, DomainStore, Domains};
pub use keys::{KeyEntry, KeyError, KeyStore, Keys, NewKey};
pub use links::{Entry, Links};
pub use releases::{ReleaseError, ReleaseStore, Releases};
pub use remote_keys::RemoteKeys;
pub use revalidation::Revalidation;
pub use rollback::{RollbackError, RolledBack, rollback};
pub use source::{CatalogError, LinkError, LinkPage, LinkStore, Page};
pub use warden::{Checked, Peek, Unavailable, Warden, Why};
pub use writer::Writer;

/// All that is served and can be edited.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// What was written, and the order of writes.
    pub releases: Arc<Releases>,
    /// Where visits to no link go.
    pub domains: Arc<Domains>,
    /// Links.
    pub links: Arc<Links>,
    /// Campaigns.
    pub campaigns: Arc<Campaigns>,
    /// What links and campaigns count.
    pub caps: Arc<Caps>,
}

impl Catalog {
    /// Puts what has changed into memory. To be called in a turn to write.
    fn publish(&self, changes: &[releases::Change]) {
        self.campaigns.publish(changes);
        self.domains.publish(changes);
        self.links.publish(changes);
    }
}
