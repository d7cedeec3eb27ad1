//! Rollups that are wrong, and rollups that are mended.

use super::*;

#[tokio::test]
async fn a_day_of_rollups_is_compared_and_mended_a_request() {
    let bench = Bench::new().await;
    // 2023-11-14T22:13:00Z, and a minute of the next day.
    *bench.fake.wrong_minutes.lock().unwrap() = vec![28_333_333, 28_333_440];
    let verify = async |body: &str| bench.api("POST", "/verify", body).await;
    let wrong = |from: &str| json!({"level":"minute","from":from,"groups":1,"clicks":5,"counted":4});
    let body = r#"{"from":"2023-11-14T22:13:20Z","to":"2023-11-15T00:10:00Z","dry_run":true}"#;
    let answer = verify(body).await.json();
    assert_eq!(answer["differences"], json!([wrong("2023-11-14T22:13:00Z")]));
    assert_eq!((&answer["left"], &answer["next"]), (&json!(1), &json!("2023-11-15T00:00:00Z")));
    let answer = verify(&body.replace("true", "false")).await.json();
    assert_eq!((answer["differences"].as_array().unwrap().len(), &answer["left"]), (1, &json!(0)));
    let answer = verify(r#"{"from":"2023-11-15T00:00:00Z","to":"1700007000000"}"#).await.json();
    assert_eq!((&answer["differences"], &answer["next"]), (&json!([wrong("2023-11-15T00:00:00Z")]), &Value::Null));
    assert!(bench.fake.wrong_minutes.lock().unwrap().is_empty());

    let answer = verify(r#"{"from":"5","to":"5"}"#).await;
    assert_eq!(answer.assert_problem(422, "invalid_fields"), ["from"]);
    assert_eq!(verify(r#"{"from":"5"}"#).await.assert_problem(422, "invalid_fields"), ["to"]);
    assert_eq!(verify(r#"{"from":"today","to":"9"}"#).await.assert_problem(422, "invalid_fields"), ["from"]);
    bench.fake.away.store(true, Ordering::Relaxed);
    verify(body).await.assert_problem(503, "store_unavailable");
}
