//! The sockets of the operator side.
//!
//! An accept loop of its own, because `axum::serve` limits neither the time of a request head nor the number of
//! connections. Serves HTTP/1.1 and HTTP/2 (with prior knowledge) without TLS: the listener is meant for the loopback
//! interface or a private network. `app` calls it, with the listener and the end in its hands. Bounds:
//! [`CONNECTIONS_MAX`] connections (more wait in the system's queue) of [`STREAMS_MAX`] requests at once,
//! [`HEAD_TIMEOUT`] for a head, [`HEAD_BYTES_MAX`] of head, and less than two [`IDLE_MAX`] without a request in flight.
//! A client that reads its answer slowly has until then and [`DEADLINE`] more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::DEADLINE;

/// Connections at one time.
pub const CONNECTIONS_MAX: u32 = 512;

/// Requests at one time on a connection of HTTP/2; with all connections no more than 16,384.
const STREAMS_MAX: u32 = 32;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: u32 = 64 * 1024;
const IDLE_MAX: Duration = Duration::from_secs(30);
/// After an accept that failed: most often the process is out of descriptors, and some time must pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is there, then lets requests in flight finish, within [`DEADLINE`] at most. To be called on
/// a tokio runtime.
///
/// # Errors
/// The listener cannot be used on this runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let (stop, stopping) = watch::channel(());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &free) => accepted,
        };
        tokio::spawn(connection(stream, router.clone(), stopping.clone(), permit));
    }
    drop((listener, stop));
    // All permits are back when all connections are closed.
    let _ = tokio::time::timeout(DEADLINE, free.acquire_many(CONNECTIONS_MAX)).await;
    Ok(())
}

async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = Arc::clone(free).acquire_owned().await.expect("nobody closes the semaphore");
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "the control side cannot accept a connection; trying again");
                }
                told = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    mut stopping: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are small and whole: waiting for more of them would only delay them.
    let _ = stream.set_nodelay(true);
    let requests = Arc::new(Requests::default());
    let of_service = Arc::clone(&requests);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        let in_flight = of_service.begin();
        async move {
            let answer = tower_service::Service::call(&mut router, request).await;
            drop(in_flight);
            answer
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let bytes_max = HEAD_BYTES_MAX as usize;
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(bytes_max);
    builder.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // One that breaks concerns nobody but its client.
        _ = connection.as_mut() => return,
        () = requests.idle() => {}
        _ = stopping.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(DEADLINE, connection).await;
}

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// One request, until it is answered or nobody waits for it any more.
struct InFlight(Arc<Requests>);

impl Requests {
    fn begin(self: &Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Ready when for [`IDLE_MAX`] no request began and none was in flight.
    async fn idle(&self) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            let busy = begun != self.ended.load(Ordering::Relaxed);
            tokio::time::sleep(IDLE_MAX).await;
            if !busy && begun == self.begun.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::{Notify, oneshot};

    #[tokio::test]
    async fn a_request_in_flight_is_answered_and_idle_connections_are_closed_at_the_end() {
        let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inner_begun, inner_release) = (Arc::clone(&begun), Arc::clone(&release));
        let router = Router::new().route(
            "/slow",
            get(async move || {
                inner_begun.notify_one();
                inner_release.notified().await;
                "done"
            }),
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, router, async move { drop(stopped.await) }));
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /nothing HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        assert_eq!(idle.read_u8().await.unwrap(), b'H', "it is kept open, but for the end");
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        begun.notified().await;
        stop.send(()).unwrap();
        idle.read_to_end(&mut Vec::new()).await.unwrap();
        release.notify_one();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
    /// A running server that answers "here" at `/`, and its address.
    fn small() -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        tokio::spawn(serve(listener, router, std::future::pending()));
        address
    }

    #[tokio::test]
    async fn requests_at_once_on_one_connection_of_http_2_are_all_answered() {
        let stream = TokioIo::new(TcpStream::connect(small()).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let answers = (0..10).map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let request = hyper::Request::get("http://control/").body(axum::body::Body::empty()).unwrap();
                sender.send_request(request).await.unwrap()
            })
        });
        for answer in answers.collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            assert_eq!((answer.status(), answer.version()), (hyper::StatusCode::OK, hyper::Version::HTTP_2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_when_nothing_comes_on_it() {
        let address = small();
        for begin in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: t\r\n\r\n", "GET / HTTP/1.1\r\nHo"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begin.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.contains("200 OK"), begin.ends_with("\r\n\r\n"), "{begin:?} {answer:?}");
        }
    }
}
