//! Which part of a request's way is measured as which phase, on a clock whose looks can be told apart.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::Request;
use serde_json::json;

use super::access::Access;
use super::admission::{self, Peer};
use super::core::Core;
use super::limits::Limits;
use super::resolve::Resolved;
use super::{Lane, Parts, respond};
use crate::BoxFuture;
use crate::backend::sqlite_catalog::SqliteCatalog;
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::catalog::releases::{Keep, Releases};
use crate::catalog::{Campaigns, Caps, Checked, Domains, Links, Peek, Unavailable, Warden, Why, Writer};
use crate::click::kept::Keeping;
use crate::click::{OwnHosts, RawLink};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::handoff::{Doors, Run};
use crate::segment::{Disk, RealDisk};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::phases::Lap;
use crate::testing::ManualClock;

/// From each look to the next twice as much time passes: 1 ns, 2 ns, 4 ns and so on. So a sum of such times says of which
/// it is the sum.
#[derive(Debug, Default)]
struct Doubling(AtomicU32);

impl Clock for Doubling {
    fn now(&self) -> Duration {
        Duration::from_nanos(1 << self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

/// Says no, from memory or when it is asked.
#[derive(Debug)]
struct Denying {
    at_once: bool,
}

impl Warden for Denying {
    fn peek(&self, _: &[u8], _: u64) -> Peek {
        if self.at_once { Peek::Denied(Why::Unknown) } else { Peek::Ask }
    }

    fn load<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Checked, Unavailable>> {
        Box::pin(std::future::ready(Ok(Checked::Denied(Why::Unknown))))
    }
}

struct Bench {
    core: Rc<Core>,
    metrics: Metrics,
    _folder: tempfile::TempDir,
    _run: Run,
}

impl Bench {
    /// With the link `plain`, and `chosen`, whose campaign decides.
    async fn new(warden: Denying) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text =
            format!("data_dir = {:?}\nedge.threads = 1\nedge.sample_every = 1\ningress.enabled = true", folder.path());
        let config = Config::from_text(&Sources::default(), &text).unwrap();
        let still: Arc<dyn Clock> = Arc::new(ManualClock::new(1_700_000_000_000));
        let store = Arc::new(SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap());
        let keep = Keep { releases_max: 10, changes_max: 10 };
        let releases = Releases::open(store.clone(), keep, still.clone()).await.unwrap();
        let own = OwnHosts::default();
        let domains = Arc::new(Domains::open(store.clone(), releases.clone(), own, 2, still.clone()).await.unwrap());
        let links = Links::open(store.clone(), releases.clone(), domains.clone(), 3, still.clone()).await.unwrap();
        let campaigns = Campaigns::open(store, releases, domains.clone(), 2, still.clone()).await.unwrap();
        let document = json!({"default": [{"url": "https://b.example/"}]});
        campaigns.put(&Writer::of_all("a test"), "sale", None, document).await.unwrap();
        for (slug, campaign) in [("plain", None), ("chosen", Some("sale"))] {
            let raw = json!({"slug": slug, "url": "https://a.example/", "campaign": campaign});
            links.create(&Writer::of_all("a test"), serde_json::from_value::<RawLink>(raw).unwrap()).await.unwrap();
        }
        let metrics = Metrics::new(1, config.queue.groups_max, &[], || 0).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (run, mut doors, _): (Run, Doors, _) = Run::begin_by_hand(&disk, &config, &metrics, &still).unwrap();
        let parts = Parts {
            ingress: config.ingress.clone(),
            privacy: config.privacy.clone(),
            addresses: Keeping::Truncate,
            secret: Arc::from(&b"a secret"[..]),
            links: Arc::new(links),
            campaigns: Arc::new(campaigns),
            domains,
            caps: Arc::new(Caps::new(1, 10, false, still)),
            warden: Arc::new(warden),
            agents: Arc::new(Agents::new().unwrap()),
            geo: Arc::new(Geo::new().unwrap()),
            limits: Arc::new(Limits::new(&config.limits, b"a secret", 10)),
            probe_secret: Arc::from(&b"another secret"[..]),
            clock: Arc::new(Doubling::default()),
            config: config.edge,
        };
        let nobody_comes = TcpListener::bind("127.0.0.1:0").unwrap();
        let lane = Lane::new(0, Box::new(doors.pop().unwrap().0), nobody_comes, &metrics);
        let core = Rc::new(Core::new(0, parts, lane, 10).0);
        Self { core, metrics, _folder: folder, _run: run }
    }

    /// One request from its first bytes to its answer, as a connection takes it there.
    async fn answer(&self, path: &str) -> u16 {
        let core = &self.core;
        let request = Request::builder().uri(path).body(()).unwrap();
        let peer = Peer::new(core, [203, 0, 114, 7].into());
        let (head_began, now) = (core.parts.clock.now(), core.parts.clock.now());
        let laps = &mut core.stopwatch.begin(Some(head_began), now);
        let mut resolved = core.stopwatch.run(laps, || admission::resolve(core, &peer, &request, now, None));
        if let Resolved::AskWarden = resolved {
            let told = Access::ask(core, request.headers()).await;
            core.end_of(laps, Lap::Auth);
            resolved = core.stopwatch.run(laps, || admission::resolve(core, &peer, &request, now, Some(&told)));
        }
        let flush = async { core.intake.borrow_mut().flush() };
        let (answer, ()) = tokio::join!(respond::respond(core, resolved, now, laps), flush);
        core.end_of(laps, Lap::Respond);
        core.metrics.times.count(&laps.unwrap());
        answer.status().as_u16()
    }

    /// Sums of a histogram's series in nanoseconds, by label; those without an observation are left out.
    fn sums(&self, name: &str) -> Vec<(String, u64)> {
        let families = self.metrics.gather(0);
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let seen = family.get_metric().iter().filter(|metric| metric.get_histogram().get_sample_count() == 1);
        seen.map(|metric| {
            let label = metric.get_label().first().map_or("", |label| label.value());
            (label.to_owned(), (metric.get_histogram().get_sample_sum() * 1e9).round() as u64)
        })
        .collect()
    }

    fn assert_phases(&self, expected: &[(&str, &[u32])], looks: u32) {
        let phases = self.sums("trellis_phase_duration_seconds");
        let expected: Vec<_> = expected.iter().map(|(name, spans)| ((*name).to_owned(), ns(spans))).collect();
        assert_eq!(phases, expected);
        assert_eq!(
            phases.iter().map(|(_, ns)| ns).sum::<u64>(),
            (1 << looks) - 1,
            "all of the request, and each part once"
        );
    }
}

/// What passed behind these looks at the clock, the first look being 0.
fn ns(looks: &[u32]) -> u64 {
    looks.iter().map(|look| 1 << look).sum()
}

#[tokio::test]
async fn the_time_of_a_redirect_is_given_to_the_phase_in_which_it_passed() {
    let bench = Bench::new(Denying { at_once: true }).await;
    assert_eq!(bench.answer("/chosen").await, 302);
    // The first look is at the first bytes; then behind the head, the network's limit, the look-up of the link, its limit,
    // the look-up of the campaign, the decision on privacy, that of the campaign, what privacy takes away, the spelling, the
    // journal, the answer.
    let phases: &[(&str, &[u32])] = &[
        ("choose", &[6]),
        ("head", &[0]),
        ("journal", &[9]),
        ("limit", &[1, 3]),
        ("resolve", &[2, 4, 5, 7, 8]),
        ("respond", &[10]),
    ];
    bench.assert_phases(phases, 11);
    assert_eq!(bench.sums("trellis_resolve_duration_seconds"), [(String::new(), ns(&[2, 4]))]);
    assert_eq!(bench.sums("trellis_compliance_duration_seconds"), [(String::new(), ns(&[5, 7]))]);
    assert_eq!(bench.sums("trellis_routing_duration_seconds"), [("default".to_owned(), ns(&[6]))]);
}

#[tokio::test]
async fn a_request_is_counted_in_the_phases_that_it_came_by_alone() {
    let bench = Bench::new(Denying { at_once: true }).await;
    assert_eq!(bench.answer("/nothing").await, 404);
    bench.assert_phases(&[("head", &[0]), ("limit", &[1]), ("resolve", &[2]), ("respond", &[3])], 4);
    assert_eq!(bench.sums("trellis_compliance_duration_seconds"), []);
    let bench = Bench::new(Denying { at_once: true }).await;
    assert_eq!(bench.answer("/plain").await, 302);
    let phases: &[(&str, &[u32])] =
        &[("head", &[0]), ("journal", &[8]), ("limit", &[1, 3]), ("resolve", &[2, 4, 5, 6, 7]), ("respond", &[9])];
    bench.assert_phases(phases, 10);
    assert_eq!(bench.sums("trellis_routing_duration_seconds"), [], "no campaign decided");
}

#[tokio::test]
async fn the_check_of_a_key_is_the_phase_auth_from_memory_and_when_the_warden_is_asked() {
    let bench = Bench::new(Denying { at_once: true }).await;
    assert_eq!(bench.answer("/in").await, 401);
    // The check looks at the clock twice by itself.
    bench.assert_phases(
        &[("auth", &[3, 4, 5]), ("head", &[0]), ("limit", &[1]), ("resolve", &[2, 6]), ("respond", &[7])],
        8,
    );
    let bench = Bench::new(Denying { at_once: false }).await;
    assert_eq!(bench.answer("/in").await, 401);
    let phases: &[(&str, &[u32])] =
        &[("auth", &[3, 4, 6, 7, 8]), ("head", &[0]), ("limit", &[1, 9]), ("resolve", &[2, 5, 10]), ("respond", &[11])];
    bench.assert_phases(phases, 12);
}
