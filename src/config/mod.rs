//! L1: the configuration. What people wrote is layered (`layers`), read key by key (`check`, all mistakes at once) and
//! handed on as the plain values below; each part of the program gets its own section by value.
//!
//! The only place that reads environment variables. `config/default.toml` is the only source of defaults. Never writes,
//! never prints, and no error or `Debug` of it shows a secret. Called once, by the command line at start; its limits
//! are those that `check` gives with each key.

mod check;
mod layers;
mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use layers::Sources;
pub use units::Secret;

use crate::click::address::Network;

/// The commented defaults, as shipped.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Everything that can be set, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything on disk lives.
    pub data_dir: PathBuf,
    /// Name of this node; never empty.
    pub node: String,
    /// The public side.
    pub edge: Edge,
    /// The operator side.
    pub control: Control,
    /// From the first signal to the exit.
    pub shutdown: Shutdown,
    /// The on-disk journal.
    pub journal: Journal,
    /// The queue between edge thread and worker.
    pub queue: Queue,
    /// Deduplication.
    pub dedup: Dedup,
    /// Redis, used when `dedup.backend` says so.
    pub redis: Redis,
    /// Batches.
    pub batch: Batch,
    /// Where clicks are kept.
    pub store: Store,
    /// What the store refused.
    pub dead_letter: DeadLetter,
    /// Links.
    pub catalog: Catalog,
    /// What is kept of a visitor.
    pub privacy: Privacy,
    /// Log lines.
    pub log: Log,
}

/// `[edge]`
#[derive(Clone, Debug)]
pub struct Edge {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// Event loops; at least 1.
    pub threads: usize,
    /// Open connections of all threads together.
    pub connections_max: usize,
    /// Bytes of path and query.
    pub uri_bytes_max: usize,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Peers whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<Network>,
    /// Host names of this service, in lower case.
    pub public_hosts: Vec<String>,
}

/// `[control]`
#[derive(Clone, Debug)]
pub struct Control {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// Empty: made at the first start.
    pub token: Secret,
    /// Bytes of a request body.
    pub body_bytes_max: usize,
}

/// `[shutdown]`
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// Still accepting, no longer ready.
    pub drain_delay: Duration,
    /// Then, at most, until exit.
    pub drain_deadline: Duration,
}

/// `[journal]`
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    /// When the disk is forced.
    pub sync: JournalSync,
    /// Size at which a segment is closed; 1 MiB to 1 GiB.
    pub segment_bytes: u32,
    /// Size of this run's journal at which no further segment is begun.
    pub max_bytes: u64,
    /// Free space of the disk below which no further segment is begun.
    pub min_free_bytes: u64,
}

/// Space that a segment takes on the disk: it is allocated ahead, with slack for the group that crosses the mark.
#[must_use]
pub const fn allocated_bytes(segment_bytes: u32) -> u64 {
    segment_bytes as u64 + (1 << 20)
}

/// `journal.sync`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalSync {
    /// Never by us.
    Process,
    /// This often.
    Interval(Duration),
}

/// `[queue]`
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Groups that may wait.
    pub groups_max: usize,
    /// Bytes that may wait.
    pub bytes_max: usize,
}

/// `[dedup]`
#[derive(Clone, Debug)]
pub struct Dedup {
    /// Where fingerprints are kept.
    pub backend: DedupBackend,
    /// Two clicks within it are one visitor's.
    pub window: Duration,
    /// Older clicks are not judged.
    pub lag_max: Duration,
    /// Empty: made at the first start.
    pub secret: Secret,
    /// Fingerprints kept in memory.
    pub entries_max: usize,
    /// Checks of up to 512 clicks at one time, for each worker.
    pub checks_in_flight_max: usize,
}

/// `dedup.backend`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupBackend {
    /// A bounded map on this node.
    Memory,
    /// Redis, for a fleet.
    Redis,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct Redis {
    /// May hold a password.
    pub url: Secret,
    /// Connections at most.
    pub pool: usize,
    /// For one pipeline.
    pub timeout: Duration,
    /// Pipelines until the label is `unknown`; at least 1.
    pub tries: u32,
}

/// `[batch]`
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Clicks of a batch.
    pub rows_max: usize,
    /// Age at which a batch goes.
    pub age_max: Duration,
    /// Open batches for each worker.
    pub in_flight_max: usize,
    /// First pause between two tries.
    pub retry_base: Duration,
    /// Longest pause between two tries.
    pub retry_max: Duration,
}

/// One entry of `[retry]`: how often something is tried, and the pauses in between.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Tries in all; at least 1.
    pub tries: u32,
    /// The first pause; it doubles from failure to failure.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
    /// A pause is a random part of what it could be; otherwise all of it.
    pub jitter: bool,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Where clicks are kept.
    pub backend: StoreBackend,
    /// Create and upgrade tables at start.
    pub migrate: bool,
    /// Days a click is kept.
    pub retention_days: u32,
    /// `[store.clickhouse]`
    pub clickhouse: ClickHouse,
}

/// `store.backend`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBackend {
    /// `<data_dir>/clicks.db`
    Sqlite,
    /// ClickHouse over HTTP.
    ClickHouse,
}

/// `[store.clickhouse]`
#[derive(Clone, Debug)]
pub struct ClickHouse {
    /// `http://host:port`
    pub url: String,
    /// Database of the tables.
    pub database: String,
    /// User.
    pub user: String,
    /// Password; may be empty.
    pub password: Secret,
    /// Connections kept open.
    pub pool: usize,
    /// For one insert.
    pub insert_timeout: Duration,
    /// For one query.
    pub query_timeout: Duration,
}

/// `[dead_letter]`
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter {
    /// Bytes of all files of refused rows together.
    pub max_bytes: u64,
    /// A file whose rows are all stored or dropped is kept for this long.
    pub keep: Duration,
}

/// `[catalog]`
#[derive(Clone, Copy, Debug)]
pub struct Catalog {
    /// Links of this node.
    pub links_max: usize,
}

/// `[privacy]`
#[derive(Clone, Copy, Debug)]
pub struct Privacy {
    /// What is kept of an address.
    pub ip: IpPrivacy,
}

/// `privacy.ip`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpPrivacy {
    /// IPv4 /24, IPv6 /48.
    Truncate,
    /// Nothing; the country is looked up before.
    None,
}

/// `[log]`
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// Least serious level written.
    pub level: LogLevel,
    /// Form of a line.
    pub format: LogFormat,
}

/// `log.level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where a value was written; in the order in which problems are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config/default.toml`, or found on this machine in its place.
    Default,
    /// A configuration file.
    File {
        /// As it was given.
        path: PathBuf,
        /// From 1; 0 is the file as a whole.
        line: usize,
    },
    /// The environment.
    Env {
        /// Its full name.
        variable: String,
    },
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { variable } => f.write_str(variable),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong. Printed as `my.toml:12: edge.listen = "x": is not an address such as 0.0.0.0:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Full name of the setting as it was written; empty when the file itself is wrong.
    pub key: String,
    /// The value, `***` for a secret; `None` where it says nothing, or might be a secret under a mistyped key.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.value {
            _ if self.key.is_empty() => {}
            Some(value) => write!(f, "{} = {value}: ", self.key)?,
            None => write!(f, "{}: ", self.key)?,
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, at least one thing; file first, each line in its turn. Printed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `None` when there are none.
    fn of(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// All of them; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// `; did you mean X?`, where X is the known name with the fewest edits, if they are few, or else one that goes on where
/// the wrong one ends, or one that ends alike in another section; `spell` writes it. Empty when there is none.
fn nearest<'a>(
    wrong: &str,
    known: impl Iterator<Item = &'a String> + Clone,
    spell: impl Fn(&String) -> String,
) -> String {
    let few = (wrong.len() / 4).clamp(2, 4);
    let near = known.clone().map(|name| (edits(wrong, name), name)).min().filter(|(edits, _)| *edits <= few);
    let longer = |name: &&String| name.strip_prefix(wrong).is_some_and(|rest| rest.starts_with('_'));
    let same_end = |name: &&String| name.rsplit('.').next() == wrong.rsplit('.').next();
    let near =
        near.map(|(_, name)| name).or_else(|| known.clone().find(longer)).or_else(|| known.clone().find(same_end));
    near.map(|name| format!("; did you mean {}?", spell(name))).unwrap_or_default()
}

/// Levenshtein's distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
