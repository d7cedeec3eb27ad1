//! The decoder of clicks: `trellis::testing::fuzz::frame`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = trellis::testing::fuzz::frame(input);
});
