//! Domains in the embedded catalog's file, on the connection of `sqlite_catalog`.

use rusqlite::{Connection, Row, params};

use super::sqlite_catalog::SqliteCatalog;
use crate::BoxFuture;
use crate::catalog::{CatalogError, DomainStore};
use crate::click::{Domain, OwnHosts};

const SELECT: &str = "SELECT name, document, version, created_ms, updated_ms FROM domains ORDER BY name";
const PUT: &str = "INSERT INTO domains (name, document, version, created_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, ?5)
     ON CONFLICT (name) DO UPDATE SET document = excluded.document, version = excluded.version,
     created_ms = excluded.created_ms, updated_ms = excluded.updated_ms";

impl DomainStore for SqliteCatalog {
    fn load_domains(&self) -> BoxFuture<'_, Result<Vec<Domain>, CatalogError>> {
        Box::pin(self.call(load))
    }

    fn put_domain<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<(), CatalogError>> {
        let domain = domain.clone();
        Box::pin(self.call(move |c| put(c, &domain)))
    }

    fn delete_domain<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        let name = name.to_owned();
        Box::pin(self.call(move |c| delete(c, &name)))
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

fn put(connection: &mut Connection, domain: &Domain) -> rusqlite::Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let times = (number(domain.created_ms), number(domain.updated_ms));
    let values = params![domain.name, domain.document.to_string(), number(domain.version), times.0, times.1];
    connection.prepare_cached(PUT)?.execute(values).map(|_| ())
}

fn delete(connection: &mut Connection, name: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM domains WHERE name = ?1")?.execute([name]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::{LinkPage, LinkStore as _};
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
        for domain in [domain("b", 1), domain("*", 1), domain("*", 2), domain("c", 1), domain("gone", 1)] {
            catalog.put_domain(&domain).await.unwrap();
        }
        catalog.delete_domain("gone").await.unwrap();
        drop(catalog);
        let other = Connection::open(&path).unwrap();
        other.execute("UPDATE domains SET document = '{\"root_url\": 5}' WHERE name = 'b'", []).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        assert_eq!(catalog.load_domains().await.unwrap(), [domain("*", 2), domain("c", 1)]);
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
            catalog.insert(&of(domain, slug)).await.unwrap();
        }
        assert!(matches!(catalog.insert(&of("x.example", "a")).await, Err(CatalogError::Taken)));
        let list = async |domain, after, limit| -> Vec<(String, String)> {
            let links = catalog.list(LinkPage { domain, after, limit }).await.unwrap();
            links.into_iter().map(|link| (link.domain().to_owned(), link.slug)).collect()
        };
        let mut sorted = names.map(|(domain, slug)| (domain.to_owned(), slug.to_owned())).to_vec();
        sorted.sort();
        assert_eq!(list(None, None, 100).await, sorted);
        assert_eq!(list(None, Some(("*", "b")), 2).await, sorted[3..5]);
        assert_eq!(list(Some("x.example"), None, 100).await, sorted[4..6]);
        assert_eq!(list(Some("x.example"), Some(("x.example", "a")), 1).await, sorted[5..6]);
        assert_eq!(list(Some("*"), Some(("*", "a")), 100).await, sorted[2..4]);
        assert_eq!(list(Some("z.example"), None, 100).await, []);
        catalog.delete("x.example", "a").await.unwrap();
        catalog.update(&Link { version: 9, ..of("y.example", "a") }).await.unwrap();
        drop(catalog);
        let links =
            SqliteCatalog::open(&path).unwrap().list(LinkPage { domain: None, after: None, limit: 100 }).await.unwrap();
        let a: Vec<_> =
            links.iter().filter(|link| link.slug == "a").map(|link| (link.domain(), link.version)).collect();
        assert_eq!(a, [("*", 0), ("y.example", 9)]);
    }
}
