//! L1: the configuration. What people wrote is layered (`layers`), read key by key (`check`, all mistakes at once) and
//! handed on as the plain values below; each part of the program gets its own section by value.
//!
//! The only place that reads environment variables. `config/default.toml` is the only source of defaults. Never writes,
//! never prints, and no error or `Debug` of it shows a secret. Called once, by the command line at start; its limits
//! are those that `check` gives with each key.

mod association;
mod audit;
mod catalog;
mod check;
mod classify;
mod control;
mod edge;
mod file;
mod geo;
mod ingress;
mod layers;
mod limits;
mod networks;
mod privacy;
mod probe;
mod problem;
mod relations;
mod retention;
mod retry;
pub mod slo;
mod units;
mod warden;
mod warden_grpc;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use audit::Audit;
pub use catalog::Catalog;
pub use classify::shipped_classifier;
pub use control::Control;
pub use edge::Edge;
pub use geo::{ASN, CITY, COUNTRY, Geo, GeoFile, REGION};
pub use ingress::{Ingress, IngressKeys};
pub use layers::{SECRETS, Sources};
pub use limits::{Limits, Overload, Rate};
pub use probe::Probe;
pub use problem::{Origin, Problem, Problems};
pub use retention::Retention;
pub use retry::{Policy, Retry};
pub use units::Secret;
pub use warden::{Warden, WardenMode};
pub use warden_grpc::{Identity, WardenGrpc, WardenServe};
pub use watch::Watch;

use crate::click::privacy::Policy as PrivacyPolicy;
use crate::click::{Classifier, Networks};

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
    /// Visits without a link.
    pub ingress: Ingress,
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
    /// How often things are tried.
    pub retry: Retry,
    /// Where clicks are kept.
    pub store: Store,
    /// What the store refused.
    pub dead_letter: DeadLetter,
    /// What became of every visit.
    pub ledger: Ledger,
    /// Sums by the minute, the hour and the day.
    pub rollup: Rollup,
    /// Links.
    pub catalog: Catalog,
    /// How many clicks something takes.
    pub caps: Caps,
    /// Where addresses are.
    pub geo: Geo,
    /// API keys.
    pub warden: Warden,
    /// Who wrote what.
    pub audit: Audit,
    /// Who clicked: the rules of `classify.rules`.
    pub classify: Arc<Classifier>,
    /// The networks of data centres: `classify.networks`.
    pub data_centres: Arc<Networks>,
    /// What is kept of a visitor.
    pub privacy: Privacy,
    /// Who may ask how often.
    pub limits: Limits,
    /// How often others are asked for their figures.
    pub watch: Watch,
    /// What the node asks itself.
    pub probe: Probe,
    /// What the node promises.
    pub slo: Arc<slo::Slo>,
    /// Log lines.
    pub log: Log,
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
    /// Before a click is answered.
    Always,
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
    /// Age at which a connection is closed; less than an hour.
    pub lifetime_max: Duration,
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
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Where clicks are kept.
    pub backend: StoreBackend,
    /// Create and upgrade tables at start.
    pub migrate: bool,
    /// How long a click is kept.
    pub retention: Retention,
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
    /// Connections at most; each runtime has an equal share, at least two.
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

/// `[ledger]`
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Minutes are kept for this long.
    pub keep: Duration,
    /// From one look whether the books balance to the next.
    pub check_every: Duration,
}

/// `[rollup]`
#[derive(Clone, Copy, Debug)]
pub struct Rollup {
    /// From one round to the next.
    pub every: Duration,
    /// Minutes of one round.
    pub minutes_max: usize,
}

/// `[caps]`
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Caps counted.
    pub counters_max: usize,
}

/// `[privacy]`
#[derive(Clone, Debug)]
pub struct Privacy {
    /// What is kept of an address, by a click that may keep it.
    pub ip: IpPrivacy,
    /// Key of `hmac`; empty: it follows from `dedup.secret`.
    pub ip_secret: Secret,
    /// Which click may keep what.
    pub policy: Arc<PrivacyPolicy>,
}

/// `privacy.ip`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpPrivacy {
    /// IPv4 /24, IPv6 /48.
    Truncate,
    /// Nothing; the country is looked up before.
    None,
    /// A keyed hash of the whole address; the country is looked up before.
    Hmac,
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
