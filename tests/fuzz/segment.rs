//! The parser of journal segments: `trellis::testing::fuzz::Segments::read`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trellis::testing::fuzz::Segments;

thread_local! {
    static SEGMENTS: Segments = Segments::new();
}

fuzz_target!(|input: &[u8]| {
    SEGMENTS.with(|segments| segments.read(input));
});
