//! Regions, cities and networks, from files that an operator supplies: in conditions, destinations and rows.

#![cfg(feature = "testing")]

use serde_json::{Value, json};
use trellis::testing::mmdb;

use crate::harness::{Response, Trellis};

const PROXY: (&str, &str) = ("edge.trusted_proxies", "127.0.0.0/8");
/// What only a click without a word against it keeps.
const UMLAUT: &str = "Bad W\u{fc}nnenberg & Co";

/// Two files, and their paths.
fn files() -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |country: &str, region: &str, city: &str| json!({"country": {"iso_code": country}, "subdivisions": [{"iso_code": region}], "city": {"names": {"en": city}}});
    let cities = [
        ("198.51.100.0/25", place("DE", "BE", "Berlin")),
        ("198.51.100.128/25", place("DE", "BB", "Potsdam")),
        ("8.8.8.0/24", place("DE", "NW", UMLAUT)),
        ("2001:db8:7::/48", place("AT", "9", "Vienna")),
    ];
    let networks =
        [("198.51.100.0/24", json!({"autonomous_system_number": 3320, "autonomous_system_organization": "x"}))];
    let write = |name: &str, content: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let city = write("city.mmdb", mmdb("GeoLite2-City", 1_795_000_000, &cities));
    let asn = write("asn.mmdb", mmdb("GeoLite2-ASN", 1_795_000_000, &networks));
    (folder, city, asn)
}

/// A campaign with a rule for each city, and a link of it.
fn campaign(trellis: &Trellis) {
    let url = |name: &str| format!("https://{name}.example/{{region}}/{{city}}?asn={{asn}}&c={{country}}");
    let rule = |name: &str, when: &str| json!({"name": name, "when": when, "to": [{"url": url(name)}]});
    let document = json!({"rules": [
        rule("berlin", "country == 'DE' && region == 'BE' && city == 'Berlin' && asn == 3320"),
        rule("potsdam", "city.startsWith('Pots') && asn in [1, 3320]"),
        rule("vienna", "region == '9' && continent == 'EU'"),
        rule("germany", "country == 'DE' && asn < 1"),
    ], "default": [{"url": url("other")}]});
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c", Some(&document.to_string())).status, 201);
    let link = json!({"slug": "a", "url": "https://own.example/", "campaign": "c"});
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&link.to_string())).status, 201);
}

fn visit(trellis: &Trellis, address: &str, more: &[(&str, &str)]) -> Response {
    let answer = trellis.edge_request("GET", "/a", &[&[("X-Forwarded-For", address)], more].concat());
    assert_eq!(answer.status, 302, "{answer:?}");
    answer
}

/// Where the visit went, and rule, country, region, city and asn of its row.
fn told(trellis: &Trellis, answer: &Response) -> (String, Value) {
    let id = answer.header("x-click-id").expect("the click is kept");
    let clicks = trellis.clicks();
    let click = clicks.iter().find(|click| click["click_id"] == id).expect("it is stored");
    let fields = ["rule", "country", "region", "city", "asn"].map(|field| click[field].clone());
    (answer.header("location").expect("a destination").to_owned(), fields.into_iter().collect())
}

#[test]
fn rules_see_the_place_of_the_visitor_and_rows_and_destinations_that_of_the_address_that_is_kept() {
    let (_folder, city, asn) = files();
    let mut trellis = Trellis::start_with(&[PROXY, ("geo.city", &city), ("geo.asn", &asn)]);
    campaign(&trellis);
    let cases = [
        ("198.51.100.9", "berlin.example/BE/Berlin?asn=3320&c=DE", json!(["berlin", "DE", "BE", "Berlin", 3320])),
        // Its /24 begins in Berlin, and no more of it is kept.
        ("198.51.100.200", "potsdam.example/BE/Berlin?asn=3320&c=DE", json!(["potsdam", "DE", "BE", "Berlin", 3320])),
        ("2001:db8:7:8::9", "vienna.example/9/Vienna?asn=&c=AT", json!(["vienna", "AT", "9", "Vienna", 0])),
        // The shipped data says US; the operator's file wins.
        (
            "8.8.8.8",
            "germany.example/NW/Bad%20W%C3%BCnnenberg%20%26%20Co?asn=&c=DE",
            json!(["germany", "DE", "NW", UMLAUT, 0]),
        ),
        ("8.8.4.4", "other.example//?asn=&c=US", json!(["", "US", "", "", 0])),
        ("127.0.0.1", "other.example//?asn=&c=", json!(["", "", "", "", 0])),
    ];
    let answers = cases.each_ref().map(|(address, ..)| visit(&trellis, address, &[]));
    trellis.wait_stored(cases.len() as u64);
    for (answer, (address, destination, row)) in answers.iter().zip(cases) {
        let destination = destination.replace("example//?", "example/?");
        assert_eq!(told(&trellis, answer), (format!("https://{destination}"), row), "{address}");
    }
    // What control and the command line say of the same address is the same.
    let explained = trellis.cli(&["explain", "a", "--ip", "198.51.100.200", "--json"]);
    let explained: Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    assert_eq!(explained["decision"]["destination"], "https://potsdam.example/BE/Berlin?asn=3320&c=DE");
    assert_eq!((&explained["facts"]["city"], &explained["warnings"]), (&json!("Potsdam"), &json!([])));
    assert_eq!(trellis.stop().code(), Some(0));
}

#[test]
fn clicks_of_an_autonomous_system_of_a_data_centre_are_told_for_the_record() {
    let (folder, _city, asn) = files();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[data_centres]\nasn = [64511, 3320, 1]\n").expect("written");
    let rules = rules.to_str().expect("text");
    let trellis = Trellis::start_with(&[PROXY, ("geo.asn", &asn), ("classify.rules", rules)]);
    campaign(&trellis);
    let inside = visit(&trellis, "198.51.100.9", &[]);
    let outside = visit(&trellis, "8.8.8.8", &[]);
    let unkept = visit(&trellis, "198.51.100.9", &[("Sec-GPC", "1")]);
    trellis.wait_stored(3);
    let clicks = trellis.clicks();
    let found = |answer: &Response| {
        let id = answer.header("x-click-id").expect("the click is kept");
        let click = clicks.iter().find(|click| click["click_id"] == id).expect("it is stored");
        let reasons = click["reasons"].as_array().expect("a list");
        (reasons.contains(&json!("data_centre")), click["fraud_score"].as_u64().expect("a number"))
    };
    let (inside, outside, unkept) = (found(&inside), found(&outside), found(&unkept));
    assert_eq!([inside.0, outside.0, unkept.0], [true, false, false]);
    assert_eq!((inside.1, unkept.1), ((outside.1 + 25).min(100), outside.1), "with the weight of the reason");
}

#[test]
fn who_keeps_no_address_keeps_no_region_city_or_network_and_no_destination_learns_them() {
    let (_folder, city, asn) = files();
    for (settings, header, country) in [
        (&[PROXY][..], Some(("Sec-GPC", "1")), "DE"),
        (&[PROXY, ("privacy.dnt", "none")], Some(("DNT", "1")), ""),
        (&[PROXY, ("privacy.ip", "none")], None, "DE"),
    ] {
        let trellis = Trellis::start_with(&[settings, &[("geo.city", &city), ("geo.asn", &asn)]].concat());
        campaign(&trellis);
        let header: Vec<_> = header.into_iter().collect();
        let answer = visit(&trellis, "198.51.100.9", &header);
        trellis.wait_stored(1);
        let destination = format!("https://berlin.example/?asn=&c={country}");
        assert_eq!(told(&trellis, &answer), (destination, json!(["berlin", country, "", "", 0])), "{settings:?}");
    }
}

#[test]
fn without_files_a_campaign_is_saved_its_conditions_do_not_hold_and_explain_says_why() {
    let trellis = Trellis::start_with(&[PROXY]);
    campaign(&trellis);
    let answer = visit(&trellis, "198.51.100.9", &[]);
    assert_eq!(answer.header("location"), Some("https://other.example/?asn=&c="));
    let explained = trellis.cli(&["explain", "a", "--ip", "198.51.100.9"]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("warning     no file says where addresses are (geo.city)"), "{text}");
    assert!(text.contains("warning     no file says whose network addresses are in (geo.asn)"), "{text}");
    let given = trellis.cli(&[
        "explain",
        "a",
        "--country",
        "DE",
        "--region",
        "BE",
        "--city",
        "Berlin",
        "--asn",
        "3320",
        "--json",
    ]);
    let given: Value = serde_json::from_slice(&given.stdout).expect("JSON");
    assert_eq!(given["decision"]["destination"], "https://berlin.example/BE/Berlin?asn=3320&c=DE");
}

#[test]
fn a_bad_file_is_told_with_all_other_mistakes_and_nothing_starts() {
    let (folder, _, asn) = files();
    let trellis = Trellis::start();
    let absent = folder.path().join("absent.mmdb");
    let set = [format!("geo.city={asn}"), format!("geo.asn={}", absent.display())];
    let checked = trellis.cli(&["check", "--set", &set[0], "--set", &set[1]]);
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(64), "{text}");
    assert!(
        text.contains("geo.city") && text.contains("asn.mmdb") && text.contains("neither regions nor cities"),
        "{text}"
    );
    assert!(text.contains("geo.asn") && text.contains("absent.mmdb") && text.contains("cannot be read"), "{text}");
}
