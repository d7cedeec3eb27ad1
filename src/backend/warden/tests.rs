//! Wardens of all kinds, over real sockets: one as it should be, slow, hanging, lying, restarting ones, and TLS.
//!
//! What takes effect is waited for, not timed: the news that came, the answer that changed.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::client::WardenClient;
use super::server;
use super::wire::validate_key_response::Answer;
use super::wire::warden_server::{Warden, WardenServer};
use super::wire::{
    self, ValidateKeyRequest, ValidateKeyResponse, WatchKeysRequest, WatchKeysResponse, watch_keys_response::Event,
};
use crate::BoxFuture;
use crate::catalog::remote_keys::{Asker as _, News};
use crate::catalog::{CatalogError, Checked, KeyStore, Keys, NewKey, Unavailable, Why};
use crate::click::Key;
use crate::click::key::{Digest, Digester, RawKey};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Identity, Secret, Sources, WardenGrpc};
use crate::pipeline::breaker::Breaker;
use crate::telemetry::calls::Calls;

/// Keeps nothing: the keys in memory are enough here.
struct Nowhere;

impl KeyStore for Nowhere {
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn put_key<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn delete_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

async fn keys() -> Arc<Keys> {
    Arc::new(Keys::open(Arc::new(Nowhere), &Secret::new("a pepper of its own"), 5_000, clock()).await.unwrap())
}

async fn make(keys: &Keys) -> NewKey {
    let raw = RawKey { scopes: Some(vec!["ingress".into()]), ..RawKey::default() };
    keys.create(raw).await.unwrap()
}

/// A running Warden.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// At this address, or at any.
    fn start(keys: &Arc<Keys>, at: Option<SocketAddr>, config: &Config, token: &str) -> Self {
        let listener = bind(at);
        let (address, (stop, stopped)) = (listener.local_addr().unwrap(), oneshot::channel());
        let (keys, settings, token) = (Arc::clone(keys), config.warden.serve.clone(), Secret::new(token));
        let stopped = async move { drop(stopped.await) };
        let ended =
            tokio::spawn(
                async move { server::serve(listener, keys, &settings, &token, Arc::default(), stopped).await },
            );
        Self { address, stop, ended }
    }

    async fn stop(self) -> SocketAddr {
        self.stop.send(()).unwrap();
        // Streams of news end by themselves, or it would never.
        self.ended.await.unwrap().unwrap();
        self.address
    }
}

fn bind(at: Option<SocketAddr>) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()).into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

fn config(text: &str) -> Config {
    Config::from_text(&Sources::default(), text).unwrap()
}

/// The node's side.
struct Node {
    client: Arc<WardenClient>,
    news: mpsc::Receiver<News>,
    listening: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Node {
    fn new(settings: &WardenGrpc) -> Self {
        let policy = config("retry.warden = {tries = 100, base = \"1ms\", max = \"5ms\", jitter = false}").retry.warden;
        Self::with(settings, policy)
    }

    fn with(settings: &WardenGrpc, policy: crate::config::Policy) -> Self {
        let breaker = Arc::new(Breaker::new("warden", policy, clock(), Arc::default()));
        let client = Arc::new(WardenClient::new(settings, policy, breaker, Calls::new(clock())).unwrap());
        let (tell, news) = mpsc::channel(64);
        let listening = tokio::spawn(Arc::clone(&client).listen(tell));
        Self { client, news, listening }
    }

    async fn ask(&self, key: &str) -> Result<Checked, Unavailable> {
        let id = key.split('_').nth(2).unwrap_or_default().to_owned();
        self.client.ask(&id, &Digester::new(b"").digest(key.as_bytes())).await
    }

    async fn linked(&self) {
        until(|| async { self.client.ping().is_ok() }).await;
    }

    async fn hear(&mut self) -> News {
        tokio::time::timeout(PATIENCE, self.news.recv()).await.expect("news").expect("a listener")
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let come_true = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, come_true).await.expect("the condition comes true");
}

fn grpc(address: SocketAddr) -> WardenGrpc {
    // A loaded machine is not what these tests are about.
    WardenGrpc { url: format!("http://{address}"), deadline: PATIENCE, ..config("").warden.grpc }
}

#[tokio::test]
async fn a_node_asks_and_hears_of_changes_without_asking() {
    let keys = keys().await;
    let made = make(&keys).await;
    let warden = Running::start(&keys, None, &config(""), "");
    let mut node = Node::new(&grpc(warden.address));
    assert_eq!(node.hear().await, News::Reset, "it followed for the first time");
    node.linked().await;
    let Ok(Checked::Granted(grant)) = node.ask(made.secret.expose()).await else { panic!("granted") };
    assert_eq!((&*grant.key_id, &*grant.org), (made.entry.key.id.as_str(), "default"));
    let wrong = format!("{}x", made.secret.expose());
    assert_eq!(node.ask(&wrong).await, Ok(Checked::Denied(Why::Unknown)), "not that there is such an id");
    let other = make(&keys).await;
    assert_eq!(node.hear().await, News::Changed(other.entry.key.id.as_str().into()));
    keys.revoke(&grant.key_id).await.unwrap();
    assert_eq!(node.hear().await, News::Changed(grant.key_id.clone()));
    assert_eq!(node.ask(made.secret.expose()).await, Ok(Checked::Denied(Why::Revoked)));
    warden.stop().await;
}

#[tokio::test]
async fn a_restarted_warden_is_found_again_and_nothing_that_changed_meanwhile_is_missed() {
    let keys = keys().await;
    let made = make(&keys).await;
    let warden = Running::start(&keys, None, &config(""), "");
    let mut node = Node::new(&grpc(warden.address));
    assert_eq!(node.hear().await, News::Reset);
    node.linked().await;
    let address = warden.stop().await;
    until(|| async { node.client.ping().is_err() }).await;
    assert!(node.ask(made.secret.expose()).await.is_err());
    keys.revoke(&made.entry.key.id).await.unwrap();
    // The same keys on the same port: only what was missed is told.
    let warden = Running::start(&keys, Some(address), &config(""), "");
    assert_eq!(node.hear().await, News::Changed(made.entry.key.id.as_str().into()));
    node.linked().await;
    assert_eq!(node.ask(made.secret.expose()).await, Ok(Checked::Denied(Why::Revoked)));
    let address = warden.stop().await;
    // Another run, which cannot know what was missed.
    let again = self::keys().await;
    let warden = Running::start(&again, Some(address), &config(""), "");
    assert_eq!(node.hear().await, News::Reset);
    warden.stop().await;
}

#[tokio::test]
async fn a_token_is_needed_where_there_is_one() {
    let (keys, token) = (keys().await, "0123456789abcdef");
    let made = make(&keys).await;
    let warden = Running::start(&keys, None, &config(""), token);
    let with = |token: &str| WardenGrpc { token: Secret::new(token), ..grpc(warden.address) };
    let node = Node::new(&with(token));
    node.linked().await;
    assert!(matches!(node.ask(made.secret.expose()).await, Ok(Checked::Granted(_))));
    for wrong in ["", "0123456789abcdeg", "0123456789abcdef0"] {
        let node = Node::new(&with(wrong));
        until(|| async { node.client.ping().is_err_and(|why| why.contains("send the token of this Warden")) }).await;
        assert!(node.ask(made.secret.expose()).await.is_err(), "{wrong:?}");
    }
}

/// Says what it is told to.
struct Liar {
    answer: Box<dyn Fn() -> Result<ValidateKeyResponse, Status> + Send + Sync>,
    hang: bool,
    news: Mutex<Vec<Option<Event>>>,
    watched: AtomicUsize,
}

impl Liar {
    fn new(answer: impl Fn() -> Result<ValidateKeyResponse, Status> + Send + Sync + 'static) -> Self {
        let news = Mutex::new(vec![Some(Event::Reset(wire::Reset {}))]);
        Self { answer: Box::new(answer), hang: false, news, watched: AtomicUsize::new(0) }
    }

    /// Its address, with itself.
    fn start(self) -> (SocketAddr, Arc<Self>) {
        let (listener, this) = (bind(None), Arc::new(self));
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let service = WardenServer::from_arc(Arc::clone(&this));
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (address, this)
    }
}

#[tonic::async_trait]
impl Warden for Liar {
    async fn validate_key(&self, _: Request<ValidateKeyRequest>) -> Result<Response<ValidateKeyResponse>, Status> {
        if self.hang {
            std::future::pending::<()>().await;
        }
        (self.answer)().map(Response::new)
    }

    type WatchKeysStream = ReceiverStream<Result<WatchKeysResponse, Status>>;

    /// The news, and then a beat each 100 ms, unless the last of the news was to say nothing more.
    async fn watch_keys(&self, _: Request<WatchKeysRequest>) -> Result<Response<Self::WatchKeysStream>, Status> {
        self.watched.fetch_add(1, Ordering::SeqCst);
        let (tell, told) = mpsc::channel(8);
        let mut news = self.news.lock().await.clone();
        let silent = news.last().is_some_and(Option::is_none);
        news.retain(Option::is_some);
        tokio::spawn(async move {
            for event in news {
                let _ = tell.send(Ok(WatchKeysResponse { run: 1, sequence: 1, event })).await;
            }
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let event = (!silent).then_some(Event::Beat(wire::Beat {}));
                if event.is_some() && tell.send(Ok(WatchKeysResponse { run: 1, sequence: 1, event })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

fn granted(org: &str, scopes: Vec<String>) -> ValidateKeyResponse {
    let grant = wire::Grant { org: org.into(), scopes, rate: None, expires_ms: 0 };
    ValidateKeyResponse { answer: Some(Answer::Granted(grant)) }
}

#[tokio::test]
async fn a_lying_warden_grants_nothing_and_denies_nothing() {
    for (answer, told) in [
        ((|| Ok(ValidateKeyResponse { answer: None })) as fn() -> Result<_, _>, "neither yes nor no"),
        (|| Ok(granted("", vec![])), "an organisation that must be"),
        (|| Ok(granted("no such/name", vec![])), "an organisation that must be"),
        (|| Ok(granted("acme", vec!["ingress".into(); 33])), "33 scopes"),
        (|| Ok(granted(&"x".repeat(1 << 20), vec![])), "OutOfRange"),
        (|| Err(Status::unknown("line\nbreaks \u{1b}[31m")), "Unknown: linebreaks [31m"),
        (|| Err(Status::unauthenticated("go away")), "Unauthenticated: go away"),
    ] {
        let (address, _liar) = Liar::new(answer).start();
        let node = Node::new(&grpc(address));
        node.linked().await;
        let said = node.ask("wdn_sk_abcd_x").await;
        assert!(matches!(&said, Err(Unavailable::Error(why)) if why.contains(told)), "{told}: {said:?}");
    }
}

#[tokio::test]
async fn a_warden_that_never_answers_costs_a_deadline_and_then_the_breaker_opens() {
    let (address, _liar) = Liar { hang: true, ..Liar::new(|| Err(Status::unknown("never"))) }.start();
    let policy = config("retry.warden = {tries = 3, base = \"1ms\", max = \"1h\"}").retry.warden;
    let node = Node::with(&WardenGrpc { deadline: Duration::from_millis(50), ..grpc(address) }, policy);
    node.linked().await;
    for _ in 0..3 {
        assert_eq!(node.ask("wdn_sk_abcd_x").await, Err(Unavailable::Timeout));
    }
    let open = node.ask("wdn_sk_abcd_x").await;
    assert!(matches!(&open, Err(Unavailable::Error(why)) if why.contains("the breaker is open")), "{open:?}");
}

#[tokio::test]
async fn a_stream_that_falls_silent_or_breaks_off_is_made_anew() {
    let reset = || Some(Event::Reset(wire::Reset {}));
    for news in [vec![reset(), None], vec![None]] {
        let liar = Liar { news: Mutex::new(news), ..Liar::new(|| Ok(granted("acme", vec![]))) };
        let (address, liar) = liar.start();
        let _node = Node::new(&grpc(address));
        until(|| async { liar.watched.load(Ordering::SeqCst) >= 2 }).await;
    }
    // A peer that takes connections and says nothing at all.
    let mute = bind(None);
    let node = Node::new(&grpc(mute.local_addr().unwrap()));
    until(|| async { node.client.ping().is_err_and(|why| why.contains("said nothing for")) }).await;
}

#[tokio::test]
async fn a_change_that_is_missing_counts_as_a_reset() {
    let change = |id: &str| Some(Event::Change(wire::Change { key_id: id.into() }));
    // All of them with the same number: the second is none that follows.
    let news = vec![Some(Event::Reset(wire::Reset {})), change("a")];
    let liar = Liar { news: Mutex::new(news), ..Liar::new(|| Ok(granted("acme", vec![]))) };
    let (address, _liar) = liar.start();
    let mut node = Node::new(&grpc(address));
    assert_eq!([node.hear().await, node.hear().await], [News::Reset, News::Reset]);
}

/// Certificates of one authority, in PEM.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> bytes::Bytes {
        self.0.pem().into()
    }

    fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &self.0).unwrap();
        Identity { cert: cert.pem().into(), key: Secret::new(key.serialize_pem()) }
    }
}

#[tokio::test]
async fn tls_and_mutual_tls_let_in_whom_they_should_and_nobody_else() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let keys = keys().await;
    let made = make(&keys).await;
    let mut config = config("");
    config.warden.serve.tls = Some(ours.identity("localhost"));
    let one_way = Running::start(&keys, None, &config, "");
    config.warden.serve.client_ca = Some(ours.pem());
    let mutual = Running::start(&keys, None, &config, "");
    let to = |warden: &Running, ca: &Authority, tls: Option<Identity>| WardenGrpc {
        url: format!("https://localhost:{}", warden.address.port()),
        tls_ca: Some(ca.pem()),
        tls,
        ..grpc(warden.address)
    };
    for settings in [to(&one_way, &ours, None), to(&mutual, &ours, Some(ours.identity("node")))] {
        let node = Node::new(&settings);
        node.linked().await;
        assert!(matches!(node.ask(made.secret.expose()).await, Ok(Checked::Granted(_))));
    }
    let refused: HashMap<&str, WardenGrpc> = HashMap::from([
        ("signed by another", to(&one_way, &theirs, None)),
        (
            "of another name",
            WardenGrpc { url: format!("https://127.0.0.1:{}", one_way.address.port()), ..to(&one_way, &ours, None) },
        ),
        ("no certificate", to(&mutual, &ours, None)),
        ("a certificate signed by another", to(&mutual, &ours, Some(theirs.identity("node")))),
        ("no TLS", grpc(one_way.address)),
    ]);
    for (what, settings) in refused {
        let node = Node::new(&settings);
        until(|| async { node.client.ping().is_err_and(|why| why != "not connected yet") }).await;
        assert!(node.ask(made.secret.expose()).await.is_err(), "{what}");
    }
}

#[test]
fn a_digest_is_all_that_travels() {
    // What a node sends for a key is its SHA-256; the pepper is the Warden's alone.
    let sent = Digester::new(b"").digest(b"wdn_sk_abcd_x");
    assert_eq!(Digester::new(b"pepper").seal(Digest(sent.0)), Digester::new(b"pepper").digest(b"wdn_sk_abcd_x"));
}
