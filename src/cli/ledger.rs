//! `trellis ledger`: what became of every visit.
//!
//! Requests to the control API, a page each; judges nothing itself. Bound: one page in memory.

use hyper::Method;
use serde_json::{Value, json};

use super::arguments::Ledger;
use super::client::Api;
use super::links::text;
use super::output::{Out, Stop, complain};
use crate::config::Config;

/// In the order of the table.
const COLUMNS: [&str; 10] =
    ["visits", "accepted", "untracked", "stored", "in_flight", "refused", "dropped", "erased", "damaged", "residual"];

pub(super) async fn run(config: &Config, ledger: Ledger) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    let mut out = Out::new();
    let (mut from, mut to, mut cursor) = (ledger.from, ledger.to, None);
    let (mut total, mut wrong) = ([0_i64; COLUMNS.len()], 0);
    if !ledger.json {
        out.line(format_args!("minute\t{}", COLUMNS.join("\t")))?;
    }
    loop {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", "1000").append_pair("by", ledger.by.name());
        let words = [("from", &from), ("to", &to), ("cursor", &cursor)];
        query.extend_pairs(words.into_iter().filter_map(|(name, word)| Some((name, word.as_deref()?))));
        let target = format!("/ledger?{}", query.finish());
        let answer = api.call(Method::GET, &target, None).await?;
        for row in answer["rows"].as_array().into_iter().flatten() {
            wrong += u64::from(row["residual"] != 0);
            if ledger.json { out.line(row)? } else { out.line(line(text(row, "minute"), &numbers(row)))? }
        }
        out.flush()?;
        total.iter_mut().zip(numbers(&answer["total"])).for_each(|(sum, n)| *sum += n);
        let Some(next) = answer["next_cursor"].as_str() else { break };
        // The same stretch, however long the pages take.
        (from, to) = (Some(text(&answer, "from").to_owned()), Some(text(&answer, "to").to_owned()));
        cursor = Some(next.to_owned());
    }
    if ledger.json {
        let total: serde_json::Map<_, _> =
            COLUMNS.iter().zip(total).map(|(name, n)| ((*name).to_owned(), json!(n))).collect();
        out.line(json!({ "total": total }))?;
    } else {
        out.line(line("total", &total))?;
    }
    out.flush()?;
    if wrong > 0 {
        complain(&format!("lines that do not balance: {wrong}"));
        return Err(Stop::Told);
    }
    Ok(())
}

fn numbers(row: &Value) -> [i64; COLUMNS.len()] {
    COLUMNS.map(|name| row[name].as_i64().unwrap_or_default())
}

fn line(of: &str, numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
    format!("{of}\t{}", numbers.join("\t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_column_in_order() {
        let row = json!({"visits": 9, "accepted": 8, "untracked": 1, "stored": 4, "in_flight": 3, "refused": 2,
            "dropped": 1, "erased": 0, "damaged": 0, "residual": -2});
        assert_eq!(line("now", &numbers(&row)), "now\t9\t8\t1\t4\t3\t2\t1\t0\t0\t-2");
    }
}
