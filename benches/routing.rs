//! What a decision costs: rules with conditions, destinations by each strategy, and with the splice. `cargo bench --bench
//! routing`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::borrow::Cow;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use trellis::catalog::Caps;
use trellis::click::campaign::{Campaign, Tally, Turn};
use trellis::click::cap::Place;
use trellis::click::condition::{Condition, Facts, Map, Number, Text};
use trellis::click::template::Values;
use trellis::click::{Cap, ClickId, OwnHosts, Visit};
use trellis::clock::SystemClock;

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

impl Tally for OneTurn {
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

/// One thread's part of real gates.
#[derive(Default)]
struct Gates(Turn);

impl Tally for Gates {
    fn turn(&mut self, _: &Campaign, _: usize) -> &mut Turn {
        &mut self.0
    }

    fn is_open(&self, cap: &Cap) -> bool {
        cap.gate.is_open(0, 1)
    }

    fn take(&mut self, cap: &Cap) -> bool {
        cap.gate.take(0, 1).is_some()
    }
}

/// With gates for four threads; of destinations every third is closed.
fn gated(document: Value) -> Campaign {
    let caps = Caps::new(4, 100_000, false, Arc::new(SystemClock::new()));
    let mut campaign = campaign(document);
    caps.adopt_campaign(&mut campaign);
    caps.publish();
    let mut number = 0;
    campaign.for_each_cap(|_, cap| {
        number += 1;
        if number % 3 == 0 {
            cap.gate.lower(1, u64::from(u32::MAX));
        }
    });
    campaign
}

fn capped(c: &mut Criterion) {
    let cap = json!({"limit": 1_000_000_000, "per": "total"});
    let with_caps = |to: Value| -> Value {
        let with = |mut one: Value| {
            one["cap"] = cap.clone();
            one
        };
        to.as_array().expect("a list").iter().cloned().map(with).collect()
    };
    let mut gates = Gates::default();
    for strategy in ["weighted", "round_robin", "priority"] {
        let (campaign, mut key) =
            (gated(json!({"rules": [{"name": "r", "strategy": strategy, "to": with_caps(to(1000))}]})), 0_u64);
        c.bench_function(&format!("{strategy} among 1,000 with caps"), |b| {
            b.iter(|| {
                key += 1;
                campaign.decide(black_box(&Fixed), key, &mut gates).variant().len()
            });
        });
    }
    let rule = |n: usize| {
        json!({"name": format!("r{n}"), "to": with_caps(to(3)), "cap": cap,
            "when": format!("country in [\"DE\", \"AT\"] && device == \"desktop\" && query.utm_source != \"mail-{n}\"")})
    };
    let rules: Vec<_> = (0..5).map(rule).collect();
    let (mut campaign, mut key) = (gated(json!({"rules": rules, "default": to(3)})), 0_u64);
    // Four rules are at their caps: the fifth takes the visit.
    campaign.for_each_cap(|place, cap| match place {
        Place::Rule(_, "r4") | Place::Destination(..) => cap.gate.raise(1, 1_000_000_000),
        _ => cap.gate.lower(1, u64::from(u32::MAX)),
    });
    c.bench_function("decide, 5 rules with caps", |b| {
        b.iter(|| {
            key += 1;
            campaign.decide(black_box(&Fixed), key, &mut gates).variant().len()
        });
    });
}

fn save(c: &mut Criterion) {
    c.bench_function("parse a condition", |b| {
        b.iter(|| {
            Condition::parse(black_box("country in [\"DE\", \"FR\"] && device == \"mobile\" && hour < 9")).is_ok()
        });
    });
}

criterion_group!(benches, decide, choose, capped, save);
criterion_main!(benches);
