//! A small HTTP/1.1 client: one request, one connection, no redirects, no proxies; TLS where the URL says so ([`Trust`]).
//!
//! For nodes: on this machine, in its private network, or behind what ends TLS for them. Never retries. Called by the prober and
//! by the command line. Bounds: the caller's time-out over everything, [`BODY_BYTES_MAX`] of an answer.

mod trust;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::{Host, Url};

pub use self::trust::Trust;

use crate::clock::{Clock, SystemClock};

/// Of an answer: a page of 1000 clicks with the longest query strings has some 16 MiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
    /// When what of it was there.
    pub times: Times,
}

/// Times since a request was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The name was looked up, and the connection made.
    pub connected: Duration,
    /// Who answers had shown a certificate that is trusted; `None` without TLS.
    pub secured: Option<Duration>,
    /// The head of the answer was there.
    pub answered: Duration,
    /// All of it was.
    pub whole: Duration,
}

/// Connects to where the URL points. An unspecified address (a listener on all interfaces) is dialled as loopback.
async fn connect(url: &Url) -> anyhow::Result<TcpStream> {
    let (scheme, is_spoken) = (url.scheme(), matches!(url.scheme(), "http" | "https"));
    anyhow::ensure!(is_spoken, "`{url}`: {scheme}:// is not spoken here; use http:// or https://");
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
        Some(Host::Ipv4(ip)) => TcpStream::connect(dialled((ip, port).into())).await,
        Some(Host::Ipv6(ip)) => TcpStream::connect(dialled((ip, port).into())).await,
        None => anyhow::bail!("`{url}` has no host"),
    };
    stream.with_context(|| format!("{} cannot be reached", authority(url)))
}

/// The address that a client on this machine dials to reach a listener.
#[must_use]
pub fn dialled(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// `host:port`, or `host` alone where the port goes without saying.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether somebody listens there; over https, too, nothing more than that.
///
/// # Errors
/// What kept us from getting there.
pub async fn reach(url: &Url, within: Duration) -> anyhow::Result<()> {
    let connected = tokio::time::timeout(within, connect(url)).await;
    connected.map_err(|_| no_answer(url, within))?.map(drop)
}

/// Sends one request to the URL's host and reads the whole answer. The request's own target counts, not the URL's path.
///
/// # Errors
/// Why there was no whole answer.
pub async fn exchange(
    url: &Url,
    trust: &Trust,
    request: Request<Full<Bytes>>,
    within: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let answer = fetch(url, trust, request, within, &SystemClock::new()).await?;
    Ok((answer.status, answer.body))
}

/// As [`exchange`], with headers and times.
///
/// # Errors
/// Why there was no whole answer.
pub async fn fetch(
    url: &Url,
    trust: &Trust,
    request: Request<Full<Bytes>>,
    within: Duration,
    clock: &dyn Clock,
) -> anyhow::Result<Answer> {
    let answer = async {
        let began = clock.now();
        let since = || clock.now().saturating_sub(began);
        let stream = connect(url).await?;
        let connected = since();
        if url.scheme() != "https" {
            return converse(url, stream, request, &since, (connected, None)).await;
        }
        let stream = trust.secure(url, stream).await?;
        let secured = Some(since());
        converse(url, stream, request, &since, (connected, secured)).await
    };
    tokio::time::timeout(within, answer).await.map_err(|_| no_answer(url, within))?
}

fn no_answer(url: &Url, within: Duration) -> anyhow::Error {
    anyhow::anyhow!("{} does not answer within {} s", authority(url), within.as_secs_f64())
}

/// Asks, and reads the answer. `since`: the time since the request was begun; `before`: the first two of [`Times`].
async fn converse(
    url: &Url,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut request: Request<Full<Bytes>>,
    since: &impl Fn() -> Duration,
    (connected, secured): (Duration, Option<Duration>),
) -> anyhow::Result<Answer> {
    let said = || format!("{} broke off the conversation", authority(url));
    request.headers_mut().insert(HOST, HeaderValue::try_from(authority(url))?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(said)?;
    let answer = async {
        let answer = sender.send_request(request).await.with_context(said)?;
        let answered = since();
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer of {} was cut: {error}", authority(url)))?;
        let times = Times { connected, secured, answered, whole: since() };
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), times })
    };
    let mut answer = std::pin::pin!(answer);
    // The connection moves the bytes; an error of it shows in the answer, too.
    tokio::select! {
        answered = &mut answer => answered,
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_interfaces_is_dialled_on_loopback() {
        for (listen, dial) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(dialled(listen.parse().unwrap()), dial.parse().unwrap());
        }
    }

    #[test]
    fn the_host_header_keeps_brackets_and_ports() {
        let authority = |text: &str| authority(&Url::parse(text).unwrap());
        assert_eq!(authority("http://[::1]:8081/x"), "[::1]:8081");
        assert_eq!(authority("http://a.example/"), "a.example");
    }

    #[tokio::test]
    async fn one_request_goes_over_one_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(listen).await else {
                continue; // a machine without IPv6
            };
            let address = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
                String::from_utf8(head).unwrap().to_ascii_lowercase()
            };
            let url = Url::parse(&format!("http://{address}")).unwrap();
            let request = Request::get("/x?y").body(Full::default()).unwrap();
            let trust = Trust::default();
            let answer = exchange(&url, &trust, request, Duration::from_secs(10));
            let (head, answer) = tokio::join!(server, answer);
            assert!(
                head.starts_with("get /x?y http/1.1\r\n") && head.contains(&format!("host: {address}\r\n")),
                "{head}"
            );
            assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from_static(b"hi")));
        }
    }

    #[tokio::test]
    async fn what_is_not_spoken_is_refused_before_anybody_is_called() {
        let url = Url::parse("ftp://127.0.0.1:1/").unwrap();
        let error = reach(&url, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "`ftp://127.0.0.1:1/`: ftp:// is not spoken here; use http:// or https://");
    }

    #[tokio::test(start_paused = true)]
    async fn who_accepts_and_says_nothing_holds_nobody_beyond_the_time_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for scheme in ["http", "https"] {
            let url = Url::parse(&format!("{scheme}://{}/", listener.local_addr().unwrap())).unwrap();
            let request = Request::get("/").body(Full::default()).unwrap();
            let error = exchange(&url, &Trust::default(), request, Duration::from_secs(10)).await.unwrap_err();
            assert!(error.to_string().ends_with(" does not answer within 10 s"), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_says_where() {
        let url = Url::parse("http://127.0.0.1:1/").unwrap();
        let error = reach(&url, Duration::from_secs(10)).await.unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:1 cannot be reached"), "{error}");
    }
}
