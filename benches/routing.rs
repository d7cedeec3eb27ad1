//! What a decision costs: rules with conditions, destinations by each strategy, and with the splice. `cargo bench --bench
//! routing`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::borrow::Cow;
use std::hint::black_box;
use std::net::IpAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use trellis::click::campaign::{Campaign, Turn, Turns};
use trellis::click::condition::{Condition, Facts, Map, Number, Text};
use trellis::click::template::Values;
use trellis::click::{ClickId, OwnHosts, Visit};

/// A desktop visit from Austria.
struct Fixed;

impl Facts for Fixed {
    fn text(&self, name: Text) -> Cow<'_, str> {
        match name {
            Text::Country => "AT".into(),
            Text::Device => "desktop".into(),
            _ => "".into(),
        }
    }

    fn number(&self, _: Number) -> i64 {
        9
    }

    fn entry(&self, _: Map, key: &str) -> Option<Cow<'_, str>> {
        (key == "utm_source").then_some("newsletter".into())
    }

    fn is_bot(&self) -> bool {
        false
    }

    fn address(&self) -> IpAddr {
        [203, 0, 114, 77].into()
    }

    fn has_tag(&self, _: &str) -> bool {
        false
    }
}

#[derive(Default)]
struct OneTurn(Turn);

impl Turns for OneTurn {
    fn turn(&mut self, _: &Campaign, _: usize) -> &mut Turn {
        &mut self.0
    }
}

fn campaign(document: Value) -> Campaign {
    Campaign::check("bench", document, &OwnHosts::default()).expect("valid")
}

fn to(number: usize) -> Value {
    (0..number)
        .map(|n| json!({"url": format!("https://a{n}.example/p?id={{click_id}}"), "weight": n % 7 + 1}))
        .collect()
}

/// None of so many rules takes the visit; the default does.
fn rules(number: usize) -> Campaign {
    let rule = |n: usize| {
        json!({"name": format!("r{n}"), "to": to(2), "when": format!(
        "country in [\"DE\", \"FR\", \"IT\"] && device == \"mobile\" || query.utm_source == \"mail-{n}\"")})
    };
    campaign(json!({"rules": (0..number).map(rule).collect::<Vec<_>>(), "default": to(3)}))
}

fn decide(c: &mut Criterion) {
    let mut turns = OneTurn::default();
    for number in [0, 1, 5, 20] {
        let (campaign, mut key) = (rules(number), 0_u64);
        c.bench_function(&format!("decide, {number} rules"), |b| {
            b.iter(|| {
                key += 1;
                campaign.decide(black_box(&Fixed), key, &mut turns).variant().len()
            });
        });
    }
    let visit = Visit {
        host: b"go.example",
        query: "utm_source=newsletter",
        head: false,
        prefetch: false,
        marks: Default::default(),
        address: [203, 0, 114, 77].into(),
        ua: b"",
        referrer: b"",
        language: b"",
    };
    let (campaign, mut key, mut out) = (rules(5), 0_u64, Vec::with_capacity(4096));
    c.bench_function("decide, 5 rules, and splice", |b| {
        b.iter(|| {
            key += 1;
            out.clear();
            let decision = campaign.decide(black_box(&Fixed), key, &mut turns);
            let values = Values { click_id: Some(ClickId::new(1, &[1; 10])), ..Values::of(&visit) };
            decision.target().expect("a destination").splice(&values, false, &mut out);
            out.len()
        });
    });
}

fn choose(c: &mut Criterion) {
    let mut turns = OneTurn::default();
    for strategy in ["weighted", "round_robin", "priority"] {
        let rule = json!({"name": "r", "strategy": strategy, "to": to(1000)});
        let (campaign, mut key) = (campaign(json!({"rules": [rule]})), 0_u64);
        c.bench_function(&format!("{strategy} among 1,000"), |b| {
            b.iter(|| {
                key += 1;
                campaign.decide(black_box(&Fixed), key, &mut turns).variant().len()
            });
        });
    }
}

fn save(c: &mut Criterion) {
    c.bench_function("parse a condition", |b| {
        b.iter(|| {
            Condition::parse(black_box("country in [\"DE\", \"FR\"] && device == \"mobile\" && hour < 9")).is_ok()
        });
    });
}

criterion_group!(benches, decide, choose, save);
criterion_main!(benches);
