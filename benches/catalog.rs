//! Links in memory by the million: what one costs, how long the start takes from SQLite, and what a look-up costs.
//!
//! ```text
//! cargo bench --bench catalog                     1,000, 100,000 and 1,000,000 links
//! cargo bench --bench catalog -- 5000000          as many as you say
//! ```
//! The same traffic over more links: 1,000 of them are visited, spread over all, chosen by Zipf's law (exponent 1); what that
//! costs is the table's part. Then links chosen by Zipf's law from all: more links than the caches hold, and memory's part
//! comes to it. And chosen evenly, which is the worst there is: then every look-up waits for memory.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "figures for people")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};
use trellis::backend::sqlite_catalog::SqliteCatalog;
use trellis::catalog::releases::{Keep, Releases};
use trellis::catalog::{Domains, Links};
use trellis::click::OwnHosts;
use trellis::clock::{Clock as _, SystemClock};

/// As the program itself allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOOKUPS: usize = 2_000_000;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![1_000, 100_000, 1_000_000] } else { asked };
    let clock = SystemClock::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for size in sizes {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("catalog.db");
        fill(&path, size)?;
        let before = resident_bytes()?;
        let began = clock.now();
        let store = Arc::new(SqliteCatalog::open(&path)?);
        let of_system = || Arc::new(SystemClock::new());
        let open = async {
            let keep = Keep { releases_max: 1, changes_max: 1 };
            let releases = Releases::open(Arc::clone(&store) as _, keep, of_system()).await?;
            let (of_domains, own) = (Arc::clone(&store) as _, OwnHosts::default());
            let domains = Domains::open(of_domains, Arc::clone(&releases), own, 1, of_system()).await?;
            Links::open(store, releases, Arc::new(domains), size, of_system()).await
        };
        let links = runtime.block_on(open)?;
        let took = clock.now() - began;
        let bytes = resident_bytes()?.saturating_sub(before) / size as u64;
        assert_eq!(links.len(), size);
        println!("{size} links: loaded in {took:.2?}, {bytes} bytes each");
        let even = slugs(size, |rng, n| rng.usize(..n));
        println!("  the same 1,000   {}", shown(&links, &clock, &slugs(size, of_a_thousand)));
        println!("  chosen by Zipf   {}", shown(&links, &clock, &slugs(size, zipf)));
        println!("  chosen evenly    {}", shown(&links, &clock, &even));
    }
    Ok(())
}

fn fill(path: &Path, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    drop(SqliteCatalog::open(path)?);
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO links (slug, url, status, query, campaign, paused, tags, external_id, version, created_ms, updated_ms)
             VALUES (?1, ?2, 302, 'ignore', ?3, 0, '[]', '', 1, 1700000000000, 1700000000000)",
        )?;
        for n in 0..size {
            let url = format!("https://shop.example/products/{n}?utm_source=mail&id={{click_id}}");
            insert.execute(params![slug(n), url, format!("mail-{}", n % 100)])?;
        }
    }
    transaction.commit()?;
    drop(connection);
    // Else the system writes it to the disk while it is loaded.
    Ok(std::fs::File::open(path)?.sync_all()?)
}

fn slug(n: usize) -> String {
    format!("s{n:07x}")
}

fn slugs(size: usize, choose: impl Fn(&mut fastrand::Rng, usize) -> usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..LOOKUPS).map(|_| slug(choose(&mut rng, size))).collect()
}

/// The n-th of all is chosen with a probability of about 1/n; who is the n-th has nothing to do with its slug.
fn zipf(rng: &mut fastrand::Rng, size: usize) -> usize {
    let rank = (size as f64).powf(rng.f64()) as usize - 1;
    rank.wrapping_mul(0x9E37_79B1) % size
}

/// The same among a thousand that lie far from each other.
fn of_a_thousand(rng: &mut fastrand::Rng, size: usize) -> usize {
    let visited = size.min(1_000);
    zipf(rng, visited) * (size / visited)
}

/// Nanoseconds of a look-up, the median of some rounds.
fn shown(links: &Links, clock: &SystemClock, slugs: &[String]) -> String {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = clock.now();
            for slug in slugs {
                links.with_asked(black_box("go.example"), black_box(slug), |entry| {
                    black_box(entry.map(|entry| entry.link.status))
                });
            }
            clock.now() - began
        })
        .collect();
    rounds.sort();
    format!("{:.1} ns a look-up", rounds[ROUNDS / 2].as_nanos() as f64 / slugs.len() as f64)
}

fn resident_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("no figure")?.parse()?;
    Ok(pages * 4096)
}
