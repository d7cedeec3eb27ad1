//! Replays and drops, against a store that follows a script and a disk that loses power.

use std::time::Duration;

use super::tests::{Bench, batch, refusal, row};
use super::*;
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::click::Reasons;
use crate::pipeline::StoreError;
use crate::pipeline::enrich::Enricher;
use crate::testing::{Fault, Outcome, ScriptedStore};

/// The facts are the same for all of them, and slow to load.
fn enricher() -> EnricherMaker {
    static FACTS: std::sync::OnceLock<(Arc<Agents>, Arc<Geo>)> = std::sync::OnceLock::new();
    Box::new(|| {
        let (agents, geo) = FACTS.get_or_init(|| (Arc::new(Agents::new().unwrap()), Arc::new(Geo::new().unwrap())));
        Ok(Enricher::new(Arc::clone(agents), Arc::clone(geo)))
    })
}

fn letters(bench: &Bench, store: &Arc<ScriptedStore>) -> DeadLetters {
    letters_of(Arc::new(bench.shelf()), bench, store)
}

fn letters_of(shelf: Arc<Shelf>, bench: &Bench, store: &Arc<ScriptedStore>) -> DeadLetters {
    let (store, clock) = (Arc::clone(store) as Arc<dyn crate::pipeline::Store>, Arc::clone(&bench.clock));
    DeadLetters::new(shelf, store, enricher(), clock, Actor::Token)
}

fn store(script: impl IntoIterator<Item = Outcome>) -> Arc<ScriptedStore> {
    Arc::new(ScriptedStore::new(script, Outcome::Stored))
}

fn tokens(store: &ScriptedStore) -> Vec<String> {
    store.calls().into_iter().map(|(token, _, _)| token).collect()
}

fn replay(n: u32) -> String {
    format!("{}/r{n}", batch(1))
}

#[tokio::test]
async fn a_replayed_row_is_stored_once_under_its_batch_with_its_label_and_its_frame_is_forgotten() {
    let (bench, store) = (Bench::new(1), store([]));
    let fast = RefusedRow { observed: Reasons::VELOCITY_LINK, ..row(1, "b") };
    bench.shelf().refuse(&refusal(1, [row(0, "a"), fast])).unwrap();
    let letters = letters(&bench, &store);
    assert_eq!(letters.replay(batch(1)).await.unwrap(), Replayed { stored: 2, found: 0, waiting: 0 });
    let (token, rows, _) = store.calls().remove(0);
    assert_eq!((token, rows.len(), rows[0].dedup), (replay(1), 2, Label::Duplicate));
    assert_eq!([0, 1].map(|n: usize| rows[n].reasons.has(Reasons::VELOCITY_LINK)), [false, true]);
    assert_eq!(letters.replay(batch(1)).await.unwrap(), Replayed::default(), "again: nothing to do");
    assert_eq!(store.calls().len(), 1);
    let after = letters.read(batch(1)).await.unwrap();
    assert!(after.rows.iter().all(|row| row.state == RowState::Stored && row.frame.is_empty()));
    assert_eq!(bench.figures.rows.get(), 0);
    // What is settled is remembered for a while: a batch that is sent again must not refuse it again.
    bench.clock.advance(Duration::from_secs(3599));
    let shelf = bench.shelf();
    shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
    assert_eq!(shelf.tally().into_values().next(), Some(Tally { stored: 2, ..Tally::default() }));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(shelf.summary(), Summary::default());
    assert!(matches!(letters.replay(batch(1)).await, Err(DeadLetterError::Unknown(id)) if id == batch(1)));
}

#[tokio::test]
async fn a_crash_between_the_insert_and_the_shelf_stores_nothing_twice() {
    let (bench, store) = (Bench::new(2), store([]));
    bench.shelf().refuse(&refusal(1, [row(0, "a"), row(1, "b")])).unwrap();
    store.hold();
    let first = letters(&bench, &store);
    let replay = tokio::spawn(async move { first.replay(batch(1)).await });
    while store.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    let bench = bench.crashed();
    replay.abort();
    store.let_go();
    let done = letters(&bench, &store).replay(batch(1)).await.unwrap();
    assert_eq!(done, Replayed { stored: 2, found: 2, waiting: 0 });
    assert_eq!(store.calls().len(), 1);
}

#[tokio::test]
async fn an_attempt_without_an_answer_keeps_its_token_and_another_set_of_rows_gets_a_new_one() {
    use Outcome::{AmbiguousFirst, AmbiguousLost, AmbiguousStored, Transient};
    let (bench, store) = (Bench::new(3), store([AmbiguousLost, Transient, AmbiguousFirst(1), AmbiguousStored]));
    bench.shelf().refuse(&refusal(1, [row(0, "a"), row(1, "b"), row(2, "c")])).unwrap();
    for _ in 0..4 {
        let error = letters(&bench, &store).replay(batch(1)).await.unwrap_err();
        assert!(
            matches!(error, DeadLetterError::Store(StoreError::Ambiguous(_) | StoreError::Transient(_))),
            "{error}"
        );
    }
    assert_eq!(tokens(&store), [replay(1), replay(1), replay(1), replay(2)]);
    let done = letters(&bench, &store).replay(batch(1)).await.unwrap();
    assert_eq!((done, store.calls().len()), (Replayed { stored: 2, found: 2, waiting: 0 }, 4));
}

#[tokio::test]
async fn a_row_that_is_refused_again_waits_with_the_new_reason_and_holds_up_no_other() {
    let (bench, store) = (Bench::new(4), store([]));
    bench.shelf().refuse(&refusal(1, [row(0, "a"), row(1, "bad"), row(2, "c")])).unwrap();
    store.refuse_link("bad", 6);
    let letters = letters(&bench, &store);
    assert_eq!(letters.replay(batch(1)).await.unwrap(), Replayed { stored: 2, found: 0, waiting: 1 });
    assert_eq!(tokens(&store), [1, 2, 3, 4].map(replay), "no two sets of rows share a token");
    let bad = letters.read(batch(1)).await.unwrap().rows.remove(1);
    assert_eq!((bad.state, bad.code, bad.reason.as_str()), (RowState::Waiting, 6, "as the script says"));
    assert_eq!((bad.label, &bad.frame), (Label::Duplicate, &row(1, "bad").frame));
    store.refuse_nothing();
    assert_eq!(letters.replay(batch(1)).await.unwrap(), Replayed { stored: 1, found: 0, waiting: 0 });
    assert_eq!(store.click_ids().len(), 3);
}

#[tokio::test]
async fn a_dropped_row_is_never_sent_and_never_refused_again() {
    let (bench, store) = (Bench::new(5), store([]));
    bench.shelf().refuse(&refusal(1, [row(0, "a"), row(1, "b")])).unwrap();
    let letters = letters(&bench, &store);
    assert_eq!(letters.give_up(batch(1)).await.unwrap(), Dropped { dropped: 2 });
    assert_eq!(letters.give_up(batch(1)).await.unwrap(), Dropped { dropped: 0 });
    assert_eq!(letters.replay(batch(1)).await.unwrap(), Replayed::default());
    let shelf = bench.shelf();
    shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
    assert_eq!(shelf.of_batch(batch(1)).unwrap().len(), 2);
    assert_eq!(shelf.tally().into_values().next(), Some(Tally { dropped: 2, ..Tally::default() }));
    assert!(store.calls().is_empty());
    assert!(matches!(letters.give_up(batch(9)).await, Err(DeadLetterError::Unknown(_))));
}

#[tokio::test]
async fn one_action_at_a_time_works_on_a_batch() {
    let (bench, store) = (Bench::new(6), store([]));
    bench.shelf().refuse(&refusal(1, [row(0, "a")])).unwrap();
    store.hold();
    let letters = Arc::new(letters(&bench, &store));
    let first = Arc::clone(&letters);
    let replay = tokio::spawn(async move { first.replay(batch(1)).await });
    while store.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(letters.give_up(batch(1)).await, Err(DeadLetterError::Busy(_))));
    assert!(matches!(letters.replay(batch(1)).await, Err(DeadLetterError::Busy(_))));
    store.let_go();
    assert_eq!(replay.await.unwrap().unwrap().stored, 1);
    assert_eq!(letters.give_up(batch(1)).await.unwrap(), Dropped { dropped: 0 }, "free again");
}

#[tokio::test]
async fn all_are_replayed_oldest_first_in_bounded_steps_and_a_store_that_goes_away_stops_it() {
    let (bench, store) = (Bench::new(7), store([]));
    let (shelf, last) = (Arc::new(bench.shelf()), replay::BATCHES_MAX as u128 + 3);
    for n in 1..=last {
        shelf.refuse(&refusal(n, [row(n as u64, "a")])).unwrap();
    }
    let letters = letters_of(shelf, &bench, &store);
    let first = letters.replay_all(None).await.unwrap();
    let there = batch(replay::BATCHES_MAX as u128);
    assert_eq!((first.batches, first.rows.stored, first.next), (replay::BATCHES_MAX, replay::BATCHES_MAX, Some(there)));
    store.always(Outcome::Transient);
    assert!(letters.replay_all(first.next).await.is_err(), "nothing at all was done");
    let script = [Outcome::Stored, Outcome::Operator];
    let away = Arc::new(ScriptedStore::new(script, Outcome::Stored));
    let letters = letters_of(Arc::new(bench.shelf()), &bench, &away);
    let second = letters.replay_all(first.next).await.unwrap();
    assert_eq!((second.rows.stored, second.next, second.stopped.is_some()), (1, Some(batch(last - 2)), true));
    let third = letters.replay_all(second.next).await.unwrap();
    assert_eq!((third.rows.stored, third.next, third.stopped.is_none()), (2, None, true));
}

#[tokio::test]
async fn whatever_fails_and_whenever_the_power_goes_every_row_is_stored_in_the_end_and_by_one_insert() {
    use Outcome::{AmbiguousFirst, AmbiguousLost, AmbiguousStored, Stored, Transient};
    const OUTCOMES: [Outcome; 5] = [Stored, Transient, AmbiguousLost, AmbiguousStored, AmbiguousFirst(1)];
    let mut cut = 0;
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = store(std::iter::repeat_with(|| OUTCOMES[random.usize(..5)]).take(6).collect::<Vec<_>>());
        let mut bench = Bench::new(seed);
        bench.shelf().refuse(&refusal(1, (0..3).map(|ms| row(ms, "a")))).unwrap();
        let mut round = 0;
        loop {
            if round < 10 {
                for fault in [Fault::WriteError, Fault::SyncError, Fault::ReadError] {
                    bench.disk.set_chance(fault, 100);
                }
            }
            let done = match bench.try_shelf() {
                Ok(shelf) => letters_of(Arc::new(shelf), &bench, &store).replay(batch(1)).await.is_ok(),
                Err(_) => false,
            };
            if done && round >= 10 {
                break;
            }
            cut += u32::from(!done);
            bench = bench.crashed();
            round += 1;
            assert!(round < 40, "seed {seed}");
        }
        assert_eq!(store.click_ids().len(), 3, "seed {seed}");
        let stored = |outcome: Outcome, rows: usize| match outcome {
            Stored | AmbiguousStored => rows,
            AmbiguousFirst(n) => n.min(rows),
            _ => 0,
        };
        let mut by = BTreeMap::<ClickId, String>::new();
        for (token, rows, outcome) in store.calls() {
            for row in &rows[..stored(outcome, rows.len())] {
                let id = crate::click::frame::click_id(&row.frame).unwrap();
                let first = by.entry(id).or_insert_with(|| token.clone());
                assert_eq!(*first, token, "seed {seed}: {id} was stored twice");
            }
        }
    }
    assert!(cut > 60, "{cut} rounds broke off");
}
