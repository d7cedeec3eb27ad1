//! `trellis clicks tail`: the newest clicks, and those that come.
//!
//! Only reads, by requests to the control API. Clicks reach the store in batches, one worker's after another's, so
//! following looks back [`LOOK_BACK_MS`] behind the newest click and leaves out what was shown. Bounds: pages of [`PAGE`]
//! clicks, [`PAGES_MAX`] of them a look, one look a second; ids of the last [`LOOK_BACK_MS`] in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::arguments::{ClicksCommand, Tail};
use super::client::{Api, Refused};
use super::links::{encoded, text};
use super::output::{Out, Stop, cell, complain};
use crate::click::ClickId;
use crate::config::Config;

const PAGE: usize = 1000;
const PAGES_MAX: usize = 10;
const LOOK_BACK_MS: u64 = 10_000;
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(config: &Config, command: ClicksCommand) -> Result<(), Stop> {
    let ClicksCommand::Tail(tail) = command;
    let api = Api::open(config).await?;
    if !tail.follow {
        return show_newest(&api, &tail).await.map(drop);
    }
    if api.node().is_none() {
        // The folder would stay locked, and nothing could come.
        return Err(anyhow::anyhow!("no node is running on this data folder: there is nothing to follow").into());
    }
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.context("Ctrl-C cannot be awaited").map_err(Stop::from),
        ended = follow(&api, &tail) => ended,
    }
}

/// Shows the newest clicks, oldest of them first; and what was shown.
async fn show_newest(api: &Api, tail: &Tail) -> Result<Seen, Stop> {
    let number = tail.number as usize;
    // Following needs to know where it begins, also when nothing is to be shown.
    let wanted = if tail.follow { number.max(1) } else { number };
    let newest = newest(api, tail, None, wanted).await?;
    let seen = Seen::new(&newest);
    show(&newest[..newest.len().min(number)], tail.json)?;
    Ok(seen)
}

async fn follow(api: &Api, tail: &Tail) -> Result<(), Stop> {
    let mut seen = show_newest(api, tail).await?;
    let mut away = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let clicks = match newest(api, tail, Some(seen.begin_ms()), PAGE * PAGES_MAX).await {
            Ok(clicks) => clicks,
            // The store is away; the node is not.
            Err(error) if is_unavailable(&error) => {
                if !std::mem::replace(&mut away, true) {
                    complain(&format!("{error:#}; waiting for it"));
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        away = false;
        if clicks.len() == PAGE * PAGES_MAX {
            complain("more clicks came than can be shown; some are left out");
        }
        let fresh: Vec<_> = clicks.into_iter().filter(|click| seen.is_new(click)).collect();
        show(&fresh, tail.json)?;
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == StatusCode::SERVICE_UNAVAILABLE)
}

/// Clicks, newest first, `number` at most.
async fn newest(api: &Api, tail: &Tail, from_ms: Option<u64>, number: usize) -> anyhow::Result<Vec<Value>> {
    let mut filter = String::new();
    if let Some(link) = &tail.link {
        filter.push_str(&format!("&link={}", encoded(link)));
    }
    if let Some(from_ms) = from_ms {
        filter.push_str(&format!("&from={from_ms}"));
    }
    let (mut clicks, mut cursor) = (Vec::new(), String::new());
    while clicks.len() < number {
        let limit = (number - clicks.len()).min(PAGE);
        let mut page = api.call(Method::GET, &format!("/clicks?limit={limit}{filter}{cursor}"), None).await?;
        clicks.extend(page["clicks"].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    Ok(clicks)
}

/// Prints clicks, which come newest first, oldest first.
fn show(clicks: &[Value], json: bool) -> Result<(), Stop> {
    let mut out = Out::new();
    for click in clicks.iter().rev() {
        if json { out.line(click)? } else { out.line(row(click))? }
    }
    out.flush()
}

fn row(click: &Value) -> String {
    const COLUMNS: [&str; 10] =
        ["ts", "click_id", "link", "class", "dedup", "country", "device", "os", "browser", "destination"];
    COLUMNS.map(|column| cell(text(click, column))).join("\t")
}

/// What was shown of the last seconds, so that nothing is shown twice.
#[derive(Debug, Default)]
struct Seen {
    /// Sorted by time, as ids are.
    ids: BTreeSet<ClickId>,
    /// Clicks of before this are not asked for.
    floor_ms: u64,
}

impl Seen {
    fn new(newest: &[Value]) -> Self {
        let ids: BTreeSet<_> = newest.iter().filter_map(id).collect();
        // Older clicks were not asked for at first, and are not to come now.
        let floor_ms = ids.last().map_or(0, ClickId::unix_ms);
        Self { ids, floor_ms }
    }

    /// The first moment to ask for.
    fn begin_ms(&self) -> u64 {
        let newest_ms = self.ids.last().map_or(0, ClickId::unix_ms);
        newest_ms.saturating_sub(LOOK_BACK_MS).max(self.floor_ms)
    }

    /// Whether the click was not shown yet; from now on it was. A click whose id says nothing counts as shown.
    fn is_new(&mut self, click: &Value) -> bool {
        let is_new = id(click).is_some_and(|id| self.ids.insert(id));
        let first = ClickId::new(self.begin_ms(), &[0; 10]);
        self.ids = self.ids.split_off(&first);
        is_new
    }
}

fn id(click: &Value) -> Option<ClickId> {
    text(click, "click_id").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn click(ms: u64, tail: u8) -> Value {
        json!({ "click_id": ClickId::new(ms, &[tail; 10]).to_string(), "link": "a", "class": "human" })
    }

    #[test]
    fn following_shows_late_clicks_and_no_click_twice() {
        let mut seen = Seen::new(&[click(100_000, 2), click(99_000, 1)]);
        assert_eq!(seen.begin_ms(), 100_000, "what is older was cut off on purpose");
        assert!(!seen.is_new(&click(100_000, 2)));
        assert!(seen.is_new(&click(100_000, 3)), "the same millisecond");
        assert!(seen.is_new(&click(105_000, 1)));
        assert!(seen.is_new(&click(104_000, 1)), "from a batch that came later");
        assert!(!seen.is_new(&click(104_000, 1)));
        assert!(seen.is_new(&click(200_000, 1)));
        assert_eq!(seen.begin_ms(), 190_000);
        assert_eq!(seen.ids.len(), 1, "what is not asked for again is forgotten");
        assert!(!seen.is_new(&json!({ "click_id": "?" })));
    }

    #[test]
    fn following_an_empty_store_begins_at_its_first_click() {
        let mut seen = Seen::new(&[]);
        assert_eq!(seen.begin_ms(), 0);
        assert!(seen.is_new(&click(100_000, 1)));
        assert_eq!(seen.begin_ms(), 90_000);
    }

    #[test]
    fn a_click_is_one_line() {
        let id = ClickId::new(5, &[1; 10]);
        assert_eq!(row(&click(5, 1)), format!("-\t{id}\ta\thuman\t-\t-\t-\t-\t-\t-"));
    }
}
