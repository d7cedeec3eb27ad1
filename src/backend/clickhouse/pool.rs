//! Connections to ClickHouse for one runtime, which drives them: never more than its share, counted, none that grows old.
//!
//! ```text
//! request -> lease: one of `size` turns, in the order of asking -> the HTTP client: an idle connection, or a new one
//!                                                                  from the Connector, which has room for `size`
//! ```
//! The HTTP client keeps idle connections by itself and does not close busy ones for their age. So the client is made anew
//! every [`LIFETIME_MAX`]: the old one closes its connections when the last request on it has ended. It knows no time-out
//! of a request: its callers do, who may drop any of its futures at any point.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tower_service::Service;

use crate::clock::Clock;
use crate::telemetry::pools::{Counted, PoolShard};

/// Nobody waits longer for a connection; the insert is then known not to have arrived.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is not reused when its client is this old. With the longest request on it, it stays below an hour.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(30 * 60);

/// What all pools of a process share.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Tells the age of connections.
    pub clock: Arc<dyn Clock>,
    /// Of all these pools.
    pub metrics: Arc<PoolShard>,
}

/// The pool; `T` is what sends requests over its connections.
pub(super) struct Pool<T> {
    make: Box<dyn Fn(Connector) -> T + Send + Sync>,
    connector: Connector,
    turns: Semaphore,
    young: Mutex<(T, Duration)>,
    _counted: Counted,
}

/// A request under way.
pub(super) struct Lease<'a> {
    _turn: SemaphorePermit<'a>,
    _busy: Counted,
}

impl<T: Clone> Pool<T> {
    /// A pool of `size` connections at most, at least one. Connects to nothing yet.
    pub(super) fn new(size: usize, parts: Parts, make: impl Fn(Connector) -> T + Send + Sync + 'static) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // The end of a body is a small packet that must not wait for an acknowledgement.
        http.set_nodelay(true);
        let counted = parts.metrics.count_pool(size);
        let now = parts.clock.now();
        let connector = Connector { http, room: Arc::new(Semaphore::new(size)), parts };
        let young = Mutex::new((make(connector.clone()), now));
        Self { make: Box::new(make), connector, turns: Semaphore::new(size), young, _counted: counted }
    }

    /// A client that is not old.
    pub(super) fn client(&self) -> T {
        let now = self.connector.parts.clock.now();
        // Replaced whole.
        let mut young = self.young.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(young.1) >= LIFETIME_MAX {
            *young = ((self.make)(self.connector.clone()), now);
        }
        young.0.clone()
    }

    /// Waits for a turn. To be held until the answer is read.
    pub(super) async fn lease(&self) -> Lease<'_> {
        let Parts { clock, metrics } = &self.connector.parts;
        metrics.count_request();
        let asked = clock.now();
        let turn = self.turns.acquire().await.expect("never closed");
        metrics.observe_wait(clock.now().saturating_sub(asked));
        Lease { _turn: turn, _busy: metrics.count_busy() }
    }

    /// A request got no connection, or its connection broke, or it was not answered in time.
    pub(super) fn note_failure(&self) {
        self.connector.parts.metrics.count_failure();
    }
}

impl<T> std::fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// Makes connections while there is room.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    http: HttpConnector,
    room: Arc<Semaphore>,
    parts: Parts,
}

impl Service<Uri> for Connector {
    type Response = Counting;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Counting, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { mut http, room, parts } = self.clone();
        Box::pin(async move {
            // Whoever has a turn finds room, if not at once: when a connection closes, or by an idle one that the client
            // takes instead. What waits here longer is of a request that was served so, and is given up.
            let room = tokio::time::timeout(CONNECT_TIMEOUT, room.acquire_owned()).await??;
            let stream = http.call(to).await?;
            Ok(Counting { stream, _counted: parts.metrics.count_connection(&parts.clock), _room: room })
        })
    }
}

/// A connection that counts until it is closed.
#[derive(Debug)]
pub(super) struct Counting {
    stream: TokioIo<TcpStream>,
    _counted: Counted,
    _room: OwnedSemaphorePermit,
}

impl Connection for Counting {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Counting {
    fn poll_read(mut self: Pin<&mut Self>, c: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(c, into)
    }
}

impl Write for Counting {
    fn poll_write(mut self: Pin<&mut Self>, c: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(c, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(c)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(c)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        c: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(c, pieces)
    }
}
