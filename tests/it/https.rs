//! Probes and health checks over https: a node behind what ends TLS for it, with certificates of all kinds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::cli::{bad, command, good};
use crate::harness::Trellis;

/// A certificate and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

/// Who signs certificates, and a folder with its own one.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file");
        Self { issuer, folder }
    }

    /// What signs, for `--ca`.
    fn file(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.into()]).expect("a name")
}

/// Ends TLS in front of a listener that speaks none, on a thread of its own, until it is dropped.
struct Terminator {
    host: &'static str,
    port: u16,
    thread: Option<std::thread::JoinHandle<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Terminator {
    /// The host: by which it is asked for, and what the name leads to first is where it listens.
    fn before(service: SocketAddr, host: &'static str, identity: &Identity) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate that fits its key");
        let listener = std::net::TcpListener::bind((host, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let acceptor = TlsAcceptor::from(Arc::new(config));
                tokio::select! {
                    () = serve(&listener, &acceptor, service) => {}
                    _ = stopped => {}
                }
            });
        };
        Self { host, port, thread: Some(std::thread::spawn(run)), stop: Some(stop) }
    }

    fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the terminator panicked");
    }
}

/// One connection after the other, as a probe makes them. Who does not like the certificate goes, and that is no error here.
async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor, service: SocketAddr) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok(mut visitor) = acceptor.accept(stream).await else { continue };
        let mut service = TcpStream::connect(service).await.expect("the service is there");
        let _ = tokio::io::copy_bidirectional(&mut visitor, &mut service).await;
    }
}

/// `trellis` with these arguments; `trusted` is all that this machine trusts.
fn run(trusted: &Authority, arguments: &[&str]) -> Output {
    let mut command = command(trusted.folder.path(), arguments);
    command.env("SSL_CERT_FILE", trusted.path()).output().expect("the binary runs")
}

fn probe(trusted: &Authority, url: &str, more: &[&str]) -> Output {
    run(trusted, &[&["probe", "--location", "fra", "--url", url][..], more].concat())
}

#[test]
fn a_probe_over_https_passes_tells_the_handshake_and_its_clicks_are_monitors() {
    let trellis = Trellis::start();
    trellis.link("spring", "https://a.example/");
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let edge = Terminator::before(trellis.edge(), "localhost", &ours.sign(&named("localhost")));
    let control = Terminator::before(trellis.control(), "127.0.0.1", &ours.sign(&named("127.0.0.1")));

    let both = ["--control", &control.url(), "--count", "2", "--interval", "0", "--ca", &ours.file()];
    let told = good(&probe(&others, &edge.url(), &both));
    let lines: Vec<_> = told.lines().collect();
    assert_eq!((lines.len(), lines[8]), (9, "8 of 8 checks were as they should be"), "{told}");
    for line in &lines[..8] {
        let places =
            ["  ok  ", "  connect ", " ms  tls ", " ms  first byte ", " ms  whole "].map(|word| line.find(word));
        assert!(places.is_sorted() && places[0].is_some(), "{line}");
    }

    let link = format!("{}/spring?x=1", edge.url());
    let told = good(&probe(&ours, &link, &["--format", "json"]));
    let told: Value = serde_json::from_str(&told).expect("one object");
    let [connect, tls, first_byte, whole] =
        ["connect_ms", "tls_ms", "first_byte_ms", "whole_ms"].map(|phase| told[phase].as_f64().expect("a time"));
    assert!(tls > 0.0 && connect + tls + first_byte <= whole + 0.01, "{told}");
    assert_eq!((&told["success"], &told["status"]), (&true.into(), &302.into()));
    trellis.wait_stored(3);
    let click = trellis.clicks().into_iter().find(|click| click["link"] == "spring").expect("its click");
    assert_eq!((&click["class"], &click["click_id"]), (&"monitor".into(), &told["click_id"]));
    assert_eq!(trellis.count("")["by_class"], json!({"monitor": 3}));
}

#[test]
fn a_certificate_that_is_no_good_and_a_port_without_tls_are_told_and_end_with_1() {
    let trellis = Trellis::start();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let (mut ended, mut early, mut itself) = (named("localhost"), named("localhost"), named("localhost"));
    ended.not_after = date_time_ymd(2020, 2, 3);
    early.not_before = date_time_ymd(4000, 1, 1);
    // What `openssl req -x509` makes.
    itself.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let front = |params: &CertificateParams| Terminator::before(trellis.edge(), "localhost", &ours.sign(params));
    let good = front(&named("localhost"));
    let plain = format!("https://{}", trellis.edge());
    let foreign = format!("is signed by nobody in `{}`: name the file of who signed it", others.file());
    let again = Authority::new("ours");
    let ports: [(&Authority, &Terminator, &[&str], &str); 7] = [
        (&others, &good, &[], "is signed by nobody whom this machine trusts: name a private authority with --ca FILE"),
        (&ours, &good, &["--ca", &others.file()], &foreign),
        (&again, &good, &[], "is signed with another key than that of the authority of this name that is trusted"),
        (&ours, &front(&named("go.example")), &[], "is not for localhost, but for go.example: ask by such a name"),
        (&ours, &front(&ended), &[], "has expired, at 2020-02-03T00:00:00.000Z: renew it"),
        (&ours, &front(&early), &[], "begins at 4000-01-01T00:00:00.000Z, and it is 20"),
        (&ours, &front(&itself), &[], "is that of an authority (CA:TRUE)"),
    ];
    let refused = ports.map(|(trusted, front, more, told)| {
        (probe(trusted, &front.url(), more), format!("the certificate of localhost:{} {told}", front.port))
    });
    let without = (probe(&ours, &plain, &[]), "does not speak TLS on this port: use http://, or the port".to_owned());
    for (output, told) in refused.into_iter().chain([without]) {
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && line.contains("redirect  failed  -  "), "{line}");
        assert!(line.contains(&told), "{line} does not hold {told}");
    }
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"redirected\"}"), 0.0);
}

#[test]
fn a_health_check_goes_over_https_too() {
    let trellis = Trellis::start();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let control = Terminator::before(trellis.control(), "127.0.0.1", &ours.sign(&named("127.0.0.1")));
    let ready = format!("{}/health/ready", control.url());
    assert_eq!(good(&run(&ours, &["healthcheck", "--url", &ready])), "ready\n");
    assert_eq!(good(&run(&others, &["healthcheck", "--url", &ready, "--ca", &ours.file()])), "ready\n");
    let told = bad(&run(&others, &["healthcheck", "--url", &ready]), 1);
    assert!(told.contains("is signed by nobody whom this machine trusts"), "{told}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_or_is_not_needed_is_refused() {
    let ours = Authority::new("ours");
    let told = bad(&probe(&ours, "https://localhost:1", &["--ca", "/nowhere/ca.pem"]), 1);
    assert!(told.contains("--ca: `/nowhere/ca.pem`: the file cannot be read"), "{told}");
    let told = bad(&probe(&ours, "http://localhost:1", &["--ca", &ours.file()]), 64);
    assert!(told.contains("--ca is for https://, and no URL here begins with it"), "{told}");
    let health = ["healthcheck", "--url", "http://localhost:1/", "--ca", &ours.file()];
    assert_eq!(bad(&run(&ours, &health), 64), told);
    // A machine that trusts nobody.
    std::fs::write(ours.path(), "").expect("a file");
    let (_listener, address) = silent();
    let told = probe(&ours, &format!("https://{address}"), &[]).stdout;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("this machine names no authorities for https") && told.contains("--ca FILE"), "{told}");
}

/// A listener that takes connections and says nothing.
fn silent() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}
