//! `[warden.grpc]` and `[warden.serve]`: the two ends of the way to a Warden elsewhere.
//!
//! Certificates are files in PEM, read when the configuration is, so a changed one wants a restart; of what is in them only
//! the form is looked at. Without TLS nothing goes further than this machine. Limits: [`PEM_BYTES_MAX`] each.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use url::{Host, Url};

use super::check::Keys;
use super::units::{KIB, Secret, number, show_time, socket, text, time, token};
use super::{Config, WardenMode, file};

const PEM_BYTES_MAX: u64 = 256 * KIB;

/// `[warden.grpc]`
#[derive(Clone, Debug)]
pub struct WardenGrpc {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// Sent with every call; may be empty.
    pub token: Secret,
    /// Who signs the Warden's certificate; with `https` alone.
    pub tls_ca: Option<Bytes>,
    /// What this node shows, if anything.
    pub tls: Option<Identity>,
    /// For one answer.
    pub deadline: Duration,
    /// Good keys kept in memory, and as many bad ones.
    pub entries_max: usize,
    /// A good key is taken without asking.
    pub fresh: Duration,
    /// A good key is taken when nobody can be asked.
    pub stale: Duration,
    /// A bad key is refused without asking.
    pub denied: Duration,
}

/// `[warden.serve]`
#[derive(Clone, Debug)]
pub struct WardenServe {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// What every call must bring. Empty: made at the first start, unless certificates are asked for.
    pub token: Secret,
    /// What is shown to those who ask; without it there is no TLS.
    pub tls: Option<Identity>,
    /// Who signs the certificates of those who ask; without it they need none.
    pub client_ca: Option<Bytes>,
}

/// A certificate with the chain above it, and its key; in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, then those above it.
    pub cert: Bytes,
    /// Its private key.
    pub key: Secret,
}

impl Keys {
    pub(super) fn warden_grpc(&mut self) -> WardenGrpc {
        let ms = Duration::from_millis;
        WardenGrpc {
            url: self.get("warden.grpc.url", text(grpc_url)),
            token: self.get("warden.grpc.token", text(shared_token)),
            tls_ca: self.get("warden.grpc.tls_ca", text(certificates)),
            tls: self.identity("warden.grpc.tls_cert", "warden.grpc.tls_key"),
            // Visitors wait for it.
            deadline: self.get("warden.grpc.deadline", time(ms(1)..=ms(1000))),
            // All of them are in memory; a write copies a pointer to one in 256.
            entries_max: self.get("warden.grpc.entries_max", number(1..=1_000_000)),
            fresh: self.get("warden.grpc.fresh", time(ms(100)..=ms(3_600_000))),
            stale: self.get("warden.grpc.stale", time(ms(100)..=ms(86_400_000))),
            denied: self.get("warden.grpc.denied", time(ms(100)..=ms(600_000))),
        }
    }

    pub(super) fn warden_serve(&mut self) -> WardenServe {
        WardenServe {
            listen: self.get("warden.serve.listen", text(socket)),
            token: self.get("warden.serve.token", text(token)),
            tls: self.identity("warden.serve.tls_cert", "warden.serve.tls_key"),
            client_ca: self.get("warden.serve.client_ca", text(certificates)),
        }
    }

    fn identity(&mut self, cert_key: &str, key_key: &str) -> Option<Identity> {
        let (cert, key) = (self.get(cert_key, text(certificates)), self.get(key_key, text(private_key)));
        self.relation(&[cert_key, key_key], cert.is_some() == key.is_some(), || {
            format!("{cert_key} and {key_key} go together; one of them is empty")
        });
        cert.zip(key).map(|(cert, key)| Identity { cert, key })
    }

    pub(super) fn warden_relations(&mut self, config: &Config) {
        let (grpc, serve) = (&config.warden.grpc, &config.warden.serve);
        self.relation(&["warden.grpc.fresh", "warden.grpc.stale"], grpc.fresh <= grpc.stale, || {
            let (fresh, stale) = (show_time(grpc.fresh), show_time(grpc.stale));
            format!("warden.grpc.fresh ({fresh}) must be at most warden.grpc.stale ({stale}), which begins with it")
        });
        if config.warden.mode == WardenMode::Grpc {
            let tls = grpc.url.starts_with("https:");
            self.relation(&["warden.grpc.url", "warden.mode"], tls || is_loopback(&grpc.url), || {
                "warden.grpc.url must be https://: without TLS whoever is on the way could grant keys; http:// is for this \
                 machine alone (127.0.0.1, ::1, localhost)"
                    .into()
            });
            self.relation(&["warden.grpc.tls_ca", "warden.grpc.url"], tls == grpc.tls_ca.is_some(), || {
                if tls {
                    "warden.grpc.url is https://, so warden.grpc.tls_ca must name the file of who signs its certificate"
                        .into()
                } else {
                    "warden.grpc.url is http://, so warden.grpc.tls_ca would not be looked at".into()
                }
            });
            self.relation(&["warden.grpc.tls_cert", "warden.grpc.url"], tls || grpc.tls.is_none(), || {
                "warden.grpc.url is http://, so warden.grpc.tls_cert would not be shown to anybody".into()
            });
        }
        let open = serve.tls.is_some() || serve.listen.ip().is_loopback();
        self.relation(&["warden.serve.listen", "warden.serve.tls_cert"], open, || {
            format!(
                "warden.serve.listen ({}) is open to other machines, so warden.serve.tls_cert and warden.serve.tls_key must be \
                 set",
                serve.listen
            )
        });
        let asked = serve.client_ca.is_none() || serve.tls.is_some();
        self.relation(&["warden.serve.client_ca", "warden.serve.tls_cert"], asked, || {
            "warden.serve.client_ca asks for certificates, which needs TLS: set warden.serve.tls_cert and \
             warden.serve.tls_key"
                .into()
        });
    }
}

/// `http[s]://host[:port]`, without a final slash.
fn grpc_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("is not a URL such as https://warden.internal:8443")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password; use warden.grpc.token".into());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    })
}

fn shared_token(written: &str) -> Result<Secret, String> {
    token(written).map_err(|_| "must be 16 to 256 ASCII characters without spaces, or empty: none is sent then".into())
}

fn certificates(path: &str) -> Result<Option<Bytes>, String> {
    Ok(pem(path, "CERTIFICATE-----", "a certificate")?.map(Bytes::from))
}

fn private_key(path: &str) -> Result<Option<Secret>, String> {
    Ok(pem(path, "PRIVATE KEY-----", "a private key without a password")?.map(Secret::new))
}

fn pem(path: &str, ends: &str, wanted: &str) -> Result<Option<String>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(file::content(path, PEM_BYTES_MAX)?).unwrap_or_default();
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.ends_with(ends) && !line.contains("ENCRYPTED");
    let found = text.lines().any(|line| begins(line.trim_end()));
    if found { Ok(Some(text)) } else { Err(format!("the file must hold {wanted} in PEM (-----BEGIN ...)")) }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;
    use crate::config::{Config, Sources};

    #[test]
    fn nothing_leaves_this_machine_without_tls() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("cert"), "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
        std::fs::write(path("key"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
        std::fs::write(path("sealed"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n").unwrap();
        let (cert, key, sealed) = (path("cert"), path("key"), path("sealed"));
        for (setting, message) in [
            ("warden.grpc.url = \"http://warden:1\"".to_owned(), "must be https://: without TLS"),
            ("warden.grpc.url = \"https://warden:1\"".to_owned(), "so warden.grpc.tls_ca must name"),
            (format!("warden.grpc.tls_ca = {cert:?}"), "so warden.grpc.tls_ca would not be looked at"),
            (format!("warden.grpc = {{tls_cert = {cert:?}, tls_key = {key:?}}}"), "would not be shown to anybody"),
            (format!("warden.grpc.tls_cert = {cert:?}"), "go together; one of them is empty"),
            (format!("warden.serve.tls_key = {key:?}"), "go together; one of them is empty"),
            (format!("warden.serve.tls_key = {sealed:?}"), "must hold a private key without a password in PEM"),
            (format!("warden.serve.tls_cert = {key:?}"), "must hold a certificate in PEM"),
            ("warden.serve.tls_cert = \"/nowhere\"".to_owned(), "the file cannot be read"),
            ("warden.serve.listen = \"0.0.0.0:1\"".to_owned(), "is open to other machines"),
            (format!("warden.serve.client_ca = {cert:?}"), "which needs TLS"),
            ("warden.grpc.fresh = \"11m\"".to_owned(), "must be at most warden.grpc.stale (10m)"),
            ("warden.grpc.url = \"https://me:pw@warden:1\"".to_owned(), "use warden.grpc.token"),
            ("warden.grpc.url = \"http://localhost:1/x\"".to_owned(), "must end after the port"),
            ("warden.grpc.deadline = \"2s\"".to_owned(), "must be 1ms to 1s"),
            ("warden.grpc.token = \"short\"".to_owned(), "or empty: none is sent then"),
        ] {
            let told = problems(&format!("warden.mode = \"grpc\"\n{setting}"));
            assert!(told.len() == 1 && told[0].contains(message), "{setting}: {told:?}");
            assert!(!told[0].contains("c2VjcmV0") && !told[0].contains("pw@"), "{told:?}");
        }
        let good = format!(
            "warden.mode = \"grpc\"\n[warden.grpc]\nurl = \"https://Warden:1/\"\ntls_ca = {cert:?}\ntls_cert = {cert:?}\n\
             tls_key = {key:?}\n[warden.serve]\nlisten = \"[::]:1\"\ntls_cert = {cert:?}\ntls_key = {key:?}\nclient_ca = {cert:?}"
        );
        let config = Config::from_text(&Sources::default(), &good).unwrap();
        assert_eq!(config.warden.grpc.url, "https://warden:1");
        assert!(!format!("{config:?}").contains("c2VjcmV0"), "a private key is not shown");
    }
}
