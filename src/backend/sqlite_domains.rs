//! Domains in the embedded catalog's file, on the connection of `sqlite_catalog`.

use rusqlite::{Connection, Row, params};

use super::sqlite_catalog::SqliteCatalog;
use crate::BoxFuture;
use crate::catalog::{CatalogError, DomainStore, Page};
use crate::click::{Domain, OwnHosts};
use crate::telemetry::calls::Call;

const SELECT: &str = "SELECT name, document, version, created_ms, updated_ms FROM domains ORDER BY name";
const PAGE: &str =
    "SELECT name, document, version, created_ms, updated_ms FROM domains WHERE name > ?1 ORDER BY name LIMIT ?2";
const PUT: &str = "INSERT INTO domains (name, document, version, created_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, ?5)
     ON CONFLICT (name) DO UPDATE SET document = excluded.document, version = excluded.version,
     created_ms = excluded.created_ms, updated_ms = excluded.updated_ms";

impl DomainStore for SqliteCatalog {
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>> {
        Box::pin(self.call(Call::DomainsList, load))
    }

    fn page_of_domains<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Domain>, CatalogError>> {
        let after = after.unwrap_or_default().to_owned();
        Box::pin(self.call(Call::DomainsList, move |c| page(c, &after, limit)))
    }
}

/// All of them. One that this program cannot read is told in the log and left out: its visits to no link get a 404.
fn load(connection: &mut Connection) -> rusqlite::Result<Vec<Domain>> {
    let mut domains = Vec::new();
    let mut statement = connection.prepare_cached(SELECT)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(domain) => domains.push(domain),
            Err(problem) => {
                let name: String = row.get(0)?;
                tracing::error!(
                    domain = name,
                    problem,
                    "a stored domain cannot be read and is left out; save it again"
                );
            }
        }
    }
    Ok(domains)
}

/// Domains behind `after` in the order of their names, with those that this program cannot read; at most `limit` of both.
fn page(connection: &mut Connection, after: &str, limit: usize) -> rusqlite::Result<Page<Domain>> {
    let mut page = Page { entries: Vec::new(), unreadable: Vec::new(), last: None };
    let mut statement = connection.prepare_cached(PAGE)?;
    let mut rows = statement.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        match read(row) {
            Ok(domain) => page.entries.push(domain),
            Err(problem) => page.unreadable.push((name.clone(), problem)),
        }
        page.last = Some(name);
    }
    if page.entries.len() + page.unreadable.len() < limit {
        page.last = None;
    }
    Ok(page)
}

fn read(row: &Row<'_>) -> Result<Domain, String> {
    let text = |column: &str| row.get::<_, String>(column).map_err(|e| e.to_string());
    let number = |column: &str| -> Result<u64, String> {
        let number = row.get::<_, i64>(column).map_err(|e| e.to_string())?;
        u64::try_from(number).map_err(|_| format!("{column} is negative"))
    };
    let document = serde_json::from_str(&text("document")?).map_err(|e| format!("document: {e}"))?;
    // A host that became one of ours after it was saved is no reason to stop sending visitors there.
    let domain = Domain::check(&text("name")?, document, &OwnHosts::default()).map_err(|misfits| {
        misfits.iter().map(|misfit| format!("{} {}", misfit.pointer, misfit.detail)).collect::<Vec<_>>().join("; ")
    })?;
    Ok(Domain {
        version: number("version")?,
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
        ..domain
    })
}

pub(super) fn put(connection: &Connection, domain: &Domain) -> rusqlite::Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let times = (number(domain.created_ms), number(domain.updated_ms));
    let values = params![domain.name, domain.document.to_string(), number(domain.version), times.0, times.1];
    connection.prepare_cached(PUT)?.execute(values).map(|_| ())
}

pub(super) fn delete(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM domains WHERE name = ?1")?.execute([name]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::backend::samples;
    use crate::catalog::releases::Change;
    use crate::catalog::{Entry, LinkPage, LinkStore as _, ReleaseStore as _};
    use crate::click::{Link, RawLink};

    fn domain(name: &str, version: u64) -> Domain {
        let document = json!({"root_url": "https://a.example/", "record_orphans": true});
        let domain = Domain::check(name, document, &OwnHosts::default()).unwrap();
        Domain { version, created_ms: 5, updated_ms: 6, ..domain }
    }

    #[tokio::test]
    async fn domains_survive_a_restart_and_one_that_cannot_be_read_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let commit = async |before: Option<Domain>, after: Option<Domain>| {
            let [before, after] = [before, after].map(|domain| domain.map(Arc::new));
            catalog.commit(Arc::new(samples::write(vec![Change::Domain { before, after }]))).await.unwrap();
        };
        for domain in [domain("b", 1), domain("*", 1), domain("*", 2), domain("c", 1), domain("gone", 1)] {
            commit(None, Some(domain)).await;
        }
        commit(Some(domain("gone", 1)), None).await;
        drop(catalog);
        let other = Connection::open(&path).unwrap();
        other.execute("UPDATE domains SET document = '{\"root_url\": 5}' WHERE name = 'b'", []).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        assert_eq!(catalog.load_domains().await.unwrap(), [domain("*", 2), domain("c", 1)]);
        let page = async |after, limit| catalog.page_of_domains(after, limit).await.unwrap();
        let first = page(None, 2).await;
        assert_eq!(
            (first.entries, first.unreadable[0].0.as_str(), first.last.as_deref()),
            (vec![domain("*", 2)], "b", Some("b"))
        );
        let second = page(Some("b"), 2).await;
        assert_eq!((second.entries, second.unreadable.len(), second.last), (vec![domain("c", 1)], 0, None));
    }

    #[tokio::test]
    async fn pages_follow_domains_and_slugs_and_one_slug_stands_under_several_domains() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let of = |domain: &str, slug: &str| {
            let [domain, slug, url] = [domain, slug, "https://a.example/"].map(|text| Some(text.to_owned()));
            Link::check(RawLink { domain, slug, url, ..RawLink::default() }, &OwnHosts::default()).unwrap()
        };
        let write = async |before: Option<Link>, after: Option<Link>| {
            let [before, after] = [before, after].map(|link| link.map(|link| Arc::new(Entry::new(link))));
            catalog.commit(Arc::new(samples::write(vec![Change::Link { before, after }]))).await
        };
        let names = [
            ("y.example", "a"),
            ("*", "b"),
            ("x.example", "b"),
            ("*", "B"),
            ("x.example", "a"),
            ("*", "a"),
            ("*", "~"),
        ];
        for (domain, slug) in names {
            write(None, Some(of(domain, slug))).await.unwrap();
        }
        assert!(matches!(write(None, Some(of("x.example", "a"))).await, Err(CatalogError::Taken)));
        let list = async |domain, after, limit| -> Vec<(String, String)> {
            let links = catalog.list(LinkPage { org: None, domain, after, limit }).await.unwrap();
            links.into_iter().map(|link| (link.domain().to_owned(), link.slug.into())).collect()
        };
        let mut sorted = names.map(|(domain, slug)| (domain.to_owned(), slug.to_owned())).to_vec();
        sorted.sort();
        assert_eq!(list(None, None, 100).await, sorted);
        assert_eq!(list(None, Some(("*", "b")), 2).await, sorted[3..5]);
        assert_eq!(list(Some("x.example"), None, 100).await, sorted[4..6]);
        assert_eq!(list(Some("x.example"), Some(("x.example", "a")), 1).await, sorted[5..6]);
        assert_eq!(list(Some("*"), Some(("*", "a")), 100).await, sorted[2..4]);
        assert_eq!(list(Some("z.example"), None, 100).await, []);
        // The same pages, as revalidation reads them.
        let (mut joined, mut after) = (Vec::new(), None);
        loop {
            let page = catalog.page(after, 2).await.unwrap();
            joined.extend(page.entries.iter().map(|link| (link.domain().to_owned(), link.slug.to_string())));
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(joined, sorted);
        write(Some(of("x.example", "a")), None).await.unwrap();
        let y = of("y.example", "a");
        write(Some(y.clone()), Some(Link { version: 9, ..y })).await.unwrap();
        drop(catalog);
        let links = SqliteCatalog::open(&path)
            .unwrap()
            .list(LinkPage { org: None, domain: None, after: None, limit: 100 })
            .await
            .unwrap();
        let a: Vec<_> =
            links.iter().filter(|link| link.slug == "a").map(|link| (link.domain(), link.version)).collect();
        assert_eq!(a, [("*", 0), ("y.example", 9)]);
    }
}
