//! Caps that several nodes share through a real Redis: simulated ones that race by a seed, and real ones under clicks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use trellis::backend::redis_caps::RedisCaps;
use trellis::catalog::Caps;
use trellis::click::campaign::Campaign;
use trellis::click::{Cap, OwnHosts};
use trellis::clock::Clock;
use trellis::config::{Redis, Secret};
use trellis::pipeline::caps::CapExchange as _;
use trellis::telemetry::calls::Calls;

use crate::harness::{Trellis, eventually, seeded, service};
use crate::live::REDIS;

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

/// The time of a fleet, moved by hand.
#[derive(Debug)]
struct At(AtomicU64);

impl Clock for At {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Node {
    caps: Caps,
    cap: Cap,
    redis: RedisCaps,
    cores: usize,
}

impl Node {
    fn start(url: &str, fleet: &str, name: &str, cores: usize, limit: u64, clock: &Arc<At>) -> Self {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let caps = Caps::new(cores, 10, true, Arc::clone(&clock));
        let cap = json!({"limit": limit, "per": "hour"});
        let document = json!({"rules": [{"name": "r", "to": [{"url": "https://a.example/"}], "cap": cap}]});
        let mut campaign = Campaign::check(fleet, document, &OwnHosts::default()).expect("a campaign");
        caps.adopt_campaign(&mut campaign);
        caps.publish();
        let config = Redis {
            url: Secret::new(url),
            pool: 1,
            timeout: Duration::from_secs(5),
            lifetime_max: Duration::from_secs(600),
        };
        let calls = Calls::new(Arc::clone(&clock));
        let redis = RedisCaps::new(&config, name, clock, Arc::default(), calls).expect("a URL");
        let cap = campaign.rules[0].cap.clone().expect("a cap");
        Self { caps, cap, redis, cores }
    }

    /// Visits, each on some core; those that were let through.
    fn visit(&self, visits: u64, period: u32, random: &mut fastrand::Rng) -> u64 {
        (0..visits).filter(|_| self.cap.gate.take(random.usize(..self.cores), period).is_some()).count() as u64
    }

    async fn exchange(&self) {
        let standings = self.caps.look();
        let (nodes, granted) = self.redis.exchange(&standings).await.expect("Redis answers");
        self.caps.grant(nodes, &standings.into_iter().zip(granted).collect::<Vec<_>>());
    }
}

fn fleet_name() -> String {
    format!("fleet-{:016x}", fastrand::u64(..))
}

#[tokio::test]
async fn nodes_that_race_for_a_cap_let_no_click_too_many_through_and_use_it_up() {
    let test = "nodes_that_race_for_a_cap_let_no_click_too_many_through_and_use_it_up";
    let Some(redis) = service(REDIS, test) else { return };
    let mut random = seeded();
    for _ in 0..15 {
        let (fleet, nodes, limit) = (fleet_name(), random.usize(2..=4), random.u64(1..400));
        let hour = 1_795_262_400_000 / 3_600_000 * 3_600_000;
        let clock = Arc::new(At(hour.into()));
        // Those of the fleet before are silent for less than ten seconds: the names are the same.
        let start = |number| Node::start(&redis, &fleet, &format!("sim-{number}"), 1 + number % 3, limit, &clock);
        let fleet: Vec<_> = (0..nodes).map(start).collect();
        for node in &fleet {
            assert_eq!(
                node.visit(5, node.cap.per.period(&Default::default(), hour), &mut random),
                0,
                "nobody was asked"
            );
        }
        // The first hour begins somewhere; the second one under way, with what each has for it.
        for hour in [hour + 1_800_000, hour + 3_600_000] {
            clock.0.store(hour, Ordering::Relaxed);
            let period = fleet[0].cap.per.period(&Default::default(), hour);
            let mut through = 0;
            for _ in 0..40 {
                for _ in 0..random.usize(1..6) {
                    let node = &fleet[random.usize(..nodes)];
                    match random.bool() {
                        true => through += node.visit(random.u64(0..200), period, &mut random),
                        false => node.exchange().await,
                    }
                    assert!(through <= limit, "{through} of {limit} by {nodes} nodes");
                }
            }
            // One node alone gets the rest, by and by: each gives back what it does not use.
            clock.0.store(hour + 60_000, Ordering::Relaxed);
            for _ in 0..40 {
                for node in &fleet {
                    node.exchange().await;
                }
                through += fleet[0].visit(1_000, period, &mut random);
            }
            // Each of the others holds one back for whoever comes there next.
            assert!(through <= limit && through + nodes as u64 > limit, "{through} of {limit} by {nodes} nodes");
            through += fleet.iter().map(|node| node.visit(10, period, &mut random)).sum::<u64>();
            assert_eq!(through, limit, "by {nodes} nodes");
        }
    }
}

#[test]
fn real_nodes_share_a_cap_to_the_click_and_what_is_stored_says_so() {
    const LIMIT: u64 = 90;
    let test = "real_nodes_share_a_cap_to_the_click_and_what_is_stored_says_so";
    let Some(redis) = service(REDIS, test) else { return };
    let campaign = fleet_name();
    let names = ["caps-a", "caps-b", "caps-c"].map(|name| format!("{name}-{campaign}"));
    let start = |name: &String| {
        let settings = [
            ("dedup.backend", "redis"),
            ("redis.url", redis.as_str()),
            ("redis.timeout", "5s"),
            ("node", name.as_str()),
        ];
        Trellis::start_with(&settings)
    };
    let nodes: Vec<_> = names.iter().map(start).collect();
    let to = json!([{"name": "x", "url": "https://x.example/", "cap": {"limit": LIMIT, "per": "total"}}]);
    let document = json!({"default": to, "fallback_url": "https://f.example/"}).to_string();
    for node in &nodes {
        assert_eq!(node.api("PUT", &format!("/api/v1/campaigns/{campaign}"), Some(&document)).status, 201);
        let body = json!({"slug": "a", "url": "https://own.example/", "campaign": campaign}).to_string();
        assert_eq!(node.api("POST", "/api/v1/links", Some(&body)).status, 201);
    }
    let used = |node: &Trellis| {
        let caps = node.api("GET", &format!("/api/v1/caps?campaign={campaign}"), None).json();
        caps["caps"][0]["used"].as_u64().expect("a number")
    };
    let (mut through, mut places, mut random) = (0, BTreeMap::<String, u64>::new(), seeded());
    let mut visit = |node: &Trellis| {
        let answer = node.edge_request("GET", "/a", &[("User-Agent", CHROME)]);
        let place = answer.header("location").expect("a place").to_owned();
        through += u64::from(place.contains("x.example"));
        *places.entry(place).or_default() += 1;
        through
    };
    // Nearly all come to one of them; what the others do not use comes to it.
    eventually("the cap is used up", || {
        let node = if random.u8(..10) == 0 { random.usize(..3) } else { 0 };
        visit(&nodes[node]) == LIMIT
    });
    eventually("each node knows", || nodes.iter().all(|node| used(node) == LIMIT));
    for node in &nodes {
        (0..20).for_each(|_| assert_eq!(visit(node), LIMIT, "not one too many"));
    }
    let total: u64 = places.values().sum();
    let stored = || nodes.iter().map(|node| node.count("")["total"].as_u64().expect("a number")).sum::<u64>();
    eventually("all clicks are stored", || stored() == total);
    let count = |node: &Trellis| node.clicks().iter().filter(|click| click["variant"] == "x").count() as u64;
    assert_eq!(nodes.iter().map(count).sum::<u64>(), LIMIT, "what is stored says the same");
}
