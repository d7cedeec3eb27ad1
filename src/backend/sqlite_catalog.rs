//! The embedded catalog: links, campaigns, domains and releases in one SQLite file.
//!
//! It keeps links and reads them back; it serves none (`catalog::links` does, from memory) and judges none: what was
//! checked when it was saved is only parsed again. `app` opens it once; `catalog` calls it, once an edit and once at
//! start. Bounds: one thread, 64 waiting calls, 2 MiB of page cache.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};

use super::database_thread::{DatabaseThread, Gone};
use super::sqlite_file::{self, FileError, Migration, Pages};
use super::sqlite_links;
use crate::BoxFuture;
use crate::catalog::source::Name;
use crate::catalog::{CatalogError, LinkPage, LinkStore, Page};
use crate::click::Link;
use crate::telemetry::calls::{Call, Calls};

pub(super) const MIGRATIONS: [Migration; 8] = [
    Migration { name: "001_links", sql: include_str!("../../schema/sqlite/catalog/001_links.sql") },
    Migration { name: "002_campaigns", sql: include_str!("../../schema/sqlite/catalog/002_campaigns.sql") },
    Migration { name: "003_life", sql: include_str!("../../schema/sqlite/catalog/003_life.sql") },
    Migration { name: "004_domains", sql: include_str!("../../schema/sqlite/catalog/004_domains.sql") },
    Migration { name: "005_caps", sql: include_str!("../../schema/sqlite/catalog/005_caps.sql") },
    Migration { name: "006_releases", sql: include_str!("../../schema/sqlite/catalog/006_releases.sql") },
    Migration { name: "007_keys", sql: include_str!("../../schema/sqlite/catalog/007_keys.sql") },
    Migration { name: "008_audit", sql: include_str!("../../schema/sqlite/catalog/008_audit.sql") },
];

pub(super) const CACHE_KIB: u32 = 2048;

/// Rows read at a time when all are: those of two times stay in a core's cache.
const ROWS_MAX: usize = 1_000;

/// Links in a SQLite file.
#[derive(Debug)]
pub struct SqliteCatalog {
    database: DatabaseThread,
    calls: Option<Arc<Calls>>,
}

impl SqliteCatalog {
    /// Opens the file, makes it when it is missing, and brings its table up to date. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`CatalogError::Unavailable`]: it cannot be opened or written, is no database, or comes from a newer program.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let open = || -> Result<DatabaseThread, FileError> {
            let mut connection = sqlite_file::open(path, Pages::small(CACHE_KIB), &MIGRATIONS)?;
            sqlite_file::migrate(&mut connection, &MIGRATIONS)?;
            Ok(DatabaseThread::start("catalog-db", connection)?)
        };
        let database = open().map_err(|e| CatalogError::Unavailable(format!("{}: {e}", path.display())))?;
        Ok(Self { database, calls: None })
    }

    /// Notes there how long its calls take.
    #[must_use]
    pub fn timed(self, calls: Arc<Calls>) -> Self {
        Self { calls: Some(calls), ..self }
    }

    pub(super) async fn call<R: Send + 'static, E: Send + 'static>(
        &self,
        call: Call,
        f: impl FnOnce(&mut Connection) -> Result<R, E> + Send + 'static,
    ) -> Result<R, CatalogError>
    where
        CatalogError: From<E>,
    {
        let _under_way = self.calls.as_ref().map(|calls| calls.begin(call));
        Ok(self.database.call(f).await??)
    }
}

impl LinkStore for SqliteCatalog {
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>> {
        // No domain and no slug is empty, so "behind the empty one" is the beginning.
        let (domain, slug) = page.after.unwrap_or_default();
        let after = [domain, slug].map(str::to_owned);
        let ([org, domain], limit) = ([page.org, page.domain].map(|name| name.map(str::to_owned)), page.limit);
        Box::pin(self.call(Call::LinksList, move |c| sqlite_links::select(c, after, [org, domain], limit)))
    }

    fn page<'a>(&'a self, after: Option<Name>, limit: usize) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>> {
        let after = after.unwrap_or_default();
        Box::pin(self.call(Call::LinksList, move |c| sqlite_links::page(c, after, limit)))
    }

    fn load<'a>(&'a self, take: &'a mut (dyn FnMut(Link) + Send)) -> BoxFuture<'a, Result<(), CatalogError>> {
        let rows = |after| self.call(Call::LinksList, move |c| sqlite_links::rows(c, after, ROWS_MAX));
        Box::pin(async move {
            let (mut read, mut last) = rows(Name::default()).await?;
            loop {
                let next = async {
                    match last.take() {
                        Some(last) => rows(last).await.map(Some),
                        None => Ok(None),
                    }
                };
                // While the thread reads the next ones, these are parsed here.
                let parse = async {
                    for row in read {
                        match row.and_then(sqlite_links::Unchecked::check) {
                            Ok(link) => take(link),
                            Err(unreadable) => unreadable.tell(),
                        }
                    }
                };
                match tokio::join!(biased; next, parse).0? {
                    Some(next) => (read, last) = next,
                    None => break,
                }
            }
            Ok(())
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(
            self.call(Call::CatalogPing, |c| c.query_row("SELECT count(*) FROM links WHERE slug = ''", [], |_| Ok(()))),
        )
    }
}

impl From<Gone> for CatalogError {
    fn from(gone: Gone) -> Self {
        Self::Unavailable(gone.to_string())
    }
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // The table has no other constraint that a checked link could break.
            Some(ErrorCode::ConstraintViolation) => Self::Taken,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use serde_json::Value;

    use super::*;
    use crate::backend::samples;
    use crate::catalog::releases::Change;
    use crate::catalog::{Entry, ReleaseStore as _};
    use crate::click::{OwnHosts, QueryMode, RawLink};

    const ALL: LinkPage<'static> = LinkPage { org: None, domain: None, after: None, limit: 100 };

    fn link(slug: &str) -> Link {
        let raw = RawLink {
            slug: Some(slug.into()),
            url: Some("https://a.example/{click_id}?q={q:x}".into()),
            status: Some(307),
            query: Some(QueryMode::Forward),
            campaign: Some("spring".into()),
            paused: Some(true),
            tags: Some(vec!["a \"b\"".into(), "ü".into()]),
            external_id: Some("x-1".into()),
            ..RawLink::default()
        };
        let link = Link::check(raw, &OwnHosts::default()).unwrap();
        Link { version: 3, created_ms: 1_700_000_000_000, updated_ms: 1_700_000_000_001, ..link }
    }

    /// Writes the link, over the one that is there or not; the number of the release.
    async fn write(catalog: &SqliteCatalog, before: Option<Link>, after: Option<Link>) -> Result<u64, CatalogError> {
        let [before, after] = [before, after].map(|link| link.map(|link| Arc::new(Entry::new(link))));
        catalog.commit(Arc::new(samples::write(vec![Change::Link { before, after }]))).await
    }

    async fn insert(catalog: &SqliteCatalog, link: &Link) -> Result<u64, CatalogError> {
        write(catalog, None, Some(link.clone())).await
    }

    async fn update(catalog: &SqliteCatalog, link: &Link) -> Result<u64, CatalogError> {
        write(catalog, Some(link.clone()), Some(link.clone())).await
    }

    async fn remove(catalog: &SqliteCatalog, slug: &str) -> Result<u64, CatalogError> {
        write(catalog, Some(link(slug)), None).await
    }

    #[tokio::test]
    async fn links_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        for slug in ["b", "a", "c"] {
            insert(&catalog, &link(slug)).await.unwrap();
        }
        assert!(matches!(insert(&catalog, &link("a")).await, Err(CatalogError::Taken)));
        let changed = Link { paused: false, version: 4, ..link("b") };
        update(&catalog, &changed).await.unwrap();
        assert!(matches!(update(&catalog, &link("z")).await, Err(CatalogError::Unavailable(_))));
        remove(&catalog, "c").await.unwrap();
        remove(&catalog, "c").await.unwrap();
        drop(catalog);
        let catalog = SqliteCatalog::open(&path).unwrap();
        catalog.ping().await.unwrap();
        assert_eq!(catalog.list(ALL).await.unwrap(), [link("a"), changed]);
    }

    #[tokio::test]
    async fn the_life_of_a_link_survives_a_restart_and_so_does_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let timed = |slug: &str, life: Value| {
            let change: RawLink = serde_json::from_value(life).unwrap();
            link(slug).changed(change, &OwnHosts::default()).unwrap()
        };
        let links = [
            timed("a", json!({"starts_at": "1970-01-01T00:00:00Z"})),
            timed("b", json!({"expires_at": "9999-12-30T22:00:00Z"})),
            timed(
                "c",
                json!({"starts_at": "2026-11-21T12:00:00.001Z", "expires_at": "2026-11-21T12:00:00.002Z",
                "expired_url": "https://b.example/{slug}"}),
            ),
        ];
        for link in links.iter().chain([&Link { slug: "d".into(), ..links[2].clone() }]) {
            insert(&catalog, link).await.unwrap();
        }
        update(&catalog, &link("d")).await.unwrap();
        drop(catalog);
        let read = SqliteCatalog::open(&path).unwrap().list(ALL).await.unwrap();
        assert_eq!((&read[..3], &read[3..]), (&links[..], &[link("d")][..]));
    }

    #[tokio::test]
    async fn a_link_that_cannot_be_read_keeps_no_other_from_being_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        for slug in ["a", "b", "c", "d", "e", "f"] {
            insert(&catalog, &link(slug)).await.unwrap();
        }
        let other = Connection::open(&path).unwrap();
        other.execute("UPDATE links SET url = 'mailto:a@b.example' WHERE slug = 'a'", []).unwrap();
        other.execute("UPDATE links SET tags = '[1' WHERE slug = 'b'", []).unwrap();
        other.execute("UPDATE links SET status = 99999999 WHERE slug = 'c'", []).unwrap();
        other.execute("UPDATE links SET starts_ms = -1 WHERE slug = 'e'", []).unwrap();
        other.execute("UPDATE links SET expired_url = 'https://b.example/' WHERE slug = 'f'", []).unwrap();
        assert_eq!(catalog.list(ALL).await.unwrap(), [link("d")]);
        assert_eq!(catalog.list(LinkPage { limit: 1, ..ALL }).await.unwrap(), [link("d")]);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        std::fs::write(&path, [b'x'; 5000]).unwrap();
        let error = SqliteCatalog::open(&path).unwrap_err();
        assert!(error.to_string().contains("catalog.db: file is not a database"), "{error}");
    }
}
