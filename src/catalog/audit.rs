//! What the audit log keeps, and the requests that may be sent twice: the words, and the port of where they are kept.
//!
//! Both stand beside the catalog, so that an entry finds what its release changed, and a backup has all of it. `control`
//! gathers entries and asks; a backend keeps them. Bounds: [`Keep`], [`DOCUMENT_BYTES_MAX`], [`LOOKED_MAX`].

use std::sync::Arc;

use super::CatalogError;
use crate::BoxFuture;

/// Bytes of what an entry keeps of a thing before or after; longer ones are left out, and the entry says so.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// Entries that one question looks at: a page may be short, and the next one goes on behind it.
pub const LOOKED_MAX: usize = 10_000;

/// A write to the operator side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number, which only grows; given when it is kept.
    pub sequence: u64,
    /// When it was answered, Unix milliseconds.
    pub at_ms: u64,
    /// Of `X-Request-Id`.
    pub request_id: String,
    /// Who.
    pub actor: String,
    /// The organisation of what was written; `None` for what is of the whole node.
    pub org: Option<String>,
    /// Method and path of the endpoint, `PATCH /links/{slug}`.
    pub action: String,
    /// What was written. Of an entry of the catalog, as releases name it (`link */spring`): the store finds it.
    pub target: String,
    /// Status of the answer.
    pub status: u16,
    /// The release of the catalog that it made.
    pub release: Option<u64>,
    /// What was there, as JSON. With a release of one change the store finds it.
    pub before: Option<String>,
    /// What is there now, or what the answer said was done; as JSON.
    pub after: Option<String>,
    /// One of the two was too long.
    pub omitted: bool,
}

/// An answer that is given again when the same request comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Status.
    pub status: u16,
    /// Headers, as JSON: pairs of name and value.
    pub headers: String,
    /// Body; `None` where it is not kept, because it held a secret or was too long.
    pub body: Option<Vec<u8>>,
}

/// Who sent a request under which `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Who.
    pub actor: String,
    /// The key.
    pub key: String,
}

/// What is written together.
#[derive(Clone, Debug)]
pub struct AuditWrite {
    /// The entry.
    pub entry: AuditEntry,
    /// The answer, where it may be asked for again.
    pub answer: Option<(RequestKey, KeptAnswer)>,
}

/// What is kept of the log.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Entries of this time and later, Unix milliseconds.
    pub from_ms: u64,
    /// So many of the newest.
    pub entries_max: u64,
    /// So many bytes of the newest.
    pub bytes_max: u64,
}

/// A question to the log; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// At this time or later, Unix milliseconds.
    pub from_ms: Option<u64>,
    /// Before this time.
    pub to_ms: Option<u64>,
    /// By whom.
    pub actor: Option<String>,
    /// Written to what.
    pub target: Option<String>,
    /// Of which organisation.
    pub org: Option<String>,
    /// The oldest first, instead of the newest.
    pub oldest_first: bool,
    /// Behind the entry of this number, in that order.
    pub behind: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl AuditFilter {
    /// Whether an entry with these is asked for.
    #[must_use]
    pub fn fits(&self, at_ms: u64, actor: &str, target: &str, org: Option<&str>) -> bool {
        self.from_ms.is_none_or(|from| at_ms >= from)
            && self.to_ms.is_none_or(|to| at_ms < to)
            && self.actor.as_deref().is_none_or(|of| of == actor)
            && self.target.as_deref().is_none_or(|of| of == target)
            && self.org.as_deref().is_none_or(|of| Some(of) == org)
    }
}

/// A page of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Entries.
    pub entries: Vec<AuditEntry>,
    /// Behind which number there may be more.
    pub next: Option<u64>,
}

/// A request with an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// Whose, and which.
    pub of: RequestKey,
    /// SHA-256 of what else it says.
    pub digest: [u8; 32],
    /// Now, Unix milliseconds.
    pub now_ms: u64,
    /// Requests from before this time are forgotten.
    pub from_ms: u64,
    /// The process that asks.
    pub run: u64,
    /// Requests kept; the oldest go.
    pub max: usize,
}

/// What is known of a request with an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: it is begun now.
    New,
    /// It has been answered.
    Answered(KeptAnswer),
    /// This process is still at it.
    InFlight,
    /// A process that ended was at it: nobody knows how far it came.
    Interrupted,
    /// The key came with another request.
    Mismatch,
    /// There is no room: all that is kept is in flight.
    Full,
}

/// The port: where the log is kept, and requests that may come again.
pub trait AuditStore: Send + Sync {
    /// Keeps all of them, or none, and forgets some of what is beyond `keep`. When it returns, they survive the process.
    fn write(&self, batch: Arc<Vec<AuditWrite>>, keep: Keep) -> BoxFuture<'_, Result<(), CatalogError>>;
    /// Forgets some of what is beyond `keep`; whether there is more.
    fn forget(&self, keep: Keep) -> BoxFuture<'_, Result<bool, CatalogError>>;
    /// A page of the log.
    fn page(&self, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, CatalogError>>;
    /// Begins a request, unless it is known.
    fn begin(&self, keyed: Keyed) -> BoxFuture<'_, Result<Begun, CatalogError>>;
    /// Forgets a request that has changed nothing.
    fn release(&self, of: RequestKey) -> BoxFuture<'_, Result<(), CatalogError>>;
}
