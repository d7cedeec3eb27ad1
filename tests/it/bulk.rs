//! Imports of links, by the API and the command line.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

fn import(trellis: &Trellis, query: &str, lines: &str) -> Response {
    let token = format!("Bearer {}", trellis.token());
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/x-ndjson")];
    trellis.api_raw("POST", &format!("/api/v1/links/bulk{query}"), &headers, lines.as_bytes())
}

fn counts(answer: &Value) -> [u64; 4] {
    ["created", "changed", "unchanged", "refused"].map(|word| answer[word].as_u64().expect("a number"))
}

fn lines(slugs: impl Iterator<Item = usize>, host: &str) -> String {
    slugs.fold(String::new(), |mut all, n| {
        writeln!(all, r#"{{"slug":"s{n}","url":"https://{host}/{n}"}}"#).expect("a text");
        all
    })
}

#[test]
fn thousands_of_links_are_imported_in_a_few_releases_are_live_and_survive_a_kill() {
    let mut trellis = Trellis::start();
    trellis.link("s7", "https://was.example/");
    let answer = import(&trellis, "", &lines(0..2_500, "a.example")).json();
    assert_eq!((counts(&answer), &answer["releases"]), ([2_499, 0, 0, 1], &json!([2, 3, 4])));
    assert_eq!((&answer["results"][7]["line"], &answer["results"][7]["code"]), (&json!(8), &json!("slug_taken")));
    let place = |trellis: &Trellis, slug: &str| trellis.get(slug).header("location").map(str::to_owned);
    assert_eq!(place(&trellis, "/s2499").as_deref(), Some("https://a.example/2499"));
    assert_eq!(place(&trellis, "/s7").as_deref(), Some("https://was.example/"));
    trellis.kill();
    let trellis = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!(trellis.metric("trellis_links"), 2_500.0);
    let again = import(&trellis, "?existing=change", &lines(0..2_600, "a.example")).json();
    assert_eq!((counts(&again), &again["releases"]), ([100, 1, 2_499, 0], &json!([5, 6])));
    assert_eq!(place(&trellis, "/s7").as_deref(), Some("https://a.example/7"));
    // Each release can be gone back to.
    let release = trellis.api("GET", "/api/v1/releases/2", None).json();
    assert_eq!(
        (&release["kind"], &release["note"], &release["changes"]),
        (&json!("link"), &json!("import"), &json!(999))
    );
    assert_eq!(trellis.api("POST", "/api/v1/releases/1/rollback", Some("{}")).status, 200);
    assert_eq!(
        (trellis.metric("trellis_links"), place(&trellis, "/s7").as_deref()),
        (1.0, Some("https://was.example/"))
    );
    let audit = trellis.api("GET", "/api/v1/audit?limit=10", None).json();
    let entries = audit["entries"].as_array().expect("a list");
    let of_import = entries.iter().find(|entry| entry["action"] == "POST /links/bulk").expect("an entry");
    assert_eq!(
        (counts(&of_import["after"]), &of_import["target"]),
        ([100, 1, 2_499, 0], &json!("/links/bulk?existing=change"))
    );
}

#[test]
fn the_command_line_imports_a_file_and_tells_what_was_refused_by_its_line() {
    let mut trellis = Trellis::start_with(&[("control.import_links_max", "2")]);
    let file = trellis.folder().path().join("links.ndjson");
    let text = lines(0..3, "a.example")
        + "{\"slug\":\"in\",\"url\":\"https://a.example/\"}\n\nnothing\n"
        + &lines(3..5, "a.example");
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("text").to_owned();
    let run = |trellis: &Trellis, more: &[&str]| {
        let output = trellis.cli(&[&["link", "import", &file], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, errors) = run(&trellis, &[]);
    assert_eq!((code, out.as_str()), (Some(1), "5 created, 0 changed, 0 unchanged, 2 refused\n"), "{errors}");
    for told in
        ["line 4: fields of the body", "line 4:   /slug `in` is taken by the service", "line 6: the body is no JSON"]
    {
        assert!(errors.contains(told), "{errors}");
    }
    assert_eq!(trellis.get("/s4").header("location"), Some("https://a.example/4"));
    // Into the folder too, when no node runs.
    assert_eq!(trellis.stop().code(), Some(0));
    let (code, out, errors) = run(&trellis, &["--change"]);
    assert_eq!((code, out.as_str()), (Some(1), "0 created, 0 changed, 5 unchanged, 2 refused\n"), "{errors}");
}
