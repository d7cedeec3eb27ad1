//! Limits as visitors meet them: 429, connections, descriptors.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use crate::harness::{Response, Trellis, connect, eventually, exchange, read_head};

/// A node behind a proxy on this machine, so that a test can be many clients; and these settings.
fn behind_proxy(settings: &[(&str, &str)]) -> Trellis {
    let mut all = vec![("edge.trusted_proxies", "127.0.0.0/8")];
    all.extend_from_slice(settings);
    let trellis = Trellis::start_with(&all);
    trellis.link("a", "https://a.example/");
    trellis
}

fn ask(trellis: &Trellis, client: &str, path: &str) -> Response {
    trellis.edge_request("GET", path, &[("X-Forwarded-For", client)])
}

/// The answer to the last of these requests, which one client sends at once: too quickly for a rate to let another one in
/// between, unless the machine stands still just there.
fn last_of(trellis: &Trellis, client: &str, paths: &[&str]) -> Response {
    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n");
    let mut text = paths.iter().map(request).collect::<Vec<_>>().join("\r\n");
    text.push_str("Connection: close\r\n\r\n");
    let answers = exchange(trellis.edge(), text.as_bytes());
    let begins = b"HTTP/1.1 ";
    let last = answers.windows(begins.len()).rposition(|part| part == begins).expect("an answer");
    Response::parse(&answers[last..])
}

#[test]
fn a_network_over_its_limit_gets_429_and_the_way_back_and_others_are_served() {
    let trellis = behind_proxy(&[("limits.network.rate", "1"), ("limits.network.burst", "600")]);
    let mut stream = connect(trellis.edge());
    let request = "GET /a HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    let last = request.replace("Host: t", "Host: t\r\nConnection: close");
    stream.write_all([request.repeat(1199), last].concat().as_bytes()).expect("sent");
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).expect("all answers");
    let answers = String::from_utf8(answers).expect("text");
    let count = |status: &str| answers.matches(status).count();
    let redirected = count("HTTP/1.1 302 ");
    assert_eq!(redirected + count("HTTP/1.1 429 "), 1200);
    // One more for each second that this took; a thousand would be no limit.
    assert!((600..1000).contains(&redirected), "{redirected}");
    let limited = loop {
        // The rate may have let one in just now.
        let answer = ask(&trellis, "203.0.113.99", "/a");
        if answer.status != 302 {
            break answer;
        }
    };
    assert_eq!((limited.status, limited.json()["code"].as_str()), (429, Some("rate_limited")));
    assert_eq!(limited.header("content-type"), Some("application/problem+json"));
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(limited.header("ratelimit-policy"), Some("\"network\";q=600;w=600"));
    assert_eq!(limited.header("ratelimit"), Some("\"network\";r=0;t=1"));
    assert_eq!((limited.header("cache-control"), limited.header("x-click-id")), (Some("no-store"), None));
    let served = ask(&trellis, "203.0.114.7", "/a");
    assert_eq!((served.status, served.header("ratelimit")), (302, None));
    let metric = |line: &str| trellis.metric(line) as usize;
    let refused = metric("trellis_limited_total{limit=\"network\"}");
    assert!(refused > count("HTTP/1.1 429 "));
    assert_eq!(metric("trellis_redirects_total{outcome=\"limited\"}"), refused);
    // What is refused is no visit: the books know nothing of it.
    let stored = metric("trellis_redirects_total{outcome=\"redirected\"}");
    trellis.wait_stored(stored as u64);
    eventually("every click has its end", || trellis.ledger()["in_flight"] == 0);
    trellis.assert_ledger_balances(stored);
}

#[test]
fn who_guesses_too_much_gets_one_answer_for_links_that_are_there_and_that_are_not() {
    let trellis = behind_proxy(&[("limits.misses.rate", "1"), ("limits.misses.burst", "3000")]);
    trellis.link("paused", "https://a.example/");
    assert_eq!(trellis.api("PATCH", "/api/v1/links/paused", Some(r#"{"paused":true}"#)).status, 200);
    let (unknown, paused) = (ask(&trellis, "203.0.113.7", "/nothing"), ask(&trellis, "203.0.113.7", "/paused"));
    assert_eq!((unknown.status, &unknown.body), (404, &paused.body));
    assert_eq!(ask(&trellis, "203.0.113.7", "/a").status, 302);
    // Both kinds of miss count, and the link that is there does not.
    let mut stream = connect(trellis.edge());
    for path in ["guess", "paused"] {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n");
        stream.write_all(request.repeat(1700).as_bytes()).expect("sent");
        for _ in 0..1700 {
            let answer = read_head(&mut stream);
            let length = answer.header("content-length").expect("a length").parse().expect("a number");
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
        }
    }
    assert!(trellis.metric("trellis_limited_total{limit=\"misses\"}") > 0.0);
    // The rate lets one in each second. A guess in front takes this place, so all that comes behind it is limited; a link that is
    // there would take none.
    let limited = ["/a", "/guess", "/paused"].map(|path| {
        let mut answer = None;
        eventually(&format!("{path} is limited"), || {
            answer = Some(last_of(&trellis, "203.0.113.200", &["/guess", path])).filter(|answer| answer.status == 429);
            answer.is_some()
        });
        answer.expect("seen above")
    });
    for answer in &limited {
        assert_eq!(
            (&answer.body, answer.header("ratelimit-policy")),
            (&limited[0].body, Some("\"misses\";q=3000;w=3000"))
        );
        let names = |answer: &Response| answer.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(answer), names(&limited[0]));
    }
    assert_eq!(ask(&trellis, "203.0.114.7", "/a").status, 302, "another network");
    assert_eq!(ask(&trellis, "203.0.114.7", "/nothing").status, 404);
}

#[test]
fn a_link_has_a_limit_of_its_own_and_one_that_has_not_begun_is_unknown_all_the_same() {
    let trellis =
        Trellis::start_with(&[("limits.link.rate", "1"), ("limits.link.burst", "2"), ("limits.global.rate", "0")]);
    trellis.link("a", "https://a.example/");
    trellis.link("b", "https://b.example/");
    let early = r#"{"slug":"early","url":"https://a.example/","starts_at":"2200-01-01T00:00:00Z"}"#;
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(early)).status, 201);
    eventually("the link is limited", || {
        let answer = last_of(&trellis, "203.0.113.7", &["/a"; 4]);
        answer.status == 429 && answer.header("ratelimit-policy") == Some("\"link\";q=2;w=2")
    });
    assert_eq!(trellis.get("/b").status, 302);
    assert!((0..20).all(|_| trellis.get("/early").status == 404), "it would tell that it is there");
}

#[test]
fn all_together_have_a_limit_and_a_proxy_on_this_machine_has_none_of_its_own() {
    let trellis = Trellis::start_with(&[
        ("limits.network.rate", "1"),
        ("limits.network.burst", "1"),
        ("limits.misses.rate", "1"),
        ("limits.misses.burst", "1"),
        ("limits.connections_per_address", "1"),
    ]);
    trellis.link("a", "https://a.example/");
    let _open: Vec<_> = (0..3).map(|_| connect(trellis.edge())).collect();
    assert!((0..20).all(|_| trellis.get("/a").status == 302 && trellis.get("/nothing").status == 404));
    let trellis = Trellis::start_with(&[("limits.global.rate", "1"), ("limits.global.burst", "1")]);
    eventually("all are limited", || last_of(&trellis, "203.0.113.7", &["/robots.txt"; 3]).status == 429);
    assert!(trellis.metric("trellis_limited_total{limit=\"global\"}") >= 1.0);
}

#[test]
fn an_address_has_so_many_connections_and_another_one_when_one_closes() {
    let trellis = Trellis::start_with(&[("limits.exempt", "192.0.2.0/24"), ("limits.connections_per_address", "3")]);
    trellis.link("a", "https://a.example/");
    let redirects = |stream: &mut std::net::TcpStream| {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
        read_head(stream).status == 302
    };
    // All threads together: connections are spread over both.
    let mut open: Vec<_> = (0..3).map(|_| connect(trellis.edge())).collect();
    assert!(open.iter_mut().all(redirects));
    for _ in 0..10 {
        let answer =
            String::from_utf8_lossy(&exchange(trellis.edge(), b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n")).into_owned();
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("too_many_connections"), "{answer}");
    }
    assert_eq!(trellis.metric("trellis_limited_total{limit=\"connections\"}"), 10.0);
    drop(open.pop());
    eventually("the place is free again", || {
        let answer = exchange(trellis.edge(), b"GET /a HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        answer.starts_with(b"HTTP/1.1 302 ")
    });
    assert!(open.iter_mut().all(redirects), "those that were open stayed so");
}

#[test]
fn without_descriptors_visitors_are_told_and_when_they_are_back_all_goes_on() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let trellis = Trellis::start_under(&["sh", "-c", "ulimit -n 120; exec \"$0\" \"$@\""], folder, &[]);
    trellis.link("a", "https://a.example/");
    trellis.expect_log("connections cannot be accepted for now");
    // Other parts may want a file just then.
    trellis.expect_log("Too many open files");
    trellis.expect_log("unable to open database file");
    let mut open = Vec::new();
    let told = loop {
        let mut stream = connect(trellis.edge());
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
        let answer = read_head(&mut stream);
        if answer.status != 302 {
            break answer;
        }
        open.push(stream);
        assert!(open.len() < 120, "there is a limit");
    };
    assert_eq!(told.status, 503);
    for stream in &mut open {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
        let answer = read_head(stream);
        assert!(answer.status == 302 && answer.header("x-click-id").is_some(), "who is connected notices nothing");
    }
    let clicks = 2 * open.len() as u64;
    drop(open);
    eventually("the next visitor is served", || {
        exchange(trellis.edge(), b"GET /a HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            .starts_with(b"HTTP/1.1 302 ")
    });
    assert!(trellis.metric("trellis_connections_total{event=\"failed\"}") >= 1.0);
    trellis.wait_stored(clicks + 1);
}
