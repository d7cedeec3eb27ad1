//! What is kept of a scripted Warden's answers, by a clock that is set by hand.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;

use super::*;
use crate::click::Grant;
use crate::click::key::Scopes;
use crate::config::{Config, Sources};
use crate::telemetry::recall::Remembered;
use crate::testing::ManualClock;

const S: Duration = Duration::from_secs(1);
const GOOD: &str = "wdn_sk_good00000001_ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
const BAD: &str = "wdn_sk_bad000000001_ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// Knows the keys whose ids begin with `good`.
struct Script {
    calls: AtomicUsize,
    answers: Mutex<Answers>,
    /// A call waits for this, where it is to be slow.
    release: Arc<Notify>,
}

#[derive(Clone, Default)]
struct Answers {
    away: bool,
    slow: bool,
    revoked: bool,
    expires_ms: Option<u64>,
}

impl Script {
    fn answer(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Asker for Arc<Script> {
    fn ask(&self, key_id: &str, _: &Digest) -> BoxFuture<'static, Result<Checked, Unavailable>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (answers, key_id, release) =
            (self.answers.lock().unwrap().clone(), key_id.to_owned(), self.release.clone());
        Box::pin(async move {
            if answers.slow {
                release.notified().await;
            }
            match (answers.away, answers.revoked, key_id.starts_with("good")) {
                (true, ..) => Err(Unavailable::Error("away".into())),
                (_, false, true) => Ok(Checked::Granted(grant(&key_id, answers.expires_ms))),
                _ => Ok(Checked::Denied(if answers.revoked { Why::Revoked } else { Why::Unknown })),
            }
        })
    }
}

fn grant(key_id: &str, expires_ms: Option<u64>) -> Arc<Grant> {
    Arc::new(Grant { key_id: key_id.into(), org: "acme".into(), scopes: Scopes::default(), rate: None, expires_ms })
}

struct World {
    keys: Arc<RemoteKeys>,
    script: Arc<Script>,
    clock: Arc<ManualClock>,
    news: mpsc::Sender<News>,
    metrics: Arc<RecallShard>,
}

/// With tokio's time paused, a wait for an answer that does not come ends at once.
fn world(settings: &str) -> World {
    let config = Config::from_text(&Sources::default(), settings).unwrap().warden.grpc;
    let script = Arc::new(Script { calls: AtomicUsize::new(0), answers: Mutex::default(), release: Arc::default() });
    let (clock, metrics) = (Arc::new(ManualClock::new(1_000_000)), Arc::new(RecallShard::default()));
    let asker = Arc::new(Arc::clone(&script));
    let (keys, asking, news) = RemoteKeys::new(config, asker, Arc::clone(&clock) as _, Arc::clone(&metrics));
    tokio::spawn(asking.run());
    World { keys, script, clock, news, metrics }
}

impl World {
    fn peek(&self, key: &str) -> Peek {
        self.keys.peek(key.as_bytes(), self.clock.wall_ms())
    }

    async fn load(&self, key: &str) -> Result<Checked, Unavailable> {
        self.keys.load(key.as_bytes()).await
    }

    /// As a request does.
    async fn check(&self, key: &str) -> Result<Checked, Unavailable> {
        match self.peek(key) {
            Peek::Granted(grant) => Ok(Checked::Granted(grant)),
            Peek::Denied(why) => Ok(Checked::Denied(why)),
            Peek::Ask => self.load(key).await,
        }
    }

    fn counted(&self) -> [u64; 4] {
        [Remembered::Hit, Remembered::Stale, Remembered::Negative, Remembered::Miss].map(|of| self.metrics.counted(of))
    }

    /// Lets the task take in what was sent to it.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

fn granted() -> Result<Checked, Unavailable> {
    Ok(Checked::Granted(grant("good00000001", None)))
}

fn denied(why: Why) -> Result<Checked, Unavailable> {
    Ok(Checked::Denied(why))
}

#[tokio::test(start_paused = true)]
async fn a_good_key_is_taken_for_a_minute_and_a_bad_one_refused_for_ten_seconds_without_asking() {
    let world = world("");
    assert_eq!((world.check(GOOD).await, world.check(BAD).await), (granted(), denied(Why::Unknown)));
    assert_eq!(world.script.calls(), 2);
    world.clock.advance(S * 10 - Duration::from_nanos(1));
    assert_eq!((world.check(GOOD).await, world.check(BAD).await), (granted(), denied(Why::Unknown)));
    assert_eq!((world.script.calls(), world.counted()), (2, [1, 0, 1, 2]));
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(world.peek(BAD), Peek::Ask);
    world.clock.advance(S * 50);
    assert_eq!(world.peek(GOOD), Peek::Ask);
    world.script.answer(|answers| answers.revoked = true);
    assert_eq!(world.check(GOOD).await, denied(Why::Revoked));
    assert_eq!(world.peek(GOOD), Peek::Denied(Why::Revoked), "it is not both good and bad");
    assert_eq!(world.keys.granted.len(), 0);
    assert_eq!(world.check("wdn_sk_nonsense").await, denied(Why::Malformed));
    assert_eq!(world.load("").await, denied(Why::Malformed));
    assert_eq!(world.script.calls(), 3, "what is no key is not asked about");
}

#[tokio::test(start_paused = true)]
async fn a_key_in_use_is_asked_about_on_the_side_before_anybody_waits_for_it() {
    let world = world("");
    assert_eq!(world.check(GOOD).await, granted());
    for _ in 0..20 {
        world.clock.advance(S * 44);
        assert_eq!(world.check(GOOD).await, granted());
        world.clock.advance(S);
        let calls = world.script.calls();
        for _ in 0..100 {
            assert!(matches!(world.peek(GOOD), Peek::Granted(_)));
        }
        world.settle().await;
        assert_eq!(world.script.calls(), calls + 1, "one question for all");
    }
    assert_eq!(world.counted()[3], 1, "nobody waited again");
}

#[tokio::test(start_paused = true)]
async fn while_the_warden_is_away_known_keys_go_on_for_ten_minutes_and_nobody_can_say_of_others() {
    let world = world("");
    let _ = (world.check(GOOD).await, world.check(BAD).await);
    world.script.answer(|answers| answers.away = true);
    world.clock.advance(S * 61);
    assert_eq!(world.check(GOOD).await, granted(), "after one question in vain");
    let away = Unavailable::Error("away".into());
    assert_eq!(world.check(BAD).await, Err(away.clone()), "not denied: nobody knows");
    assert_eq!(world.check(&GOOD.replace("0001", "0002")).await, Err(away.clone()));
    let asked = world.counted()[3];
    assert_eq!(world.check(GOOD).await, granted());
    assert_eq!(world.counted()[3], asked, "now that it is known to be away, nobody waits");
    world.clock.advance(S * 539 - Duration::from_nanos(1));
    assert_eq!(world.check(GOOD).await, granted());
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(world.check(GOOD).await, Err(away));
    // It is back: what peeks on the side finds that out.
    world.script.answer(|answers| answers.away = false);
    assert_eq!(world.check(GOOD).await, granted());
    assert_eq!(world.check(BAD).await, denied(Why::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_warden_that_is_back_is_found_by_keys_that_went_on_without_it() {
    let world = world("");
    let _ = world.check(GOOD).await;
    world.script.answer(|answers| answers.away = true);
    world.clock.advance(S * 61);
    let _ = world.check(GOOD).await;
    world.settle().await;
    world.script.answer(|answers| (answers.away, answers.revoked) = (false, true));
    world.clock.advance(S * 2);
    assert_eq!(world.check(GOOD).await, granted());
    world.settle().await;
    assert_eq!(world.check(GOOD).await, denied(Why::Revoked), "nobody had to wait for it");
}

#[tokio::test(start_paused = true)]
async fn a_slow_warden_costs_a_visitor_no_more_than_the_deadline() {
    let world = world("");
    let _ = world.check(GOOD).await;
    world.script.answer(|answers| answers.slow = true);
    world.clock.advance(S * 61);
    let other = GOOD.replace("0001", "0002");
    let both = async { tokio::join!(world.check(GOOD), world.check(&other)) };
    // Tokio's time goes on only when all wait, so this is exact.
    let both = tokio::time::timeout(Duration::from_millis(50) + Duration::from_millis(1), both).await;
    assert_eq!(both, Ok((granted(), Err(Unavailable::Timeout))));
    // Its answer, however late, is kept.
    world.script.release.notify_waiters();
    world.settle().await;
    assert!(matches!(world.peek(&other), Peek::Granted(_)));
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_for_one_key_cost_one_call() {
    let world = Arc::new(world(""));
    world.script.answer(|answers| answers.slow = true);
    let waiting: Vec<_> = (0..500)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.check(GOOD).await })
        })
        .collect();
    world.settle().await;
    world.script.release.notify_waiters();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), granted());
    }
    assert_eq!(world.script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_questions_than_there_is_room_for_are_not_asked() {
    let world = Arc::new(world(""));
    world.script.answer(|answers| answers.slow = true);
    let asked = asking::CALLS_MAX + QUESTIONS_MAX + 100;
    let waiting: Vec<_> = (0..asked)
        .map(|n| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.check(&GOOD.replace("00000001", &format!("{n:08}"))).await })
        })
        .collect();
    let mut refused = 0;
    for waiting in waiting {
        match waiting.await.unwrap() {
            Err(Unavailable::Timeout) => {}
            Err(Unavailable::Error(why)) => {
                assert_eq!(why, "too many keys are asked about at once");
                refused += 1;
            }
            Ok(checked) => panic!("{checked:?}"),
        }
    }
    assert_eq!((world.script.calls(), refused), (asking::CALLS_MAX, asked - asking::CALLS_MAX));
}

#[tokio::test(start_paused = true)]
async fn a_change_counts_at_once_also_for_a_question_that_is_under_way() {
    let world = Arc::new(world(""));
    assert_eq!((world.check(GOOD).await, world.check(BAD).await), (granted(), denied(Why::Unknown)));
    world.news.send(News::Changed("good00000001".into())).await.unwrap();
    world.news.send(News::Changed("bad000000001".into())).await.unwrap();
    world.settle().await;
    assert_eq!((world.peek(GOOD), world.peek(BAD)), (Peek::Ask, Peek::Ask));
    // The answer of before the change comes behind the word of it.
    world.script.answer(|answers| answers.slow = true);
    let waiting = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.check(GOOD).await }
    });
    world.settle().await;
    world.script.answer(|answers| (answers.slow, answers.revoked) = (false, true));
    world.news.send(News::Changed("good00000001".into())).await.unwrap();
    world.settle().await;
    world.script.release.notify_waiters();
    assert_eq!(waiting.await.unwrap(), denied(Why::Revoked));
    assert_eq!(world.peek(GOOD), Peek::Denied(Why::Revoked));
}

#[tokio::test(start_paused = true)]
async fn after_a_reset_nothing_is_fresh_and_a_known_key_still_goes_on_when_nobody_answers() {
    let world = world("");
    let _ = (world.check(GOOD).await, world.check(BAD).await);
    world.clock.advance(S);
    world.news.send(News::Reset).await.unwrap();
    world.settle().await;
    assert_eq!((world.peek(GOOD), world.peek(BAD)), (Peek::Ask, Peek::Ask));
    world.script.answer(|answers| answers.away = true);
    assert_eq!(world.check(GOOD).await, granted());
    world.script.answer(|answers| (answers.away, answers.revoked) = (false, true));
    assert_eq!(world.load(GOOD).await, denied(Why::Revoked));
}

#[tokio::test(start_paused = true)]
async fn a_grant_ends_with_its_key_whatever_is_remembered() {
    let world = world("");
    world.script.answer(|answers| answers.expires_ms = Some(1_000_000 + 5_000));
    assert!(matches!(world.check(GOOD).await, Ok(Checked::Granted(_))));
    world.clock.advance(S * 5 - Duration::from_millis(1));
    assert!(matches!(world.peek(GOOD), Peek::Granted(_)));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.peek(GOOD), Peek::Denied(Why::Expired));
    world.script.answer(|answers| answers.away = true);
    world.clock.advance(S * 61);
    assert_eq!(world.load(GOOD).await, denied(Why::Expired));
}

#[tokio::test(start_paused = true)]
async fn guessing_keys_pushes_no_good_one_out_and_takes_no_more_room_than_it_may() {
    let world = world("warden.grpc.entries_max = 20");
    let _ = world.check(GOOD).await;
    for n in 0..2_000 {
        world.clock.advance(Duration::from_millis(1));
        let _ = world.check(&BAD.replace("00000001", &format!("{n:08}"))).await;
        let _ = world.check(&GOOD.replace("345", &format!("{n:08}x"))).await;
        assert!(world.keys.granted.len() <= 20 && world.keys.denied.len() <= 20);
    }
    assert_eq!(world.keys.denied.len(), 20);
}
