//! The prober: the node asks itself, through its own listeners, what an operator and a visitor would, and waits for its own
//! click in the store.
//!
//! Two tasks on the runtime of the control side; no visitor waits for them. They say nothing while the node starts or
//! drains. `serve` starts them; they end with the runtime. Bounds: one request and one question to the store at a time each,
//! `probe.timeout`, `probe.arrival_max`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use super::http::{Trust, dialled};
use super::probe::{Asker, Check, Seen};
use crate::click::{Class, ClickId, canary};
use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::control::{State, Status};
use crate::pipeline::{ClickFilter, Store};
use crate::telemetry::probe::{Finding, ProbeShard};

/// The first pause before the store is asked again; the later ones are an eighth of the time so far, up to the last: what is
/// measured is at most so much too long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Clicks of the canary in one millisecond that are looked through; monitors elsewhere may follow it too.
const CLICKS_MAX: usize = 1000;

/// What it works with.
pub(super) struct Parts {
    pub(super) config: config::Probe,
    /// Where the listeners are.
    pub(super) edge: SocketAddr,
    pub(super) control: SocketAddr,
    /// By which the edge knows it.
    pub(super) secret: Secret,
    pub(super) store: Arc<dyn Store>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<ProbeShard>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Starts it, if it is wanted.
pub(super) fn start(parts: Parts) -> anyhow::Result<()> {
    if !parts.config.enabled {
        return Ok(());
    }
    let prober = Arc::new(Prober::new(parts)?);
    tokio::spawn(Arc::clone(&prober).look_for_ever());
    tokio::spawn(prober.follow_for_ever());
    Ok(())
}

struct Prober {
    parts: Parts,
    asker: Asker,
    edge: Url,
    control: Url,
}

impl Prober {
    fn new(parts: Parts) -> anyhow::Result<Self> {
        let url = |address| Url::parse(&format!("http://{}", dialled(address)));
        let asker = Asker {
            clock: Arc::clone(&parts.clock),
            timeout: parts.config.timeout,
            agent: canary::agent("self"),
            secret: parts.secret.clone(),
            trust: Trust::default(),
        };
        Ok(Self { edge: url(parts.edge)?, control: url(parts.control)?, asker, parts })
    }

    async fn look_for_ever(self: Arc<Self>) {
        let mut tick = after(self.parts.config.checks_every);
        loop {
            tick.tick().await;
            self.look().await;
        }
    }

    async fn follow_for_ever(self: Arc<Self>) {
        let mut tick = after(self.parts.config.canary_every);
        loop {
            tick.tick().await;
            self.follow().await;
        }
    }

    /// Asks the operator side once.
    async fn look(&self) {
        for check in [Check::Health, Check::Ready, Check::Metrics] {
            let seen = self.asker.look(check, &self.control).await;
            self.note(check, &seen);
        }
    }

    /// Follows the canary once, and waits for its click.
    async fn follow(&self) {
        let began = self.parts.clock.now();
        let seen = self.asker.follow(&self.edge).await;
        self.note(Check::Redirect, &seen);
        // Without a click there is nothing to wait for, and nothing is known of the store.
        let Some(id) = seen.click_id else { return };
        let problem = self.arrive(id, began).await.err();
        let took = self.parts.clock.now().saturating_sub(began);
        if problem.is_none() && self.speaks() {
            self.parts.metrics.note_freshness(took);
        }
        self.note(Check::Store, &Seen { status: None, times: None, click_id: Some(id), took, problem });
    }

    /// Asks the store until it has the click.
    async fn arrive(&self, id: ClickId, began: Duration) -> Result<(), String> {
        let filter = ClickFilter {
            link: Some(canary::SLUG.to_owned()),
            from_ms: Some(id.unix_ms()),
            to_ms: Some(id.unix_ms() + 1),
            ..ClickFilter::default()
        };
        let text = id.to_string();
        let mut pause = PAUSE_MIN;
        loop {
            let answer = self.parts.store.recent(&filter, None, CLICKS_MAX);
            let left = self.parts.config.arrival_max.saturating_sub(self.parts.clock.now().saturating_sub(began));
            let said = match tokio::time::timeout(left, answer).await {
                Ok(Ok(clicks)) => match clicks.into_iter().find(|click| click.click_id == text) {
                    Some(click) if click.class == Class::Monitor.name() => return Ok(()),
                    Some(click) => return Err(format!("the click {text} is stored as `{}`", click.class)),
                    None => format!("the click {text} is not there"),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            let so_far = self.parts.clock.now().saturating_sub(began);
            if so_far >= self.parts.config.arrival_max {
                return Err(format!("after {:?}: {said}", self.parts.config.arrival_max));
            }
            tokio::time::sleep(pause).await;
            pause = (so_far / 8).clamp(PAUSE_MIN, PAUSE_MAX);
        }
    }

    /// Whether the node is to answer: what it does while it starts or drains says nothing.
    fn speaks(&self) -> bool {
        self.parts.status.state() == State::Serving
    }

    /// Notes what was seen, and says it when it is another thing than before.
    fn note(&self, check: Check, seen: &Seen) {
        if !self.speaks() {
            return;
        }
        let metrics = &self.parts.metrics;
        let was_well = metrics.last(check).is_none_or(|last| last.success);
        metrics.note(check, Finding { success: seen.problem.is_none(), took: seen.took });
        match &seen.problem {
            Some(detail) if was_well => {
                tracing::warn!(check = check.name(), detail, "the node does not answer itself as it should");
            }
            None if !was_well => tracing::info!(check = check.name(), "the node answers itself as it should again"),
            _ => {}
        }
    }
}

/// Every so often, the first time after one of them; what was missed is not made up for.
fn after(every: Duration) -> tokio::time::Interval {
    let mut tick = interval(every);
    tick.reset();
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests;
