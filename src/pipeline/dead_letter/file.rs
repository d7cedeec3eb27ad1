//! The one encoding of a refused batch on disk: text that a person can read, with a checksum over all of it. Pure.
//!
//! ```text
//! {"trellis":"refused","version":1,"crc32":"89abcdef"}      the first line; the checksum is over everything behind it
//! {                                                         JSON: the batch, its node, and for each row the click's id
//!   "batch": "0190…", "node": "edge-1", "rows": [ … ]       and time, its label, the store's code and reason, its state
//! }                                                         and, while it waits, its frame as hex digits
//! ```
//! `jq` reads both. A file that was changed by hand is a damaged one. Bound: [`FILE_BYTES_MAX`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Refusal, RefusedRow, RowState};
use crate::click::{ClickId, Reasons};
use crate::clock::rfc_3339;
use crate::pipeline::Label;

/// A file longer than this is none of ours: eight rows with the longest frames there can be have less than 9 MB.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 20;
const VERSION: u32 = 1;

/// A refused batch as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) refusal: Refusal,
    /// Numbers given to replays so far: no two sets of rows share an insert token.
    pub(super) replays: u32,
    /// The rows of the last replay, while it is not known how it ended. Sent again they keep its number.
    pub(super) sending: Vec<ClickId>,
    /// When its last row was stored or dropped, Unix milliseconds; `None` while one waits.
    pub(super) settled_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    trellis: String,
    version: u32,
    crc32: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    batch: String,
    node: String,
    replays: u32,
    sending: Vec<String>,
    settled_at_ms: Option<u64>,
    rows: Vec<BodyRow>,
}

#[derive(Serialize, Deserialize)]
struct BodyRow {
    click_id: String,
    /// For people: the id says it.
    #[serde(skip_deserializing)]
    time: String,
    state: RowState,
    label: String,
    /// Not in files of before anything was observed.
    #[serde(default)]
    observed: Vec<String>,
    code: u32,
    reason: String,
    refused_at_ms: u64,
    frame: Option<String>,
}

/// The file of a batch.
pub(super) fn encode(kept: &Kept) -> Vec<u8> {
    let row = |row: &RefusedRow| BodyRow {
        click_id: row.click_id.to_string(),
        time: rfc_3339(row.click_id.unix_ms()),
        state: row.state,
        label: row.label.name().to_owned(),
        observed: row.observed.names().map(str::to_owned).collect(),
        code: row.code,
        reason: row.reason.clone(),
        refused_at_ms: row.refused_at_ms,
        frame: (row.state == RowState::Waiting).then(|| hex(&row.frame)),
    };
    let body = Body {
        batch: kept.refusal.batch.to_string(),
        node: kept.refusal.node.clone(),
        replays: kept.replays,
        sending: kept.sending.iter().map(ToString::to_string).collect(),
        settled_at_ms: kept.settled_at_ms,
        rows: kept.refusal.rows.iter().map(row).collect(),
    };
    let body = serde_json::to_vec_pretty(&body).expect("texts and numbers into memory cannot fail");
    let crc32 = format!("{:08x}", crc32fast::hash(&body));
    let head = Head { trellis: "refused".into(), version: VERSION, crc32 };
    let mut file = serde_json::to_vec(&head).expect("texts and numbers into memory cannot fail");
    file.push(b'\n');
    file.extend_from_slice(&body);
    file
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(file: &[u8]) -> Result<Kept, String> {
    let end = file.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (head, body) = (&file[..end], &file[end + 1..]);
    let head: Head =
        serde_json::from_slice(head).map_err(|error| format!("its first line is none of ours: {error}"))?;
    if head.trellis != "refused" || head.version != VERSION {
        return Err(format!("it has the version {} of a {:?}, which is not known here", head.version, head.trellis));
    }
    if head.crc32 != format!("{:08x}", crc32fast::hash(body)) {
        return Err("its checksum does not fit".into());
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let sending: Result<_, _> = body.sending.iter().map(|id| id.parse()).collect();
    let rows: Option<_> = body.rows.into_iter().map(row).collect();
    Ok(Kept {
        refusal: Refusal {
            batch: body.batch.parse().map_err(|error| format!("its batch is none: {error}"))?,
            node: body.node,
            rows: rows.ok_or("a row in it is not complete")?,
        },
        replays: body.replays,
        sending: sending.map_err(|error| format!("an id in it is none: {error}"))?,
        settled_at_ms: body.settled_at_ms,
    })
}

fn row(row: BodyRow) -> Option<RefusedRow> {
    let frame = match (row.state, row.frame) {
        (RowState::Waiting, frame) => unhex(&frame?)?,
        (RowState::Stored | RowState::Dropped | RowState::Erased, _) => Vec::new(),
    };
    Some(RefusedRow {
        click_id: row.click_id.parse().ok()?,
        label: Label::ALL.into_iter().find(|label| label.name() == row.label)?,
        observed: Reasons::from_names(&row.observed)?.within(Reasons::OF_WORKER),
        code: row.code,
        reason: row.reason,
        frame: Bytes::from(frame),
        refused_at_ms: row.refused_at_ms,
        state: row.state,
    })
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn kept() -> Kept {
        let row = |n: u8, state| RefusedRow {
            click_id: ClickId::new(1_700_000_000_000, &[n; 10]),
            label: Label::ALL[usize::from(n) % 3],
            observed: Reasons::from_worker_bits(n),
            code: 469,
            reason: "a \"reason\"\n\u{fc}".into(),
            frame: if state == RowState::Waiting { Bytes::from(vec![0, 9, 0xab, 0xff, n]) } else { Bytes::new() },
            refused_at_ms: 1_700_000_000_500,
            state,
        };
        let rows = vec![row(0, RowState::Waiting), row(1, RowState::Stored), row(2, RowState::Dropped)];
        let sending = vec![rows[0].click_id];
        let refusal = Refusal { batch: Uuid::from_u128(7), node: "edge-1".into(), rows };
        Kept { refusal, replays: 3, sending, settled_at_ms: None }
    }

    #[test]
    fn what_was_encoded_decodes_to_itself_and_a_person_can_read_it() {
        let file = encode(&kept());
        assert_eq!(decode(&file).unwrap(), kept());
        let text = String::from_utf8(file).unwrap();
        for part in ["\"time\": \"2023-11-14T22:13:20.000Z\"", "\"frame\": \"0009abff00\"", "\"state\": \"stored\""] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(text.lines().next().unwrap().starts_with(r#"{"trellis":"refused","version":1,"crc32":""#));
    }

    #[test]
    fn a_file_that_is_cut_or_flipped_anywhere_is_damaged() {
        let file = encode(&kept());
        for end in 0..file.len() {
            assert!(decode(&file[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_sound_file_that_says_nonsense_is_damaged() {
        let swap = |from: &str, to: &str| {
            let text = String::from_utf8(encode(&kept())).unwrap();
            let body = text.split_once('\n').unwrap().1.replacen(from, to, 1);
            assert!(text != body && text.contains(from), "{from}");
            let head =
                format!(r#"{{"trellis":"refused","version":1,"crc32":"{:08x}"}}"#, crc32fast::hash(body.as_bytes()));
            decode(format!("{head}\n{body}").as_bytes())
        };
        assert!(swap("edge-1", "edge-2").is_ok());
        assert_eq!(swap("\"observed\"", "\"not_there\""), Ok(kept()), "as before there was such a field");
        for (from, to) in [
            ("0009abff00", "0009abff0"),
            ("0009abff00", "0009abff0x"),
            ("\"unique\"", "\"both\""),
            ("waiting", "lost"),
            ("data_centre", "data_center"),
        ] {
            assert!(swap(from, to).is_err(), "{from} -> {to}");
        }
    }
}
