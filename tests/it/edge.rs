//! The edge as visitors see it.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;

use crate::harness::{Trellis, connect, eventually, exchange, read_head};

#[test]
fn a_link_answers_302_with_the_documented_headers() {
    let trellis = Trellis::start();
    trellis.link("spring", "https://shop.example/sale?a=1#top");
    let answer = trellis.get("/spring");
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some("https://shop.example/sale?a=1#top"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("referrer-policy"), Some("strict-origin-when-cross-origin"));
    assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
    assert_eq!(answer.header("content-length"), Some("0"));
    let id = answer.header("x-click-id").expect("an id");
    assert_eq!((id.len(), &id[14..15]), (36, "7"));
    let whole: usize = answer.headers.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
    assert!(whole < 1024, "an answer stays under 1 KB");
}

#[test]
fn every_redirect_status_can_be_chosen() {
    let trellis = Trellis::start();
    for status in [301, 302, 303, 307, 308] {
        let body = format!(r#"{{"slug":"s{status}","url":"https://a.example/","status":{status}}}"#);
        assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body)).status, 201);
        assert_eq!(trellis.get(&format!("/s{status}")).status, status);
    }
}

#[test]
fn head_gets_the_same_answer_and_is_recorded_as_head() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let answer = trellis.edge_request("HEAD", "/a", &[("User-Agent", "Mozilla/5.0")]);
    assert_eq!((answer.status, answer.header("location")), (302, Some("https://a.example/")));
    assert!(answer.header("x-click-id").is_some() && answer.body.is_empty());
    trellis.wait_stored(1);
    assert_eq!(trellis.clicks()[0]["class"], "head");
}

#[test]
fn unknown_and_paused_links_are_one_404_problem() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    assert_eq!(trellis.api("PATCH", "/api/v1/links/a", Some(r#"{"paused":true}"#)).status, 200);
    let (paused, unknown) = (trellis.get("/a"), trellis.get("/b"));
    for answer in [&paused, &unknown, &trellis.get("/"), &trellis.get("/a/b")] {
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json()["code"], "unknown_link");
        assert!(answer.header("x-click-id").is_none());
    }
    assert_eq!(paused.body, unknown.body);
}

#[test]
fn other_methods_are_405_with_allow() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = trellis.edge_request(method, "/a", &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(answer.json()["code"], "method_not_allowed");
    }
    assert_eq!(trellis.metric("trellis_clicks_accepted_total"), 0.0);
}

#[test]
fn robots_are_told_to_stay_away() {
    let trellis = Trellis::start();
    let answer = trellis.get("/robots.txt");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"User-agent: *\nDisallow: /\n"[..]));
}

#[test]
fn macros_are_spliced_and_encoded() {
    let trellis = Trellis::start();
    trellis.link("m", "https://a.example/{slug}/{q:path}?id={click_id}&ext={external_click_id}&t={ts}");
    let answer = trellis.get("/m?click_id=A%2fB%26x&path=../%0d%0aSet-Cookie:%20a=b");
    let location = answer.header("location").expect("a destination");
    let id = answer.header("x-click-id").expect("an id");
    assert!(
        location
            .starts_with(&format!("https://a.example/m/..%2F%0D%0ASet-Cookie%3A%20a%3Db?id={id}&ext=A%2FB%26x&t=1")),
        "{location}"
    );
    assert!(answer.header("set-cookie").is_none());
}

#[test]
fn the_query_goes_on_only_where_the_link_says_so() {
    let trellis = Trellis::start();
    trellis.link("ignore", "https://a.example/?x=1");
    let body = r#"{"slug":"forward","url":"https://a.example/?x=1#f","query":"forward"}"#;
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(body)).status, 201);
    let location = |path| trellis.get(path).header("location").map(str::to_owned);
    assert_eq!(location("/ignore?y=2").as_deref(), Some("https://a.example/?x=1"));
    assert_eq!(location("/forward?y=2&z=%20").as_deref(), Some("https://a.example/?x=1&y=2&z=%20#f"));
    assert_eq!(location("/forward").as_deref(), Some("https://a.example/?x=1#f"));
}

#[test]
fn pipelined_requests_on_one_connection_are_answered_in_order() {
    let trellis = Trellis::start();
    trellis.link("p", "https://a.example/{q:n}");
    let mut text = String::new();
    for n in 0..20 {
        text.push_str(&format!("GET /p?n={n} HTTP/1.1\r\nHost: t\r\n\r\n"));
    }
    let mut stream = connect(trellis.edge());
    stream.write_all(text.as_bytes()).expect("sent");
    for n in 0..20 {
        let answer = read_head(&mut stream);
        assert_eq!(answer.header("location"), Some(format!("https://a.example/{n}").as_str()));
    }
    assert_eq!(trellis.metric("trellis_connections_total{event=\"accepted\"}"), 1.0);
}

#[test]
fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let trellis = Trellis::start_with(&[("edge.head_timeout", "200ms"), ("edge.idle_timeout", "1h")]);
    let mut stream = connect(trellis.edge());
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\nX-Slow: ").expect("sent");
    assert_eq!(stream.read(&mut [0; 64]).expect("the end, not a time-out"), 0);
    eventually("the time-out is counted", || trellis.metric("trellis_connections_total{event=\"timed_out\"}") == 1.0);
}

#[test]
fn an_idle_connection_is_closed_and_a_slow_head_is_not_idle() {
    let trellis = Trellis::start_with(&[("edge.head_timeout", "1h"), ("edge.idle_timeout", "600ms")]);
    trellis.link("a", "https://a.example/");
    // The process stands still meanwhile: what it finds is connections that have spoken, however long this takes.
    trellis.signal(Signal::STOP);
    let (mut idle, mut slow) = (connect(trellis.edge()), connect(trellis.edge()));
    slow.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n").expect("sent");
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
    trellis.signal(Signal::CONT);
    assert_eq!(read_head(&mut idle).status, 302);
    assert_eq!(idle.read(&mut [0; 64]).expect("the end, not a time-out"), 0);
    slow.write_all(b"\r\n").expect("still open");
    assert_eq!(read_head(&mut slow).status, 302);
}

#[test]
fn long_targets_and_heads_are_refused() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    assert_eq!(trellis.get(&format!("/a?{}", "x".repeat(4000))).status, 302);
    let answer = trellis.get(&format!("/a?{}", "x".repeat(4200)));
    assert_eq!((answer.status, answer.json()["code"].as_str()), (414, Some("uri_too_long")));
    // Exactly as much as is read: bytes that nobody reads would reset the connection before the answer arrives.
    let mut head = b"GET /a HTTP/1.1\r\nHost: t\r\nX-Long: ".to_vec();
    head.resize(16 << 10, b'x');
    assert!(exchange(trellis.edge(), &head).starts_with(b"HTTP/1.1 431"));
    let many: Vec<_> = (0..100).map(|n| (format!("X-{n}"), "1")).collect();
    let many: Vec<_> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(trellis.edge_request("GET", "/a", &many).status, 431);
}

#[test]
fn connections_over_the_cap_get_503_and_the_rest_go_on() {
    // One thread: the cap is shared out to the threads.
    let trellis = Trellis::start_with(&[("edge.connections_max", "3"), ("edge.threads", "1")]);
    trellis.link("a", "https://a.example/");
    let mut open: Vec<_> = (0..3).map(|_| connect(trellis.edge())).collect();
    for stream in &mut open {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
        assert_eq!(read_head(stream).status, 302);
    }
    let answer = String::from_utf8_lossy(&exchange(trellis.edge(), b"")).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too_many_connections"), "{answer}");
    drop(open.pop());
    eventually("the place is free again", || {
        let mut stream = connect(trellis.edge());
        let _ = stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n");
        read_head(&mut stream).status == 302
    });
}

#[test]
fn nonsense_gets_a_400_and_harms_nobody() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    for bytes in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET /a\r\n\r\n",
        b"GET a b c HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let mut stream = connect(trellis.edge());
        stream.write_all(bytes).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // A head that never ends is no request, and has no answer.
        let cut_off = !bytes.ends_with(b"\r\n\r\n") && answer.is_empty();
        assert!(cut_off || answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(trellis.get("/a").status, 302);
}

#[test]
fn the_address_behind_a_trusted_proxy_counts_and_any_other_claim_does_not() {
    let forwarded = [("X-Forwarded-For", "8.8.8.8"), ("User-Agent", "Mozilla/5.0")];
    let trusting = Trellis::start_with(&[("edge.trusted_proxies", "127.0.0.0/8")]);
    trusting.link("a", "https://a.example/");
    trusting.edge_request("GET", "/a", &forwarded);
    trusting.wait_stored(1);
    let click = &trusting.clicks()[0];
    assert_eq!((click["ip"].as_str(), click["country"].as_str()), (Some("8.8.8.0"), Some("US")));
    let plain = Trellis::start();
    plain.link("a", "https://a.example/");
    plain.edge_request("GET", "/a", &forwarded);
    plain.wait_stored(1);
    assert_eq!(plain.clicks()[0]["ip"], "127.0.0.0");
}

#[test]
fn with_sync_always_each_visitor_waits_for_a_sync_and_gets_an_id() {
    let trellis = Trellis::start_with(&[("journal.sync", "always")]);
    trellis.link("a", "https://a.example/");
    for _ in 0..20 {
        let answer = trellis.get("/a");
        assert!(answer.status == 302 && answer.header("x-click-id").is_some());
    }
    assert!(trellis.metric("trellis_journal_sync_duration_seconds_count") >= 20.0, "one after the other shares none");
    trellis.wait_stored(20);
}
