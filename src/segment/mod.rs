//! L1: the on-disk log: append-only files of checksummed records.
//!
//! ```text
//! segment file          <run>/<core>-<seq>.seg
//! +--------------------+
//! | header   256 bytes |  magic, version, core, seq, created, node, crc
//! +--------------------+
//! | note of an end     |  type 3, only where the segment before could not be sealed: the offset u32 where it ended
//! | record             |  payload length u32 | crc u32 | type u8 | payload
//! | record             |  crc32 over (seq, offset of the record, type, payload)
//! | ...                |
//! | seal record        |  type 2, no payload: nothing follows here, go on with seq + 1
//! +--------------------+
//! | zeros              |  allocated ahead, so that an append cannot fail for want of space
//! +--------------------+
//! ```
//!
//! # The life of a record
//!
//! 1. It is encoded with its place ([`Position`]) into a group: [`append_record`].
//! 2. The group is written with one call at the end of the segment, and the end moves over the records that were written
//!    whole: [`Writer::append`]. A record counts when it lies before that end; this is what an acknowledgement promises.
//! 3. Another thread forces the file: [`DiskFile::sync`]. From here on a power cut does not take it.
//! 4. A [`Reader`] gives it out again, as often as it is asked.
//! 5. The segment is removed by its owner when all its records are finished. Nothing here deletes; [`blank()`] takes single
//!    clicks out that are finished, and leaves records of zeros.
//!
//! # Invariants
//!
//! - What counts is read back exactly once for each pass, in order. Nothing is read that was never encoded: the checksum
//!   covers sequence and offset, so bytes left over from another place or file are no record.
//! - The end moves forwards, over whole records. What a failed write left behind it is overwritten by the next group.
//! - A length is bounded before anything is allocated; no content of a file makes a reader panic or stop the start.
//! - One thread writes each core's segments. All files are made, forced and removed by other threads than that.
//! - Everything goes through a [`Disk`], so that tests run the same code on one that fails.
//!
//! # What each fault does
//!
//! | fault | what happens | what is lost |
//! |---|---|---|
//! | short write, no space | the records written whole count, the others do not; the next group overwrites the rest | nothing that counts |
//! | write error | the same; a record that was written in spite of the error may be read after a restart, and is not read before by who was told how far the segment counts | nothing that counts |
//! | no space for the next segment | the current one goes on over its mark; the keeper tries again each second | nothing |
//! | sync error | reported; the system may have dropped what was written since the last sync, and a later sync says nothing of it: the segment is left and written anew, see [`rewrite()`]; what cannot be read back is counted and reported as possibly lost | a power cut before it is written anew: what was not forced; else what could not be read back |
//! | power cut while it is written anew | the next start finds the old file or the new one, whole | what was not forced |
//! | no space for the seal | the next segment begins with a note of where this one ended | nothing |
//! | process killed | the next start reads on behind the checkpoint | nothing that counts |
//! | power cut | the next start reads what was forced, and of the rest what is whole | what was not forced |
//! | torn end | left alone: the next start writes into a new folder | nothing that was forced |
//! | flipped bits, lost pages | skipped to the next valid record of the segment; counted, reported with place and length; the segment is kept as `.damaged` | the records hit |
//! | damaged header | the records are read all the same; counted, reported, kept | nothing |
//! | read error | the cursor stays, and the read is tried again | nothing |
//! | read error that stays | after some tries skipped like flipped bits, in steps of 4 KiB | the records that touch it |

mod blank;
mod disk;
mod format;
mod reader;
mod rewrite;
mod writer;

pub use blank::{Found, blank, find};
pub use disk::{Disk, DiskFile, Entry, Lock, Open, RealDisk, read_again};
pub use format::{Header, Kind, Position, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, append_record, records};
pub use reader::{Next, Reader, noted_end};
pub use rewrite::{replace, rewrite};
pub use writer::{Appended, Writer, create, file_name, parse_file_name};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::path::{Path, PathBuf};

    use bytes::{BufMut as _, Bytes, BytesMut};
    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

    use super::*;
    use crate::testing::{Fault, FaultDisk};

    const JOURNAL: &str = "/journal";
    const SEGMENT_BYTES: u32 = 4096;

    fn payload(id: u64, bytes: usize) -> Vec<u8> {
        let mut payload = id.to_le_bytes().to_vec();
        // Full of what could be a length or a type.
        payload.extend((0..bytes).map(|n| (id as usize + n) as u8 % 3));
        payload
    }

    fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
        (0..1_000).find_map(|_| call().ok()).expect("faults end")
    }

    fn open(disk: &FaultDisk, folder: &Path, seq: u32) -> Reader {
        retry(|| Reader::open(disk, &folder.join(file_name(0, seq)), 0, Position::start_of(seq)))
    }

    /// Reads to the end: the payloads, whether a seal stood there, and how often something was skipped.
    fn read(reader: &mut Reader) -> (Vec<Bytes>, bool, usize) {
        let (mut payloads, mut skips) = (Vec::new(), 0);
        loop {
            match retry(|| reader.read()) {
                Next::Click(payload, _) => payloads.push(payload),
                Next::Sealed => return (payloads, true, skips),
                Next::Invalid { .. } if retry(|| reader.skip()).is_none() => return (payloads, false, skips),
                Next::Invalid { .. } => skips += 1,
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Group(Vec<usize>),
        Sync,
        NextSegment,
        Fail(Fault),
        Space(u64),
        /// The process ends; what the system has in memory stays.
        Kill,
        Crash,
    }

    fn steps() -> impl Strategy<Value = (u64, bool, Vec<Step>)> {
        let fault = prop_oneof![
            3 => Just(Fault::ShortWrite),
            1 => Just(Fault::Full),
            1 => Just(Fault::WriteError),
            1 => Just(Fault::SyncError),
            1 => Just(Fault::ReadError),
        ];
        let step = prop_oneof![
            10 => prop::collection::vec(0_usize..900, 1..5).prop_map(Step::Group),
            3 => Just(Step::Sync),
            2 => Just(Step::NextSegment),
            4 => fault.prop_map(Step::Fail),
            1 => prop_oneof![Just(0), 1..3_000_u64, Just(u64::MAX)].prop_map(Step::Space),
            1 => Just(Step::Kill),
            1 => Just(Step::Crash),
        ];
        (any::<u64>(), any::<bool>(), prop::collection::vec(step, 1..80))
    }

    /// A record as the model knows it.
    struct Pushed {
        seq: u32,
        payload: Vec<u8>,
        kept: bool,
        forced: bool,
        /// A sync failed over it: nobody knows.
        doubtful: bool,
    }

    type Append = fn(&mut Writer, &[u8]) -> usize;

    struct Log {
        disk: FaultDisk,
        append: Append,
        runs: u32,
        folder: PathBuf,
        writers: Vec<Writer>,
        next_id: u64,
        pushed: BTreeMap<u64, Pushed>,
        write_errors: bool,
    }

    impl Log {
        fn new(seed: u64, allocates: bool, append: Append) -> Self {
            let disk = FaultDisk::new(seed);
            disk.set_allocates(allocates);
            let (folder, writers, pushed) = (PathBuf::new(), Vec::new(), BTreeMap::new());
            let mut log = Self { disk, append, runs: 0, folder, writers, next_id: 0, pushed, write_errors: false };
            log.begin();
            log
        }

        fn begin(&mut self) {
            self.disk.set_space_left(u64::MAX);
            self.runs += 1;
            self.folder = Path::new(JOURNAL).join(self.runs.to_string());
            self.pushed.clear();
            self.disk.make_folder(&self.folder).unwrap();
            self.writers = vec![retry(|| self.make(0))];
            for folder in ["/", JOURNAL] {
                retry(|| self.disk.sync_dir(Path::new(folder)));
            }
        }

        fn make(&self, seq: u32) -> io::Result<Writer> {
            let header = Header { core: 0, seq, created_ms: 0, node: "n".into() };
            create(&self.disk, &self.folder, &header, SEGMENT_BYTES)
        }

        fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
            match step {
                Step::Group(lengths) => self.push(&lengths),
                Step::Sync => self.sync(),
                Step::NextSegment => {
                    if let Ok(next) = self.make(self.writers.len() as u32) {
                        self.writers.last_mut().unwrap().seal();
                        self.writers.push(next);
                    }
                }
                Step::Fail(fault) => {
                    self.write_errors |= fault == Fault::WriteError;
                    self.disk.fail_next(fault);
                }
                Step::Space(bytes) => self.disk.set_space_left(bytes),
                Step::Kill => {
                    self.check(|pushed| pushed.kept)?;
                    self.begin();
                }
                Step::Crash => {
                    self.disk = self.disk.crash();
                    self.check(|pushed| pushed.kept && pushed.forced)?;
                    // Planned faults do not outlive a crash; they do outlive a kill.
                    self.write_errors = false;
                    self.begin();
                }
            }
            Ok(())
        }

        fn push(&mut self, lengths: &[usize]) {
            let writer = self.writers.last_mut().unwrap();
            let (start, mut group, mut ends) = (writer.end(), BytesMut::new(), Vec::new());
            for length in lengths {
                let payload = payload(self.next_id, *length);
                append_record(&mut group, start, Kind::Click, |out| out.put_slice(&payload));
                ends.push((self.next_id, payload, group.len()));
                self.next_id += 1;
            }
            let bytes = (self.append)(writer, &group);
            for (id, payload, end) in ends {
                let pushed = Pushed { seq: start.seq, payload, kept: end <= bytes, forced: false, doubtful: false };
                self.pushed.insert(id, pushed);
            }
        }

        fn sync(&mut self) {
            for (seq, writer) in self.writers.iter().enumerate() {
                let forced = writer.file().sync().is_ok();
                let of_file = self.pushed.values_mut().filter(|p| p.seq == seq as u32 && !p.forced);
                of_file.for_each(|pushed| match forced {
                    true => pushed.forced = !pushed.doubtful,
                    false => pushed.doubtful = true,
                });
            }
        }

        /// Reads the folder of the run as the next start would.
        fn check(&self, must_be_there: impl Fn(&Pushed) -> bool) -> Result<(), TestCaseError> {
            let names = self.disk.list(&self.folder).unwrap();
            let seqs: BTreeSet<_> = names.iter().filter_map(|e| parse_file_name(e.name.to_str()?)).collect();
            let readings = seqs.into_iter().map(|(_, seq)| read(&mut open(&self.disk, &self.folder, seq)));
            let (mut found, mut skips) = (Vec::new(), 0);
            for (payloads, _, skipped) in readings {
                found.extend(payloads);
                skips += skipped;
            }
            let damaged = self.write_errors || self.pushed.values().any(|pushed| pushed.doubtful);
            prop_assert!(skips == 0 || damaged, "damage where none was done");
            let (mut seen, mut last_kept) = (BTreeSet::new(), None);
            for payload in found {
                let id = u64::from_le_bytes(payload[..8].try_into().unwrap());
                let Some(pushed) = self.pushed.get(&id).filter(|pushed| pushed.payload == payload) else {
                    return Err(TestCaseError::fail(format!("{id} was never pushed")));
                };
                prop_assert!(seen.insert(id), "{id} is read twice");
                prop_assert!(pushed.kept || self.write_errors, "{id} was refused, and is read");
                if pushed.kept {
                    prop_assert!(last_kept < Some(id), "{id} is out of order");
                    last_kept = Some(id);
                }
            }
            let missing: Vec<_> = self.pushed.iter().filter(|(id, p)| must_be_there(p) && !seen.contains(id)).collect();
            prop_assert!(missing.is_empty(), "lost: {:?}", missing.iter().map(|(id, _)| id).collect::<Vec<_>>());
            Ok(())
        }
    }

    fn holds_with(append: Append) -> Result<(), TestError<(u64, bool, Vec<Step>)>> {
        let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng).run(&steps(), |(seed, allocates, steps)| {
            let mut log = Log::new(seed, allocates, append);
            steps.into_iter().chain([Step::Kill]).try_for_each(|step| log.step(step))
        })
    }

    #[test]
    fn what_counts_is_read_exactly_once_whatever_the_disk_does() {
        if let Err(error) = holds_with(|writer, group| writer.append(group).bytes) {
            panic!("{error}");
        }
    }

    #[test]
    fn a_writer_that_passes_over_a_short_write_is_caught() {
        let found = holds_with(Writer::append_blindly).expect_err("the property sees it");
        assert!(matches!(found, TestError::Fail(..)), "{found}");
    }

    #[test]
    fn a_file_cut_at_any_byte_or_with_any_bit_flipped_gives_all_other_records() {
        let mut log = Log::new(1, true, |writer, group| writer.append(group).bytes);
        log.push(&[5, 0, 700]);
        assert!(log.writers[0].seal().error.is_none());
        let (disk, path) = (log.disk.clone(), log.writers[0].path().to_owned());
        let expected: Vec<_> = log.pushed.values().map(|pushed| pushed.payload.clone()).collect();
        let mut ends = vec![SEGMENT_HEADER_BYTES as usize];
        ends.extend(expected.iter().scan(ends[0], |end, payload| {
            *end += RECORD_HEADER_BYTES + payload.len();
            Some(*end)
        }));
        let seal_end = ends[3] + RECORD_HEADER_BYTES;
        for bit in 0..seal_end * 8 {
            disk.flip(&path, bit as u64).unwrap();
            let mut reader = open(&disk, &log.folder, 0);
            let (found, sealed, skips) = read(&mut reader);
            let hit = ends.windows(2).position(|ends| (ends[0]..ends[1]).contains(&(bit / 8)));
            let others: Vec<_> = (0..3).filter(|n| Some(*n) != hit).map(|n| expected[n].clone()).collect();
            assert_eq!(found, others, "bit {bit}");
            assert_eq!((reader.header_is_valid(), sealed), (bit / 8 >= ends[0], bit / 8 < ends[3]), "bit {bit}");
            assert_eq!(skips, usize::from(hit.is_some()), "bit {bit}");
            disk.flip(&path, bit as u64).unwrap();
        }
        let file = disk.open(&path, Open::Any).unwrap();
        for cut in (0..seal_end).rev() {
            file.truncate(cut as u64).unwrap();
            let whole = ends[1..].iter().filter(|end| **end <= cut).count();
            let (found, sealed, skips) = read(&mut open(&disk, &log.folder, 0));
            assert_eq!(found, expected[..whole], "cut at {cut}");
            assert_eq!((sealed, skips), (false, 0), "cut at {cut}");
        }
    }
}
