//! The ledger of the world's node: its books outlive every life, and balance in the end.

use std::sync::Arc;

use trellis::clock::Clock;
use trellis::handoff::{Orphan, Run};
use trellis::pipeline::dead_letter::Shelf;
use trellis::pipeline::ledger::{Ledger, Line};
use trellis::telemetry::metrics::Metrics;
use trellis::testing::MemoryBooks;

use crate::node::Node;
use crate::store::SimStore;

/// Opens it as `app` does.
pub(crate) fn open(
    books: &MemoryBooks,
    shelf: &Arc<Shelf>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    orphans: &[Orphan],
) -> std::io::Result<Arc<Ledger>> {
    let books = Box::new(books.clone());
    let ledger = Ledger::open(books, "n", Arc::clone(shelf), Arc::clone(clock), metrics.ledger()).expect("books");
    orphans.iter().try_for_each(|orphan| ledger.adopt_run(orphan))?;
    Ok(Arc::new(ledger))
}

pub(crate) fn begin_run(ledger: &Ledger, run: &Run, metrics: &Metrics, cores: usize) {
    ledger.begin_run(run.folder(), (0..cores).map(|core| metrics.edge(core))).expect("books");
}

/// With everything at its end: each minute balances, and together they say what the store has.
pub(crate) fn check(node: &Node, store: &SimStore) -> Result<(), String> {
    let lines = node.ledger.lines(0..u64::MAX).map_err(|error| error.to_string())?;
    if let Some(line) = lines.iter().find(|line| line.residual() != 0 || line.in_flight != 0) {
        return Err(format!("the ledger does not balance: {line:?}, residual {}", line.residual()));
    }
    let mut total = Line::default();
    lines.iter().for_each(|line| total.add(line));
    let stored = store.raw().len() as u64;
    if total.stored != stored || total.accepted != stored {
        return Err(format!("the store has {stored} clicks, and the ledger says {total:?}"));
    }
    Ok(())
}
