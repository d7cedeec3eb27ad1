//! How much a stretch of the past still holds, for the shelf "backlog". Called when it is cut off or found, and with each
//! batch of it that is finished; reads a few blocks, and goes by what is written, not by what is valid.
//!
//! A segment's records lie one behind the other, and only zeros behind them: where they end is found by halves. How many
//! clicks that are is reckoned from the size of the next ones.

use std::path::Path;

use super::Follower;
use super::follower::Source;
use crate::click::frame;
use crate::segment::{Disk, Next, Open, Position, RECORD_HEADER_BYTES, Reader, SEGMENT_HEADER_BYTES, file_name};
use crate::telemetry::backlog::{Stretch, Waiting};

/// How exactly the end of a segment is found.
const BLOCK_BYTES: u64 = 4096;
/// Clicks whose size stands for that of all.
const SAMPLE_CLICKS: u64 = 100;

/// What waits in a stretch, and the gauge that says so.
#[derive(Debug)]
pub(super) struct Measured {
    gauge: Stretch,
    /// First segment in `ends`.
    first_seq: u32,
    /// Where the records of each segment end.
    ends: Vec<u32>,
}

impl Measured {
    /// Measures a stretch; `None` for the live one, in which nothing waits for long.
    pub(super) fn of(follower: &Follower) -> Option<Self> {
        let Source::Past { last_seq, .. } = follower.source else { return None };
        let from = follower.next;
        let end = |seq| records_end(&*follower.disk, &follower.folder.join(file_name(follower.core, seq)));
        let ends: Vec<_> = (from.seq..=last_seq).map(end).collect();
        let gauge = follower.metrics.backlog.count(Waiting::default());
        let measured = Self { gauge, first_seq: from.seq, ends };
        measured.update(&*follower.disk, &follower.folder, follower.core, from);
        Some(measured)
    }

    /// Everything before `from` is finished.
    pub(super) fn update(&self, disk: &dyn Disk, folder: &Path, core: u32, from: Position) {
        let left = |(seq, end): (u32, &u32)| {
            let begin = if seq == from.seq { from.offset } else { SEGMENT_HEADER_BYTES };
            if seq < from.seq { 0 } else { u64::from(end.saturating_sub(begin)) }
        };
        let bytes: u64 = (self.first_seq..).zip(&self.ends).map(left).sum();
        // The end of the last finished batch may be that of its segment.
        let sample = (from.seq..).take(2).find_map(|seq| {
            let at = if seq == from.seq { from } else { Position::start_of(seq) };
            sample(disk, &folder.join(file_name(core, seq)), core, at)
        });
        let waiting = match sample {
            Some((clicks, bytes_of_them, oldest_ms)) if bytes > 0 => {
                Waiting { rows: (bytes * clicks).div_ceil(bytes_of_them), bytes, oldest_ms }
            }
            _ => Waiting { bytes, ..Waiting::default() },
        };
        self.gauge.set(waiting);
    }
}

/// The first clicks from here on: how many, their bytes, the time of the first. What cannot be read has none.
fn sample(disk: &dyn Disk, path: &Path, core: u32, at: Position) -> Option<(u64, u64, u64)> {
    let mut reader = Reader::open(disk, path, core, at).ok()?;
    let (mut clicks, mut bytes, mut oldest_ms) = (0, 0, 0);
    while clicks < SAMPLE_CLICKS {
        let Ok(Next::Click(frame, _)) = reader.read() else { break };
        if clicks == 0 {
            oldest_ms = frame::unix_ms(&frame).unwrap_or(0);
        }
        clicks += 1;
        bytes += (frame.len() + RECORD_HEADER_BYTES) as u64;
    }
    (clicks > 0).then_some((clicks, bytes, oldest_ms))
}

/// Where the zeros at the end of a file begin, to a block; 0 for a file that cannot be read.
fn records_end(disk: &dyn Disk, path: &Path) -> u32 {
    let find = || -> std::io::Result<u64> {
        let file = disk.open(path, Open::Read)?;
        let length = file.length()?;
        // Bytes of a block up to its last one that is not zero.
        let used_of = |block: u64| {
            let mut bytes = vec![0; usize::try_from(BLOCK_BYTES.min(length - block * BLOCK_BYTES)).unwrap_or(0)];
            file.read_exact_at(&mut bytes, block * BLOCK_BYTES)?;
            Ok::<_, std::io::Error>(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
        };
        let (mut used, mut zeros) = (0, length.div_ceil(BLOCK_BYTES));
        while used < zeros {
            let block = used + (zeros - used) / 2;
            if used_of(block)? > 0 { used = block + 1 } else { zeros = block }
        }
        Ok(if used > 0 { (used - 1) * BLOCK_BYTES + used_of(used - 1)? } else { 0 })
    };
    // It is told of when it is read.
    find().map_or(0, |end| u32::try_from(end).unwrap_or(u32::MAX))
}
