//! Where the time of requests and clicks goes, as a node and a worker tell it.

use crate::harness::{Trellis, eventually};

fn count(trellis: &Trellis, phase: &str) -> f64 {
    trellis.metric(&format!("trellis_phase_duration_seconds_count{{phase=\"{phase}\"}}"))
}

#[test]
fn every_request_of_a_node_is_counted_in_the_phases_that_it_came_by_when_it_is_told_to() {
    let trellis = Trellis::start_with(&[("edge.sample_every", "1")]);
    trellis.link("a", "https://a.example/");
    (0..7).for_each(|_| assert_eq!(trellis.get("/a").status, 302));
    (0..3).for_each(|_| assert_eq!(trellis.get("/nothing").status, 404));
    // An answer may be read before it is counted.
    eventually("all answers are counted", || count(&trellis, "respond") == 10.0);
    let phases = ["accept", "head", "auth", "limit", "resolve", "choose", "journal"];
    assert_eq!(phases.map(|phase| count(&trellis, phase)), [10.0, 10.0, 0.0, 10.0, 10.0, 0.0, 7.0]);
    trellis.wait_stored(7);
    let [queue, enrich, dedup, batch, insert] =
        ["queue", "enrich", "dedup", "batch", "insert"].map(|phase| count(&trellis, phase));
    assert!((1.0..=7.0).contains(&queue) && (queue, queue) == (enrich, dedup), "{queue} {enrich} {dedup}");
    assert!((1.0..=7.0).contains(&batch) && batch >= insert, "{batch} {insert}");
}

#[test]
fn a_node_measures_no_request_when_it_is_told_so() {
    let trellis = Trellis::start_with(&[("edge.sample_every", "0")]);
    trellis.link("a", "https://a.example/");
    (0..7).for_each(|_| assert_eq!(trellis.get("/a").status, 302));
    trellis.wait_stored(7);
    for phase in ["accept", "head", "limit", "resolve", "journal", "respond"] {
        assert_eq!(count(&trellis, phase), 0.0, "{phase}");
    }
    assert_eq!(trellis.metric("trellis_redirect_duration_seconds_count"), 7.0);
}

#[cfg(feature = "testing")]
mod scripted {
    use std::sync::Arc;
    use std::time::Duration;

    use trellis::BoxFuture;
    use trellis::pipeline::{Claim, Deduper, Label};
    use trellis::testing::{ManualClock, Outcome, ScriptedStore};

    use crate::bench::{Bench, push};
    use crate::harness::eventually;

    /// Every check takes this long.
    struct Slow(Arc<ManualClock>, Duration);

    impl Deduper for Slow {
        fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>> {
            self.0.advance(self.1);
            Box::pin(std::future::ready(vec![Label::Unique; claims.len()]))
        }

        fn name(&self) -> &'static str {
            "slow"
        }

        fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[test]
    fn the_time_of_a_click_is_given_to_the_phase_in_which_it_passed() {
        let ms = Duration::from_millis;
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("batch.age_max", "10m")]);
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        bench.clock = clock.clone();
        bench.store.hold();
        let (run, intake, follower) = bench.begin();
        let mut intake = intake();
        push(&mut intake, bench.now_ms(), 0..50);
        clock.advance(ms(5));
        let (worker, _drain) = bench.start_with(follower, 0, Arc::new(Slow(clock.clone(), ms(7))));
        let labelled = |clicks| eventually("they are labelled", || bench.metrics.worker(0).labels[0].get() == clicks);
        labelled(50);
        // When these are labelled, those before them are in the open batch.
        push(&mut intake, bench.now_ms(), 50..60);
        labelled(60);
        clock.advance(ms(20));
        intake.close();
        eventually("the batch is at the store", || bench.store.in_flight() == 1);
        clock.advance(ms(30));
        bench.store.let_go();
        assert!(worker.join().expect("no panic").expect("no error").finished);
        run.end(true).expect("removed");
        let text = bench.metrics.render(0);
        for (phase, times, seconds) in [
            ("queue", 2, "0.005"),
            ("enrich", 2, "0"),
            ("dedup", 2, "0.014"),
            ("batch", 1, "0.027"),
            ("insert", 1, "0.03"),
        ] {
            for (what, value) in [("count", times.to_string()), ("sum", seconds.to_owned())] {
                let line = format!("trellis_phase_duration_seconds_{what}{{phase=\"{phase}\"}} {value}");
                assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
            }
        }
    }
}
