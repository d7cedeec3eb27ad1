//! L2: what the edge may look up, always from memory.
//!
//! [`links`] are served from a sharded map that readers never lock; edits go to the [`LinkStore`] first and to the map
//! then, so an edit that was answered survives a restart and is live; [`campaigns`] and [`domains`] likewise. [`caps`] are
//! shared by edge and workers. [`agents`] and [`geo`] say what a user agent and an address stand for. Nothing in here does
//! I/O on a look-up. Bounds: `catalog.links_max`, `catalog.campaigns_max`, `catalog.domains_max`, `caps.counters_max`.

mod agent_memo;
mod agent_words;
pub mod agents;
pub mod campaigns;
pub mod caps;
mod crawlers;
pub mod domains;
pub mod geo;
pub mod links;
mod told_agent;

pub use agent_memo::AgentMemo;
pub use campaigns::{CampaignError, CampaignStore, Campaigns};
pub use caps::Caps;
pub use domains::{DomainError, DomainStore, Domains};
pub use links::{CatalogError, Entry, LinkError, LinkPage, LinkStore, Links};
