//! Counts of caps in the embedded catalog's file: `sqlite_catalog` lends its connection.

use rusqlite::{Connection, Row, params};

use super::sqlite_catalog::SqliteCatalog;
use crate::BoxFuture;
use crate::catalog::CatalogError;
use crate::catalog::caps::{CapCount, CapStore, Changes, Counts, Saved, Source};
use crate::click::cap::{CapId, Per};
use crate::telemetry::calls::Call;

const PUT_COUNT: &str =
    "INSERT OR REPLACE INTO cap_counts (cap, period, run, per, admitted, processed, counted, updated_ms)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const PUT_MARK: &str = "INSERT OR REPLACE INTO cap_marks (run, core, origin, position) VALUES (?1, ?2, ?3, ?4)";

impl CapStore for SqliteCatalog {
    fn load_caps(&self) -> BoxFuture<'_, Result<Saved, CatalogError>> {
        Box::pin(self.call(Call::CapsLoad, load))
    }

    fn save_caps<'a>(&'a self, changes: &'a Changes) -> BoxFuture<'a, Result<(), CatalogError>> {
        let changes = changes.clone();
        Box::pin(self.call(Call::CapsSave, move |connection| save(connection, &changes)))
    }
}

fn load(connection: &mut Connection) -> rusqlite::Result<Saved> {
    let counts = connection
        .prepare("SELECT cap, period, run, per, admitted, processed, counted, updated_ms FROM cap_counts")?
        .query_map([], count)?
        .collect::<Result<_, _>>()?;
    let mark = |row: &Row<'_>| {
        let source = Source { run: row.get::<_, String>(0)?.into(), core: row.get(1)?, origin: row.get(2)? };
        Ok((source, row.get::<_, i64>(3)?.cast_unsigned()))
    };
    let marks = connection
        .prepare("SELECT run, core, origin, position FROM cap_marks")?
        .query_map([], mark)?
        .collect::<Result<_, _>>()?;
    Ok(Saved { counts, marks })
}

fn count(row: &Row<'_>) -> rusqlite::Result<CapCount> {
    let number = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
    let per: String = row.get(3)?;
    let known = Per::ALL.into_iter().find(|(name, _)| *name == per);
    let (_, per) = known.ok_or(rusqlite::Error::InvalidQuery)?;
    let counts = Counts { admitted: number(4)?, processed: number(5)?, counted: number(6)? };
    Ok(CapCount {
        cap: CapId(u128::from_be_bytes(row.get(0)?)),
        period: row.get(1)?,
        run: row.get::<_, String>(2)?.into(),
        per,
        counts,
        updated_ms: number(7)?,
    })
}

fn save(connection: &mut Connection, changes: &Changes) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    if changes.replace {
        transaction.execute_batch("DELETE FROM cap_counts; DELETE FROM cap_marks")?;
    }
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for CapCount { cap, period, run, per, counts, updated_ms } in &changes.counts {
        let Counts { admitted, processed, counted } = *counts;
        let numbers = [admitted, processed, counted, *updated_ms].map(number);
        let [admitted, processed, counted, updated] = numbers;
        transaction.prepare_cached(PUT_COUNT)?.execute(params![
            cap.0.to_be_bytes(),
            period,
            &**run,
            per.name(),
            admitted,
            processed,
            counted,
            updated
        ])?;
    }
    for (Source { run, core, origin }, position) in &changes.marks {
        transaction.prepare_cached(PUT_MARK)?.execute(params![&**run, core, origin, position.cast_signed()])?;
    }
    if let Some(before) = changes.forget {
        for (per, before_ms) in [Per::Hour, Per::Day].into_iter().zip(before) {
            let forget = "DELETE FROM cap_counts WHERE per = ?1 AND updated_ms <= ?2";
            transaction.execute(forget, params![per.name(), number(before_ms)])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_and_marks_survive_a_restart_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let count = |cap: u128, per, counted, updated_ms| CapCount {
            cap: CapId(cap),
            period: u32::MAX,
            run: "r".into(),
            per,
            counts: Counts { admitted: 9, processed: 5, counted },
            updated_ms,
        };
        let source = |core| Source { run: "r".into(), core, origin: 2 };
        let [hour, day, total] =
            [(1, Per::Hour), (u128::MAX, Per::Day), (3, Per::Total)].map(|(c, p)| count(c, p, 4, 50));
        let changes = Changes {
            counts: vec![hour.clone(), day.clone(), total.clone()],
            marks: vec![(source(0), u64::MAX), (source(1), 7)],
            ..Changes::default()
        };
        catalog.save_caps(&changes).await.unwrap();
        let more = Changes {
            counts: vec![CapCount { counts: Counts::default(), ..total.clone() }],
            marks: vec![(source(1), 8)],
            forget: Some([50, 49]),
            ..Changes::default()
        };
        catalog.save_caps(&more).await.unwrap();
        drop(catalog);
        let catalog = SqliteCatalog::open(&path).unwrap();
        let mut saved = catalog.load_caps().await.unwrap();
        saved.counts.sort_by_key(|count| count.cap);
        assert_eq!(saved.counts, [more.counts[0].clone(), day]);
        assert_eq!(saved.marks, [(source(0), u64::MAX), (source(1), 8)]);
        let anew = Changes { counts: vec![hour.clone()], replace: true, ..Changes::default() };
        catalog.save_caps(&anew).await.unwrap();
        assert_eq!(catalog.load_caps().await.unwrap(), Saved { counts: vec![hour], marks: vec![] });
    }
}
