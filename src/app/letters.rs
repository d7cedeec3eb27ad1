//! Puts the dead-letter queue together: its shelf on disk, and what the operator side does with it.

use std::sync::Arc;

use anyhow::Context as _;

use crate::click::kept::Keeping;
use crate::clock::Clock;
use crate::config::Config;
use crate::handoff::Journals;
use crate::pipeline::Store;
use crate::pipeline::dead_letter::{Actor, DeadLetters, EnricherMaker, Shelf};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::persons::Desk;
use crate::segment::{Disk, RealDisk};
use crate::telemetry::metrics::Metrics;

/// The shelf of this data folder. To be opened once: it keeps in memory what the files say.
pub(super) fn shelf(config: &Config, clock: &Arc<dyn Clock>, metrics: &Metrics) -> anyhow::Result<Arc<Shelf>> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let folder = config.data_dir.join("dead-letters");
    let shelf = Shelf::open(disk, folder, config.dead_letter, Arc::clone(clock), metrics.refused());
    Ok(Arc::new(shelf.context("the folder of the dead letters cannot be used")?))
}

/// The operator's side of it; `store` belongs to the runtime of the control side.
pub(super) fn letters(
    shelf: &Arc<Shelf>,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    enricher: EnricherMaker,
    actor: Actor,
) -> Arc<DeadLetters> {
    Arc::new(DeadLetters::new(Arc::clone(shelf), Arc::clone(store), enricher, Arc::clone(clock), actor))
}

/// What is kept of one person; `store` belongs to the runtime of the control side.
pub(super) fn persons(
    letters: &Arc<DeadLetters>,
    store: &Arc<dyn Store>,
    ledger: &Arc<Ledger>,
    journals: Journals,
    addresses: Keeping,
    (clock, actor): (&Arc<dyn Clock>, Actor),
) -> Arc<Desk> {
    let (store, ledger, letters, clock) =
        (Arc::clone(store), Arc::clone(ledger), Arc::clone(letters), Arc::clone(clock));
    Arc::new(Desk { store, ledger, letters, journals, addresses, clock, actor, work: tokio::sync::Mutex::default() })
}
