//! `trellis store` on the real engine: what it keeps, and months that are merged when they are over.

use std::process::Output;

use crate::harness::{Trellis, request, root, service};
use crate::live::{CLICKHOUSE, Database};

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Pieces of a month of clicks; `ago` months before this one.
fn parts(database: &Database, ago: u32) -> String {
    database.sql(&format!(
        "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'clicks' AND active
         AND partition = toString(toYYYYMM(subtractMonths(now('UTC'), {ago})))"
    ))
}

#[test]
fn months_that_are_over_are_merged_into_one_piece_and_the_month_of_now_is_left_alone() {
    let test = "months_that_are_over_are_merged_into_one_piece_and_the_month_of_now_is_left_alone";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let node = Trellis::start_with(&database.settings());
    assert_eq!(said(&node.cli(&["store", "optimize"])), "nothing to do: every month that is over is merged\n");
    // The engine merges nothing by itself.
    database.sql("ALTER TABLE clicks MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1");
    database.sql("SYSTEM STOP TTL MERGES clicks");
    // Each time the same thousand clicks.
    for ago in [0, 1, 3, 1, 3, 1, 0] {
        database.sql(&format!(
            "INSERT INTO clicks (click_id, ts, org, link, destination, ua, expires, ingested_at)
             SELECT reinterpretAsUUID(sipHash128(number, {ago})),
                 subtractMonths(toDateTime64(toStartOfMonth(now('UTC')), 3, 'UTC'), {ago}) + number, 'default', 'a',
                 'https://a.example/path', 'Mozilla/5.0', now() + 86400, now64(3)
             FROM numbers(1000) SETTINGS insert_deduplicate = 0"
        ));
    }
    assert_eq!([0, 1, 3].map(|ago| parts(&database, ago)), ["2", "3", "2"]);
    let told = said(&node.cli(&["store", "optimize"]));
    let lines: Vec<_> = told.lines().collect();
    let month = |ago| database.sql(&format!("SELECT formatDateTime(subtractMonths(now('UTC'), {ago}), '%Y-%m')"));
    assert_eq!(lines.len(), 2, "{told}");
    for (line, ago, pieces) in [(lines[0], 3, 2), (lines[1], 1, 3)] {
        let begin = format!("clicks {}: {pieces} pieces, {} rows, ", month(ago), pieces * 1_000);
        assert!(line.starts_with(&begin) && line.contains(" bytes -> 1, 1000, "), "{line}");
    }
    assert_eq!([0, 1, 3].map(|ago| parts(&database, ago)), ["2", "1", "1"]);
    assert_eq!(database.sql("SELECT count() FROM clicks"), "4000");
    assert_eq!(said(&node.cli(&["store", "optimize"])), "nothing to do: every month that is over is merged\n");
    let audit = node.logged(2, "audit=true");
    assert_eq!(audit.len(), 2, "{audit:?}");
    let first = ["who=\"control token\"", "action=\"optimize\"", "table=\"clicks\"", &month(3), "outcome=\"done\""];
    assert!(first.iter().all(|part| audit[0].contains(part)), "{audit:?}");

    let optimize = |table: &str, month: &str| {
        let body = serde_json::json!({ "table": table, "month": month }).to_string();
        node.api("POST", "/api/v1/store/optimize", Some(&body))
    };
    assert_eq!(optimize("clicks", &month(1)).json()["state"], "nothing");
    for (table, of, detail) in [
        ("clicks", month(0), "is not over"),
        ("clicks", month(2), "has no rows in this table"),
        ("clicks' OR 1", month(1), "has no rows in this table"),
    ] {
        let answer = optimize(table, &of);
        assert_eq!((answer.status, answer.json()["errors"][0]["detail"].as_str()), (422, Some(detail)), "{table} {of}");
    }
}

#[test]
fn the_report_says_what_the_engine_keeps_and_how_small_it_became() {
    let test = "the_report_says_what_the_engine_keeps_and_how_small_it_became";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let node = Trellis::start_with(&database.settings());
    database.sql("ALTER TABLE clicks MODIFY SETTING min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0");
    database.sql(
        "INSERT INTO clicks (click_id, ts, org, link, destination, ua, expires)
         SELECT generateUUIDv7(), now64(3), 'default', 'a', 'https://a.example/path', 'Mozilla/5.0', now() + 86400
         FROM numbers(10000)",
    );
    let report = said(&node.cli(&["store", "report", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let table = report["tables"].as_array().and_then(|tables| tables.iter().find(|table| table["table"] == "clicks"));
    let table = table.unwrap_or_else(|| panic!("{report}"));
    assert_eq!((&table["rows"], &table["months"][0]["over"]), (&10_000.into(), &false.into()));
    let sizes = |what: &str| {
        let sql = format!(
            "SELECT sum({what}data_compressed_bytes), sum({what}data_uncompressed_bytes) FROM system.parts{}
             WHERE database = currentDatabase() AND table = 'clicks' AND active{}",
            if what.is_empty() { "" } else { "_columns" },
            if what.is_empty() { "" } else { " AND column = 'destination'" },
        );
        let text = database.sql(&sql);
        let (packed, unpacked) = text.split_once('\t').expect("two columns");
        (packed.parse::<u64>().expect("a number"), unpacked.parse::<u64>().expect("a number"))
    };
    let told = |of: &serde_json::Value| {
        let number = |key: &str| of[key].as_u64().expect("a number");
        (number("compressed"), number("uncompressed"))
    };
    assert_eq!((told(table), told(&table["months"][0])), (sizes(""), sizes("")));
    let columns = table["columns"].as_array().expect("columns");
    let destination = columns.iter().find(|column| column["column"] == "destination").expect("it is there");
    assert_eq!(told(destination), sizes("column_"));
    let (packed, unpacked) = sizes("");
    let ratio = table["ratio"].as_f64().expect("a ratio");
    assert!((ratio - unpacked as f64 / packed as f64).abs() <= 0.05, "{ratio}");
    let text = said(&node.cli(&["store", "report"]));
    let line = format!("table\tclicks\t-\t1\t10000\t{packed}\t{unpacked}\t");
    assert!(text.lines().any(|found| found.starts_with(&line)), "{text}");
}

#[test]
fn the_engine_parses_the_tables_of_a_cluster() {
    let Some(clickhouse) = service(CLICKHOUSE, "the_engine_parses_the_tables_of_a_cluster") else { return };
    let to = clickhouse.strip_prefix("http://").expect("a URL").parse().expect("an address");
    for file in ["001_clicks.sql", "002_rollups.sql"] {
        let text = std::fs::read_to_string(root().join("schema/clickhouse/cluster").join(file)).expect("the file");
        let statements: Vec<_> = text.split(";\n").filter(|sql| !sql.trim().is_empty()).collect();
        assert!(statements.len() >= 2, "{file}");
        for sql in statements {
            let answer = request(to, "POST", "/", &[], format!("EXPLAIN AST {sql}").as_bytes());
            let tree = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status == 200 && tree.starts_with("CreateQuery"), "{sql}: {tree}");
        }
    }
}
