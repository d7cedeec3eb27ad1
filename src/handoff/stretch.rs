//! Stretches: a core's journal in parts that are followed apart, so that clicks of now do not wait behind those of an
//! outage.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::follower::Source;
use super::waiting::Measured;
use super::{Checkpoint, Follower, Orphan};
use crate::failpoint::{self, Point};
use crate::segment::{Position, file_name, parse_file_name};
use crate::telemetry::metrics::WorkerShard;

/// A part of one core's journal with a checkpoint of its own: whole segments, one behind the other. A journal is one
/// stretch, until the live cursor falls far behind and [cuts](Follower::cut) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Edge thread that wrote it.
    pub core: u32,
    /// Segment that it began with: its name.
    pub first_seq: u32,
    /// First segment left.
    pub lowest_seq: u32,
    /// Last segment left.
    pub last_seq: u32,
}

impl Orphan {
    /// What is left in it, oldest first for each core. A stretch without a segment is finished.
    ///
    /// # Errors
    /// The system's.
    pub fn stretches(&self) -> io::Result<Vec<Stretch>> {
        let (mut segments, mut starts) = (BTreeMap::<u32, BTreeSet<u32>>::new(), BTreeSet::<(u32, u32)>::new());
        for entry in self.disk().list(self.folder())? {
            let Some(name) = entry.name.to_str() else { continue };
            if let Some((core, seq)) = parse_file_name(name) {
                segments.entry(core).or_default().insert(seq);
            }
            starts.extend(Checkpoint::parse_file_name(name));
        }
        // Segments below every checkpoint: theirs is lost, and nothing says that they are finished.
        for (core, seqs) in &segments {
            let Some(lowest) = seqs.first().map(|seq| (*core, *seq)) else { continue };
            if starts.range(..=lowest).next_back().is_none_or(|start| start.0 != *core) {
                starts.insert(lowest);
            }
        }
        let mut stretches = Vec::new();
        for &(core, first_seq) in &starts {
            let next = starts.range((core, first_seq + 1)..).next().filter(|next| next.0 == core);
            let end = next.map_or(u32::MAX, |next| next.1);
            let Some(seqs) = segments.get(&core) else { continue };
            let mut within = seqs.range(first_seq..end);
            if let Some(&lowest_seq) = within.next() {
                let last_seq = within.next_back().copied().unwrap_or(lowest_seq);
                stretches.push(Stretch { core, first_seq, lowest_seq, last_seq });
            }
        }
        Ok(stretches)
    }
}

impl Orphan {
    /// What is left in it, each with its checkpoint and the note there.
    ///
    /// # Errors
    /// The system's.
    pub fn notes(&self) -> io::Result<Vec<(Stretch, Position, Vec<u8>)>> {
        let noted = |stretch: Stretch| {
            let checkpoint = Checkpoint::open(&**self.disk(), self.folder(), stretch.core, stretch.first_seq)?;
            Ok((stretch, checkpoint.position(), checkpoint.note().to_vec()))
        };
        self.stretches()?.into_iter().map(noted).collect()
    }
}

impl Follower {
    /// Follows one stretch of an earlier run, from its checkpoint on.
    ///
    /// # Errors
    /// The system's.
    pub fn orphan(orphan: &Orphan, of: Stretch, metrics: Arc<WorkerShard>) -> io::Result<Self> {
        let (disk, folder) = (Arc::clone(orphan.disk()), orphan.folder().to_owned());
        // What was found before the last stop.
        let marks = disk.list(&folder)?.into_iter().filter_map(|entry| marked(entry.name.to_str()?, of.core));
        let damaged = marks.filter(|seq| (of.first_seq..=of.last_seq).contains(seq)).collect();
        let checkpoint = Checkpoint::open(&*disk, &folder, of.core, of.first_seq)?;
        let mut follower = Self {
            disk,
            folder,
            core: of.core,
            origin: of.first_seq,
            source: Source::Past { last_seq: of.last_seq, shared: None, counted_to: Position::from_u64(0) },
            next: checkpoint.position().max(Position::start_of(of.lowest_seq)),
            reader: None,
            first_seq: of.lowest_seq,
            checkpoint,
            metrics,
            damaged,
            failed_reads: 0,
            measured: None,
        };
        follower.measured = Measured::of(&follower);
        Ok(follower)
    }

    /// When the live cursor lies this many segments or more behind what is being written: gives all but the current
    /// segment away, and goes on at its start. What was taken up and is not finished belongs to the new follower, which
    /// starts at the checkpoint. `None` when it is not so far behind, or not live, or its checkpoint could not be written.
    /// Blocks: it makes a file.
    ///
    /// # Errors
    /// The system's; nothing has changed then.
    pub fn cut(&mut self, segments_behind: u32) -> io::Result<Option<Self>> {
        let Source::Live { shared, .. } = &self.source else { return Ok(None) };
        let first_seq = Position::from_u64(shared.written.load(Ordering::Acquire)).seq;
        if first_seq < self.next.seq.saturating_add(segments_behind.max(1)) {
            return Ok(None);
        }
        // Whoever takes the past up removes the intents below its checkpoint: these must not be wanted by a restart.
        if !self.checkpoint.is_written() {
            return Ok(None);
        }
        // From here on a restart knows two stretches.
        let checkpoint = Checkpoint::open(&*self.disk, &self.folder, self.core, first_seq)?;
        shared.behind.fetch_add(1, Ordering::Release);
        let shared = Some(Arc::clone(shared));
        let mut past = Self {
            disk: Arc::clone(&self.disk),
            folder: self.folder.clone(),
            core: self.core,
            origin: std::mem::replace(&mut self.origin, first_seq),
            source: Source::Past { last_seq: first_seq - 1, shared, counted_to: self.next },
            next: self.checkpoint.position(),
            reader: None,
            first_seq: std::mem::replace(&mut self.first_seq, first_seq),
            checkpoint: std::mem::replace(&mut self.checkpoint, checkpoint),
            metrics: Arc::clone(&self.metrics),
            damaged: std::mem::take(&mut self.damaged),
            failed_reads: 0,
            measured: None,
        };
        past.measured = Measured::of(&past);
        self.go_to_segment(first_seq);
        Ok(Some(past))
    }

    /// The positions of its stretch.
    #[must_use]
    pub fn extent(&self) -> Range<Position> {
        let end = match self.source {
            Source::Live { .. } => Position::from_u64(u64::MAX),
            Source::Past { last_seq, .. } => Position::start_of(last_seq.saturating_add(1)),
        };
        Position::start_of(self.origin)..end
    }

    /// Notes that everything before `end` is finished, with a note that belongs to it, and removes segments that lie
    /// wholly below; those with damage are put aside. Blocks.
    ///
    /// # Errors
    /// The system's; nothing is removed then.
    pub fn finish_up_to(&mut self, end: Position, note: &[u8]) -> io::Result<()> {
        self.checkpoint.advance(end, note)?;
        if let Source::Live { shared, .. } = &self.source {
            shared.finished.store(end.to_u64(), Ordering::Release);
        }
        if let Some(measured) = &self.measured {
            measured.update(&*self.disk, &self.folder, self.core, end);
        }
        failpoint::hit(Point::Checkpoint);
        self.remove_below(end.seq)
    }

    /// Removes what a finished stretch of the past leaves: its segments, and then its checkpoint. Blocks.
    ///
    /// # Errors
    /// The system's; what is left is removed with the folder.
    pub fn remove(mut self) -> io::Result<()> {
        let Source::Past { last_seq, .. } = self.source else { return Ok(()) };
        self.remove_below(last_seq.saturating_add(1))?;
        self.checkpoint.remove(&*self.disk)?;
        if let Source::Past { shared: Some(shared), .. } = &self.source {
            shared.behind.fetch_sub(1, Ordering::Release);
        }
        Ok(())
    }

    fn remove_below(&mut self, seq: u32) -> io::Result<()> {
        let shared = match &self.source {
            Source::Live { shared, .. } | Source::Past { shared: Some(shared), .. } => Some(shared),
            Source::Past { shared: None, .. } => None,
        };
        while self.first_seq < seq {
            let _names = shared.map(|shared| shared.names.lock().unwrap_or_else(PoisonError::into_inner));
            let path = self.folder.join(file_name(self.core, self.first_seq));
            let removed = if self.damaged.contains(&self.first_seq) {
                self.disk.rename(&path, &self.folder.join(mark(self.core, self.first_seq)))
            } else {
                self.disk.unlink(&path)
            };
            match removed {
                Ok(()) => failpoint::hit(Point::Unlink),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.first_seq += 1;
            if let Some(shared) = shared {
                shared.removed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// The mark of a segment with damage, and its name when it is put aside.
pub(super) fn mark(core: u32, seq: u32) -> String {
    format!("{}.damaged", file_name(core, seq))
}

/// The segment of this core that a file marks.
fn marked(name: &str, core: u32) -> Option<u32> {
    parse_file_name(name.strip_suffix(".damaged")?).filter(|(of, _)| *of == core).map(|(_, seq)| seq)
}
