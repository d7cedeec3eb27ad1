//! Rows in ClickHouse's RowBinaryWithNamesAndTypes format. Pure; called for every click on its way to ClickHouse.
//!
//! ```text
//! head            number of columns as varint, their names, their types; the server compares them with its table's, so
//!                 that a table of another version refuses the rows instead of misreading them
//! UUID            u64 upper half, u64 lower half
//! DateTime64(3)   i64 milliseconds since 1970
//! DateTime        u32 seconds since 1970
//! String          length as varint, bytes (LowCardinality makes no difference)
//! Array, Map      number of elements as varint, elements (a Map's: key, value)
//! ```
//! All numbers are little-endian. Bytes of a visitor go in as they came: ClickHouse's String is no UTF-8.

use std::io::Write as _;

use uuid::Uuid;

use crate::backend::columns;
use crate::click::query::Parameters;
use crate::click::{Click, frame::BadFrame};
use crate::config::Retention;
use crate::pipeline::Row;

/// Names and types of the columns in the order in which [`append`] writes them: the table's, without `ingested_at`, which has a default.
pub(super) const COLUMNS: [(&str, &str); 34] = [
    ("click_id", "UUID"),
    ("ts", "DateTime64(3, 'UTC')"),
    ("org", "LowCardinality(String)"),
    ("campaign", "LowCardinality(String)"),
    ("domain", "LowCardinality(String)"),
    ("link", "String"),
    ("path", "String"),
    ("rule", "LowCardinality(String)"),
    ("variant", "LowCardinality(String)"),
    ("destination", "String"),
    ("status", "UInt16"),
    ("external_click_id", "String"),
    ("source", "LowCardinality(String)"),
    ("class", "LowCardinality(String)"),
    ("reasons", "Array(LowCardinality(String))"),
    ("dedup", "LowCardinality(String)"),
    ("fraud_score", "UInt8"),
    ("country", "LowCardinality(String)"),
    ("region", "LowCardinality(String)"),
    ("city", "LowCardinality(String)"),
    ("asn", "UInt32"),
    ("device", "LowCardinality(String)"),
    ("os", "LowCardinality(String)"),
    ("browser", "LowCardinality(String)"),
    ("language", "LowCardinality(String)"),
    ("referrer", "String"),
    ("ua", "String"),
    ("ip", "String"),
    ("privacy", "LowCardinality(String)"),
    ("query", "Map(String, String)"),
    ("route_version", "UInt64"),
    ("node", "LowCardinality(String)"),
    ("batch_id", "UUID"),
    ("expires", "DateTime('UTC')"),
];

/// What all rows of a batch share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    /// Of the batch.
    pub(super) batch_id: Uuid,
    /// That accepted the clicks.
    pub(super) node: &'a str,
    /// How long clicks are kept.
    pub(super) retention: &'a Retention,
}

/// Appends the head of an insert: once, before its rows.
pub(super) fn append_head(out: &mut Vec<u8>) {
    put_length(COLUMNS.len(), out);
    COLUMNS.iter().for_each(|(name, _)| put_text(name.as_bytes(), out));
    COLUMNS.iter().for_each(|(_, of_type)| put_text(of_type.as_bytes(), out));
}

/// Appends one row. `parameters` is only lent, for its memory.
///
/// # Errors
/// The frame cannot be read; nothing was appended then.
pub(super) fn append<'b>(
    row: &'b Row,
    shared: &Shared<'_>,
    parameters: &mut Parameters<'b>,
    out: &mut Vec<u8>,
) -> Result<(), BadFrame> {
    let click = Click::decode(&row.frame)?;
    parameters.read(click.query);
    let unix_ms = click.id.unix_ms();
    put_uuid(click.id.as_u64_pair(), out);
    out.extend_from_slice(&unix_ms.to_le_bytes());
    put_text(click.org.as_bytes(), out);
    put_text(click.campaign.as_bytes(), out);
    put_text(click.domain.as_bytes(), out);
    put_text(click.link.as_bytes(), out);
    put_text(click.path, out);
    put_text(click.rule.as_bytes(), out);
    put_text(click.variant.as_bytes(), out);
    put_text(click.destination, out);
    out.extend_from_slice(&click.status.to_le_bytes());
    put_text(parameters.get("click_id"), out);
    put_text(parameters.get("source"), out);
    put_text(row.class.name().as_bytes(), out);
    put_length(row.reasons.names().count(), out);
    for reason in row.reasons.names() {
        put_text(reason.as_bytes(), out);
    }
    put_text(row.dedup.name().as_bytes(), out);
    out.push(row.fraud_score);
    put_text(row.country.as_ref().map_or(&[], |country| country.as_slice()), out);
    put_text(row.place.region.as_bytes(), out);
    put_text(row.place.city.as_bytes(), out);
    out.extend_from_slice(&row.place.asn.to_le_bytes());
    put_text(row.agent.device.as_bytes(), out);
    put_text(row.agent.os.as_bytes(), out);
    put_text(row.agent.browser.as_bytes(), out);
    put_text(click.language, out);
    put_text(click.referrer, out);
    put_text(click.ua, out);
    put_address(&click, out);
    put_text(click.privacy.level.name().as_bytes(), out);
    put_length(parameters.len(), out);
    for (key, value) in parameters.iter() {
        put_text(key, out);
        put_text(value, out);
    }
    out.extend_from_slice(&click.route_version.to_le_bytes());
    put_text(shared.node.as_bytes(), out);
    put_uuid(shared.batch_id.as_u64_pair(), out);
    out.extend_from_slice(&columns::expires_s(unix_ms, shared.retention.of(click.org)).to_le_bytes());
    Ok(())
}

fn put_uuid((upper, lower): (u64, u64), out: &mut Vec<u8>) {
    out.extend_from_slice(&upper.to_le_bytes());
    out.extend_from_slice(&lower.to_le_bytes());
}

fn put_text(text: &[u8], out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text);
}

/// LEB128: seven bits a byte, the lowest first, the upper bit set on all but the last.
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn put_address(click: &Click<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    // The length comes first and is known last; an address has 45 characters at most: one byte.
    out.push(0);
    if let Some(address) = click.address {
        // Into memory: cannot fail.
        let _ = write!(out, "{address}");
    }
    out[at] = (out.len() - at - 1) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;

    #[test]
    fn a_row_has_exactly_these_bytes() {
        let mut out = Vec::new();
        let row = samples::row(&samples::click("source=m&click_id=a%20b&source=n"));
        let retention = samples::retention();
        let shared = Shared { batch_id: Uuid::from_u128(5), node: "node-1", retention: &retention };
        append(&row, &shared, &mut Parameters::default(), &mut out).unwrap();
        let mut expected: Vec<u8> = Vec::new();
        // click_id 018bcfe5-687b-7909-8909-090909090909, ts 1_700_000_000_123
        expected
            .extend(b"\x09\x79\x7b\x68\xe5\xcf\x8b\x01\x09\x09\x09\x09\x09\x09\x09\x89\x7b\x68\xe5\xcf\x8b\x01\0\0");
        expected.extend(
            b"\x07default\x06spring\x0ago.example\x06summer\x02/x\x06phones\x01b\x16https://a.example/?x=1\x2e\x01",
        );
        expected.extend(b"\x03a b\x01m\x03bot\x01\x0dagent_crawler\x06unique\x3c\x02DE\x02BE\x06Berlin\xf8\x0c\0\0\x03bot\x05Linux\x04curl\x02de");
        expected
            .extend(b"\x12https://b.example/\x06curl/8\x0b203.0.113.0\x04full\x02\x08click_id\x03a b\x06source\x01m");
        expected.extend(b"\x07\0\0\0\0\0\0\0\x06node-1\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        // expires: the end of the minute, 1_700_000_040, and 30 days
        expected.extend(1_702_592_040_u32.to_le_bytes());
        assert_eq!(out, expected, "\n{}\n{}", out.escape_ascii(), expected.escape_ascii());
    }

    #[test]
    fn lengths_are_varints() {
        for (length, bytes) in [(0, &b"\0"[..]), (127, b"\x7f"), (128, b"\x80\x01"), (16_384, b"\x80\x80\x01")] {
            let mut out = Vec::new();
            put_length(length, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_frame_that_cannot_be_read_appends_nothing() {
        let row = Row { frame: vec![9; 40].into(), ..samples::row(&samples::click("")) };
        let mut out = Vec::new();
        let retention = samples::retention();
        let shared = Shared { batch_id: Uuid::from_u128(5), node: "node-1", retention: &retention };
        assert!(append(&row, &shared, &mut Parameters::default(), &mut out).is_err());
        assert!(out.is_empty());
    }

    #[test]
    fn the_columns_are_the_tables() {
        let sql = include_str!("../../../schema/clickhouse/001_clicks.sql");
        let body = sql.split_once("\n(\n").unwrap().1.split_once("INDEX").unwrap().0;
        let changed =
            include_str!("../../../schema/clickhouse/003_expires.sql").split_once("MODIFY COLUMN ").unwrap().1;
        let column = |line: &str| {
            let (name, rest) = line.trim().split_once(' ')?;
            let of_type = rest.split(" CODEC").next()?.split(" DEFAULT").next()?;
            Some((name.to_owned(), of_type.trim().trim_end_matches(',').to_owned()))
        };
        let mut columns: Vec<_> = body.lines().filter_map(column).collect();
        let changed = column(changed).unwrap();
        columns.iter_mut().find(|(name, _)| *name == changed.0).unwrap().1 = changed.1;
        let later = [
            include_str!("../../../schema/clickhouse/004_privacy.sql"),
            include_str!("../../../schema/clickhouse/005_domain.sql"),
            include_str!("../../../schema/clickhouse/006_place.sql"),
        ];
        for added in later.iter().flat_map(|sql| sql.split("IF NOT EXISTS ").skip(1)) {
            let (added, before) = added.split_once(';').unwrap().0.split_once(" AFTER ").unwrap();
            let at = columns.iter().position(|(name, _)| name == before).unwrap();
            columns.insert(at + 1, column(added).unwrap());
        }
        assert_eq!(columns.pop().unwrap().0, "ingested_at");
        assert_eq!(columns, COLUMNS.map(|(name, of_type)| (name.to_owned(), of_type.to_owned())));
    }

    #[test]
    fn the_head_names_each_column_and_its_type() {
        let mut head = Vec::new();
        append_head(&mut head);
        assert!(head.starts_with(b"\x22\x08click_id\x02ts\x03org"), "{}", head.escape_ascii());
        assert!(head.ends_with(b"\x04UUID\x0fDateTime('UTC')"), "{}", head.escape_ascii());
    }
}
