//! Writing a batch into the embedded store: the clicks, their counts by the minute and when they expire, in one
//! transaction.
//!
//! Decides nothing: which clicks, with which labels, was frozen before. `sqlite_clicks` calls in here on its writing
//! thread. Bound: one batch.

use std::collections::BTreeSet;
use std::io::Write as _;

use hashbrown::HashMap;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, TransactionBehavior, params};

use super::columns;
use super::sqlite_questions::MINUTE_MS;
use crate::click::Click;
use crate::click::query::Parameters;
use crate::config::Retention;
use crate::pipeline::{Batch, Row};

/// Only the key may be there already; anything else that a row breaks is an error.
const INSERT: &str = "INSERT INTO clicks (click_id, ts, org, campaign, link, rule, variant, destination, status,
     external_click_id, source, class, reasons, dedup, fraud_score, country, device, os, browser, language, referrer, ua,
     ip, query, route_version, node, batch_id, expires, privacy, domain, path, region, city, asn)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24,
     ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34)
     ON CONFLICT (click_id) DO NOTHING";

const ADD: &str = "INSERT INTO click_counts (minute, link, campaign, org, class, dedup, clicks)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
     ON CONFLICT (minute, link, campaign, org, class, dedup) DO UPDATE SET clicks = clicks + excluded.clicks";

const EXPIRE: &str = "INSERT INTO click_expiry (expires, minute) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

/// Writes a batch: all of it, or none.
pub(super) fn write(connection: &mut Connection, batch: &Batch, retention: &Retention) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut batch_id = [0; 36];
    let mut writing = Writing {
        batch_id: batch.id.hyphenated().encode_lower(&mut batch_id),
        node: &batch.node,
        retention,
        parameters: Parameters::default(),
        made: Vec::new(),
    };
    let (mut counts, mut expiry) = (MinuteCounts::default(), BTreeSet::new());
    {
        let mut insert = RowInsert::new(transaction.prepare_cached(INSERT)?);
        for row in &batch.rows {
            match Click::decode(&row.frame) {
                Ok(click) => {
                    if writing.row(&mut insert, row, &click)? {
                        let minute = click.id.unix_ms() / MINUTE_MS;
                        let key = (minute, click.link, click.campaign, click.org, row.class.name(), row.dedup.name());
                        *counts.entry(key).or_default() += 1;
                        expiry.insert((columns::expires_s(click.id.unix_ms(), retention.of(click.org)), minute));
                    }
                }
                // The worker has decoded this very frame; no disk lies between.
                Err(problem) => {
                    tracing::error!(%problem, batch = %batch.id, "a click cannot be encoded and is not stored")
                }
            }
        }
        // In the order of the table, so that a page is changed once.
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        let mut add = transaction.prepare_cached(ADD)?;
        for ((minute, link, campaign, org, class, dedup), clicks) in counts {
            add.execute(params![number(minute), link, campaign, org, class, dedup, clicks])?;
        }
        let mut expire = transaction.prepare_cached(EXPIRE)?;
        for (expires, minute) in expiry {
            expire.execute(params![expires, number(minute)])?;
        }
    }
    transaction.commit()
}

/// Clicks by minute, link, campaign, organisation, class and label.
type MinuteCounts<'b> =
    HashMap<(u64, &'b str, &'b str, &'b str, &'static str, &'static str), u32, foldhash::quality::RandomState>;

/// What all rows of a batch share, and memory that is lent from row to row.
struct Writing<'b> {
    batch_id: &'b str,
    node: &'b str,
    retention: &'b Retention,
    parameters: Parameters<'b>,
    /// A text that is made for a row.
    made: Vec<u8>,
}

impl<'b> Writing<'b> {
    /// Writes a row; false when the click is there already.
    fn row(&mut self, insert: &mut RowInsert<'_, 'b>, row: &'b Row, click: &Click<'b>) -> rusqlite::Result<bool> {
        self.parameters.read(click.query);
        insert.own(click.id.hyphenated(&mut [0; 36]).as_bytes())?;
        insert.number(number(click.id.unix_ms()))?;
        insert.text(click.org.as_bytes())?;
        insert.text(click.campaign.as_bytes())?;
        insert.text(click.link.as_bytes())?;
        insert.text(click.rule.as_bytes())?;
        insert.text(click.variant.as_bytes())?;
        insert.text(click.destination)?;
        insert.number(click.status.into())?;
        insert.own(self.parameters.get("click_id"))?;
        insert.own(self.parameters.get("source"))?;
        insert.text(row.class.name().as_bytes())?;
        self.made.clear();
        write_reasons(row, &mut self.made);
        insert.own(&self.made)?;
        insert.text(row.dedup.name().as_bytes())?;
        insert.number(row.fraud_score.into())?;
        insert.text(row.country.as_ref().map_or(&[], |country| country.as_slice()))?;
        insert.text(row.agent.device.as_bytes())?;
        insert.text(row.agent.os.as_bytes())?;
        insert.text(row.agent.browser.as_bytes())?;
        insert.text(click.language)?;
        insert.text(click.referrer)?;
        insert.text(click.ua)?;
        self.made.clear();
        if let Some(address) = click.address {
            write!(self.made, "{address}").expect("writing into memory cannot fail");
        }
        insert.own(&self.made)?;
        self.made.clear();
        columns::write_json(&self.parameters, &mut self.made);
        insert.own(&self.made)?;
        insert.number(number(click.route_version))?;
        insert.text(self.node.as_bytes())?;
        insert.text(self.batch_id.as_bytes())?;
        insert.number(columns::expires_s(click.id.unix_ms(), self.retention.of(click.org)).into())?;
        insert.text(click.privacy.level.name().as_bytes())?;
        insert.text(click.domain.as_bytes())?;
        insert.text(click.path)?;
        insert.text(row.place.region.as_bytes())?;
        insert.text(row.place.city.as_bytes())?;
        insert.number(row.place.asn.into())?;
        insert.write()
    }
}

/// Gives a row to the statement, column after column. SQLite keeps what a column was given, so one that has the value of
/// the row before is left alone: most have.
struct RowInsert<'s, 'b> {
    statement: CachedStatement<'s>,
    given: Vec<Given<'b>>,
    column: usize,
}

/// What a column has.
#[derive(Clone, Copy)]
enum Given<'b> {
    /// Nothing yet, or what is not at hand any more.
    Other,
    Text(&'b [u8]),
    Number(i64),
}

impl<'s, 'b> RowInsert<'s, 'b> {
    fn new(statement: CachedStatement<'s>) -> Self {
        Self { given: vec![Given::Other; statement.parameter_count()], statement, column: 0 }
    }

    fn number(&mut self, number: i64) -> rusqlite::Result<()> {
        if self.is_new(Given::Number(number)) { self.give(ValueRef::Integer(number)) } else { Ok(()) }
    }

    /// A text of the batch; what is no UTF-8 in it becomes U+FFFD.
    fn text(&mut self, text: &'b [u8]) -> rusqlite::Result<()> {
        if self.is_new(Given::Text(text)) { self.give_text(text) } else { Ok(()) }
    }

    /// A text that was made for this row.
    fn own(&mut self, text: &[u8]) -> rusqlite::Result<()> {
        if text.is_empty() {
            return self.text(b"");
        }
        self.is_new(Given::Other);
        self.give_text(text)
    }

    /// Goes on to the next column and notes what it is to have.
    fn is_new(&mut self, given: Given<'b>) -> bool {
        let before = std::mem::replace(&mut self.given[self.column], given);
        self.column += 1;
        match (before, given) {
            (Given::Number(before), Given::Number(given)) => before != given,
            // Most are one of our own words: the same place, then, and nothing to compare.
            (Given::Text(before), Given::Text(given)) => !std::ptr::eq(before, given) && before != given,
            _ => true,
        }
    }

    fn give_text(&mut self, text: &[u8]) -> rusqlite::Result<()> {
        match std::str::from_utf8(text) {
            Ok(_) => self.give(ValueRef::Text(text)),
            Err(_) => self.give(ValueRef::Text(String::from_utf8_lossy(text).as_bytes())),
        }
    }

    fn give(&mut self, value: ValueRef<'_>) -> rusqlite::Result<()> {
        self.statement.raw_bind_parameter(self.column, ToSqlOutput::Borrowed(value))
    }

    /// Writes the row; false when its key is there already.
    fn write(&mut self) -> rusqlite::Result<bool> {
        debug_assert_eq!(self.column, self.given.len(), "all columns are given");
        self.column = 0;
        Ok(self.statement.raw_execute()? == 1)
    }
}

/// SQLite's integers have a sign.
pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The names of the reasons as a JSON array; they are our own words, and nothing in them needs an escape.
fn write_reasons(row: &Row, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, name) in row.reasons.names().enumerate() {
        out.extend_from_slice(if i > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_has_what_it_was_given_whatever_the_rows_before_had(
            rows in prop::collection::vec((0..4_usize, 0..4_usize, 0..4_usize, 0..3_i64), 1..20),
        ) {
            let texts: [&[u8]; 4] = [b"", b"a", b"c", b"b\xff"];
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT, d INTEGER)").unwrap();
            let statement = "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
            let mut insert = RowInsert::new(connection.prepare_cached(statement).unwrap());
            // Of other memory than the row before.
            let copies: Vec<_> = rows.iter().map(|row| texts[row.0].to_vec()).collect();
            for (n, row) in rows.iter().enumerate() {
                for again in [false, true] {
                    insert.number(n as i64).unwrap();
                    insert.text(&copies[n]).unwrap();
                    insert.own(texts[row.1]).unwrap();
                    insert.text(texts[row.2]).unwrap();
                    insert.number(row.3).unwrap();
                    prop_assert_eq!(insert.write().unwrap(), !again);
                }
            }
            let stored = |n: i64| connection.query_row("SELECT a, b, c, d FROM t WHERE n = ?1", [n], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            });
            let text = |at: usize| String::from_utf8_lossy(texts[at]).into_owned();
            for (n, row) in rows.iter().enumerate() {
                prop_assert_eq!(stored(n as i64).unwrap(), (text(row.0), text(row.1), text(row.2), row.3));
            }
        }
    }
}
