//! `trellis verify`: do the rollups say what is stored? What differs is shown, and mended unless it is a dry run.
//!
//! Requests to the control API, a day each; judges nothing itself. Bounds: one day in memory, [`TIMEOUT`] a request.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::arguments::Verify;
use super::client::Api;
use super::links::text;
use super::output::{Out, Stop, complain};
use crate::config::Config;

/// Above the control side's own.
const TIMEOUT: Duration = Duration::from_secs(40);

pub(super) async fn run(config: &Config, verify: Verify) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    let mut out = Out::new();
    let (mut found, mut left) = (0, 0);
    let mut from = verify.from.clone();
    loop {
        let body = json!({ "from": from, "to": verify.to, "dry_run": verify.dry_run });
        let answer = api.call_within(TIMEOUT, Method::POST, "/verify", Some(&body)).await?;
        for difference in answer["differences"].as_array().into_iter().flatten() {
            found += 1;
            if verify.json { out.line(difference)? } else { out.line(row(difference))? }
        }
        out.flush()?;
        left += answer["left"].as_u64().unwrap_or_default();
        match answer["next"].as_str() {
            Some(next) => from = next.to_owned(),
            None => break,
        }
    }
    if !verify.json {
        out.line(verdict(found, left))?;
        out.flush()?;
    }
    if left > 0 {
        let hint = if verify.dry_run { "nothing was changed: it is a dry run" } else { "run it once more" };
        complain(&format!("rollups that do not say what is stored: {left}; {hint}"));
        return Err(Stop::Told);
    }
    Ok(())
}

/// Beginning, level, groups that differ, clicks that are stored, clicks that the rollup counted.
fn row(difference: &Value) -> String {
    let number = |key: &str| difference[key].as_u64().unwrap_or_default();
    let (from, level) = (text(difference, "from"), text(difference, "level"));
    format!("{from}\t{level}\t{}\t{}\t{}", number("groups"), number("clicks"), number("counted"))
}

fn verdict(found: u64, left: u64) -> String {
    match (found, left) {
        (0, _) => "rollups say what is stored".into(),
        (_, 0) => format!("differed and mended: {found}"),
        _ => format!("differed: {found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_one_line_and_the_verdict_another() {
        let difference = json!({"level":"hour","from":"2026-02-03T04:00:00Z","groups":2,"clicks":10,"counted":7});
        assert_eq!(row(&difference), "2026-02-03T04:00:00Z\thour\t2\t10\t7");
        assert_eq!(
            [verdict(0, 0), verdict(3, 0), verdict(3, 1)],
            ["rollups say what is stored", "differed and mended: 3", "differed: 3"]
        );
    }
}
