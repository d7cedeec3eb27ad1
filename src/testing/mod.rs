//! L4: parts for tests, behind the feature `testing`: a clock that is set by hand, a store and a deduper that follow a
//! script, a disk that fails, books in memory, a plain click, small files of places, and what a fuzzer calls.
//!
//! Never part of a service. Tests in `tests/` make them and hand them to `app` or to a worker in the place of the real
//! ones. Bound: a [`ScriptedStore`] keeps everything it was given.

mod books;
mod click;
mod clock;
mod deduper;
mod disk;
mod disk_file;
mod disk_image;
mod disk_names;
pub mod fuzz;
mod mmdb;
mod store;

pub use books::MemoryBooks;
pub use click::click;
pub use clock::ManualClock;
pub use deduper::ScriptedDeduper;
pub use disk::{Fault, FaultDisk};
pub use mmdb::mmdb;
pub use store::{Outcome, ScriptedStore};
