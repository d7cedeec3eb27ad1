//! The scripted store does what it was told.

use super::*;
use crate::catalog::agents::Agent;
use crate::catalog::geo::Place;
use crate::click::{Class, Reasons};

fn batch(ids: std::ops::Range<u64>) -> Batch {
    let row = |unix_ms| {
        let mut frame = Vec::new();
        let click = crate::testing::click(ClickId::new(unix_ms, &[1; 10]));
        click.encode(&mut frame);
        Row {
            frame: frame.into(),
            country: None,
            place: Place::default(),
            class: Class::Human,
            reasons: Reasons::default(),
            fraud_score: 0,
            dedup: Label::Unique,
            agent: Agent { browser: "Other", os: "Other", device: "other", reasons: Default::default() },
        }
    };
    Batch { id: Uuid::from_u128(1), part: 0, node: "n".into(), rows: ids.map(row).collect() }
}

#[tokio::test]
async fn the_script_decides_what_is_stored_and_what_is_said() {
    use Outcome::{AmbiguousLost, AmbiguousStored, Divide, Operator, Poison, Stored, Transient};
    let script = [Transient, Operator, AmbiguousLost, Poison(53), Divide, AmbiguousStored];
    let store = ScriptedStore::new(script, Stored);
    let sealed = store.seal(batch(0..3));
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Transient(_))));
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Operator { code: 0, .. })));
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Ambiguous(_))));
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Poison { code: 53, .. })));
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Divide(_))));
    assert!(store.click_ids().is_empty());
    assert!(matches!(store.insert(&sealed).await, Err(StoreError::Ambiguous(_))));
    assert_eq!(store.click_ids().len(), 3);
    store.insert(&sealed).await.unwrap();
    assert_eq!(store.count(&ClickFilter::default()).await.unwrap().total, 3);
    assert_eq!(store.calls().len(), 7);
    store.always(Transient);
    assert!(store.insert(&sealed).await.is_err() && store.ping().await.is_err());
}

#[tokio::test]
async fn an_insert_with_a_bad_row_stores_nothing_and_one_without_does() {
    let store = ScriptedStore::new([], Outcome::Stored);
    let bad = batch(3..4);
    store.refuse_clicks(bad.rows.iter().map(|row| Click::decode(&row.frame).unwrap().id), 321);
    let error = store.insert(&store.seal(batch(0..5))).await.unwrap_err();
    assert!(matches!(error, StoreError::Poison { code: 321, .. }), "{error:?}");
    assert!(store.click_ids().is_empty());
    store.insert(&store.seal(batch(0..3))).await.unwrap();
    assert_eq!(
        store.calls().into_iter().map(|call| call.2).collect::<Vec<_>>(),
        [Outcome::Poison(321), Outcome::Stored]
    );
    store.refuse_link("a", 469);
    assert!(matches!(store.insert(&store.seal(batch(0..1))).await, Err(StoreError::Poison { code: 469, .. })));
    store.refuse_nothing();
    store.insert(&store.seal(batch(0..5))).await.unwrap();
    assert_eq!(store.click_ids().len(), 5);
}

#[tokio::test]
async fn answers_come_when_the_test_lets_them() {
    let store = ScriptedStore::new([], Outcome::Stored);
    let sealed = store.seal(batch(0..1));
    store.hold();
    let (one, two) = (store.insert(&sealed), store.insert(&sealed));
    drop(store.insert(&sealed));
    assert_eq!((store.in_flight(), store.in_flight_max()), (2, 3));
    let mut both = Box::pin(async { tokio::join!(one, two) });
    tokio::select! { biased; _ = &mut both => panic!("answers are held back"), () = std::future::ready(()) => {} }
    store.let_go();
    assert!(matches!(both.await, (Ok(()), Ok(()))));
    store.answer_after(Duration::from_millis(5));
    let mut late = Box::pin(store.insert(&sealed));
    tokio::select! { biased; _ = &mut late => panic!("it is late"), () = std::future::ready(()) => {} }
    late.await.unwrap();
    assert_eq!(store.in_flight(), 0);
}

#[tokio::test]
async fn rollups_say_what_was_stored_when_they_were_computed() {
    let store = ScriptedStore::new([], Outcome::Stored);
    store.insert(&store.seal(batch(59_998..60_003))).await.unwrap();
    assert_eq!(store.counts_by_minute("n", 0..9).await.unwrap(), [(0, 2), (1, 3)]);
    assert_eq!(store.counts_by_minute("m", 0..9).await.unwrap(), []);
    store.roll_up(&[0]).await.unwrap();
    let found = store.compare(0..9).await.unwrap();
    assert_eq!((found.len(), found[0].minute, found[0].clicks, found[0].counted), (1, 1, 3, 0));
    store.always(Outcome::Transient);
    assert!(store.roll_up(&[1]).await.is_err() && store.compare(0..9).await.is_err());
    assert_eq!(store.rolled_up(), [[0]]);
}

#[tokio::test]
async fn pages_are_newest_first() {
    let store = ScriptedStore::new([], Outcome::Stored);
    store.insert(&store.seal(batch(0..5))).await.unwrap();
    let page = store.recent(&ClickFilter::default(), None, 2).await.unwrap();
    let last: ClickId = page[1].click_id.parse().unwrap();
    assert_eq!(last.unix_ms(), 3);
    let behind = Some(ClickCursor { unix_ms: 3, id: last });
    assert_eq!(store.recent(&ClickFilter::default(), behind, 9).await.unwrap().len(), 3);
}
