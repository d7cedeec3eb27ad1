//! Persons in the real ClickHouse engine: found, and erased with their rollups, in every part of the table.

use serde_json::{Value, json};

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database};

fn ask(node: &Trellis, action: &str, body: &Value) -> Vec<Value> {
    let answer = node.api("POST", &format!("/api/v1/privacy/{action}"), Some(&body.to_string()));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_person_is_erased_from_clickhouse_with_the_rollups_and_the_ledger_balances() {
    let test = "a_person_is_erased_from_clickhouse_with_the_rollups_and_the_ledger_balances";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.extend([
        ("node", "edge-1"),
        ("ledger.check_every", "1s"),
        ("privacy.ip", "hmac"),
        ("edge.trusted_proxies", "127.0.0.0/8"),
    ]);
    let node = Trellis::start_with(&settings);
    node.link("a", "https://a.example/");
    for n in 0..1_300 {
        let (id, address) = if n < 1_200 { ("pl4nted", "203.0.113.9") } else { ("other", "198.51.100.7") };
        let agent = [("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0"), ("X-Forwarded-For", address)];
        assert_eq!(node.edge_request("GET", &format!("/a?click_id={id}&n={n}"), &agent).status, 302);
    }
    node.wait_stored(1_300);
    // Rows that are there twice, under one id.
    database.sql("INSERT INTO clicks SELECT * FROM clicks LIMIT 40");
    // One of another node, of the same minute: an id that differs in its last digit.
    database.sql(
        "INSERT INTO clicks SELECT * REPLACE (
             toUUID(replaceRegexpOne(toString(click_id), '.$', if(endsWith(toString(click_id), '0'), '1', '0'))) AS click_id,
             'edge-2' AS node
         ) FROM clicks WHERE external_click_id = 'pl4nted' LIMIT 1",
    );
    let kept = node.cli(&["privacy", "hash", "203.0.113.9"]);
    let kept = String::from_utf8_lossy(&kept.stdout).trim().to_owned();
    let (who, by_address) = (json!({ "external_click_id": "pl4nted" }), json!({ "ip": kept }));

    let first = ask(&node, "export", &who);
    let next = first.last().expect("a last line")["next_cursor"].clone();
    assert_eq!(first.len(), 1_001);
    let mut more = by_address.clone();
    more["cursor"] = next;
    let second = ask(&node, "export", &more);
    assert_eq!((second.len(), &second[second.len() - 1]["next_cursor"]), (202, &Value::Null), "each click once");

    let mut confirmed = who.clone();
    confirmed["confirm"] = json!(true);
    let done = ask(&node, "erase", &confirmed).remove(0);
    let told = ["store", "left"].map(|key| done[key].as_u64());
    assert_eq!(
        (told, &done["other_nodes"], &done["more"]),
        ([Some(1_200), Some(0)], &json!({ "edge-2": 1 }), &json!(false)),
        "{done}"
    );
    assert_eq!(database.sql("SELECT count() FROM clicks WHERE external_click_id = 'pl4nted'"), "1");
    assert_eq!(
        database.sql("SELECT count() FROM clicks FINAL WHERE ip = '198.51.100.7' OR external_click_id = 'other'"),
        "100"
    );
    for table in ["rollup_1m", "rollup_1h", "rollup_1d"] {
        eventually("it is rolled up", || database.sql(&format!("SELECT sum(clicks) FROM {table} FINAL")) == "101");
    }
    node.assert_rolled_up();
    let total = node.ledger();
    let line = ["accepted", "stored", "erased", "residual"].map(|key| total[key].as_i64().expect("a number"));
    assert_eq!(line, [1_300, 100, 1_200, 0], "{total}");
    let looked = node.metric("trellis_ledger_checks_total");
    eventually("the store was compared twice", || node.metric("trellis_ledger_checks_total") >= looked + 3.0);
    assert_eq!(node.metric("trellis_ledger_store_difference_clicks"), 0.0);

    // The node is gone: its clicks are erased when it is named.
    confirmed["node"] = json!("edge-2");
    let done = ask(&node, "erase", &confirmed).remove(0);
    assert_eq!((&done["store"], &done["other_nodes"]), (&json!(1), &json!({})), "{done}");
    assert_eq!(database.sql("SELECT count() FROM clicks WHERE external_click_id = 'pl4nted'"), "0");
    assert_eq!(ask(&node, "export", &by_address).len(), 1, "nothing but the last line");
    assert_eq!(node.ledger()["erased"], 1_200);
}
