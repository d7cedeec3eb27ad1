//! Whom the client believes, over https: the authorities that this machine trusts, or those of one file.
//!
//! A certificate is always checked, down to its name and its days; there is no way around that. No session is taken up again: each
//! connection sees the certificate that is shown then. Bounds: [`PEM_BYTES_MAX`], [`NAMES_MAX`]; the caller's time-out.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig, RootCertStore};
use url::{Host, Url};

use super::authority;
use crate::clock::rfc_3339;

/// Of a file of authorities; those of a whole system have some 250 KiB.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Of a certificate for somebody else, in an error.
const NAMES_MAX: usize = 5;

/// Whom to believe. By default the authorities of this machine, which are read when the first https URL is asked for.
#[derive(Default)]
pub struct Trust {
    /// `None`: this machine's.
    file: Option<PathBuf>,
    connector: OnceLock<TlsConnector>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Trust {
    /// The authorities of this file, in PEM, and no others.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let connector = read(path).and_then(|pem| roots(&pem)).and_then(connector);
        let connector = connector.with_context(|| format!("`{}`", path.display()))?;
        Ok(Self { file: Some(path.to_owned()), connector: connector.into() })
    }

    /// Speaks TLS with whom the URL names.
    pub(super) async fn secure(&self, url: &Url, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let name = match url.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()),
            Some(Host::Ipv4(ip)) => Ok(ServerName::from(std::net::IpAddr::from(ip))),
            Some(Host::Ipv6(ip)) => Ok(ServerName::from(std::net::IpAddr::from(ip))),
            None => anyhow::bail!("`{url}` has no host"),
        };
        let name = name.with_context(|| format!("`{url}`: no certificate can be for such a host"))?;
        let connector = match self.connector.get() {
            Some(connector) => connector,
            None => {
                let made = connector(roots_of_this_machine()?)?;
                self.connector.get_or_init(|| made)
            }
        };
        connector.connect(name, stream).await.map_err(|error| anyhow::anyhow!(self.explain(url, &error)))
    }

    /// What is wrong, and how it is mended.
    fn explain(&self, url: &Url, error: &io::Error) -> String {
        let at = authority(url);
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => format!(
                    "{at} hung up in place of a TLS handshake: is it the port on which TLS is spoken? If it is one without TLS, \
                     use http://"
                ),
                _ => format!("{at}: the TLS handshake broke off: {error}"),
            };
        };
        match error {
            rustls::Error::InvalidCertificate(error) => self.explain_certificate(url, &at, error),
            rustls::Error::InvalidMessage(_) => {
                format!("{at} does not speak TLS on this port: use http://, or the port on which TLS is spoken")
            }
            rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
                format!("{at} has no certificate for this host: have one made, or ask by another name of it")
            }
            error => format!("{at}: no TLS can be agreed on: {error}"),
        }
    }

    fn explain_certificate(&self, url: &Url, at: &str, error: &CertificateError) -> String {
        let moment = |time: &UnixTime| rfc_3339(time.as_secs().saturating_mul(1000));
        match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("the certificate of {at} has expired, at {}: renew it, there", moment(not_after))
            }
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the certificate of {at} begins at {}, and it is {} here: set the clock that is wrong",
                moment(not_before),
                moment(time)
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "the certificate of {at} is not for {}, but for {}: ask by such a name, or have this one put into it",
                url.host_str().unwrap_or_default(),
                names(presented)
            ),
            CertificateError::UnknownIssuer => match &self.file {
                None => format!(
                    "the certificate of {at} is signed by nobody whom this machine trusts: name a private authority with \
                     --ca FILE; of a public one, its intermediate certificates must be sent along, there"
                ),
                Some(file) => format!(
                    "the certificate of {at} is signed by nobody in `{}`: name the file of who signed it",
                    file.display()
                ),
            },
            CertificateError::BadSignature => format!(
                "the certificate of {at} is signed with another key than that of the authority of this name that is \
                 trusted: was the authority made anew? Take its new certificate, or have the server's signed by the old one"
            ),
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => format!(
                "the certificate of {at} is that of an authority (CA:TRUE): have one made for the server that says CA:FALSE"
            ),
            error => format!("the certificate of {at} is no good: {error}"),
        }
    }
}

/// The names of a certificate; rustls gives them as `DnsName("a.example")` and the like.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all (it has no subjectAltName)".into();
    }
    let bare = |name: &String| match name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')) {
        Some(inside) => inside.trim_matches('"').to_owned(),
        None => name.clone(),
    };
    let mut names: Vec<_> = presented.iter().take(NAMES_MAX).map(bare).collect();
    if presented.len() > NAMES_MAX {
        names.push(format!("{} more", presented.len() - NAMES_MAX));
    }
    names.join(", ")
}

fn connector(roots: RootCertStore) -> anyhow::Result<TlsConnector> {
    // Named, so that another provider in the build would change nothing.
    let config =
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let mut config = config?.with_root_certificates(roots).with_no_client_auth();
    // With a session taken up again no certificate is shown, and one that has expired would not be seen.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    // A pipe would be waited for.
    anyhow::ensure!(fs::metadata(path).context("the file cannot be read")?.is_file(), "is not a file");
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem));
    read.context("the file cannot be read")?;
    anyhow::ensure!(pem.len() as u64 <= PEM_BYTES_MAX, "the file has more than {} MiB", PEM_BYTES_MAX >> 20);
    Ok(pem)
}

/// Each certificate of a file that somebody named must be good.
fn roots(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for (n, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let added = certificate.map_err(anyhow::Error::from).and_then(|der| Ok(roots.add(der)?));
        added.with_context(|| format!("its certificate {} cannot be read", n + 1))?;
    }
    anyhow::ensure!(!roots.is_empty(), "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    Ok(roots)
}

/// What others put together may hold things that nobody here understands.
fn roots_of_this_machine() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        anyhow::bail!(
            "this machine names no authorities for https{why}: install them (ca-certificates), or name a file with --ca FILE"
        );
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    use rcgen::{CertificateParams, KeyPair};

    /// A certificate, in PEM.
    fn pem() -> String {
        CertificateParams::new(vec!["a.example".into()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
    }

    #[test]
    fn a_file_of_authorities_that_is_no_good_is_refused_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let refused = |path: &Path| format!("{:#}", Trust::of_file(path).unwrap_err());
        assert!(refused(&file).contains("ca.pem`: the file cannot be read: No such file"), "{}", refused(&file));
        assert!(refused(folder.path()).ends_with("is not a file"));
        let half = pem().replace("-----END CERTIFICATE-----", "");
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (content, told) in [
            (String::new(), "holds no certificate in PEM"),
            (KeyPair::generate().unwrap().serialize_pem(), "holds no certificate in PEM"),
            (half, "its certificate 1 cannot be read"),
            (pem() + no_certificate, "its certificate 2 cannot be read"),
            (" ".repeat(PEM_BYTES_MAX as usize + 1), "the file has more than 4 MiB"),
        ] {
            fs::write(&file, content).unwrap();
            assert!(refused(&file).contains(told), "{}", refused(&file));
        }
        fs::write(&file, format!("{}a word between them\n{}", pem(), pem())).unwrap();
        Trust::of_file(&file).unwrap();
    }

    #[test]
    fn every_reason_is_told_with_the_way_to_mend_it() {
        let trust = Trust::default();
        let url = Url::parse("https://go.example:8443/x").unwrap();
        let told = |error: rustls::Error| trust.explain(&url, &io::Error::new(ErrorKind::InvalidData, error));
        let at = |secs| UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(86_400) };
        assert_eq!(
            told(early.into()),
            "the certificate of go.example:8443 begins at 1970-01-02T00:00:00.000Z, and it is 1970-01-01T00:00:00.000Z here: \
             set the clock that is wrong"
        );
        assert!(told(CertificateError::Revoked.into()).contains("is no good: "));
        let alert = rustls::Error::AlertReceived;
        assert!(told(alert(AlertDescription::UnrecognisedName)).contains("has no certificate for this host"));
        assert!(told(alert(AlertDescription::ProtocolVersion)).contains("no TLS can be agreed on: "));
        let hung_up = trust.explain(&url, &ErrorKind::UnexpectedEof.into());
        assert!(hung_up.contains("hung up in place of a TLS handshake"), "{hung_up}");
    }

    #[tokio::test]
    async fn every_connection_is_shown_the_certificate_anew() {
        use rustls::HandshakeKind;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        fs::write(&file, certificate.pem()).unwrap();
        let trust = Trust::of_file(&file).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        for _ in 0..2 {
            let server = async {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                // Behind the tickets by which a session could be taken up again.
                stream.write_all(b"x").await.unwrap();
            };
            let client = async {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let mut stream = trust.secure(&url, stream).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                stream.get_ref().1.handshake_kind()
            };
            assert_eq!(tokio::join!(client, server).0, Some(HandshakeKind::Full));
        }
    }

    #[test]
    fn the_names_of_a_certificate_are_told_bare_and_not_without_end() {
        let shown = |names: &[&str]| super::names(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(
            shown(&["DnsName(\"a.example\")", "IpAddress(127.0.0.1)", "DirectoryName"]),
            "a.example, 127.0.0.1, DirectoryName"
        );
        assert_eq!(shown(&["DnsName(\"a\")"; 7]), "a, a, a, a, a, 2 more");
        assert!(shown(&[]).contains("no name at all"));
    }
}
