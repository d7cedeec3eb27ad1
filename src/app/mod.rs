//! L5: the composition root. It makes every part, runs them, and takes them down in order; it alone sees everything.
//!
//! ```text
//! start   lock the data folder -> secrets -> catalog -> journal -> edge threads -> control -> store's tables -> workers
//! drain   ready answers 503 -> drain_delay -> edge finishes and closes -> workers empty the journal -> control ends
//! ```
//! Redirects are answered before the store was ever reached; what cannot be stored yet waits in the journal.

mod backup;
mod books;
mod caps;
mod catalog;
mod expiry;
mod figures;
mod folder;
mod greeting;
pub mod http;
mod letters;
mod monitor;
mod parts;
pub mod probe;
mod prober;
mod serve;
mod slo;
mod warden;
mod workers;

pub use backup::{Entry, Manifest, backup, restore};
pub use folder::{OpenFolder, RunningNode, kept_of, open_folder, running_node};
pub use serve::serve;
pub use warden::serve_warden;

use std::sync::Arc;

use crate::clock::SystemClock;
use crate::config::Config;

/// Creates and upgrades the store's tables; the names of what was applied.
///
/// # Errors
/// The store's.
pub async fn migrate(config: &Config) -> anyhow::Result<Vec<String>> {
    folder::create(&config.data_dir)?;
    let store = parts::Backends::new(config, Arc::new(SystemClock::new())).store(1, Arc::default())?;
    store.migrate().await.map_err(|error| anyhow::anyhow!("{}: {error}", store.name()))
}
