//! The audit log, and requests that may come again, in the embedded catalog's file: `sqlite_catalog` lends its connection.
//!
//! An entry with a release of one change takes what was there before, and its name, from that release: exact, whoever else
//! wrote at the same time. Bounds: [`FORGOTTEN_MAX`] rows forgotten a call, [`LOOKED_MAX`] looked at for a page.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use super::sqlite_catalog::SqliteCatalog;
use super::sqlite_insert::number;
use crate::BoxFuture;
use crate::catalog::CatalogError;
use crate::catalog::audit::{
    AuditEntry, AuditFilter, AuditPage, AuditStore, AuditWrite, Begun, DOCUMENT_BYTES_MAX, Keep, KeptAnswer, Keyed,
    LOOKED_MAX, RequestKey,
};
use crate::click::org::DEFAULT_ORG;
use crate::telemetry::calls::Call;

const FORGOTTEN_MAX: usize = 1000;

const INSERT: &str = "INSERT INTO audit (at_ms, request_id, actor, org, action, target, status, release, before, after,
     omitted, total) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
const TOTAL: &str = "SELECT coalesce((SELECT total FROM audit ORDER BY sequence DESC LIMIT 1), 0)";
const CHANGE: &str = "SELECT kind, name, before, after FROM changes WHERE version = ?1 LIMIT 2";
const COLUMNS: &str = "SELECT sequence, at_ms, actor, target, org, request_id, action, status, release, before, after,
     omitted FROM audit";
const FORGET: &str =
    "DELETE FROM audit WHERE sequence IN (SELECT sequence FROM (SELECT sequence, at_ms, total FROM audit
     ORDER BY sequence LIMIT ?4) WHERE at_ms < ?1
     OR sequence <= (SELECT max(sequence) FROM audit) - ?2
     OR total <= (SELECT total FROM audit ORDER BY sequence DESC LIMIT 1) - ?3)";
const FINISH: &str = "UPDATE idempotency SET status = ?3, headers = ?4, body = ?5 WHERE actor = ?1 AND key = ?2";
const KNOWN: &str = "SELECT digest, run, status, headers, body FROM idempotency WHERE actor = ?1 AND key = ?2";
const BEGIN: &str = "INSERT INTO idempotency (actor, key, digest, begun_ms, run) VALUES (?1, ?2, ?3, ?4, ?5)";
/// The oldest that no process is at.
const OLDEST: &str = "DELETE FROM idempotency WHERE (actor, key) IN (SELECT actor, key FROM idempotency
     WHERE status IS NOT NULL OR run <> ?1 ORDER BY begun_ms LIMIT ?2)";

impl AuditStore for SqliteCatalog {
    fn write(&self, batch: Arc<Vec<AuditWrite>>, keep: Keep) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(self.call(Call::AuditWrite, move |c| write(c, &batch, keep)))
    }

    fn forget(&self, keep: Keep) -> BoxFuture<'_, Result<bool, CatalogError>> {
        Box::pin(
            self.call(Call::AuditForget, move |c| {
                forget_some(c, keep, FORGOTTEN_MAX).map(|gone| gone == FORGOTTEN_MAX)
            }),
        )
    }

    fn page(&self, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, CatalogError>> {
        Box::pin(self.call(Call::AuditRead, move |c| page(c, &filter)))
    }

    fn begin(&self, keyed: Keyed) -> BoxFuture<'_, Result<Begun, CatalogError>> {
        Box::pin(self.call(Call::Idempotency, move |c| begin(c, &keyed)))
    }

    fn release(&self, of: RequestKey) -> BoxFuture<'_, Result<(), CatalogError>> {
        let delete = "DELETE FROM idempotency WHERE actor = ?1 AND key = ?2 AND status IS NULL";
        Box::pin(
            self.call(Call::Idempotency, move |c| c.prepare_cached(delete)?.execute([of.actor, of.key]).map(|_| ())),
        )
    }
}

fn write(connection: &mut Connection, batch: &[AuditWrite], keep: Keep) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut total: i64 = transaction.prepare_cached(TOTAL)?.query_row([], |row| row.get(0))?;
    for AuditWrite { entry, answer } in batch {
        let entry = complete(&transaction, entry.clone())?;
        total += number(bytes_of(&entry));
        transaction.prepare_cached(INSERT)?.execute(params![
            number(entry.at_ms),
            entry.request_id,
            entry.actor,
            entry.org,
            entry.action,
            entry.target,
            entry.status,
            entry.release.map(number),
            entry.before,
            entry.after,
            entry.omitted,
            total,
        ])?;
        if let Some((of, answer)) = answer {
            let values = params![of.actor, of.key, answer.status, answer.headers, answer.body];
            transaction.prepare_cached(FINISH)?.execute(values)?;
        }
    }
    // Two for each that comes: what is beyond the bounds goes in the end.
    forget_some(&transaction, keep, batch.len() * 2)?;
    transaction.commit()
}

/// With what its release says, and without what is too long.
fn complete(transaction: &Transaction<'_>, mut entry: AuditEntry) -> rusqlite::Result<AuditEntry> {
    if let Some(release) = entry.release {
        let mut statement = transaction.prepare_cached(CHANGE)?;
        let changes = statement.query_map([number(release)], |row| {
            let [kind, name]: [String; 2] = [row.get(0)?, row.get(1)?];
            Ok((format!("{kind} {name}"), [row.get::<_, Option<String>>(2)?, row.get(3)?]))
        })?;
        let mut changes = changes.collect::<rusqlite::Result<Vec<_>>>()?;
        // Of a roll-back the release itself has them all.
        if let (Some((target, [before, after])), true) = (changes.pop(), changes.is_empty()) {
            let document = after.as_ref().or(before.as_ref());
            let document = document.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
            let org = document.map(|document| document["org"].as_str().unwrap_or(DEFAULT_ORG).to_owned());
            (entry.target, entry.before, entry.after) = (target, before, after);
            entry.org = entry.org.or(org);
        }
    }
    for document in [&mut entry.before, &mut entry.after] {
        if document.as_ref().is_some_and(|text| text.len() > DOCUMENT_BYTES_MAX) {
            (*document, entry.omitted) = (None, true);
        }
    }
    Ok(entry)
}

/// About what it takes on the disk.
fn bytes_of(entry: &AuditEntry) -> u64 {
    let texts = [&entry.request_id, &entry.actor, &entry.action, &entry.target];
    let maybe = [&entry.org, &entry.before, &entry.after].into_iter().flatten();
    (texts.into_iter().chain(maybe).map(String::len).sum::<usize>() + 64) as u64
}

fn forget_some(connection: &Connection, keep: Keep, max: usize) -> rusqlite::Result<usize> {
    let bounds = params![number(keep.from_ms), number(keep.entries_max), number(keep.bytes_max), number(max as u64)];
    connection.prepare_cached(FORGET)?.execute(bounds)
}

fn page(connection: &mut Connection, filter: &AuditFilter) -> rusqlite::Result<AuditPage> {
    let (side, order, all) = if filter.oldest_first { (">", "", 0) } else { ("<", " DESC", i64::MAX) };
    let mut statement =
        connection.prepare_cached(&format!("{COLUMNS} WHERE sequence {side} ?1 ORDER BY sequence{order}"))?;
    let mut rows = statement.query([filter.behind.map_or(all, number)])?;
    let (mut page, mut looked) = (AuditPage::default(), 0);
    let mut last = None;
    while let Some(row) = rows.next()? {
        if page.entries.len() == filter.limit || looked == LOOKED_MAX {
            page.next = last;
            break;
        }
        looked += 1;
        last = Some(unsigned(row, 0)?);
        let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
        let org = row.get_ref(4)?.as_str_or_null()?;
        if filter.fits(unsigned(row, 1)?, text(2)?, text(3)?, org) {
            page.entries.push(read(row)?);
        }
    }
    Ok(page)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    // None was written that is negative.
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

fn read(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        sequence: unsigned(row, 0)?,
        at_ms: unsigned(row, 1)?,
        actor: row.get(2)?,
        target: row.get(3)?,
        org: row.get(4)?,
        request_id: row.get(5)?,
        action: row.get(6)?,
        status: row.get(7)?,
        release: row.get::<_, Option<i64>>(8)?.and_then(|release| u64::try_from(release).ok()),
        before: row.get(9)?,
        after: row.get(10)?,
        omitted: row.get(11)?,
    })
}

fn begin(connection: &mut Connection, keyed: &Keyed) -> rusqlite::Result<Begun> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let gone = "DELETE FROM idempotency WHERE begun_ms < ?1";
    transaction.prepare_cached(gone)?.execute([number(keyed.from_ms)])?;
    let RequestKey { actor, key } = &keyed.of;
    let run = keyed.run.cast_signed();
    let known = transaction.prepare_cached(KNOWN)?.query_row([actor, key], |row| {
        let same = row.get_ref(0)?.as_blob()? == keyed.digest;
        let answer = row.get::<_, Option<u16>>(2)?.map(|status| -> rusqlite::Result<_> {
            Ok(KeptAnswer { status, headers: row.get(3)?, body: row.get(4)? })
        });
        Ok(match answer.transpose()? {
            _ if !same => Begun::Mismatch,
            Some(answer) => Begun::Answered(answer),
            None if row.get::<_, i64>(1)? == run => Begun::InFlight,
            None => Begun::Interrupted,
        })
    });
    if let Some(known) = known.optional()? {
        return Ok(known);
    }
    let count = |c: &Transaction<'_>| -> rusqlite::Result<u64> {
        c.prepare_cached("SELECT count(*) FROM idempotency")?.query_row([], |row| unsigned(row, 0))
    };
    let beyond = (count(&transaction)? + 1).saturating_sub(keyed.max as u64);
    if beyond > 0 && (transaction.prepare_cached(OLDEST)?.execute(params![run, number(beyond)])? as u64) < beyond {
        return Ok(Begun::Full);
    }
    transaction.prepare_cached(BEGIN)?.execute(params![actor, key, keyed.digest, number(keyed.now_ms), run])?;
    transaction.commit()?;
    Ok(Begun::New)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::AuditStore as Store;

    const DAY_MS: u64 = 86_400_000;
    const ALL: Keep = Keep { from_ms: 0, entries_max: 1000, bytes_max: 1 << 30 };

    fn open(folder: &tempfile::TempDir) -> SqliteCatalog {
        SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap()
    }

    fn entry(at_ms: u64, release: Option<u64>) -> AuditWrite {
        let text = |text: &str| text.to_owned();
        let (actor, target, action) = (text("key a"), text("/links/a"), text("PATCH /links/{slug}"));
        let entry = AuditEntry { at_ms, actor, target, action, status: 200, release, ..AuditEntry::default() };
        AuditWrite { entry, answer: None }
    }

    async fn write(store: &SqliteCatalog, writes: Vec<AuditWrite>, keep: Keep) {
        Store::write(store, Arc::new(writes), keep).await.unwrap();
    }

    async fn sequences(store: &SqliteCatalog, filter: AuditFilter) -> (Vec<u64>, Option<u64>) {
        let page = Store::page(store, AuditFilter { limit: 3, ..filter }).await.unwrap();
        (page.entries.iter().map(|entry| entry.sequence).collect(), page.next)
    }

    #[tokio::test]
    async fn an_entry_takes_what_was_there_from_its_release() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let long = format!("\"{}\"", "x".repeat(DOCUMENT_BYTES_MAX));
        let rows = [
            (1, "a", Some("{\"org\":\"acme\",\"n\":1}"), Some("{\"org\":\"acme\",\"n\":2}")),
            (2, "a", Some(long.as_str()), None),
            (3, "a", None, Some("{}")),
            (3, "b", None, Some("{}")),
        ];
        for (version, name, before, after) in rows {
            let values = (version, name.to_owned(), before.map(str::to_owned), after.map(str::to_owned));
            let sql = "INSERT INTO changes VALUES (?1, 'campaign', ?2, ?3, ?4, 1)";
            store.call(Call::Commit, move |c| c.execute(sql, values)).await.unwrap();
        }
        write(&store, vec![entry(5, Some(1)), entry(6, Some(2)), entry(7, Some(3)), entry(8, None)], ALL).await;
        drop(store);
        let all = AuditFilter { limit: 10, oldest_first: true, ..AuditFilter::default() };
        let page = Store::page(&open(&folder), all).await.unwrap();
        let [one, cut, many, none] = &page.entries[..] else { panic!("{page:?}") };
        let documents = [&one.before, &one.after].map(|text| text.as_deref().unwrap());
        assert_eq!(documents, ["{\"org\":\"acme\",\"n\":1}", "{\"org\":\"acme\",\"n\":2}"]);
        assert_eq!((one.target.as_str(), one.org.as_deref(), one.omitted), ("campaign a", Some("acme"), false));
        assert_eq!((&cut.before, cut.omitted, cut.org.as_deref()), (&None, true, Some("default")));
        assert_eq!((many.target.as_str(), &many.after, many.release), ("/links/a", &None, Some(3)));
        assert_eq!((none.sequence, none.at_ms, none.status, none.release), (4, 8, 200, None));
    }

    #[tokio::test]
    async fn what_is_too_old_or_too_much_goes_and_numbers_are_never_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let all = || AuditFilter::default();
        write(&store, (0..6).map(|n| entry(n * DAY_MS, None)).collect(), ALL).await;
        assert_eq!(sequences(&store, all()).await, (vec![6, 5, 4], Some(4)));
        // Those of the first two days are too old.
        assert!(!Store::forget(&store, Keep { from_ms: 2 * DAY_MS, ..ALL }).await.unwrap());
        assert_eq!(sequences(&store, AuditFilter { oldest_first: true, ..all() }).await, (vec![3, 4, 5], Some(5)));
        write(&store, vec![entry(7, None)], Keep { entries_max: 3, ..ALL }).await;
        assert_eq!(sequences(&store, all()).await, (vec![7, 6, 5], None));
        let one = bytes_of(&entry(0, None).entry);
        write(&store, vec![entry(7, None)], Keep { bytes_max: 2 * one, ..ALL }).await;
        assert_eq!(sequences(&store, all()).await, (vec![8, 7], None));
        Store::forget(&store, Keep { from_ms: u64::MAX, ..ALL }).await.unwrap();
        write(&store, vec![entry(7, None)], ALL).await;
        assert_eq!(sequences(&store, all()).await, (vec![9], None));
    }

    #[tokio::test]
    async fn a_page_holds_what_was_asked_for_and_says_where_to_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let of = |n: u64| {
            let (mut write, text) = (entry(n, None), |text: &str| text.to_owned());
            (write.entry.actor, write.entry.org) =
                (text(["x", "y"][n as usize % 2]), Some(text(["o", "p"][n as usize / 5])));
            write
        };
        write(&store, (0..10).map(of).collect(), ALL).await;
        let all = AuditFilter::default;
        let actor = AuditFilter { actor: Some("x".into()), ..all() };
        assert_eq!(sequences(&store, actor.clone()).await, (vec![9, 7, 5], Some(5)));
        assert_eq!(sequences(&store, AuditFilter { behind: Some(5), ..actor }).await, (vec![3, 1], None));
        assert_eq!(
            sequences(&store, AuditFilter { org: Some("p".into()), oldest_first: true, ..all() }).await.0,
            [6, 7, 8]
        );
        assert_eq!(sequences(&store, AuditFilter { from_ms: Some(4), to_ms: Some(6), ..all() }).await.0, [6, 5]);
        assert_eq!(sequences(&store, AuditFilter { target: Some("b".into()), ..all() }).await, (vec![], None));
        let many = (0..LOOKED_MAX as u64).map(|_| entry(0, None)).collect();
        write(&store, many, Keep { entries_max: 1 << 40, ..ALL }).await;
        let rare = AuditFilter { actor: Some("x".into()), ..all() };
        assert_eq!(sequences(&store, rare.clone()).await, (vec![], Some(11)), "it does not look for ever");
        assert_eq!(sequences(&store, AuditFilter { behind: Some(11), ..rare }).await.0, [9, 7, 5]);
    }

    fn keyed(key: &str, now_ms: u64) -> Keyed {
        let of = RequestKey { actor: "key a".into(), key: key.into() };
        Keyed { of, digest: [1; 32], now_ms, from_ms: now_ms.saturating_sub(DAY_MS), run: u64::MAX, max: 3 }
    }

    async fn finish(store: &SqliteCatalog, key: &str) -> KeptAnswer {
        let answer = KeptAnswer { status: 201, headers: "[]".into(), body: Some(b"made".to_vec()) };
        let answered = AuditWrite { answer: Some((keyed(key, 0).of, answer.clone())), ..entry(0, None) };
        write(store, vec![answered], ALL).await;
        answer
    }

    #[tokio::test]
    async fn a_request_is_begun_once_and_its_answer_survives_a_restart_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let begin = async |store: &SqliteCatalog, keyed| Store::begin(store, keyed).await.unwrap();
        assert_eq!(begin(&store, keyed("k", 5)).await, Begun::New);
        assert_eq!(begin(&store, keyed("k", 6)).await, Begun::InFlight);
        assert_eq!(begin(&store, Keyed { digest: [2; 32], ..keyed("k", 6) }).await, Begun::Mismatch);
        assert_eq!(begin(&store, Keyed { run: 7, ..keyed("k", 6) }).await, Begun::Interrupted);
        let answer = finish(&store, "k").await;
        drop(store);
        let store = open(&folder);
        assert_eq!(begin(&store, Keyed { run: 7, ..keyed("k", 5 + DAY_MS) }).await, Begun::Answered(answer));
        assert_eq!(begin(&store, Keyed { digest: [2; 32], ..keyed("k", 6) }).await, Begun::Mismatch);
        assert_eq!(begin(&store, keyed("k", 6 + DAY_MS)).await, Begun::New, "a day is over");
        Store::release(&store, keyed("k", 0).of).await.unwrap();
        assert_eq!(begin(&store, keyed("k", 6 + DAY_MS)).await, Begun::New, "it was released");
    }

    #[tokio::test]
    async fn the_oldest_answers_make_room_and_those_under_way_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let begin = async |key: &str, now_ms| Store::begin(&store, keyed(key, now_ms)).await.unwrap();
        for (now_ms, key) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(begin(key, now_ms as u64).await, Begun::New);
        }
        assert_eq!(begin("d", 9).await, Begun::Full);
        finish(&store, "c").await;
        finish(&store, "b").await;
        assert_eq!(begin("d", 9).await, Begun::New);
        assert_eq!(
            (begin("a", 9).await, begin("c", 9).await),
            (Begun::InFlight, Begun::Answered(finish(&store, "c").await))
        );
        assert_eq!(begin("b", 9).await, Begun::New, "it was the oldest that was answered");
    }
}
