//! Writing a batch into the embedded store: the clicks, their counts by the minute and when they expire, in one
//! transaction.
//!
//! Decides nothing: which clicks, with which labels, was frozen before. `sqlite_clicks` calls in here on its writing
//! thread. Bound: one batch.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, TransactionBehavior, params};

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
        json: Vec::new(),
    };
    let (mut counts, mut expiry) = (MinuteCounts::default(), BTreeSet::new());
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
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
    json: Vec<u8>,
}

impl<'b> Writing<'b> {
    /// Writes a row; false when the click is there already.
    fn row(&mut self, insert: &mut Statement<'_>, row: &Row, click: &Click<'b>) -> rusqlite::Result<bool> {
        self.parameters.read(click.query);
        self.json.clear();
        columns::write_json(&self.parameters, &mut self.json);
        let lossy = String::from_utf8_lossy;
        let written = insert.execute(params![
            click.id.hyphenated(&mut [0; 36]),
            number(click.id.unix_ms()),
            click.org,
            click.campaign,
            click.link,
            click.rule,
            click.variant,
            lossy(click.destination),
            click.status,
            lossy(self.parameters.get("click_id")),
            lossy(self.parameters.get("source")),
            row.class.name(),
            reasons_json(row),
            row.dedup.name(),
            row.fraud_score,
            lossy(row.country.as_ref().map_or(&[], |country| country.as_slice())),
            row.agent.device,
            row.agent.os,
            row.agent.browser,
            lossy(click.language),
            lossy(click.referrer),
            lossy(click.ua),
            click.address.map_or_else(String::new, |address| address.to_string()),
            ToSqlOutput::Borrowed(ValueRef::Text(&self.json)),
            number(click.route_version),
            self.node,
            self.batch_id,
            columns::expires_s(click.id.unix_ms(), self.retention.of(click.org)),
            click.privacy.level.name(),
            click.domain,
            lossy(click.path),
            row.place.region,
            row.place.city,
            row.place.asn,
        ])?;
        Ok(written == 1)
    }
}

/// SQLite's integers have a sign.
pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn reasons_json(row: &Row) -> std::borrow::Cow<'static, str> {
    let mut names = row.reasons.names().peekable();
    if names.peek().is_none() {
        return "[]".into();
    }
    // Our own words: nothing in them needs an escape.
    let quoted: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(",")).into()
}
