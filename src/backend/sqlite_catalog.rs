//! The embedded catalog: links, campaigns, domains and releases in one SQLite file.
//!
//! It keeps links and reads them back; it serves none (`catalog::links` does, from memory) and judges none: what was
//! checked when it was saved is only parsed again. `app` opens it once; `catalog` calls it, once an edit and once at
//! start. Bounds: one thread, 64 waiting calls, 2 MiB of page cache.

use std::path::Path;

use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, Row, named_params, params_from_iter};
use serde_json::Value;

use super::database_thread::{DatabaseThread, Gone};
use super::sqlite_campaigns;
use super::sqlite_file::{self, FileError, Migration};
use crate::BoxFuture;
use crate::catalog::source::Name;
use crate::catalog::{CampaignStore, CatalogError, LinkPage, LinkStore, Page};
use crate::click::{Campaign, Link, OwnHosts, QueryMode, RawLink};
use crate::clock::rfc_3339;

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

const SELECT: &str =
    "SELECT domain, slug, url, status, query, campaign, paused, tags, external_id, starts_ms, expires_ms, expired_url,
     version, created_ms, updated_ms, cap, max_clicks, org FROM links WHERE (domain, slug) > (?1, ?2)";
const ORDER: &str = "ORDER BY domain, slug";
const INSERT: &str =
    "INSERT INTO links (domain, slug, url, status, query, campaign, paused, tags, external_id, starts_ms, expires_ms, expired_url,
     version, created_ms, updated_ms, cap, max_clicks, org)
     VALUES (:domain, :slug, :url, :status, :query, :campaign, :paused, :tags, :external_id, :starts_ms, :expires_ms, :expired_url,
     :version, :created_ms, :updated_ms, :cap, :max_clicks, :org)";
const UPDATE: &str =
    "UPDATE links SET url = :url, status = :status, query = :query, campaign = :campaign, paused = :paused,
     tags = :tags, external_id = :external_id, starts_ms = :starts_ms, expires_ms = :expires_ms,
     expired_url = :expired_url, version = :version, created_ms = :created_ms, updated_ms = :updated_ms,
     cap = :cap, max_clicks = :max_clicks, org = :org WHERE domain = :domain AND slug = :slug";

/// Links in a SQLite file.
#[derive(Debug)]
pub struct SqliteCatalog {
    pub(super) database: DatabaseThread,
}

impl SqliteCatalog {
    /// Opens the file, makes it when it is missing, and brings its table up to date. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`CatalogError::Unavailable`]: it cannot be opened or written, is no database, or comes from a newer program.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let open = || -> Result<DatabaseThread, FileError> {
            let mut connection = sqlite_file::open(path, CACHE_KIB, &MIGRATIONS)?;
            sqlite_file::migrate(&mut connection, &MIGRATIONS)?;
            Ok(DatabaseThread::start("catalog-db", connection)?)
        };
        let database = open().map_err(|e| CatalogError::Unavailable(format!("{}: {e}", path.display())))?;
        Ok(Self { database })
    }

    pub(super) async fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, CatalogError> {
        Ok(self.database.call(f).await??)
    }
}

impl LinkStore for SqliteCatalog {
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>> {
        // No domain and no slug is empty, so "behind the empty one" is the beginning.
        let (domain, slug) = page.after.unwrap_or_default();
        let after = [domain, slug].map(str::to_owned);
        let ([org, domain], limit) = ([page.org, page.domain].map(|name| name.map(str::to_owned)), page.limit);
        Box::pin(self.call(move |c| select(c, after, [org, domain], limit)))
    }

    fn page<'a>(&'a self, after: Option<Name>, limit: usize) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>> {
        let after = after.unwrap_or_default();
        Box::pin(self.call(move |c| page(c, after, limit)))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(self.call(|c| c.query_row("SELECT count(*) FROM links WHERE slug = ''", [], |_| Ok(()))))
    }
}

impl CampaignStore for SqliteCatalog {
    fn load_campaigns(&self) -> BoxFuture<'_, Result<Vec<Campaign>, CatalogError>> {
        Box::pin(self.call(sqlite_campaigns::load))
    }

    fn page_of_campaigns<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Campaign>, CatalogError>> {
        let after = after.unwrap_or_default().to_owned();
        Box::pin(self.call(move |c| sqlite_campaigns::page(c, &after, limit)))
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

/// [`SELECT`] of one organisation, or of one domain, or of both.
pub(super) fn selecting(of: &[Option<String>; 2]) -> String {
    let mut sql = SELECT.to_owned();
    for (place, (column, _)) in ["org", "domain"].iter().zip(of).filter(|(_, name)| name.is_some()).enumerate() {
        sql.push_str(&format!(" AND {column} = ?{}", place + 3));
    }
    sql + " " + ORDER
}

/// Links behind `after` in the order of their domains and slugs, at most `limit`; of an organisation, of a domain. One that this program cannot read is told in the
/// log and left out: it must not keep the others from being served, and it does not count towards `limit`.
fn select(
    connection: &mut Connection,
    after: [String; 2],
    of: [Option<String>; 2],
    limit: usize,
) -> rusqlite::Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut statement = connection.prepare_cached(&selecting(&of))?;
    let mut rows = statement.query(params_from_iter(after.into_iter().chain(of.into_iter().flatten())))?;
    while links.len() < limit
        && let Some(row) = rows.next()?
    {
        match read(row) {
            Ok(link) => links.push(link),
            Err(problem) => {
                let [domain, slug]: [String; 2] = [row.get(0)?, row.get(1)?];
                tracing::error!(domain, slug, problem, "a stored link cannot be read and is not served; save it again");
            }
        }
    }
    Ok(links)
}

/// Links behind `after` in the order of their domains and slugs, with those that this program cannot read; at most `limit` of
/// both.
fn page(connection: &mut Connection, after: Name, limit: usize) -> rusqlite::Result<Page<Link, Name>> {
    let mut page = Page { entries: Vec::new(), unreadable: Vec::new(), last: None };
    let mut statement = connection.prepare_cached(&format!("{SELECT} {ORDER}"))?;
    let mut rows = statement.query([after.0, after.1])?;
    while page.entries.len() + page.unreadable.len() < limit {
        let Some(row) = rows.next()? else { return Ok(Page { last: None, ..page }) };
        let name: Name = (row.get(Column::Domain as usize)?, row.get(Column::Slug as usize)?);
        match read(row) {
            Ok(link) => page.entries.push(link),
            Err(problem) => page.unreadable.push((name.clone(), problem)),
        }
        page.last = Some(name);
    }
    Ok(page)
}

/// Columns of [`SELECT`], in its order: names would be looked up for each of a million rows.
#[derive(Clone, Copy)]
enum Column {
    Domain,
    Slug,
    Url,
    Status,
    Query,
    Campaign,
    Paused,
    Tags,
    ExternalId,
    StartsMs,
    ExpiresMs,
    ExpiredUrl,
    Version,
    CreatedMs,
    UpdatedMs,
    Cap,
    MaxClicks,
    Org,
}

fn read(row: &Row<'_>) -> Result<Link, String> {
    fn get<T: FromSql>(row: &Row<'_>, column: Column) -> Result<T, String> {
        row.get(column as usize).map_err(|e| e.to_string())
    }
    let text = |column| get::<String>(row, column);
    let number = |column, name| u64::try_from(get::<i64>(row, column)?).map_err(|_| format!("{name} is negative"));
    // In the form in which it is checked.
    let moment = |column, name| -> Result<Option<Value>, String> {
        let number = get::<Option<i64>>(row, column)?.map(u64::try_from).transpose();
        Ok(number.map_err(|_| format!("{name} is negative"))?.map(|unix_ms| rfc_3339(unix_ms).into()))
    };
    let query = match text(Column::Query)?.as_str() {
        "ignore" => QueryMode::Ignore,
        "forward" => QueryMode::Forward,
        other => return Err(format!("query: unknown mode `{other}`")),
    };
    let raw = RawLink {
        domain: Some(text(Column::Domain)?),
        slug: Some(text(Column::Slug)?),
        url: Some(text(Column::Url)?),
        status: Some(get(row, Column::Status)?),
        query: Some(query),
        org: Some(text(Column::Org)?),
        campaign: Some(text(Column::Campaign)?),
        paused: Some(get(row, Column::Paused)?),
        tags: Some(serde_json::from_str(&text(Column::Tags)?).map_err(|e| format!("tags: {e}"))?),
        external_id: Some(text(Column::ExternalId)?),
        starts_at: moment(Column::StartsMs, "starts_ms")?,
        expires_at: moment(Column::ExpiresMs, "expires_ms")?,
        expired_url: get::<Option<String>>(row, Column::ExpiredUrl)?.map(Value::from),
        cap: get::<Option<String>>(row, Column::Cap)?
            .map(|text| serde_json::from_str(&text).map_err(|e| format!("cap: {e}")))
            .transpose()?,
        max_clicks: get::<Option<i64>>(row, Column::MaxClicks)?.map(Value::from),
    };
    // A host that became one of ours after the link was saved is no reason to stop serving it.
    let link = Link::check(raw, &OwnHosts::default())
        .map_err(|errors| errors.iter().map(|e| format!("{} {}", e.field, e.detail)).collect::<Vec<_>>().join("; "))?;
    Ok(Link {
        version: number(Column::Version, "version")?,
        created_ms: number(Column::CreatedMs, "created_ms")?,
        updated_ms: number(Column::UpdatedMs, "updated_ms")?,
        ..link
    })
}

/// Keeps a link: in place of the one that is there, or as a new one.
pub(super) fn put(connection: &Connection, is_there: bool, link: &Link) -> Result<(), CatalogError> {
    match save(connection, if is_there { UPDATE } else { INSERT }, link)? {
        0 => Err(CatalogError::Unavailable("the link is not in the file: another program changed it".into())),
        _ => Ok(()),
    }
}

/// Forgets a link.
pub(super) fn delete(connection: &Connection, link: &Link) -> rusqlite::Result<()> {
    let sql = "DELETE FROM links WHERE domain = ?1 AND slug = ?2";
    connection.prepare_cached(sql)?.execute([link.domain(), &link.slug]).map(|_| ())
}

/// Runs INSERT or UPDATE with the link; the rows that it changed.
fn save(connection: &Connection, sql: &str, link: &Link) -> rusqlite::Result<usize> {
    let query = match link.query {
        QueryMode::Ignore => "ignore",
        QueryMode::Forward => "forward",
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (life, caps) = (link.life.as_deref(), link.caps.as_deref());
    connection.prepare_cached(sql)?.execute(named_params! {
        ":domain": link.domain(),
        ":slug": link.slug,
        ":url": link.url,
        ":status": link.status,
        ":query": query,
        ":campaign": link.campaign,
        ":paused": link.paused,
        ":tags": Value::from(link.tags.as_slice()).to_string(),
        ":external_id": link.external_id,
        ":starts_ms": life.and_then(|life| life.starts_ms).map(number),
        ":expires_ms": life.and_then(|life| life.expires_ms).map(number),
        ":expired_url": life.and_then(|life| life.expired.as_ref()).map(|expired| &expired.url),
        ":cap": caps.and_then(|caps| caps.document.as_ref()).map(Value::to_string),
        ":max_clicks": caps.and_then(|caps| caps.max_clicks.as_ref()).map(|cap| number(cap.limit)),
        ":version": number(link.version),
        ":created_ms": number(link.created_ms),
        ":updated_ms": number(link.updated_ms),
        ":org": link.org.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::backend::samples;
    use crate::catalog::releases::Change;
    use crate::catalog::{Entry, ReleaseStore as _};

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
