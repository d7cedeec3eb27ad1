//! L1: the on-disk log: append-only files of checksummed records.
//!
//! ```text
//! segment file          <run>/<core>-<seq>.seg
//! +--------------------+
//! | header   256 bytes |  magic, version, core, seq, created, node, crc
//! +--------------------+
//! | record             |  payload length u32 | crc u32 | type u8 | payload
//! | record             |  crc32 over (seq, offset of the record, type, payload)
//! | ...                |
//! | seal record        |  type 2, no payload: nothing follows here, go on with seq + 1
//! +--------------------+
//! | zeros              |  allocated ahead, so that an append cannot fail for want of space
//! +--------------------+
//! ```
//!
//! The life of a record: it is encoded with its place ([`Position`]) into a group, the group is written with one call at
//! the end of the segment, and the end moves on. A record counts when it lies whole before that end. A write that fails
//! moves the end over the records that it wrote whole, and the next group overwrites the rest; the checksum covers
//! offset and sequence, so bytes left over from another place or file are no record.
//!
//! Invariants: the length is bounded before anything is allocated; a reader stops at the first record that is not valid
//! and never panics; nothing here deletes. Writers are single: one thread for each core's segments. Everything goes
//! through a [`Disk`], so that tests run the same code on one that fails.

mod disk;
mod format;
mod reader;
mod writer;

pub use disk::{Disk, DiskFile, Entry, Lock, Open, RealDisk};
pub use format::{Header, Kind, Position, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, append_record, records};
pub use reader::{Next, Reader};
pub use writer::{Appended, Writer, create, file_name, parse_file_name};
