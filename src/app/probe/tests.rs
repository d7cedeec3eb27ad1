//! The checks against listeners that follow a script, and the prober with a store that does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

use super::{Asker, Check, Seen, Trust};
use crate::click::canary;
use crate::config::Secret;
use crate::testing::ManualClock;

/// The secret of the prober in these tests.
pub(in crate::app) const SECRET: &str = "5ecret";

/// A listener that gives these answers, one a connection, and tells the heads that it was sent.
pub(in crate::app) async fn answering(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    (address, heads)
}

pub(in crate::app) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn asker(secret: &str) -> Asker {
    Asker {
        clock: Arc::new(ManualClock::new(1_000)),
        timeout: Duration::from_secs(30),
        agent: canary::agent("here"),
        secret: Secret::new(secret),
        trust: Trust::default(),
    }
}

/// What a listener with this one answer is found to be, and the head that it was sent.
async fn seen(path: &str, check: Check, said: String) -> (Seen, String) {
    let (address, heads) = answering(vec![said]).await;
    let url = Url::parse(&format!("http://{address}{path}")).unwrap();
    let asker = asker(SECRET);
    let seen = if check == Check::Redirect { asker.follow(&url).await } else { asker.look(check, &url).await };
    (seen, heads.await.unwrap().remove(0))
}

#[tokio::test]
async fn the_operator_side_is_well_when_it_says_200_and_its_metrics_are_ours() {
    let metrics = "# HELP trellis_build_info x\ntrellis_build_info{version=\"1\"} 1\n";
    for (check, status, body, problem) in [
        (Check::Health, "200 OK", "{}", None),
        (Check::Health, "500 Oh", "", Some("500")),
        (Check::Ready, "200 OK", "{}", None),
        (Check::Ready, "503 No", "{\"state\":\"draining\"}", Some("503 draining")),
        (Check::Metrics, "200 OK", metrics, None),
        (Check::Metrics, "200 OK", "up 1\n", Some("200, but these are no metrics of a node")),
    ] {
        let (seen, head) = seen("", check, answer(status, "", body)).await;
        assert_eq!(seen.problem.as_deref(), problem, "{check:?} {status}");
        assert_eq!(seen.status.unwrap().as_str(), &status[..3]);
        let path = ["/health", "/health/ready", "/metrics"][check as usize];
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("user-agent: TrellisProbe/") && head.contains("x-trellis-probe: 5ecret\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_link_is_well_when_it_redirects_and_names_the_click() {
    let id = "X-Click-Id: 01a1fd55-7a80-7000-8000-000000000000\r\n";
    let to = |location: &str, id: &str| format!("Location: {location}\r\n{id}");
    for (path, status, headers, problem) in [
        ("", "302 Found", to("/robots.txt", id), None),
        (
            "",
            "302 Found",
            to("https://a.example/", id),
            Some("it leads to `https://a.example/` in place of `/robots.txt`"),
        ),
        ("/spring?x=1", "308 Moved", to("https://a.example/", id), None),
        (
            "/spring?x=1",
            "302 Found",
            to("https://a.example/", ""),
            Some("302, but without an X-Click-Id: the journal takes no clicks"),
        ),
        ("/spring?x=1", "302 Found", to("/", "X-Click-Id: 7\r\n"), Some("its X-Click-Id is `7`, which is none")),
        ("/spring?x=1", "200 OK", String::new(), Some("200")),
        ("", "429 No", String::new(), Some("429 rate_limited")),
    ] {
        let body = if status.starts_with('4') { "{\"code\":\"rate_limited\"}" } else { "" };
        let (seen, head) = seen(path, Check::Redirect, answer(status, &headers, body)).await;
        assert_eq!(seen.problem.as_deref(), problem, "{path} {status}");
        assert_eq!(seen.click_id.is_some(), problem.is_none());
        let path = if path.is_empty() { "/-/canary" } else { path };
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_and_only_the_own_prober_sends_a_secret() {
    let nobody = Url::parse("http://127.0.0.1:1/").unwrap();
    let seen = asker("").follow(&nobody).await;
    assert_eq!((seen.status, seen.times), (None, None));
    assert!(seen.problem.unwrap().contains("127.0.0.1:1 cannot be reached"));
    let (address, heads) = answering(vec![answer("200 OK", "", "")]).await;
    asker("").look(Check::Health, &Url::parse(&format!("http://{address}")).unwrap()).await;
    assert!(!heads.await.unwrap()[0].contains("x-trellis-probe"));
}
