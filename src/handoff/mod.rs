//! L2: the door between the visitor who waits and the visitor who is gone. The only place where `edge` and `pipeline`
//! meet.
//!
//! ```text
//!  edge thread                                          worker thread
//!  Intake: push(click) -> Ticket                        Follower: poll() -> clicks, in order, each once
//!     | one write a turn of the event loop                 ^            ^
//!     +--> journal (segments on disk) --- read when behind +            |
//!     +--> bounded queue (the same bytes) ------------------------------+
//!  Keeper thread: makes the next segment, forces the disk, writes anew what could not be forced
//! ```
//!
//! The rules:
//! - A click is kept when its whole record lies before `written`. Its [`Ticket`] says so, and only then does the visitor
//!   get an `X-Click-Id`. With `journal.sync = "always"` it must have been forced too; a click that was written and could
//!   not be forced is answered without an id, although it goes on and may be stored: the ledger has it as accepted.
//! - A group is offered to the queue *before* `written` moves over it. So a follower that finds the queue empty after it
//!   read `written` knows that what is missing will not come that way, and reads the journal.
//! - The follower's cursor only moves forwards: what lies below it is skipped, what continues it is used, anything else
//!   means reading the journal. There is no flag and no mode.
//! - The edge thread never opens, forces or removes a file. It writes.
//! - A file whose sync failed is never forced again. The edge thread goes on in the next segment, and the keeper writes the
//!   one it left anew: see [`crate::segment::rewrite()`].
//! - A follower that fell whole segments behind (the store was away) can be cut in two: one goes on with the segment that is
//!   being written, the other brings the rest. Each is a [`Stretch`] with a checkpoint of its own.
//!
//! Bounds: `queue.groups_max`, `queue.bytes_max`; `journal.max_bytes` and `journal.min_free_bytes`: at a cap no further
//! segment is made, and when the current one is full, clicks are refused until the follower has removed others.

mod checkpoint;
mod follower;
mod intake;
mod journals;
mod keeper;
mod range;
mod run;
mod stretch;
mod upkeep;
mod waiting;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::Notify;

pub use checkpoint::{Checkpoint, NOTE_BYTES_MAX};
pub use follower::{Follower, Item, Step};
pub use intake::{Intake, Ticket};
pub use journals::Journals;
pub use keeper::Keeper;
pub use range::read_range;
pub use run::{Doors, IntakeMaker, Orphan, Run};
pub use stretch::Stretch;
pub use upkeep::Upkeep;

use crate::segment::{Disk, DiskFile, Position, Writer};

/// What one turn of an edge thread's event loop accepted: one write, one entry in the queue.
#[derive(Clone, Debug)]
pub struct Group {
    /// Where the group before it ended; in an earlier segment when this one begins a new one.
    after: Position,
    /// Where it stands.
    start: Position,
    /// Where it ends.
    end: Position,
    /// Its records.
    records: Bytes,
}

/// What the two sides of one core's journal share, and its keeper.
#[derive(Debug)]
struct Shared {
    core: u32,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// End of the last record that counts, as [`Position::to_u64`].
    written: AtomicU64,
    /// End of what is finished in the stretch that is being written, and noted so on the disk.
    finished: AtomicU64,
    /// Stretches that were cut off behind the live one and are not removed yet.
    behind: AtomicU32,
    /// Bytes in the queue.
    queued_bytes: AtomicU64,
    /// The edge thread has written its last group.
    closed: AtomicBool,
    /// A cap is reached: there will be no further segment for now.
    capped: AtomicBool,
    /// Segments that were removed.
    removed: AtomicU32,
    /// Held where a segment's file is removed or replaced, by the worker and the keeper.
    names: Mutex<()>,
    /// Segments below this one are not to be written any more: a sync failed.
    leave_below: AtomicU32,
    /// The keeper asks the edge thread to look here.
    attention: Notify,
    /// The keeper's thread, to be woken.
    keeper: OnceLock<std::thread::Thread>,
}

impl Shared {
    /// Wakes the keeper, if it has a thread.
    fn wake_keeper(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }
}

/// How far one segment of this run has come.
#[derive(Debug)]
struct Progress {
    seq: u32,
    file: Arc<dyn DiskFile>,
    /// Offset where it ends; 0 until the edge thread has left it, which it notes before it writes to the next one.
    end: AtomicU32,
    /// Offset up to which a power cut takes nothing.
    forced: AtomicU32,
    /// It could not be forced, nor written anew so far: nobody is to wait for it.
    given_up: AtomicBool,
}

impl Progress {
    fn of(writer: &Writer) -> Arc<Self> {
        Arc::new(Self {
            seq: writer.end().seq,
            file: Arc::clone(writer.file()),
            end: AtomicU32::new(0),
            forced: AtomicU32::new(writer.end().offset),
            given_up: AtomicBool::new(false),
        })
    }
}

/// A segment made ahead.
#[derive(Debug)]
struct Prepared {
    writer: Writer,
    progress: Arc<Progress>,
}
