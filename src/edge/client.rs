//! Who the client is and which host it asked, when a proxy stands between.

use std::net::IpAddr;

use hyper::Request;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};

use crate::click::address::Network;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's address behind a trusted peer: the last address of `X-Forwarded-For` that is not itself trusted. Proxies
/// append, so what stands left of that was written by somebody whom nobody vouches for. Without a usable header it is
/// the peer.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut client = peer;
    for value in headers.get_all(&FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else { return client };
        for part in text.rsplit(',') {
            let Some(address) = parse(part.trim()) else { return client };
            client = address;
            if !trusted.iter().any(|network| network.contains(client)) {
                return client;
            }
        }
    }
    client
}

/// The host that was asked, as it was written: of a trusted peer the last of `X-Forwarded-Host`, which that peer has
/// written or passed on; else of the request target, where it is a whole URL; else `Host`. Empty without any.
pub(super) fn host<B>(request: &Request<B>, trusted: bool) -> &[u8] {
    let headers = request.headers();
    let forwarded = trusted.then(|| headers.get_all(&FORWARDED_HOST).iter().next_back()).flatten();
    forwarded
        .and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next())
        .filter(|host| !host.is_empty())
        .or_else(|| request.uri().host().map(str::as_bytes))
        .or_else(|| headers.get(HOST).map(HeaderValue::as_bytes))
        .unwrap_or_default()
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED_FOR.clone(), value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        address("10.0.0.1".parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_host_is_that_of_a_trusted_proxy_the_target_or_the_header_in_this_order() {
        let host = |trusted, target: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri(target);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            String::from_utf8_lossy(host(&request.body(()).unwrap(), trusted)).into_owned()
        };
        let both =
            [("Host", "a.example:80"), ("X-Forwarded-Host", "b.example"), ("X-Forwarded-Host", "c.example, D.example")];
        assert_eq!(host(false, "/x", &both), "a.example:80", "who is not trusted is not believed");
        assert_eq!(host(true, "/x", &both), " D.example");
        assert_eq!(host(true, "/x", &[("Host", "a.example"), ("X-Forwarded-Host", "")]), "a.example");
        assert_eq!(host(false, "http://user@t.example:99/x", &both), "t.example");
        assert_eq!(host(false, "http://[2001:db8::1]:99/x", &[]), "[2001:db8::1]");
        assert_eq!(host(true, "/x", &[]), "");
    }

    #[test]
    fn the_last_address_that_is_not_a_proxy_is_the_client() {
        assert_eq!(client(&[]), "10.0.0.1");
        assert_eq!(client(&["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(&["1.1.1.1, 203.0.113.9, 10.0.0.7"]), "203.0.113.9", "1.1.1.1 is what the client claimed");
        assert_eq!(client(&["1.1.1.1", "203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(&["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(client(&["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client(&["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client(&["nonsense, 10.0.0.7"]), "10.0.0.7");
        assert_eq!(client(&["10.0.0.5"]), "10.0.0.5");
    }
}
