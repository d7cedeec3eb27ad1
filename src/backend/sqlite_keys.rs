//! API keys in the embedded catalog's file: `sqlite_catalog` lends its connection. Holds digests, never a secret.

use rusqlite::{Connection, Row, named_params};

use crate::BoxFuture;
use crate::catalog::{CatalogError, KeyStore};
use crate::click::key::{Digest, Key, Rate};
use crate::click::{Org, Scopes};
use crate::telemetry::calls::Call;

use super::sqlite_catalog::SqliteCatalog;

const SELECT: &str = "SELECT id, org, name, scopes, rate_per_second, rate_burst, expires_ms, revoked_ms, digest,
     earlier_digest, earlier_until_ms, version, created_ms, updated_ms FROM keys";
const PUT: &str =
    "INSERT OR REPLACE INTO keys (id, org, name, scopes, rate_per_second, rate_burst, expires_ms, revoked_ms,
     digest, earlier_digest, earlier_until_ms, version, created_ms, updated_ms)
     VALUES (:id, :org, :name, :scopes, :rate_per_second, :rate_burst, :expires_ms, :revoked_ms,
     :digest, :earlier_digest, :earlier_until_ms, :version, :created_ms, :updated_ms)";

impl KeyStore for SqliteCatalog {
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>> {
        Box::pin(self.call(Call::KeysList, load))
    }

    fn put_key<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>> {
        let key = key.clone();
        Box::pin(self.call(Call::KeysWrite, move |c| put(c, &key)))
    }

    fn delete_key<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        let id = id.to_owned();
        Box::pin(self.call(Call::KeysWrite, move |c| {
            c.prepare_cached("DELETE FROM keys WHERE id = ?1")?.execute([id]).map(|_| ())
        }))
    }
}

/// All of them. One that this program cannot read is told in the log and left out: it is refused as an unknown one.
fn load(connection: &mut Connection) -> rusqlite::Result<Vec<Key>> {
    let mut keys = Vec::new();
    let mut statement = connection.prepare_cached(SELECT)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(key) => keys.push(key),
            Err(problem) => {
                let id: String = row.get(0)?;
                tracing::error!(key = id, problem, "a stored key cannot be read and is refused; make another one");
            }
        }
    }
    Ok(keys)
}

fn read(row: &Row<'_>) -> Result<Key, String> {
    let text = |column: &str| row.get::<_, String>(column).map_err(|e| e.to_string());
    let perhaps = |column: &str| -> Result<Option<u64>, String> {
        let number = row.get::<_, Option<i64>>(column).map_err(|e| e.to_string())?.map(u64::try_from);
        number.transpose().map_err(|_| format!("{column} is negative"))
    };
    let number = |column: &str| perhaps(column)?.ok_or_else(|| format!("{column} is missing"));
    let narrow = |column: &str| -> Result<Option<u32>, String> {
        perhaps(column)?.map(u32::try_from).transpose().map_err(|_| format!("{column} is too large"))
    };
    let digest = |column: &str| -> Result<Option<Digest>, String> {
        let bytes = row.get::<_, Option<Vec<u8>>>(column).map_err(|e| e.to_string())?;
        let bytes = bytes.map(<[u8; 32]>::try_from).transpose();
        bytes.map(|bytes| bytes.map(Digest)).map_err(|_| format!("{column} has not 32 bytes"))
    };
    let org = text("org")?;
    Org::check(&org).map_err(|e| format!("org {e}"))?;
    let rate = narrow("rate_per_second")?.zip(narrow("rate_burst")?);
    Ok(Key {
        id: text("id")?,
        org,
        name: text("name")?,
        scopes: Scopes::from_text(&text("scopes")?).ok_or("scopes: one is unknown")?,
        rate: rate.map(|(per_second, burst)| Rate { per_second, burst }),
        expires_ms: perhaps("expires_ms")?,
        revoked_ms: perhaps("revoked_ms")?,
        digest: digest("digest")?.ok_or("digest is missing")?,
        earlier: digest("earlier_digest")?.zip(perhaps("earlier_until_ms")?),
        version: number("version")?,
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
    })
}

fn put(connection: &mut Connection, key: &Key) -> rusqlite::Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let values = named_params! {
        ":id": key.id,
        ":org": key.org,
        ":name": key.name,
        ":scopes": key.scopes.to_text(),
        ":rate_per_second": key.rate.map(|rate| rate.per_second),
        ":rate_burst": key.rate.map(|rate| rate.burst),
        ":expires_ms": key.expires_ms.map(number),
        ":revoked_ms": key.revoked_ms.map(number),
        ":digest": key.digest.0,
        ":earlier_digest": key.earlier.map(|(digest, _)| digest.0),
        ":earlier_until_ms": key.earlier.map(|(_, until_ms)| number(until_ms)),
        ":version": number(key.version),
        ":created_ms": number(key.created_ms),
        ":updated_ms": number(key.updated_ms),
    };
    connection.prepare_cached(PUT)?.execute(values).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::{samples, sqlite_links};
    use crate::catalog::releases::Change;
    use crate::catalog::{Entry, LinkPage, LinkStore as _, ReleaseStore as _};
    use crate::click::{Link, OwnHosts, RawLink, Scope};

    fn key(id: &str) -> Key {
        Key {
            id: id.into(),
            org: "acme".into(),
            name: "gateway".into(),
            scopes: Scopes::default().and(Scope::Ingress).and(Scope::StatsRead),
            rate: Some(Rate { per_second: 5, burst: 7 }),
            expires_ms: Some(9),
            revoked_ms: None,
            digest: Digest([1; 32]),
            earlier: Some((Digest([2; 32]), 8)),
            version: 3,
            created_ms: 1,
            updated_ms: 2,
        }
    }

    #[tokio::test]
    async fn keys_survive_a_restart_and_one_that_cannot_be_read_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog = SqliteCatalog::open(&path).unwrap();
        let plain = Key { rate: None, expires_ms: None, revoked_ms: Some(4), earlier: None, ..key("b") };
        for key in [&key("b"), &plain, &key("a"), &key("c"), &key("d"), &key("gone")] {
            catalog.put_key(key).await.unwrap();
        }
        catalog.delete_key("gone").await.unwrap();
        drop(catalog);
        let other = Connection::open(&path).unwrap();
        other.execute("UPDATE keys SET scopes = 'ingress everything' WHERE id = 'c'", []).unwrap();
        other.execute("UPDATE keys SET digest = x'00' WHERE id = 'd'", []).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        assert_eq!(catalog.load_keys().await.unwrap(), [key("a"), plain]);
    }

    #[tokio::test]
    async fn pages_of_an_organisation_hold_its_links_alone() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap();
        for (domain, slug, org) in [
            ("*", "a", "acme"),
            ("*", "b", "other"),
            ("*", "c", "acme"),
            ("*", "d", "default"),
            ("go.acme.example", "a", "acme"),
        ] {
            let [domain, slug, org] = [domain, slug, org].map(|text| Some(text.to_owned()));
            let raw = RawLink { domain, slug, org, url: Some("https://a.example/".into()), ..RawLink::default() };
            let after = Some(Arc::new(Entry::new(Link::check(raw, &OwnHosts::default()).unwrap())));
            catalog.commit(Arc::new(samples::write(vec![Change::Link { before: None, after }]))).await.unwrap();
        }
        let found = async |org, domain, after| {
            let links = catalog.list(LinkPage { org, domain, after, limit: 9 }).await.unwrap();
            links.iter().map(|link| format!("{}/{} {}", link.domain(), link.slug, &*link.org)).collect::<Vec<_>>()
        };
        let acme = ["*/a acme", "*/c acme", "go.acme.example/a acme"];
        assert_eq!(found(Some("acme"), None, None).await, acme);
        assert_eq!(found(Some("acme"), None, Some(("*", "a"))).await, acme[1..]);
        assert_eq!(found(Some("acme"), Some("go.acme.example"), None).await, acme[2..]);
        assert_eq!(found(Some("other"), Some("go.acme.example"), None).await.len(), 0);
        assert_eq!(found(Some("default"), None, None).await, ["*/d default"]);
        assert_eq!(found(None, Some("*"), None).await.len(), 4);
        let plan = |c: &mut Connection| {
            let sql = sqlite_links::selecting(&[Some("acme".into()), None]);
            let plan = format!("EXPLAIN QUERY PLAN {sql}");
            c.query_row(&plan, ["", "", "acme"], |row| row.get::<_, String>("detail"))
        };
        let plan = catalog.call(Call::KeysList, plan).await.unwrap();
        assert!(plan.contains("USING INDEX links_by_org (org=? AND "), "{plan}");
    }
}
