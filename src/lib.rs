//! Trellis answers tracked links and records every click.
//!
//! # The life of a click
//!
//! ```text
//!            the visitor is waiting                        the visitor is gone
//!  accept -> head -> resolve -> HANDOFF -> respond    worker -> dedup -> batch -> store -> checkpoint
//!  (edge/)           (catalog, in memory)    |  ^         (pipeline/)               |
//!                                            v  |                              waits and retries
//!                                     journal + bounded queue
//! ```
//!
//! 1. An **edge** thread accepts a connection and reads a request head within its limits.
//! 2. It **resolves** the slug in the [`catalog`]: one look-up in memory (two where links belong to the
//!    domain that was asked), no lock, no I/O.
//! 3. **Handoff**: what [privacy](click::privacy) does not leave to the click is taken away, from the destination too, and
//!    the click is encoded once into a [frame](click::frame). All clicks of one turn of the event loop are
//!    one *group*: one `write` to this thread's journal, one entry in its bounded queue.
//! 4. When the group is written, and not before, the edge **responds** with `X-Click-Id`. A click that the journal could
//!    not take is redirected without that header and counted as `untracked`: nothing was promised.
//! 5. A **worker** thread follows the journal by a cursor, using the queue's copies where they continue it and reading
//!    the journal where they do not. Overflow, outage and restart are the same path.
//! 6. It **enriches** (country, browser, system, device, class with reasons and score) and asks the **deduper** for a
//!    label. Every click is stored, with its label; none is dropped.
//! 7. Clicks gather into **batches** of one month. A batch is frozen on disk by an **intent** (its range, its labels)
//!    before it is sent, and goes to the **store** with its id as token, again and again, the same bytes, until the store
//!    has it. Where an answer was lost or the process restarted, its rows are looked for before they are sent again.
//! 8. The **checkpoint** moves over finished batches, and journal segments and intents below it are removed. It carries
//!    what the **ledger** then knows of these clicks: nothing vanishes without being told.
//!
//! # What may be lost
//!
//! `kill -9` loses no acknowledged click: it is in the journal, and the next start takes it up. A power cut may lose
//! what `journal.sync` had not forced to the disk: at the default, the last 50 ms and one sync. A crash between an insert
//! and its checkpoint sends no row again: the frozen batch is found in the store.
//!
//! # The layers
//!
//! `click`, `clock`, `failpoint` (0) use nothing; `config`, `telemetry`, `segment` (1) use 0; `catalog`, `handoff` (2) use
//! those and not each other; `edge` and `pipeline` (3) meet only in `handoff`; `backend`, `control`, `testing` (4) are blind
//! to each other and to `edge`; [`app`] puts the parts together, and [`cli`] speaks to people. A test enforces it.
//!
//! Nothing under `edge` can name Redis, ClickHouse, a database or a worker. `click` cannot block or read the time.

pub mod app;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod click;
pub mod clock;
pub mod config;
pub mod control;
pub mod edge;
pub mod failpoint;
pub mod handoff;
pub mod pipeline;
pub mod segment;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// A boxed future, the return type of ports: they are called once a batch or refresh, so the box costs nothing that
/// counts.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The version in `--version`, in the build info metric and in start-up lines.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
