//! The page from planted values.

use std::time::Duration;

use super::render::{BYTES_MAX, page};
use super::view::{Budget, Objective, Objectives, Phase};
use super::*;

/// A page with everything on it, every text from outside made by `text`.
pub(super) fn full(text: impl Fn(&str) -> String) -> View {
    let objective = |number: usize| {
        let marks = [Mark::Good, Mark::Good, Mark::Good, Mark::Warning, Mark::Bad, Mark::Unknown];
        let mark = marks[number % marks.len()];
        let budget = Budget { left_ratio: 0.7 - number as f64 / 60.0, left_minutes: 30.2, burn_rate: Some(0.4) };
        Objective {
            id: text(&format!("redirect-{number}")),
            description: text("99 of 100 redirects are answered within 50 ms"),
            value: (mark != Mark::Unknown).then(|| "1.9 ms".to_owned()),
            target: "50 ms".to_owned(),
            window: "5m".to_owned(),
            mark,
            budget: (number.is_multiple_of(2)).then_some(budget),
            why_not: if mark == Mark::Unknown { text("nothing of it happened in 5m") } else { String::new() },
        }
    };
    let phase = |name: &str| Phase {
        of: text("redirect-p99"),
        name: text(name),
        budget: "5 ms".to_owned(),
        value: Some("0.4 ms".to_owned()),
        used_ratio: Some(0.08),
        mark: Mark::Good,
    };
    let slow = |ms: u64| Slow {
        at: "2026-11-21 21:00:00".to_owned(),
        dependency: "store",
        op: "insert",
        took: Duration::from_millis(ms),
        level: "error",
        mark: Mark::Bad,
    };
    let link = |number: u64| LinkCount { link: text("spring-sale"), people: 90_000 / (number + 1), clicks: 100_000 };
    let hour = Hour {
        visits: (0..60).map(|minute| 900 + minute * 37 % 400).collect(),
        sums: vec![("visits", 65_123), ("accepted", 65_123), ("stored", 65_100), ("in flight", 23)],
        residual: 0,
    };
    View {
        node: text("edge-1"),
        state: "serving",
        at: "2026-11-21 21:00:00".to_owned(),
        uptime: Some(Duration::from_secs(277_000)),
        figures: figures(None, Some(&hour)),
        objectives: Ok(Objectives { all: (0..64).map(objective).collect(), since: text("2026-11-20 21:00:00") }),
        phases: Ok(["accept", "head", "auth", "limit", "resolve", "choose", "journal", "respond"].map(phase).into()),
        ledger: Ok(hour),
        dependencies: vec![
            Dependency { name: "catalog", backend: "sqlite", up: true, detail: String::new() },
            Dependency { name: "store", backend: "clickhouse", up: false, detail: text("connection refused") },
        ],
        probes: Ok(probes(&Metrics::new(1, 1, &[], || 0).unwrap())),
        links: Ok((0..10).map(link).collect()),
        slow: Ok([512, 1_733].map(slow).into()),
    }
}

#[test]
fn what_is_there_is_shown_and_what_is_not_says_so() {
    let html = page(&full(str::to_owned));
    for told in [
        "<title>edge-1 · Trellis</title>",
        "serving · up 3 d 4 h",
        "<span class=\"pill bad\">BREACH</span></div></header>",
        "10 breached, 11 in warning, 33 OK, 10 without data · measured since 2026-11-20 21:00:00",
        "<td>redirect-4<small>",
        "<summary>33 that are met</summary>",
        "<summary>10 without data</summary><p class=why><b>nothing of it happened in 5m</b> redirect-5, redirect-11, ",
        "<h2>Phases<small>redirect-p99</small></h2>",
        "<td>store insert<small>2026-11-21 21:00:00</small></td>",
        "30.2 min",
        "<dt>accepted</dt><dd>65,123</dd>",
        "<dt>residual</dt><dd>0</dd>",
        "<code>spring-sale</code></td><td class=n>90,000</td>",
        "<td class=n>1.7 s</td>",
        "connection refused",
    ] {
        assert!(html.contains(told), "{told} is not in\n{html}");
    }
    let rows: Vec<_> = html.match_indices("<td>redirect-").map(|(at, _)| at).collect();
    assert!(rows.len() == 54 && html[rows[0]..].starts_with("<td>redirect-4<"), "the worst first");
    assert!(
        html.find("<details>").is_some_and(|at| rows[20] < at && at < rows[21]),
        "what is missed is not folded away"
    );
    let nothing = || NotMeasured::new("<no reason>");
    let empty = View {
        objectives: nothing().map(|()| Objectives::default()),
        phases: nothing().map(|()| Vec::new()),
        ledger: nothing().map(|()| Hour::default()),
        probes: nothing().map(|()| Vec::new()),
        links: nothing().map(|()| Vec::new()),
        slow: nothing().map(|()| Vec::new()),
        uptime: None,
        figures: figures(None, None),
        ..full(str::to_owned)
    };
    let html = page(&empty);
    assert_eq!(html.matches("<p class=none>not measured: &lt;no reason&gt;</p>").count(), 6);
    assert_eq!(html.matches("<b>not measured</b>").count(), 4);
    assert!(html.contains("objectives: not measured") && html.contains("no node runs"));
}

#[test]
fn no_value_becomes_markup() {
    let hostile = "\"'><script>alert(1)</script><b onclick=x>";
    let (plain, planted) = (page(&full(|_| "x".to_owned())), page(&full(|_| hostile.to_owned())));
    let tags = |html: &str| html.matches('<').count();
    assert_eq!(tags(&plain), tags(&planted));
    assert!(!planted.contains("<script") && !planted.contains("<b onclick"));
    assert!(planted.contains("&quot;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
    // Quotes are those of attributes, in pairs, and the same ones.
    assert_eq!(plain.matches('"').count(), planted.matches('"').count());
}

#[test]
fn a_page_stays_small_whatever_is_on_it() {
    let usual = page(&full(str::to_owned)).len();
    assert!(usual < 40_000, "{usual}");
    for long in ["x", "&", "\u{10ffff}", "'"] {
        let long = long.repeat(10_000);
        let mut view = full(|_| long.clone());
        let objectives = view.objectives.as_mut().unwrap();
        for _ in 0..4 {
            let more: Vec<_> = full(|_| long.clone()).objectives.unwrap().all;
            objectives.all.extend(more);
        }
        let html = page(&view);
        assert!(html.len() < BYTES_MAX && html.ends_with("</html>\n"), "{}", html.len());
        let missed = 5 * 21;
        let shown = html.matches("BREACH</span></td>").count() + html.matches("WARNING</span></td>").count();
        let told = format!("<p class=none>And {} more.</p>", missed - shown);
        assert!(shown < missed && html.contains(&told), "{told} what has no room is counted");
    }
}

#[test]
fn digests_are_spelled_as_browsers_want_them() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    let digest = POLICY.to_str().unwrap().split("sha256-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert_eq!(digest.len(), 44);
    assert!(page(&full(str::to_owned)).contains(&format!("<style>{STYLE}</style>")), "as it was digested");
}
