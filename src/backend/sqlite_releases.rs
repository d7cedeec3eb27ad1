//! Releases in the embedded catalog's file, and the only place that writes to it: `sqlite_catalog` lends its connection.
//!
//! A write and its release are one transaction. Bounds: `Write::keep`; a comparison of releases has as many entries in
//! memory as its page.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use super::sqlite_campaigns;
use super::sqlite_catalog::SqliteCatalog;
use super::sqlite_domains;
use super::sqlite_links;
use crate::BoxFuture;
use crate::catalog::releases::{Change, Kept, NetChange, Release, Write};
use crate::catalog::{CatalogError, ReleaseStore};
use crate::telemetry::calls::Call;
use crate::telemetry::catalog::ReleaseKind;

const INSERT_CHANGE: &str =
    "INSERT INTO changes (version, kind, name, before, after, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const INSERT_RELEASE: &str =
    "INSERT INTO releases (version, at_ms, kind, actor, note, changes, total) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
/// The newest that is not to be kept. `total` grows with `version`.
const OLD: &str = "SELECT max(version) FROM releases WHERE version < ?1 AND (version <= ?2 OR total - changes < ?3)";
const RELEASES: &str = "SELECT version, at_ms, kind, actor, note, changes FROM releases WHERE version < ?1
     ORDER BY version DESC LIMIT ?2";
const REVISION: &str = "SELECT coalesce(max(revision), 0) FROM changes WHERE kind = ?1 AND name = ?2";
const CHANGES: &str = "SELECT kind, name, before, after, revision FROM changes
     WHERE version = ?1 AND (kind, name) > (?2, ?3) ORDER BY kind, name LIMIT ?4";

impl ReleaseStore for SqliteCatalog {
    fn commit(&self, write: Arc<Write>) -> BoxFuture<'_, Result<u64, CatalogError>> {
        Box::pin(self.call(Call::Commit, move |c| commit(c, &write)))
    }

    fn revisions(&self, kind: &'static str, names: Vec<String>) -> BoxFuture<'_, Result<Vec<u64>, CatalogError>> {
        Box::pin(self.call(Call::Revisions, move |c| -> rusqlite::Result<_> {
            let mut known = c.prepare_cached(REVISION)?;
            names.iter().map(|name| known.query_row(params![kind, name], |row| number(row, 0))).collect()
        }))
    }

    fn kept(&self) -> BoxFuture<'_, Result<Kept, CatalogError>> {
        Box::pin(self.call(Call::Releases, kept))
    }

    fn releases(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Release>, CatalogError>> {
        Box::pin(self.call(Call::Releases, move |c| releases(c, below, limit)))
    }

    fn differences<'a>(
        &'a self,
        from: u64,
        to: u64,
        after: Option<(&'a str, &'a str)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<NetChange>, CatalogError>> {
        // No kind is empty, so "behind the empty one" is the beginning.
        let after = after.map_or_else(Default::default, |(kind, name)| (kind.to_owned(), name.to_owned()));
        Box::pin(self.call(Call::Differences, move |c| differences(c, [from, to], &after, limit)))
    }
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    // None was written that is negative.
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

fn stored(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn commit(connection: &mut Connection, write: &Write) -> Result<u64, CatalogError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last: Option<(u64, u64)> = transaction
        .prepare_cached("SELECT version, total FROM releases ORDER BY version DESC LIMIT 1")?
        .query_row([], |row| Ok((number(row, 0)?, number(row, 1)?)))
        .optional()?;
    let (last, total) = last.unwrap_or_default();
    let version = last.max(write.above) + 1;
    {
        let mut insert = transaction.prepare_cached(INSERT_CHANGE)?;
        for change in &write.changes {
            if write.kind != ReleaseKind::Outside {
                apply(&transaction, change)?;
            }
            let ((kind, name), [before, after]) =
                (change.entry(), change.documents().map(|d| d.map(|d| d.to_string())));
            insert.execute(params![stored(version), kind, name, before, after, stored(change.revision())])?;
        }
        let (changes, at_ms) = (write.changes.len() as u64, stored(write.at_ms));
        let total = total + changes;
        let values =
            params![stored(version), at_ms, write.kind.name(), write.actor, write.note, stored(changes), stored(total)];
        transaction.prepare_cached(INSERT_RELEASE)?.execute(values)?;
        forget(&transaction, version, total, write)?;
    }
    transaction.commit()?;
    Ok(version)
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> Result<(), CatalogError> {
    match change {
        Change::Link { before, after: Some(entry) } => sqlite_links::put(transaction, before.is_some(), &entry.link)?,
        Change::Link { before, after: None } => {
            before.iter().try_for_each(|entry| sqlite_links::delete(transaction, &entry.link))?;
        }
        Change::Campaign { after: Some(campaign), .. } => sqlite_campaigns::put(transaction, campaign)?,
        Change::Campaign { after: None, .. } => sqlite_campaigns::delete(transaction, &change.entry().1)?,
        Change::Domain { after: Some(domain), .. } => sqlite_domains::put(transaction, domain)?,
        Change::Domain { after: None, .. } => sqlite_domains::delete(transaction, &change.entry().1)?,
    }
    Ok(())
}

fn forget(transaction: &Transaction<'_>, version: u64, total: u64, write: &Write) -> rusqlite::Result<()> {
    let releases = version.saturating_sub(write.keep.releases_max);
    // A release goes when it and those behind it have more changes than may be kept.
    let changes = total.saturating_sub(write.keep.changes_max);
    let bounds = params![stored(version), stored(releases), stored(changes)];
    let old: Option<i64> = transaction.prepare_cached(OLD)?.query_row(bounds, |row| row.get(0))?;
    if let Some(old) = old {
        transaction.prepare_cached("DELETE FROM releases WHERE version <= ?1")?.execute([old])?;
        transaction.prepare_cached("DELETE FROM changes WHERE version <= ?1")?.execute([old])?;
    }
    Ok(())
}

fn kept(connection: &mut Connection) -> rusqlite::Result<Kept> {
    let read = "SELECT coalesce(min(version) - 1, 0), coalesce(max(version), 0) FROM releases";
    connection.prepare_cached(read)?.query_row([], |row| Ok(Kept { oldest: number(row, 0)?, newest: number(row, 1)? }))
}

fn releases(connection: &mut Connection, below: u64, limit: usize) -> rusqlite::Result<Vec<Release>> {
    let mut statement = connection.prepare_cached(RELEASES)?;
    let rows = statement.query_map(params![stored(below), stored(limit as u64)], |row| {
        Ok(Release {
            version: number(row, 0)?,
            at_ms: number(row, 1)?,
            kind: row.get(2)?,
            actor: row.get(3)?,
            note: row.get(4)?,
            changes: number(row, 5)?,
        })
    })?;
    rows.collect()
}

/// Changes of a release are sorted, so each release is read only as far as it may belong to the page.
fn differences(
    connection: &mut Connection,
    [from, to]: [u64; 2],
    after: &(String, String),
    limit: usize,
) -> rusqlite::Result<Vec<NetChange>> {
    let mut versions = connection
        .prepare_cached("SELECT version FROM releases WHERE version > ?1 AND version <= ?2 ORDER BY version")?;
    let versions =
        versions.query_map([stored(from), stored(to)], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let mut found: BTreeMap<(String, String), NetChange> = BTreeMap::new();
    let mut changes = connection.prepare_cached(CHANGES)?;
    for version in versions {
        let mut rows = changes.query(params![version, after.0, after.1, stored(limit as u64)])?;
        while let Some(row) = rows.next()? {
            let key: (String, String) = (row.get(0)?, row.get(1)?);
            if let Some(known) = found.get_mut(&key) {
                known.after = row.get(3)?;
                known.revision = known.revision.max(number(row, 4)?);
                continue;
            }
            if found.len() >= limit {
                if found.last_key_value().is_none_or(|(last, _)| key > *last) {
                    break;
                }
                found.pop_last();
            }
            let (kind, name) = key.clone();
            let (before, after, revision) = (row.get(2)?, row.get(3)?, number(row, 4)?);
            found.insert(key, NetChange { kind, name, before, after, revision });
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::backend::samples;
    use crate::catalog::releases::Keep;
    use crate::catalog::{Entry, LinkPage, LinkStore as _};
    use crate::click::{Link, OwnHosts, RawLink};

    fn entry(slug: &str, version: u64) -> Arc<Entry> {
        let raw = RawLink { slug: Some(slug.into()), url: Some("https://a.example/".into()), ..RawLink::default() };
        Arc::new(Entry::new(Link { version, ..Link::check(raw, &OwnHosts::default()).unwrap() }))
    }

    fn link(before: Option<(&str, u64)>, after: Option<(&str, u64)>) -> Change {
        let [before, after] = [before, after].map(|link| link.map(|(slug, version)| entry(slug, version)));
        Change::Link { before, after }
    }

    fn catalog(folder: &tempfile::TempDir) -> SqliteCatalog {
        SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap()
    }

    #[tokio::test]
    async fn a_write_and_its_release_are_made_both_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = catalog(&folder);
        let make = || link(None, Some(("a", 1)));
        assert_eq!(store.commit(Arc::new(samples::write(vec![make()]))).await.unwrap(), 1);
        // The second change of the write fails: of the first nothing is left, and no number is used up.
        let torn = samples::write(vec![link(None, Some(("0", 1))), make()]);
        assert!(matches!(store.commit(Arc::new(torn)).await, Err(CatalogError::Taken)));
        let torn = samples::write(vec![link(None, Some(("0", 1))), link(Some(("z", 1)), Some(("z", 2)))]);
        assert!(matches!(store.commit(Arc::new(torn)).await, Err(CatalogError::Unavailable(_))));
        assert_eq!(store.list(LinkPage { org: None, domain: None, after: None, limit: 10 }).await.unwrap().len(), 1);
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 0, newest: 1 });
        let removed = samples::write(vec![link(Some(("a", 1)), None)]);
        assert_eq!(store.commit(Arc::new(removed)).await.unwrap(), 2);
        let told = store.differences(1, 2, None, 10).await.unwrap();
        assert_eq!((told.len(), told[0].after.as_ref(), told[0].revision), (1, None, 1));
    }

    #[tokio::test]
    async fn versions_of_a_name_are_known_as_long_as_its_releases() {
        let folder = tempfile::tempdir().unwrap();
        let store = catalog(&folder);
        for change in [link(None, Some(("a", 1))), link(Some(("a", 1)), Some(("a", 7))), link(Some(("a", 7)), None)] {
            store.commit(Arc::new(samples::write(vec![change]))).await.unwrap();
        }
        let revisions = async |kind, name: &str| store.revisions(kind, vec!["*/x".into(), name.into()]).await.unwrap();
        assert_eq!((revisions("link", "*/a").await, revisions("campaign", "*/a").await), (vec![0, 7], vec![0, 0]));
        let write = samples::write(vec![link(None, Some(("b", 1)))]);
        let keep = Keep { releases_max: 1, changes_max: 9 };
        store.commit(Arc::new(Write { keep, ..write })).await.unwrap();
        assert_eq!(revisions("link", "*/a").await, [0, 0]);
    }

    #[tokio::test]
    async fn numbers_grow_over_restarts_and_above_what_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let store = catalog(&folder);
        assert_eq!(store.kept().await.unwrap(), Kept::default());
        let write = |before: Option<(&str, u64)>, above| {
            Arc::new(Write { above, ..samples::write(vec![link(before, Some(("a", 1)))]) })
        };
        assert_eq!(store.commit(write(None, 0)).await.unwrap(), 1);
        drop(store);
        let store = catalog(&folder);
        assert_eq!(store.commit(write(Some(("a", 1)), 1)).await.unwrap(), 2);
        // As after a restored file, whose releases are of long ago.
        assert_eq!(store.commit(write(Some(("a", 1)), 9)).await.unwrap(), 10);
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 0, newest: 10 });
        let versions: Vec<_> =
            store.releases(10, 5).await.unwrap().into_iter().map(|release| release.version).collect();
        assert_eq!(versions, [2, 1]);
    }

    #[tokio::test]
    async fn the_oldest_releases_go_by_number_and_by_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = catalog(&folder);
        let mut next = 0;
        let mut write = |entries: u32, releases_max, changes_max| {
            let names: Vec<_> = (0..entries).map(|n| format!("s-{:04}", next + n)).collect();
            next += entries;
            let changes = names.iter().map(|name| link(None, Some((name, 1)))).collect();
            Arc::new(Write { keep: Keep { releases_max, changes_max }, ..samples::write(changes) })
        };
        for _ in 0..3 {
            store.commit(write(1, 3, 100)).await.unwrap();
        }
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 0, newest: 3 });
        store.commit(write(1, 3, 100)).await.unwrap();
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 1, newest: 4 });
        assert!(store.differences(0, 1, None, 10).await.unwrap().is_empty(), "its changes are gone as well");
        store.commit(write(7, 100, 9)).await.unwrap();
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 2, newest: 5 }, "9 changes of 3 releases");
        store.commit(write(2, 100, 9)).await.unwrap();
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 4, newest: 6 });
        store.commit(write(20, 100, 9)).await.unwrap();
        assert_eq!(store.kept().await.unwrap(), Kept { oldest: 6, newest: 7 }, "the last one stays, however large");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Pages of any length, joined, are what a walk through all changes in their order finds.
        #[test]
        fn pages_of_differences_join_to_the_whole(
            writes in proptest::collection::vec(proptest::collection::btree_set(0_u8..12, 1..8), 1..12),
            cut in (0_usize..12, 0_usize..12),
            limit in 1_usize..6,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let store = catalog(&folder);
            let (from, to) = (cut.0.min(cut.1).min(writes.len()), cut.0.max(cut.1).min(writes.len()));
            let mut there: BTreeMap<String, u64> = BTreeMap::new();
            let mut expected: BTreeMap<String, (Option<u64>, Option<u64>)> = BTreeMap::new();
            for (index, touched) in writes.iter().enumerate() {
                let mut changes = Vec::new();
                // Sorted, as a set of small numbers is in this form.
                for slug in touched.iter().map(|n| format!("s{n:02}")).collect::<BTreeSet<_>>() {
                    let before = there.get(&slug).copied();
                    // Every third time it is removed.
                    let after = (before.unwrap_or_default() % 3 != 2).then(|| before.unwrap_or_default() + 1);
                    match after {
                        Some(version) => there.insert(slug.clone(), version),
                        None => there.remove(&slug),
                    };
                    changes.push(link(before.map(|v| (&*slug, v)), after.map(|v| (&*slug, v))));
                    if (from..to).contains(&index) {
                        expected.entry(format!("*/{slug}")).or_insert((before, None)).1 = after;
                    }
                }
                runtime.block_on(store.commit(Arc::new(samples::write(changes)))).unwrap();
            }
            let version = |text: Option<String>| {
                text.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()["version"].as_u64().unwrap())
            };
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let behind = after.as_ref().map(|name| ("link", name.as_str()));
                let page = runtime.block_on(store.differences(from as u64, to as u64, behind, limit)).unwrap();
                prop_assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.name.clone());
                found.extend(page.into_iter().map(|one| (one.name, (version(one.before), version(one.after)))));
            }
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
