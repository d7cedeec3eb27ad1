//! Rate and errors of the listeners, as a node tells them.

use std::io::Write as _;

use crate::harness::{Trellis, connect, eventually, exchange, read_head};

fn answers(trellis: &Trellis, listener: &str) -> [f64; 4] {
    let class = |class| format!("trellis_requests_total{{listener=\"{listener}\",status_class=\"{class}\"}}");
    ["2xx", "3xx", "4xx", "5xx"].map(|name| trellis.metric(&class(name)))
}

fn unknown_slugs(trellis: &Trellis) -> f64 {
    trellis.metric("trellis_requests_total{listener=\"edge\",status_class=\"unknown_slug\"}")
}

#[test]
fn each_listener_counts_its_answers_by_the_class_of_their_status() {
    let trellis = Trellis::start_with(&[("edge.threads", "1"), ("edge.connections_max", "1")]);
    trellis.link("a", "https://a.example/");
    assert_eq!(trellis.api("GET", "/api/v1/links/nothing", None).status, 404);
    assert_eq!(answers(&trellis, "control"), [1.0, 0.0, 1.0, 0.0]);
    let closed = || eventually("the connection is closed", || trellis.metric("trellis_connections") == 0.0);
    for (path, status) in [("/a", 302), ("/robots.txt", 200), ("/nothing", 404), ("/nothing", 404), ("/in", 404)] {
        assert_eq!(trellis.get(path).status, status, "{path}");
        closed();
    }
    assert_eq!((answers(&trellis, "edge"), unknown_slugs(&trellis)), ([1.0, 1.0, 1.0, 0.0], 2.0));
    assert!(exchange(trellis.edge(), b"NONSENSE\r\n\r\n").starts_with(b"HTTP/1.1 400"));
    eventually("it is counted", || answers(&trellis, "edge") == [1.0, 1.0, 2.0, 0.0]);
    closed();
    let mut open = connect(trellis.edge());
    open.write_all(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").expect("sent");
    assert_eq!(read_head(&mut open).status, 405);
    assert!(exchange(trellis.edge(), b"").starts_with(b"HTTP/1.1 503"));
    assert_eq!((answers(&trellis, "edge"), unknown_slugs(&trellis)), ([1.0, 1.0, 3.0, 1.0], 2.0));
    assert_eq!(trellis.metric("trellis_redirects_total{outcome=\"unknown_link\"}"), 3.0, "with that of /in");
    assert_eq!(trellis.metric("trellis_connections_total{event=\"refused\"}"), 1.0);
}
