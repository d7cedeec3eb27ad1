//! Writes what a node leaves behind when its store was away and it was killed: journals of clicks that nobody finished.
//!
//! The bytes come from the node's own intake, into a run folder of their own under the data folder, and are forced to the
//! disk. No node may use the folder meanwhile. Called by `start-up` in this folder; by hand:
//!
//! ```text
//! cargo run --release --example backlog -- --data-dir data --bytes 1073741824 --slugs slugs.txt
//! ```

#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use trellis::click::{Click, Fingerprint, IdSource, Privacy};
use trellis::clock::{Clock, SystemClock};
use trellis::config::{Config, Sources};
use trellis::handoff::Run;
use trellis::segment::{Disk, RealDisk};
use trellis::telemetry::metrics::Metrics;

/// Clicks of one turn of an event loop.
const GROUP_CLICKS: usize = 16;
const UA: &[u8] =
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

/// Writes journals of clicks that no node has finished.
#[derive(Parser)]
struct Args {
    /// The data folder of a node that is not running.
    #[arg(long)]
    data_dir: PathBuf,
    /// Bytes of records, all journals together.
    #[arg(long)]
    bytes: u64,
    /// Journals: one for each edge thread that the node had.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Known slugs, one a line.
    #[arg(long)]
    slugs: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = std::fs::read_to_string(&args.slugs).with_context(|| format!("--slugs {}", args.slugs.display()))?;
    let slugs: Vec<_> = text.lines().collect();
    ensure!(!slugs.is_empty(), "--slugs {}: no slug in it", args.slugs.display());
    let settings = [
        ("data_dir", args.data_dir.display().to_string()),
        ("edge.threads", args.threads.to_string()),
        // What is written is what was asked for: no cap is to stop it.
        ("journal.max_bytes", format!("{}B", args.bytes.saturating_mul(2).max(16 << 30))),
    ];
    let flags = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let config = Config::load(&Sources { flags, ..Sources::default() })?;
    let metrics = Metrics::new(config.edge.threads, config.queue.groups_max, &[], || 0)?;
    let (disk, clock): (Arc<dyn Disk>, Arc<dyn Clock>) = (Arc::new(RealDisk), Arc::new(SystemClock::new()));
    let (run, doors) = Run::begin(&disk, &config, &metrics, &clock)?;
    let mut clicks = 0;
    for (core, (intake, _follower)) in doors.into_iter().enumerate() {
        let (mut intake, mut ids, edge) = (intake(), IdSource::new(core as u64), metrics.edge(core));
        while edge.journal_bytes.get() < args.bytes / args.threads {
            for n in clicks..clicks + GROUP_CLICKS {
                let id = ids.next(clock.wall_ms());
                let query = format!("click_id=backlog-{n}&source=load");
                let destination = format!("https://shop.example/p/{n}?id={id}");
                let _ticket = intake.push(&Click {
                    id,
                    fingerprint: Some(Fingerprint(*id.as_bytes())),
                    window: None,
                    head: false,
                    prefetch: false,
                    bound: false,
                    marks: Default::default(),
                    status: 302,
                    route_version: 1,
                    address: Some([203, 0, 114, 77].into()),
                    country: None,
                    privacy: Privacy::default(),
                    org: "default",
                    campaign: "",
                    domain: "*",
                    link: slugs[n % slugs.len()],
                    path: b"",
                    rule: "",
                    variant: "",
                    destination: destination.as_bytes(),
                    referrer: b"https://news.example/page",
                    ua: UA,
                    language: b"de-DE,de;q=0.9",
                    query: &query,
                });
            }
            intake.flush();
            clicks += GROUP_CLICKS;
            ensure!(edge.journal_failures.get() == 0, "the journal takes no more: is the disk full?");
        }
    }
    // Not finished: the folder stays, its lock is free, and everything is forced.
    run.end(false)?;
    println!("{clicks} clicks");
    Ok(())
}
