//! L3: the visitor is gone. Workers take clicks from the handoff, enrich, label and batch them, and bring them to the
//! store.
//!
//! It never drops a click, never blocks an edge thread, and never names a database: [`Deduper`], [`Store`],
//! [`caps::CapExchange`] and [`ledger::Books`] are the ports, and `backend` has what implements them. `app` calls in here. Bounds: `queue.*`, `batch.*`.

pub mod batch;
pub mod breaker;
pub mod caps;
mod checks;
pub mod dead_letter;
pub mod dedup;
pub mod delivery;
mod drain;
pub mod enrich;
pub mod intent;
pub mod ledger;
pub mod memory;
pub mod months;
pub mod pace;
pub mod persons;
pub mod retry;
mod running;
mod sending;
mod settling;
pub mod store;
pub mod verify;
pub mod worker;

pub use batch::{Batch, Row};
pub use dedup::{Claim, Deduper, Label};
pub use store::{ClickFilter, Counts, Payload, Sealed, Store, StoreError, StoredClick};
