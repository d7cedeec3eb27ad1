//! Answers other nodes from the keys of this process.
//!
//! Every call brings the token, where there is one; with `client_ca` every connection brings a certificate. It changes no
//! key and tells nobody more than whether one is good. Bounds: 512 connections (more wait in the system's queue) of 512
//! calls at once, 16 KiB a message, 5 s for a handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Certificate, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use super::wire::warden_server::{Warden, WardenServer};
use super::wire::watch_keys_response::Event;
use super::wire::{Beat, Change, Reset, ValidateKeyRequest, ValidateKeyResponse, WatchKeysRequest, WatchKeysResponse};
use super::{AUTHORIZATION, BEARER, BEAT, MESSAGE_BYTES_MAX, shown, translate};
use crate::catalog::Keys;
use crate::catalog::keys::Since;
use crate::click::key::Digest;
use crate::config::{Secret, WardenServe};
use crate::telemetry::metrics::StatusClass;
use crate::telemetry::requests::ServedShard;

/// Connections at one time: one for each node.
const CONNECTIONS_MAX: usize = 512;
/// Calls at one time on a connection.
const STREAMS_MAX: u32 = 512;
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// After an accept that failed: most often the process is out of descriptors, and some time must pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection that does not answer this ping in time is closed.
const PING: Duration = Duration::from_secs(20);
/// Messages of a stream that wait for a slow reader.
const AHEAD: usize = 16;

/// Serves until `stopped` is there, then lets calls in flight finish. Streams of news end at once: they would never.
///
/// # Errors
/// Certificates that cannot be used, or a listener that cannot.
pub async fn serve(
    listener: std::net::TcpListener,
    keys: Arc<Keys>,
    settings: &WardenServe,
    token: &Secret,
    served: Arc<ServedShard>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (end, ended) = tokio::sync::watch::channel(());
    let token = (!token.is_empty()).then(|| digest(&format!("{BEARER}{}", token.expose())));
    let service = WardenServer::new(Served { keys, token, served, ended })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(8 * 1024)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING));
    if let Some(identity) = &settings.tls {
        let mut tls = ServerTlsConfig::new().identity(shown(identity)).timeout(HANDSHAKE_MAX);
        if let Some(ca) = &settings.client_ca {
            tls = tls.client_ca_root(Certificate::from_pem(ca));
        }
        server = server.tls_config(tls)?;
    }
    listener.set_nonblocking(true)?;
    let (accepted, incoming) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(TcpListener::from_std(listener)?, accepted));
    let stopped = async move {
        stopped.await;
        accepting.abort();
        drop(end);
    };
    server.add_service(service).serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped).await?;
    Ok(())
}

async fn accept(listener: TcpListener, accepted: mpsc::Sender<std::io::Result<Connection>>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut told = false;
    loop {
        let permit = Arc::clone(&free).acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and whole: waiting for more of them would only delay them.
                let _ = stream.set_nodelay(true);
                if accepted.send(Ok(Connection { stream, _permit: permit })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the Warden cannot accept a connection; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Served {
    keys: Arc<Keys>,
    /// Of the whole header, so that not even its length shows in the time of an answer.
    token: Option<[u8; 32]>,
    served: Arc<ServedShard>,
    /// Closed when the server stops.
    ended: tokio::sync::watch::Receiver<()>,
}

impl Served {
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let Some(expected) = &self.token else { return Ok(request.into_inner()) };
        let brought = request.metadata().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if bool::from(digest(brought).ct_eq(expected)) {
            return Ok(request.into_inner());
        }
        Err(Status::unauthenticated("send the token of this Warden: authorization: Bearer <token>"))
    }

    /// Counts an answer.
    fn count<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        self.served.count(match answer.as_ref().map_err(Status::code) {
            Ok(_) => StatusClass::Success,
            Err(Code::Unauthenticated | Code::InvalidArgument) => StatusClass::ClientError,
            Err(_) => StatusClass::ServerError,
        });
        answer
    }

    fn validate(&self, request: Request<ValidateKeyRequest>) -> Result<Response<ValidateKeyResponse>, Status> {
        let ValidateKeyRequest { key_id, digest } = self.admit(request)?;
        let digest: [u8; 32] =
            digest.try_into().map_err(|_| Status::invalid_argument("digest must be a SHA-256: 32 bytes"))?;
        Ok(Response::new(translate::response(self.keys.check_digest(&key_id, Digest(digest)))))
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[tonic::async_trait]
impl Warden for Served {
    async fn validate_key(
        &self,
        request: Request<ValidateKeyRequest>,
    ) -> Result<Response<ValidateKeyResponse>, Status> {
        self.count(self.validate(request))
    }

    type WatchKeysStream = ReceiverStream<Result<WatchKeysResponse, Status>>;

    async fn watch_keys(&self, request: Request<WatchKeysRequest>) -> Result<Response<Self::WatchKeysStream>, Status> {
        let at = self.count(self.admit(request))?;
        let (tell, told) = mpsc::channel(AHEAD);
        let (keys, mut ended) = (Arc::clone(&self.keys), self.ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tell_changes(&keys, at, &tell) => {}
                // An error only says that the sender is gone.
                _ = ended.changed() => {
                    let _ = tell.try_send(Err(Status::unavailable("this Warden is stopping")));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// Tells of changes since `at`, until nobody listens.
async fn tell_changes(keys: &Keys, at: WatchKeysRequest, tell: &mpsc::Sender<Result<WatchKeysResponse, Status>>) {
    let changes = keys.changes();
    let (run, mut follow) = (changes.run(), changes.follow());
    let (mut of_run, mut sequence, mut first) = (at.run, at.sequence, true);
    loop {
        let mut events = Vec::new();
        match changes.since(of_run, sequence) {
            Since::Unknown(now) => events.push((now, Event::Reset(Reset {}))),
            Since::Known(ids, now) => {
                let behind = now - ids.len() as u64;
                if first || ids.is_empty() {
                    events.push((behind, Event::Beat(Beat {})));
                }
                let change = |id: Arc<str>| Event::Change(Change { key_id: id.as_ref().to_owned() });
                events.extend((behind + 1..).zip(ids.into_iter().map(change)));
            }
        }
        for (number, event) in events {
            (of_run, sequence, first) = (run, number, false);
            if tell.send(Ok(WatchKeysResponse { run, sequence, event: Some(event) })).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tell.closed() => return,
            // It wakes at once when there was a change since the last look.
            _ = follow.changed() => {}
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

/// A connection and its place among [`CONNECTIONS_MAX`].
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
