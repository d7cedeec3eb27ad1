//! `/in`: visits without a link, for which a campaign decides. Here without keys; `keys` has those.

use serde_json::{Value, json};

use crate::harness::{Response, Trellis};

const ON: (&str, &str) = ("ingress.enabled", "true");
const OPEN: (&str, &str) = ("ingress.keys", "optional");
/// Its clicks are labelled in the order in which they came.
const ONE_THREAD: (&str, &str) = ("edge.threads", "1");
const FALLBACK: (&str, &str) =
    ("ingress.fallback_url", "https://else.example/{link}{slug}?c={campaign}&v={variant}&s={source}&id={click_id}");

fn save(trellis: &Trellis, id: &str, document: &Value) {
    let answer = trellis.api("PUT", &format!("/api/v1/campaigns/{id}"), Some(&document.to_string()));
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// A campaign that sends everybody whom it is for to one place.
fn to(host: &str, when: Option<&str>) -> Value {
    let mut document = json!({"default": [{"name": "only", "url": format!("https://{host}.example/")}]});
    if let Some(when) = when {
        document["when"] = when.into();
    }
    document
}

/// The id that was answered.
#[track_caller]
fn id(answer: &Response) -> String {
    answer.header("x-click-id").expect("an id").to_owned()
}

/// The stored click of this id: ids of one millisecond are in no order.
#[track_caller]
fn stored(trellis: &Trellis, id: &str) -> Value {
    let mut clicks = trellis.clicks();
    clicks.retain(|click| click["click_id"] == id);
    assert_eq!(clicks.len(), 1, "of {id}: {clicks:#?}");
    clicks.remove(0)
}

#[track_caller]
fn place(answer: &Response) -> &str {
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a destination")
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!((answer.header("location"), answer.header("x-click-id")), (None, None));
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()), "{problem}");
}

#[test]
fn it_is_off_unless_configured() {
    let off = Trellis::start();
    save(&off, "spring", &to("a", None));
    for headers in [&[][..], &[("Authorization", "Bearer wdn_sk_live_1")]] {
        let answer = off.edge_request("GET", "/in?campaign=spring&click_id=1", headers);
        assert_refused(&answer, 404, "ingress_disabled");
        assert!(answer.json()["title"].as_str().expect("a text").contains("ingress.enabled = true"));
    }
    assert_eq!(off.edge_request("HEAD", "/in", &[]).status, 404);
    assert_eq!(off.edge_request("POST", "/in", &[]).status, 405);
    assert_eq!(off.metric("trellis_redirects_total{outcome=\"unknown_link\"}"), 3.0);
    // What a gateway in front of it takes is not ours to judge, where keys are optional.
    let on = Trellis::start_with(&[ON, OPEN]);
    save(&on, "spring", &to("a", None));
    let answer = on.edge_request("GET", "/in?campaign=spring", &[("Authorization", "Basic dXNlcjpwdw==")]);
    assert_eq!(place(&answer), "https://a.example/");
}

#[test]
fn a_named_campaign_decides_by_all_parameters_and_its_macros_have_them() {
    let trellis = Trellis::start_with(&[ON, OPEN]);
    let subs: String = (1..=10).map(|n| format!("&s{n}={{sub{n}}}")).collect();
    let target = format!(
        "https://a.example/{{campaign}}/{{rule}}/x{{link}}?id={{click_id}}&ext={{external_click_id}}&src={{source}}{subs}&q={{q:any}}"
    );
    let when = "query.sub3 == 'three' && query['sub10'] == 'x y' && source == 'net' && external_click_id == 'E/1' \
                && slug == '' && !('vip' in tags) && query.any == '1'";
    let document = json!({
        "rules": [{"name": "subs", "when": when, "to": [{"name": "best", "url": target}]}],
        "default": [{"name": "rest", "url": "https://rest.example/"}],
    });
    save(&trellis, "spring%20sale", &document);
    let sent: String = (4..=9).map(|n| format!("&sub{n}={n}")).collect();
    let path = format!("/in?campaign=spring+sale&click_id=E%2F1&source=net&sub3=three&sub10=x%20y&any=1{sent}");
    let answer = trellis.get(&path);
    let first = id(&answer);
    assert_eq!(
        place(&answer),
        format!(
            "https://a.example/spring%20sale/subs/x?id={first}&ext=E%2F1&src=net&s1=&s2=&s3=three&s4=4&s5=5&s6=6&s7=7&s8=8\
             &s9=9&s10=x%20y&q=1"
        )
    );
    let rest = trellis.get("/in?campaign=spring%20sale&source=net");
    assert_eq!(place(&rest), "https://rest.example/");
    trellis.wait_stored(2);
    let clicks = [stored(&trellis, &first), stored(&trellis, &id(&rest))];
    let told = |click: &Value| {
        ["link", "campaign", "rule", "variant", "external_click_id", "source"]
            .map(|field| click[field].as_str().expect("a text").to_owned())
    };
    assert_eq!(told(&clicks[0]), ["", "spring sale", "subs", "best", "E/1", "net"]);
    assert_eq!(told(&clicks[1]), ["", "spring sale", "", "rest", "", "net"]);
    assert_eq!(clicks[0]["query"]["sub7"], "7");
    assert!(clicks.iter().all(|click| click["route_version"] == 1 && click["status"] == 302), "{clicks:#?}");
}

#[test]
fn without_a_name_the_first_campaign_whose_condition_holds_decides() {
    let trellis = Trellis::start_with(&[ON, OPEN, ("ingress.campaigns_max", "3")]);
    // In another order than that of their names.
    save(&trellis, "d-late", &to("late", Some("source == 'late'")));
    save(&trellis, "c-two", &to("two", Some("source == 'two' || source == 'both'")));
    save(&trellis, "a-unconditional", &to("unconditional", None));
    save(&trellis, "b-one", &to("one", Some("source == 'one' || source == 'both'")));
    let go = |source: &str| trellis.get(&format!("/in?source={source}"));
    for (source, host) in [("one", "one"), ("two", "two"), ("both", "one"), ("late", "late")] {
        assert_eq!(place(&go(source)), format!("https://{host}.example/"), "{source}");
    }
    assert_eq!(place(&trellis.get("/in?campaign=&source=two")), "https://two.example/", "an empty name is none");
    assert_refused(&go("other"), 404, "no_destination");
    // A fourth one before it, and it is not asked any more; by name it is still taken.
    save(&trellis, "0", &to("zero", Some("source == 'zero'")));
    assert_eq!(place(&go("zero")), "https://zero.example/");
    assert_refused(&go("late"), 404, "no_destination");
    assert_eq!(place(&trellis.get("/in?campaign=d-late&source=late")), "https://late.example/");
    // An edit is live: without it the fourth is the third again.
    assert_eq!(trellis.api("DELETE", "/api/v1/campaigns/0", None).status, 204);
    assert_eq!(place(&go("late")), "https://late.example/");
    let changed = to("two", None).to_string();
    assert_eq!(trellis.api("PUT", "/api/v1/campaigns/c-two", Some(&changed)).status, 200);
    assert_refused(&go("two"), 404, "no_destination");
    assert_eq!(place(&trellis.get("/in?campaign=c-two")), "https://two.example/");
    // A link goes by its own campaign, whatever the others say.
    let body = json!({"slug": "a", "url": "https://own.example/{link}", "campaign": "d-late"}).to_string();
    assert_eq!(trellis.api("POST", "/api/v1/links", Some(&body)).status, 201);
    assert_eq!(place(&trellis.get("/a?source=one&campaign=b-one")), "https://own.example/a");
    assert_eq!(place(&trellis.get("/a?source=late")), "https://late.example/");
    trellis.wait_stored(11);
    for (campaign, clicks) in [("a-unconditional", 0), ("b-one", 2), ("c-two", 3), ("d-late", 5), ("0", 1)] {
        assert_eq!(trellis.count(&format!("campaign={campaign}"))["total"], clicks, "{campaign}");
    }
    assert_eq!(trellis.count("link=")["total"], 9, "those without a link");
    assert_eq!(
        (&trellis.count("link=a")["total"], &trellis.count("link=&campaign=d-late")["total"]),
        (&2.into(), &3.into())
    );
}

#[test]
fn each_campaign_is_asked_in_its_own_time_zone() {
    let trellis = Trellis::start_with(&[ON, OPEN]);
    // 26 hours apart: what is today in the east is not even tomorrow in the west.
    let east_ms = trellis::clock::Clock::wall_ms(&trellis::clock::SystemClock::new()) + 14 * 3_600_000;
    let east = trellis::clock::rfc_3339(east_ms);
    let when = format!("date >= '{}'", east.split('T').next().expect("a day"));
    for (id, zone) in [("a-west", "Etc/GMT+12"), ("b-east", "Etc/GMT-14"), ("c-west", "Etc/GMT+12")] {
        let mut document = to(id, Some(&when));
        document["zone"] = zone.into();
        save(&trellis, id, &document);
    }
    assert_eq!(place(&trellis.get("/in")), "https://b-east.example/");
    assert_eq!(trellis.api("DELETE", "/api/v1/campaigns/b-east", None).status, 204);
    assert_refused(&trellis.get("/in"), 404, "no_destination");
}

#[test]
fn where_no_campaign_has_a_destination_the_fallback_takes_the_visit_or_it_is_404() {
    let plain = Trellis::start_with(&[ON, OPEN]);
    let with = Trellis::start_with(&[ON, OPEN, FALLBACK]);
    for trellis in [&plain, &with] {
        save(trellis, "closed", &to("closed", Some("source == 'never'")));
        let rule = json!({"name": "r", "when": "source == 'never'", "to": [{"url": "https://r.example/"}]});
        save(trellis, "nothing", &json!({"rules": [rule]}));
        save(trellis, "own", &json!({"rules": [rule], "fallback_url": "https://own-fallback.example/"}));
        assert_eq!(place(&trellis.get("/in?campaign=own")), "https://own-fallback.example/");
    }
    for (path, code) in [
        ("/in", "no_destination"),
        ("/in?campaign=unheard-of", "unknown_campaign"),
        ("/in?campaign=%ff", "unknown_campaign"),
        ("/in?campaign=closed", "no_destination"),
        ("/in?campaign=nothing", "no_destination"),
    ] {
        assert_refused(&plain.get(path), 404, code);
    }
    assert_eq!(plain.metric("trellis_redirects_total{outcome=\"unknown_link\"}"), 5.0);
    assert_eq!(plain.metric("trellis_clicks_accepted_total"), 1.0, "what goes nowhere is no click");
    let mut ids = Vec::new();
    for (query, campaign) in [
        ("source=x%26y", ""),
        ("source=x%26y&campaign=unheard-of", ""),
        ("source=x%26y&campaign=%ff", ""),
        ("source=x%26y&campaign=closed", "closed"),
        ("source=x%26y&campaign=nothing", "nothing"),
    ] {
        let answer = with.get(&format!("/in?{query}"));
        let expected = format!("https://else.example/?c={campaign}&v=&s=x%26y&id={}", id(&answer));
        assert_eq!(place(&answer), expected, "{query}");
        ids.push(id(&answer));
    }
    with.wait_stored(6);
    for id in ids {
        assert_eq!(stored(&with, &id)["route_version"], 0, "the fallback has no versions");
    }
    assert_eq!((&with.count("campaign=")["total"], &with.count("campaign=closed")["total"]), (&3.into(), &1.into()));
}

#[test]
fn head_and_prefetch_get_what_a_get_gets_and_the_headers_are_those_of_a_link() {
    let trellis = Trellis::start_with(&[ON, OPEN]);
    save(&trellis, "c", &to("a", None));
    trellis.link("l", "https://a.example/");
    let names = |answer: &Response| {
        let kept = |name: &&str| !matches!(*name, "date" | "connection");
        let mut names: Vec<_> =
            answer.headers.iter().map(|(name, _)| name.as_str()).filter(kept).map(str::to_owned).collect();
        names.sort_unstable();
        names
    };
    let agent = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/132.0");
    let link = trellis.edge_request("GET", "/l", &[agent]);
    assert!(names(&link).iter().any(|name| name.eq_ignore_ascii_case("x-click-id")));
    let mut expected = vec![(id(&link), "human")];
    for (method, headers, class) in [
        ("HEAD", &[agent][..], "head"),
        ("GET", &[agent, ("Sec-Purpose", "prefetch;prerender")], "prefetch"),
        ("GET", &[agent], "human"),
    ] {
        let answer = trellis.edge_request(method, "/in?campaign=c", headers);
        assert_eq!((place(&answer), names(&answer)), ("https://a.example/", names(&link)), "{method} {headers:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        expected.push((id(&answer), class));
    }
    trellis.wait_stored(4);
    for (id, class) in expected {
        assert_eq!(stored(&trellis, &id)["class"], class, "{id}");
    }
}

#[test]
fn duplicates_are_labelled_and_a_restart_keeps_and_counts_every_click_once() {
    let mut trellis = Trellis::start_with(&[ON, OPEN, ONE_THREAD]);
    save(&trellis, "c", &to("a", None));
    save(&trellis, "x", &to("x", Some("source == 'x'")));
    trellis.link("c", "https://a.example/");
    for path in [
        "/in?campaign=c&click_id=1",
        "/in?campaign=c&click_id=2",
        "/in?campaign=c&click_id=1",
        "/in?campaign=x&source=x&click_id=1",
        "/c?click_id=1",
    ] {
        place(&trellis.get(path));
    }
    trellis.wait_stored(5);
    assert_eq!(trellis.count("campaign=x")["unique"], 1, "another campaign is another click");
    let count = trellis.count("campaign=c");
    assert_eq!((&count["total"], &count["unique"], &count["duplicate"]), (&3.into(), &2.into(), &1.into()), "{count}");
    assert_eq!(trellis.count("link=c")["unique"], 1, "a link of the same name is another click");
    trellis.assert_rolled_up();
    let last = id(&trellis.get("/in?campaign=c&click_id=3"));
    trellis.kill();
    let trellis = Trellis::start_in(trellis.folder(), &[ON, OPEN, ONE_THREAD]);
    trellis.wait_stored(6);
    assert_eq!(trellis.count("campaign=c")["total"], 4);
    assert_eq!(stored(&trellis, &last)["external_click_id"], "3");
    assert_eq!(place(&trellis.get("/in?campaign=c")), "https://a.example/", "the campaigns are still there");
    assert_eq!(place(&trellis.get("/in?source=x")), "https://x.example/");
    trellis.wait_stored(8);
    trellis.assert_ledger_balances(8);
    trellis.assert_rolled_up();
}
