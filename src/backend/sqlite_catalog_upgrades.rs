//! Catalogs of earlier versions of this program. Compiled for tests only.

use super::sqlite_catalog::{CACHE_KIB, MIGRATIONS, SqliteCatalog};
use super::sqlite_file::{self, Pages};
use crate::catalog::{LinkPage, LinkStore as _};
use crate::click::QueryMode;

const ALL: LinkPage<'static> = LinkPage { org: None, domain: None, after: None, limit: 100 };

#[tokio::test]
async fn a_file_from_before_links_had_a_life_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let mut old = sqlite_file::open(&path, Pages::small(CACHE_KIB), &MIGRATIONS[..2]).unwrap();
    sqlite_file::migrate(&mut old, &MIGRATIONS[..2]).unwrap();
    let row = "INSERT INTO links VALUES ('a', 'https://a.example/', 302, 'ignore', '', 0, '[]', '', 1, 5, 6)";
    old.execute(row, []).unwrap();
    drop(old);
    let links = SqliteCatalog::open(&path).unwrap().list(ALL).await.unwrap();
    assert_eq!((links.len(), links[0].slug.as_str(), links[0].life.as_ref()), (1, "a", None));
}

#[tokio::test]
async fn a_file_from_before_there_were_domains_is_brought_up_to_date_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let mut old = sqlite_file::open(&path, Pages::small(CACHE_KIB), &MIGRATIONS[..3]).unwrap();
    sqlite_file::migrate(&mut old, &MIGRATIONS[..3]).unwrap();
    for slug in ["b", "a"] {
        let row =
            "INSERT INTO links VALUES (?1, 'https://a.example/', 307, 'forward', 'c', 1, '[\"t\"]', 'e', 7, 5, 6, 8, 9,
                   'https://b.example/')";
        old.execute(row, [slug]).unwrap();
    }
    drop(old);
    let links = SqliteCatalog::open(&path).unwrap().list(ALL).await.unwrap();
    let shown = links.iter().map(|link| {
        let life = link.life.as_ref().unwrap();
        let expired = life.expired.as_ref().unwrap().url.as_str();
        assert_eq!((life.starts_ms, life.expires_ms, expired), (Some(8), Some(9), "https://b.example/"));
        assert_eq!((link.status, link.query, link.paused, link.version), (307, QueryMode::Forward, true, 7));
        assert_eq!((link.campaign.as_str(), link.tags.join(","), link.external_id.as_str()), ("c", "t".into(), "e"));
        assert_eq!((link.created_ms, link.updated_ms, link.url.as_str()), (5, 6, "https://a.example/"));
        assert_eq!(link.org.as_str(), "default");
        (link.domain(), link.slug.as_str())
    });
    assert_eq!(shown.collect::<Vec<_>>(), [("*", "a"), ("*", "b")]);
}
