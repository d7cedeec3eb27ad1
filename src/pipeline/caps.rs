//! A worker's side of the caps, and what is done about them every second.
//!
//! ```text
//! worker     a batch is frozen -> its clicks of people are counted -> saved -> the checkpoint may move over it
//! keeper     every second: exchange with other nodes, or without them; save
//! ```
//! The port [`CapExchange`] is how nodes share caps; who cannot be asked is not waited for: the node goes on alone, with
//! what it was told last. Bounds: those of [`crate::catalog::caps`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Label, Row};
use crate::BoxFuture;
use crate::catalog::caps::{CapStore, Caps, Counted, Granted, Source, Standing};
use crate::click::domain::ANY;
use crate::click::{Class, Classifier, Click};
use crate::handoff::Follower;
use crate::segment::Position;

/// The port: where nodes tell each other what they take of each cap.
pub trait CapExchange: Send + Sync {
    /// Tells how the caps stand here; the number of nodes, and what this one may have of each, in the order of the question.
    /// Asked again, it says the same thing again: nothing is counted twice.
    fn exchange<'a>(&'a self, standings: &'a [Standing]) -> BoxFuture<'a, Result<(u64, Vec<Granted>), String>>;
}

/// Counts the clicks of one stretch.
#[derive(Debug)]
pub(super) struct CapCounter {
    caps: Arc<Caps>,
    source: Source,
    counted_to: Position,
    /// Ends of batches whose counts are not known to be saved.
    unsaved: VecDeque<Position>,
}

impl CapCounter {
    pub(super) fn open(caps: &Arc<Caps>, follower: &Follower) -> Self {
        let run = follower.folder().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let source = Source { run: run.into(), core: follower.core(), origin: follower.origin() };
        let counted_to = Position::from_u64(caps.counted_to(&source));
        Self { caps: Arc::clone(caps), source, counted_to, unsaved: VecDeque::new() }
    }

    /// What an earlier life has counted: a batch must not have clicks of both sides.
    pub(super) const fn counted_to(&self) -> Position {
        self.counted_to
    }

    /// Counts the clicks of a frozen range that ends here. Who is a person is asked as the edge asked it.
    pub(super) fn count(&mut self, end: Position, rows: &[Row], classifier: &Classifier) {
        if end <= self.counted_to || self.caps.is_empty() {
            return;
        }
        let clicks = rows.iter().filter_map(|row| {
            let click = Click::decode(&row.frame).ok()?;
            let class = classifier.classify(click.head, click.prefetch, click.marks, row.agent.reasons).class;
            (class == Class::Human).then(|| Counted {
                link: (if click.bound { click.domain } else { ANY }, click.link),
                campaign: click.campaign,
                rule: click.rule,
                variant: click.variant,
                unix_ms: click.id.unix_ms(),
                is_unique: row.dedup == Label::Unique,
            })
        });
        if self.caps.count(&self.source, end.to_u64(), clicks) {
            self.unsaved.push_back(end);
        }
    }

    /// Whether the checkpoint may move to here. `hurry`: somebody waits for nothing else.
    pub(super) fn may_finish(&mut self, end: Position, hurry: bool) -> bool {
        if self.unsaved.front().is_none_or(|first| *first > end) {
            return true;
        }
        let saved = Position::from_u64(self.caps.saved_to(&self.source));
        while self.unsaved.front().is_some_and(|first| *first <= saved) {
            self.unsaved.pop_front();
        }
        let may = self.unsaved.front().is_none_or(|first| *first > end);
        if !may && hurry {
            self.caps.hurry();
        }
        may
    }
}

/// What is done every second.
pub struct CapKeeper {
    caps: Arc<Caps>,
    store: Arc<dyn CapStore>,
    exchange: Option<Arc<dyn CapExchange>>,
    /// The log says so.
    is_alone: bool,
    is_unsaved: bool,
}

impl CapKeeper {
    /// `exchange`: without one this node is the only one.
    #[must_use]
    pub fn new(caps: Arc<Caps>, store: Arc<dyn CapStore>, exchange: Option<Arc<dyn CapExchange>>) -> Self {
        Self { caps, store, exchange, is_alone: false, is_unsaved: false }
    }

    /// One round.
    pub async fn turn(&mut self) {
        let standings = self.caps.look();
        match &self.exchange {
            Some(exchange) if !standings.is_empty() => match exchange.exchange(&standings).await {
                Ok((nodes, granted)) => {
                    let granted: Vec<_> = standings.into_iter().zip(granted).collect();
                    self.caps.grant(nodes, &granted);
                    if std::mem::take(&mut self.is_alone) {
                        tracing::info!(nodes, "the caps are shared with other nodes again");
                    }
                }
                Err(error) => {
                    self.caps.grant_alone();
                    if !std::mem::replace(&mut self.is_alone, true) {
                        tracing::warn!(error, "the caps cannot be shared with other nodes; this one keeps them alone");
                    }
                }
            },
            Some(_) => {}
            None => self.caps.grant_alone(),
        }
        self.save().await;
    }

    /// Saves what was counted since the last time.
    pub async fn save(&mut self) {
        let Some(changes) = self.caps.take_changes() else { return };
        let saved = self.store.save_caps(&changes).await;
        self.caps.note_saved(changes, saved.is_ok());
        match saved {
            Ok(()) if std::mem::take(&mut self.is_unsaved) => tracing::info!("the counts of caps are saved again"),
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut self.is_unsaved, true) => {
                tracing::warn!(%error, "the counts of caps cannot be saved; stored clicks stay in the journal until they are");
            }
            Err(_) => {}
        }
    }

    /// Whether other nodes could not be asked last time.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.is_alone
    }
}

impl std::fmt::Debug for CapKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapKeeper").field("is_alone", &self.is_alone).finish_non_exhaustive()
    }
}
