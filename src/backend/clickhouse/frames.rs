//! ClickHouse's compressed frames: what an HTTP body holds under `decompress=1`. Pure; called when a batch is sealed.
//!
//! ```text
//! offset  size  field
//!      0    16  CityHash128 (version 1.0.2) of everything behind it, the upper half first
//!     16     1  method: 0x82 LZ4
//!     17     4  bytes from the method on
//!     21     4  bytes of the content
//!     25     …  LZ4 block
//! ```
//! All numbers are little-endian. The `clickhouse` crate has the same inside, but gives no way to keep the bytes for a
//! second try.

use lz4_flex::block;

/// Content at which a frame is closed: rows and hash table stay in the second-level cache.
pub(super) const CONTENT_BYTES: usize = 256 * 1024;

const CHECKSUM_BYTES: usize = 16;
const HEAD_BYTES: usize = CHECKSUM_BYTES + 9;
const LZ4: u8 = 0x82;

/// Appends `content`, which must have less than 2 GiB, as one frame.
pub(super) fn append(content: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEAD_BYTES + block::get_maximum_output_size(content.len()), 0);
    let frame = &mut out[start..];
    let packed = block::compress_into(content, &mut frame[HEAD_BYTES..])
        .expect("the room is what LZ4 can need at most for this content");
    let (checksum, rest) = frame[..HEAD_BYTES + packed].split_at_mut(CHECKSUM_BYTES);
    let rest_bytes = size(rest.len());
    rest[0] = LZ4;
    rest[1..5].copy_from_slice(&rest_bytes.to_le_bytes());
    rest[5..9].copy_from_slice(&size(content.len()).to_le_bytes());
    checksum.copy_from_slice(&cityhash_rs::cityhash_102_128(rest).rotate_left(64).to_le_bytes());
    out.truncate(start + HEAD_BYTES + packed);
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a frame holds some rows: far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_bytes_that_clickhouse_expects() {
        let content = [1_u8, 0, 2, 255, 255, 255, 255, 0, 1, 1, 1, 115, 6, 83, 116, 114, 105, 110, 103, 3, 97, 98, 99];
        let expected = [
            245_u8, 5, 222, 235, 225, 158, 59, 108, 225, 31, 65, 215, 66, 66, 36, 92, 130, 34, 0, 0, 0, 23, 0, 0, 0,
            240, 8, 1, 0, 2, 255, 255, 255, 255, 0, 1, 1, 1, 115, 6, 83, 116, 114, 105, 110, 103, 3, 97, 98, 99,
        ];
        let mut out = vec![7];
        append(&content, &mut out);
        assert_eq!(out[1..], expected);
    }

    proptest::proptest! {
        #[test]
        fn content_survives(content in proptest::collection::vec(0_u8..4, 0..3000)) {
            let mut out = Vec::new();
            append(&content, &mut out);
            let sizes = (u32::from_le_bytes(out[17..21].try_into().unwrap()), u32::from_le_bytes(out[21..25].try_into().unwrap()));
            proptest::prop_assert_eq!(sizes, (out.len() as u32 - 16, content.len() as u32));
            let unpacked = block::decompress(&out[HEAD_BYTES..], content.len()).unwrap();
            proptest::prop_assert_eq!(unpacked, content);
        }
    }
}
