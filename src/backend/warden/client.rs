//! Asks a Warden elsewhere, and listens to what it tells.
//!
//! ```text
//! listen: connect -> WatchKeys -> news ...      silence for 1 s, an error, the end: again, after a pause
//! ask:    ValidateKey on the same connection, many at once, `deadline` for each, behind a breaker
//! ```
//! The stream of news keeps the connection open and notices first when it is dead; who asks without one fails at once. It
//! never takes anything but a whole answer for an answer: what does not come in time, cannot be read, or makes no sense is a
//! failure, and says nothing of the key. Runs on the runtime of the control side. Bounds: one connection,
//! 16 KiB a message.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::wire::warden_client::WardenClient as Stub;
use super::wire::watch_keys_response::Event;
use super::wire::{ValidateKeyRequest, WatchKeysRequest, WatchKeysResponse};
use super::{AUTHORIZATION, BEARER, MESSAGE_BYTES_MAX, SILENCE_MAX, shown, translate};
use crate::BoxFuture;
use crate::catalog::remote_keys::{Asker, News};
use crate::catalog::{Checked, Unavailable};
use crate::click::key::Digest;
use crate::config::{Policy, WardenGrpc};
use crate::pipeline::breaker::Breaker;
use crate::telemetry::calls::{Call, Calls};

/// For a connection with its handshakes: more than a visitor waits, but nobody does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A Warden elsewhere.
pub struct WardenClient {
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    policy: Policy,
    breaker: Arc<Breaker>,
    calls: Arc<Calls>,
    /// The connection, while the stream of news lives on it; or why there is none.
    link: Mutex<Result<Stub<Channel>, String>>,
}

impl WardenClient {
    /// Not connected yet: that is done by [`WardenClient::listen`].
    ///
    /// # Errors
    /// A certificate or key that cannot be used, in words.
    pub fn new(
        settings: &WardenGrpc,
        policy: Policy,
        breaker: Arc<Breaker>,
        calls: Arc<Calls>,
    ) -> Result<Self, String> {
        let mut endpoint = Endpoint::from_shared(settings.url.clone())
            .map_err(|error| format!("warden.grpc.url: {error}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_max_header_list_size(8 * 1024);
        if let Some(ca) = &settings.tls_ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).timeout(CONNECT_TIMEOUT);
            if let Some(identity) = &settings.tls {
                tls = tls.identity(shown(identity));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| format!("warden.grpc.tls_*: {}", whole(&error)))?;
        }
        let token = (!settings.token.is_empty()).then(|| format!("{BEARER}{}", settings.token.expose()).parse());
        let mut token = token.transpose().map_err(|_| "warden.grpc.token cannot travel in a header")?;
        token.iter_mut().for_each(|token: &mut MetadataValue<Ascii>| token.set_sensitive(true));
        let link = Mutex::new(Err("not connected yet".into()));
        Ok(Self { endpoint, token, deadline: settings.deadline, policy, breaker, calls, link })
    }

    /// Whether the stream of news lives.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ping(&self) -> Result<(), String> {
        self.link().as_ref().map(drop).map_err(Clone::clone)
    }

    /// Hands on what the Warden tells, for ever; connects again whenever that ends.
    pub async fn listen(self: Arc<Self>, news: mpsc::Sender<News>) {
        let (mut at, mut failures) = (WatchKeysRequest::default(), 0);
        loop {
            let heard = at;
            let why = match self.follow(&mut at, &news).await {
                Ok(()) => return,
                Err(why) => why,
            };
            failures = if heard == at { failures + 1 } else { 1 };
            tracing::debug!(why, "the Warden tells nothing any more; connecting again");
            *self.link() = Err(why);
            tokio::time::sleep(self.policy.pause(failures, fastrand::f64())).await;
        }
    }

    /// One stream, until it ends; `at` is how far it came. `Ok` when nobody listens to the news any more.
    async fn follow(&self, at: &mut WatchKeysRequest, news: &mpsc::Sender<News>) -> Result<(), String> {
        let connecting = self.calls.begin(Call::WardenWatch);
        let channel = self.endpoint.connect().await.map_err(|error| whole(&error))?;
        let mut stub = Stub::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let silence = |_| format!("it said nothing for {SILENCE_MAX:?}");
        let opened = tokio::time::timeout(SILENCE_MAX, stub.watch_keys(self.request(*at)));
        let mut stream = opened.await.map_err(silence)?.map_err(|status| told(&status))?.into_inner();
        drop(connecting);
        let mut first = true;
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await.map_err(silence)?;
            let message = message.map_err(|status| told(&status))?.ok_or("it has ended the stream")?;
            let learned = learn(*at, &message)?;
            *at = WatchKeysRequest { run: message.run, sequence: message.sequence };
            if let Some(learned) = learned
                && news.send(learned).await.is_err()
            {
                return Ok(());
            }
            if std::mem::take(&mut first) {
                // Not earlier: with what was missed taken in, answers can be told from old ones.
                *self.link() = Ok(stub.clone());
                tracing::debug!("the Warden tells of changes");
            }
        }
    }

    async fn validate(
        self: Arc<Self>,
        link: Result<Stub<Channel>, String>,
        key_id: String,
        digest: Digest,
    ) -> Result<Checked, Unavailable> {
        let mut stub = link.map_err(Unavailable::Error)?;
        let Some(permit) = self.breaker.try_admit() else {
            return Err(Unavailable::Error("it has not answered lately; the breaker is open".into()));
        };
        let request = self.request(ValidateKeyRequest { key_id: key_id.clone(), digest: digest.0.to_vec() });
        let asked = tokio::time::timeout(self.deadline, stub.validate_key(request));
        let answer = match self.calls.time(Call::WardenValidate, asked).await {
            Ok(Ok(response)) => translate::checked(&key_id, response.into_inner()).map_err(Unavailable::Error),
            Ok(Err(status)) => Err(Unavailable::Error(told(&status))),
            Err(_) => Err(Unavailable::Timeout),
        };
        match &answer {
            Ok(_) => permit.succeeded(),
            Err(_) => permit.failed(),
        }
        answer
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert(AUTHORIZATION, token.clone());
        }
        request
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Result<Stub<Channel>, String>> {
        // Replaced whole.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is new in a message that follows on `at`.
fn learn(at: WatchKeysRequest, message: &WatchKeysResponse) -> Result<Option<News>, String> {
    let follows = |step| message.run == at.run && Some(message.sequence) == at.sequence.checked_add(step);
    match &message.event {
        Some(Event::Change(change)) if follows(1) => Ok(Some(News::Changed(change.key_id.as_str().into()))),
        Some(Event::Beat(_)) if follows(0) => Ok(None),
        Some(_) => Ok(Some(News::Reset)),
        None => Err("it told what cannot be read".into()),
    }
}

impl Asker for Arc<WardenClient> {
    fn ask(&self, key_id: &str, digest: &Digest) -> BoxFuture<'static, Result<Checked, Unavailable>> {
        let link = self.link().clone();
        Box::pin(Arc::clone(self).validate(link, key_id.to_owned(), *digest))
    }
}

impl std::fmt::Debug for WardenClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WardenClient").field("url", self.endpoint.uri()).finish_non_exhaustive()
    }
}

/// What a failed call is told as. The text of others is cut: it goes to logs and health.
fn told(status: &Status) -> String {
    let text: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{:?}: {text}", status.code())
}

/// An error with what is behind it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        text = format!("{text}: {error}");
        behind = error.source();
    }
    text
}
