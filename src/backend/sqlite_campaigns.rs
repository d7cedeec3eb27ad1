//! Campaigns in the embedded catalog's file: `sqlite_catalog` lends its connection.

use rusqlite::{Connection, Row, params};

use super::sqlite_catalog::SqliteCatalog;
use crate::BoxFuture;
use crate::catalog::{CampaignStore, CatalogError, Page};
use crate::click::{Campaign, OwnHosts};
use crate::telemetry::calls::Call;

const SELECT: &str = "SELECT id, document, version, created_ms, updated_ms FROM campaigns ORDER BY id";
const PAGE: &str =
    "SELECT id, document, version, created_ms, updated_ms FROM campaigns WHERE id > ?1 ORDER BY id LIMIT ?2";
const PUT: &str = "INSERT INTO campaigns (id, document, version, created_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, ?5)
     ON CONFLICT (id) DO UPDATE SET document = excluded.document, version = excluded.version,
     created_ms = excluded.created_ms, updated_ms = excluded.updated_ms";

impl CampaignStore for SqliteCatalog {
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>> {
        Box::pin(self.call(Call::CampaignsList, load))
    }

    fn page_of_campaigns<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Campaign>, CatalogError>> {
        let after = after.unwrap_or_default().to_owned();
        Box::pin(self.call(Call::CampaignsList, move |c| page(c, &after, limit)))
    }
}

/// All of them. One that this program cannot read is told in the log and left out: its links go to their own destination.
fn load(connection: &mut Connection) -> rusqlite::Result<Vec<Campaign>> {
    let mut campaigns = Vec::new();
    let mut statement = connection.prepare_cached(SELECT)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(campaign) => campaigns.push(campaign),
            Err(problem) => {
                let id: String = row.get(0)?;
                tracing::error!(
                    campaign = id,
                    problem,
                    "a stored campaign cannot be read and decides nothing; save it again"
                );
            }
        }
    }
    Ok(campaigns)
}

/// Campaigns behind `after` in the order of their names, with those that this program cannot read; at most `limit` of both.
fn page(connection: &mut Connection, after: &str, limit: usize) -> rusqlite::Result<Page<Campaign>> {
    let mut page = Page { entries: Vec::new(), unreadable: Vec::new(), last: None };
    let mut statement = connection.prepare_cached(PAGE)?;
    let mut rows = statement.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        match read(row) {
            Ok(campaign) => page.entries.push(campaign),
            Err(problem) => page.unreadable.push((id.clone(), problem)),
        }
        page.last = Some(id);
    }
    if page.entries.len() + page.unreadable.len() < limit {
        page.last = None;
    }
    Ok(page)
}

fn read(row: &Row<'_>) -> Result<Campaign, String> {
    let text = |column: &str| row.get::<_, String>(column).map_err(|e| e.to_string());
    let number = |column: &str| -> Result<u64, String> {
        let number = row.get::<_, i64>(column).map_err(|e| e.to_string())?;
        u64::try_from(number).map_err(|_| format!("{column} is negative"))
    };
    let document = serde_json::from_str(&text("document")?).map_err(|e| format!("document: {e}"))?;
    // A host that became one of ours after it was saved is no reason to stop serving it.
    let campaign = Campaign::check(&text("id")?, document, &OwnHosts::default()).map_err(|misfits| {
        misfits.iter().map(|misfit| format!("{} {}", misfit.pointer, misfit.detail)).collect::<Vec<_>>().join("; ")
    })?;
    Ok(Campaign {
        version: number("version")?,
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
        ..campaign
    })
}

pub(super) fn put(connection: &Connection, campaign: &Campaign) -> rusqlite::Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let times = (number(campaign.created_ms), number(campaign.updated_ms));
    let values = params![campaign.id, campaign.document.to_string(), number(campaign.version), times.0, times.1];
    connection.prepare_cached(PUT)?.execute(values).map(|_| ())
}

pub(super) fn delete(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM campaigns WHERE id = ?1")?.execute([id]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::sqlite_catalog::SqliteCatalog;
    use super::*;
    use crate::backend::samples;
    use crate::catalog::ReleaseStore as _;
    use crate::catalog::releases::Change;

    fn campaign(id: &str, version: u64) -> Campaign {
        let document =
            json!({"rules": [{"name": "r", "when": "country == 'DE'", "to": [{"url": "https://a.example/"}]}]});
        let campaign = Campaign::check(id, document, &OwnHosts::default()).unwrap();
        Campaign { version, created_ms: 5, updated_ms: 6, ..campaign }
    }

    #[tokio::test]
    async fn campaigns_survive_a_restart_and_one_that_cannot_be_read_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let commit = async |before: Option<Campaign>, after: Option<Campaign>| {
            let [before, after] = [before, after].map(|campaign| campaign.map(Arc::new));
            catalog.commit(Arc::new(samples::write(vec![Change::Campaign { before, after }]))).await.unwrap();
        };
        for campaign in [campaign("b", 1), campaign("a", 1), campaign("a", 2), campaign("c", 1), campaign("gone", 1)] {
            commit(None, Some(campaign)).await;
        }
        commit(Some(campaign("gone", 1)), None).await;
        drop(catalog);
        let other = Connection::open(&path).unwrap();
        other.execute("UPDATE campaigns SET document = '{\"rules\": 5}' WHERE id = 'b'", []).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        assert_eq!(catalog.load_campaigns().await.unwrap(), [campaign("a", 2), campaign("c", 1)]);
    }
}
