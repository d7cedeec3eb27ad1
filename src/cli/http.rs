//! A small HTTP/1.1 client: one request, one connection, no TLS, no redirects, no proxies.
//!
//! For the control API of a node on this machine or in its private network. Never retries. Called by `client` and by
//! `healthcheck`. Bounds: the caller's time-out over everything, [`BODY_BYTES_MAX`] of an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::{Host, Url};

/// Of an answer: a page of 1000 clicks with the longest query strings has some 16 MiB.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connects to where the URL points. An unspecified address (a listener on all interfaces) is dialled as loopback.
async fn connect(url: &Url) -> anyhow::Result<TcpStream> {
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
pub(super) fn dialled(address: SocketAddr) -> SocketAddr {
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

/// Whether somebody listens there.
pub(super) async fn reach(url: &Url, within: Duration) -> anyhow::Result<()> {
    let connected = tokio::time::timeout(within, connect(url)).await;
    connected.map_err(|_| no_answer(url, within))?.map(drop)
}

/// Sends one request to the URL's host and reads the whole answer. The request's own target counts, not the URL's path.
pub(super) async fn exchange(
    url: &Url,
    request: Request<Full<Bytes>>,
    within: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let answer = tokio::time::timeout(within, exchange_untimed(url, request)).await;
    answer.map_err(|_| no_answer(url, within))?
}

fn no_answer(url: &Url, within: Duration) -> anyhow::Error {
    anyhow::anyhow!("{} does not answer within {} s", authority(url), within.as_secs())
}

async fn exchange_untimed(url: &Url, mut request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = connect(url).await?;
    let said = || format!("{} broke off the conversation", authority(url));
    request.headers_mut().insert(HOST, HeaderValue::try_from(authority(url))?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(said)?;
    let answer = async {
        let answer = sender.send_request(request).await.with_context(said)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer of {} was cut: {error}", authority(url)))?;
        Ok((status, body.to_bytes()))
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
            let (head, answer) = tokio::join!(server, exchange(&url, request, Duration::from_secs(10)));
            assert!(
                head.starts_with("get /x?y http/1.1\r\n") && head.contains(&format!("host: {address}\r\n")),
                "{head}"
            );
            assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from_static(b"hi")));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_says_where() {
        let url = Url::parse("http://127.0.0.1:1/").unwrap();
        let error = reach(&url, Duration::from_secs(10)).await.unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:1 cannot be reached"), "{error}");
    }
}
