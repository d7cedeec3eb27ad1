//! Nodes that have their keys checked by `trellis warden`: real processes, killed, stopped and started again.

use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;

use crate::cli::{good, run};
use crate::harness::{Response, Trellis, eventually};

const TOKEN: &str = "a-token-of-the-tests";

fn folder() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary folder"))
}

/// A Warden; on the same port when it is started again.
fn warden(folder: &Arc<tempfile::TempDir>, listen: &str) -> Trellis {
    let settings =
        [("warden.serve.listen", listen), ("warden.serve.token", TOKEN), ("warden.pepper", "a-pepper-of-tests")];
    Trellis::start_warden(Arc::clone(folder), &settings)
}

/// A node that asks it. Answers may take as long as a loaded machine takes: what the deadline does is tested elsewhere.
fn node(warden: &Trellis, more: &[(&str, &str)]) -> Trellis {
    let url = format!("http://{}", warden.edge());
    let settings = [
        ("warden.mode", "grpc"),
        ("warden.grpc.url", url.as_str()),
        ("warden.grpc.token", TOKEN),
        ("warden.grpc.deadline", "1s"),
        ("ingress.enabled", "true"),
        ("ingress.fallback_url", "https://else.example/"),
    ];
    let node = Trellis::start_with(&[&settings[..], more].concat());
    // Also where the Warden lives: a beat that comes late on a loaded machine.
    node.expect_log("dependency=\"warden\" backend=\"grpc\"");
    eventually("the node hears of changes", || is_up(&node));
    node
}

fn is_up(node: &Trellis) -> bool {
    node.metric("trellis_dependency_up{dependency=\"warden\"}") == 1.0
}

/// A new key: its id, and the whole of it.
fn key(warden: &Trellis, scope: &str) -> (String, String) {
    let made = warden.api("POST", "/api/v1/keys", Some(&json!({ "scopes": [scope] }).to_string()));
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().expect("a text").to_owned();
    (text("id"), text("secret"))
}

fn visit(node: &Trellis, key: &str) -> Response {
    node.edge_request("GET", "/in", &[("Authorization", &format!("Bearer {key}"))])
}

fn cached(node: &Trellis, result: &str) -> f64 {
    node.metric(&format!("trellis_auth_cache_total{{result=\"{result}\"}}"))
}

#[test]
fn a_key_made_at_the_warden_is_good_on_the_node_and_no_longer_when_it_is_revoked() {
    let mut warden = warden(&folder(), "127.0.0.1:0");
    let mut node = node(&warden, &[]);
    let (id, secret) = key(&warden, "ingress");
    assert_eq!(visit(&node, &secret).status, 302);
    assert_eq!((visit(&node, &secret).status, cached(&node, "miss")), (302, 1.0));
    assert!(cached(&node, "hit") >= 1.0);
    let unknown = format!("wdn_sk_000000000000_{}", "x".repeat(32));
    assert_eq!([visit(&node, &unknown), visit(&node, &unknown)].map(|answer| answer.status), [401; 2]);
    assert_eq!(cached(&node, "negative"), 1.0);
    // Far below the minute for which it is fresh: the Warden told of it.
    assert_eq!(warden.api("DELETE", &format!("/api/v1/keys/{id}"), None).status, 204);
    eventually("the key is refused", || visit(&node, &secret).status == 401);
    // The control side asks too.
    let (_, admin) = key(&warden, "admin");
    let listed =
        |key: &str| node.api_raw("GET", "/api/v1/links", &[("Authorization", &format!("Bearer {key}"))], b"").status;
    assert_eq!((listed(&admin), listed(&secret), listed(&unknown)), (200, 401, 401));
    let calls =
        |class| warden.metric(&format!("trellis_requests_total{{listener=\"warden\",status_class=\"{class}\"}}"));
    assert!(calls("2xx") >= 3.0 && calls("5xx") == 0.0, "{} {}", calls("2xx"), calls("5xx"));
    assert!(node.stop().success() && warden.stop().success());
}

#[test]
fn while_the_warden_is_away_a_known_key_goes_on_and_of_another_nobody_can_say() {
    let folder = folder();
    // An address of its own, or else somebody might have taken the port before the second one listens on it.
    let [_, b, c, d] = fastrand::u32(1..0x00ff_ffff).to_be_bytes();
    let mut first = warden(&folder, &format!("127.{b}.{c}.{d}:0"));
    let node = node(&first, &[("warden.grpc.fresh", "100ms")]);
    node.link("here", "https://here.example/");
    let (known, other) = (key(&first, "ingress"), key(&first, "ingress"));
    assert_eq!(visit(&node, &known.1).status, 302);
    let address = first.edge().to_string();
    first.kill();
    eventually("it is known to be away", || !is_up(&node));
    assert_eq!(visit(&node, &known.1).status, 302);
    let asked = visit(&node, &other.1);
    assert_eq!((asked.status, asked.header("retry-after")), (503, Some("1")), "not 401: nobody knows");
    assert_eq!(asked.json()["code"], "warden_unavailable");
    assert_eq!(node.get("/here").status, 302, "links need no Warden");
    assert_eq!(node.api("GET", "/api/v1/links", None).status, 200, "nor does the control token");
    let admin = [("Authorization", format!("Bearer {}", other.1))];
    let admin: Vec<_> = admin.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(node.api_raw("GET", "/api/v1/links", &admin, b"").status, 503);
    assert!(cached(&node, "stale") >= 1.0);
    // The key is revoked while the node cannot hear of it.
    let off = first.cli(&["key", "revoke", &known.0]);
    assert!(off.status.success(), "{}", String::from_utf8_lossy(&off.stderr));
    let _second = warden(&folder, &address);
    eventually("the other key is known", || visit(&node, &other.1).status == 302);
    eventually("the revoked key is refused", || visit(&node, &known.1).status == 401);
    eventually("it is up again", || is_up(&node));
}

#[test]
fn a_warden_that_stands_still_costs_a_visitor_the_deadline_and_no_more() {
    let warden = warden(&folder(), "127.0.0.1:0");
    let node = node(&warden, &[("warden.grpc.deadline", "50ms"), ("warden.grpc.fresh", "100ms")]);
    let (known, other) = (key(&warden, "ingress"), key(&warden, "ingress"));
    eventually("the key is known", || visit(&node, &known.1).status == 302);
    warden.signal(Signal::STOP);
    assert_eq!(visit(&node, &other.1).status, 503);
    assert_eq!(visit(&node, &known.1).status, 302);
    eventually("the silence is noticed", || !is_up(&node));
    assert_eq!(visit(&node, &known.1).status, 302);
    warden.signal(Signal::CONT);
    eventually("the other key is known", || visit(&node, &other.1).status == 302);
}

#[test]
fn a_node_that_asks_has_no_keys_of_its_own_and_says_where_they_are() {
    let warden = warden(&folder(), "127.0.0.1:0");
    let mut node = node(&warden, &[]);
    let at = format!("http://{}", warden.edge());
    for (method, path, body) in
        [("GET", "/api/v1/keys", None), ("POST", "/api/v1/keys", Some("{}")), ("DELETE", "/api/v1/keys/abcd", None)]
    {
        let refused = node.api(method, path, body);
        assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("keys_elsewhere")), "{method} {path}");
        assert!(refused.json()["detail"].as_str().expect("a text").contains(&at), "{refused:?}");
    }
    let refused = |node: &Trellis| {
        let output = node.cli(&["key", "ls"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("keys are kept by the Warden at"), "{told}");
    };
    refused(&node);
    assert!(node.stop().success());
    refused(&node);
    let both = node.cli(&["warden"]);
    assert!(String::from_utf8_lossy(&both.stderr).contains("warden.mode must be \"embedded\""));
    // The keys of the Warden are listed by its folder, as a node's are.
    let (id, _) = key(&warden, "ingress");
    let listed = warden.cli(&["key", "ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id), "{listed:?}");
    assert!(warden.cli(&["healthcheck"]).status.success());
}

#[test]
fn a_copy_of_a_warden_has_its_keys_and_the_token_that_was_made_for_it() {
    let (listen, place) = (("warden.serve.listen", "127.0.0.1:0"), folder());
    let mut first = Trellis::start_warden(folder(), &[listen]);
    let (_, secret) = key(&first, "ingress");
    let token = std::fs::read_to_string(first.data_dir().join("warden.token")).expect("the token");
    let backup = place.path().join("backup").display().to_string();
    good(&first.cli(&["backup", &backup]));
    assert!(first.stop().success());
    let restored = folder();
    good(&run(restored.path(), &["restore", &backup]));
    let again = Trellis::start_warden(restored, &[listen]);
    let node = node(&again, &[("warden.grpc.token", token.trim())]);
    assert_eq!(visit(&node, &secret).status, 302);
}
