//! The prober, with listeners and a store that follow a script.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::app::probe::tests::{SECRET, answer, answering};
use crate::catalog::agents::Agent;
use crate::catalog::geo::Place;
use crate::click::{Click, Reasons};
use crate::pipeline::{Batch, Label, Row};
use crate::testing::{Outcome, ScriptedStore};

/// Time of the test's runtime, which stands still until all wait.
#[derive(Debug)]
struct RuntimeClock(Instant);

impl RuntimeClock {
    #[allow(clippy::disallowed_methods, reason = "the runtime's own clock is what such tests own")]
    fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        1_000
    }
}

fn prober(store: &Arc<ScriptedStore>, edge: SocketAddr) -> Prober {
    let config = config::Probe {
        enabled: true,
        checks_every: Duration::from_secs(30),
        canary_every: Duration::from_secs(60),
        timeout: Duration::from_secs(30),
        arrival_max: Duration::from_secs(10),
    };
    let status = Arc::new(Status::new());
    status.enter(State::Serving);
    let (secret, store) = (Secret::new(SECRET), Arc::clone(store) as Arc<dyn Store>);
    let (metrics, clock) = (Arc::default(), Arc::new(RuntimeClock::new()));
    Prober::new(Parts { config, edge, control: edge, secret, store, status, metrics, clock }).unwrap()
}

fn click_id(tail: u8) -> ClickId {
    ClickId::new(1_700_000_000_000, &[tail; 10])
}

async fn store_click(store: &ScriptedStore, id: ClickId, class: Class) {
    let mut frame = Vec::new();
    Click { link: canary::SLUG, ..crate::testing::click(id) }.encode(&mut frame);
    let agent = Agent { browser: "Other", os: "Other", device: "bot", reasons: Default::default() };
    let (place, reasons) = (Place::default(), Reasons::default());
    let row =
        Row { frame: frame.into(), country: None, place, class, reasons, fraud_score: 0, dedup: Label::Unique, agent };
    let id = uuid::Uuid::from_u128(u128::from(id.as_bytes()[15]));
    let batch = Batch { id, part: 0, node: "n".into(), rows: vec![row] };
    store.insert(&store.seal(batch)).await.unwrap();
}

fn scripted() -> Arc<ScriptedStore> {
    Arc::new(ScriptedStore::new([], Outcome::Stored))
}

fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_click_is_waited_for_until_it_is_there_and_the_time_is_found_within_an_eighth() {
    for after_ms in [0, 5, 100, 1_000, 7_000] {
        let store = scripted();
        let prober = prober(&store, nowhere());
        let later = Arc::clone(&store);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            store_click(&later, click_id(1), Class::Monitor).await;
        });
        assert_eq!(prober.arrive(click_id(1), Duration::ZERO).await, Ok(()));
        let took_ms = prober.parts.clock.now().as_millis() as u64;
        assert!((after_ms..=after_ms + after_ms / 8 + 21).contains(&took_ms), "{after_ms} {took_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_click_that_does_not_come_or_is_no_monitors_is_told() {
    let store = scripted();
    let prober = prober(&store, nowhere());
    store_click(&store, click_id(2), Class::Monitor).await;
    let text = click_id(1).to_string();
    let told = prober.arrive(click_id(1), Duration::ZERO).await.unwrap_err();
    assert_eq!(told, format!("after 10s: the click {text} is not there"), "another click of the same moment is");
    assert!(prober.parts.clock.now() < Duration::from_millis(11_300));
    store_click(&store, click_id(3), Class::Human).await;
    let told = prober.arrive(click_id(3), prober.parts.clock.now()).await.unwrap_err();
    assert_eq!(told, format!("the click {} is stored as `human`", click_id(3)));
}

#[tokio::test]
async fn a_round_follows_the_canary_finds_its_click_and_measures_how_fresh_it_is() {
    let id = click_id(1);
    let headers = format!("Location: {}\r\nX-Click-Id: {id}\r\n", canary::DESTINATION);
    let (edge, heads) = answering(vec![answer("302 Found", &headers, ""), answer("503 No", "", "")]).await;
    let store = scripted();
    store_click(&store, id, Class::Monitor).await;
    let prober = prober(&store, edge);
    let last = |check| prober.parts.metrics.last(check).map(|last| last.success);
    assert_eq!((last(Check::Redirect), last(Check::Store), prober.parts.metrics.freshness()), (None, None, None));
    prober.follow().await;
    assert_eq!((last(Check::Redirect), last(Check::Store)), (Some(true), Some(true)));
    let freshness = prober.parts.metrics.freshness().unwrap();
    assert_eq!(freshness, prober.parts.metrics.last(Check::Store).unwrap().took.max(Duration::from_micros(1)));
    prober.follow().await;
    let now = (last(Check::Redirect), last(Check::Store), prober.parts.metrics.freshness());
    assert_eq!(now, (Some(false), Some(true), Some(freshness)), "without a click nothing is known of the store");
    assert!(heads.await.unwrap().iter().all(|head| head.contains("x-trellis-probe: 5ecret\r\n")));
}

#[tokio::test]
async fn what_is_seen_while_the_node_starts_or_drains_counts_for_nothing() {
    let prober = prober(&scripted(), nowhere());
    for state in [State::Starting, State::Draining, State::Stopped] {
        prober.parts.status.enter(state);
        prober.look().await;
        prober.follow().await;
    }
    assert!(Check::ALL.into_iter().all(|check| prober.parts.metrics.last(check).is_none()));
    prober.parts.status.enter(State::Serving);
    prober.look().await;
    assert!(!prober.parts.metrics.last(Check::Ready).unwrap().success);
}
