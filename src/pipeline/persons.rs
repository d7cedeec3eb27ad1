//! What is kept of one person: shown, and erased.
//!
//! ```text
//! asked --> wait until everything accepted before is finished: stored, or on the refused shelf
//! export:   rows of the store, a page at a time, and rows of the shelf
//! erase:    blank the journal's finished records --> the shelf --> the store, a page at a time, with its rollups; each page
//!           between two entries of the ledger (`ledger::erasing`) --> look once more
//! ```
//! Nothing that was erased comes back: a restart sends only what is behind the checkpoint, and all of it was finished
//! before. What arrives after the request is not part of it. It erases what this node recorded, because its journal, shelf
//! and ledger are its own; each node of a fleet is asked. It never touches a backup, nor a dead letter or a ledger that was
//! set aside as damaged, nor the marks of the deduper, which hold a keyed hash and a click id until the window is over.
//! Called by the control side. Bounds: [`PAGE_MAX`] clicks a page, one erase at a time, 10 s of waiting,
//! and 12 s before the last page begins.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::dead_letter::{Actor, DeadLetterError, DeadLetters, IsMeant, Refusal};
use super::ledger::{BooksError, Ledger};
use super::store::{ClickCursor, Store, StoreError, StoredClick};
use crate::BoxFuture;
use crate::click::kept::Keeping;
use crate::click::{Click, ClickId};
use crate::clock::Clock;
use crate::handoff::Journals;

/// Clicks of a page.
pub const PAGE_MAX: usize = 1000;
/// Waiting for what was accepted before the request.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// No further page is begun after this time.
const TIME_MAX: Duration = Duration::from_secs(12);

/// Whose clicks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The click with our id.
    ClickId(ClickId),
    /// Clicks with this id of the advertiser's.
    ExternalClickId(String),
    /// Clicks that keep this of an address, as it is stored.
    Ip(String),
}

impl Selector {
    /// Whether a click is one of them.
    #[must_use]
    pub fn is(&self, click: &Click<'_>) -> bool {
        match self {
            Self::ClickId(id) => click.id == *id,
            Self::ExternalClickId(external) => *String::from_utf8_lossy(&click.external_click_id()) == **external,
            Self::Ip(ip) => click.address.is_some_and(|kept| kept.to_string() == *ip),
        }
    }
}

/// Clicks of a person, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// At most as many as were asked for; there may be none although there are more.
    pub clicks: Vec<StoredClick>,
    /// Where to go on; `None` at the end.
    pub next: Option<ClickCursor>,
}

/// The part of a store that knows persons.
pub trait Persons: Send + Sync {
    /// Clicks of a person behind the cursor, oldest first.
    fn find<'a>(
        &'a self,
        who: &'a Selector,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Found, StoreError>>;

    /// Removes these clicks, and computes the rollups of their minutes anew. When it returns they are in no answer, and in
    /// none of its files that it still uses. Repeating it changes nothing.
    fn erase<'a>(&'a self, ids: &'a [ClickId]) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Why something was not done, or not to its end. To be asked again.
#[derive(Debug, thiserror::Error)]
pub enum PersonsError {
    /// Clicks of before are still on their way.
    #[error(
        "clicks that were accepted before are not all in the store yet (trellis ledger has them as in flight); ask again \
         when they are"
    )]
    NotSettled,
    /// One at a time.
    #[error("another erase is at work; ask again when it has ended")]
    Busy,
    /// The store knows no persons.
    #[error("the store {0} cannot look for persons")]
    Unsupported(&'static str),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The refused shelf.
    #[error(transparent)]
    Shelf(#[from] DeadLetterError),
    /// The ledger.
    #[error("the ledger: {0}")]
    Books(#[from] BooksError),
    /// The journal.
    #[error("the journal: {0}")]
    Journal(#[from] io::Error),
}

/// A page of an export.
#[derive(Debug)]
pub struct Exported {
    /// Of the refused shelf; on the first page.
    pub refused: Vec<Refusal>,
    /// Of the store.
    pub stored: Found,
}

/// What an erase did, and what it found when it looked again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Rows of the store.
    pub store: u64,
    /// Rows of the refused shelf.
    pub dead_letters: u64,
    /// Records of the journal; clicks that are stored too.
    pub journal: u64,
    /// Rows that other nodes recorded, and that are theirs to erase, by node.
    pub other_nodes: BTreeMap<String, u64>,
    /// There may be more: ask again.
    pub more: bool,
    /// Rows and records of this node that are left of before the request; not known while there may be more.
    pub left: Option<u64>,
    /// Unix milliseconds of the request: clicks of this moment and later were left alone.
    pub before_ms: u64,
}

/// Shows and erases.
pub struct Desk {
    /// Where clicks are kept.
    pub store: Arc<dyn Store>,
    /// Of the node.
    pub ledger: Arc<Ledger>,
    /// The refused shelf.
    pub letters: Arc<DeadLetters>,
    /// Of the data folder.
    pub journals: Journals,
    /// What clicks keep of an address.
    pub addresses: Keeping,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who asks, for the audit line.
    pub actor: Actor,
    /// Held while one erases.
    pub work: tokio::sync::Mutex<()>,
}

impl Desk {
    /// Clicks of a person: a page.
    ///
    /// # Errors
    /// [`PersonsError`]
    pub async fn export(&self, who: &Selector, behind: Option<ClickCursor>) -> Result<Exported, PersonsError> {
        let persons = self.persons()?;
        let mut refused = Vec::new();
        if behind.is_none() {
            self.settle().await?;
            refused = self.letters.find(meant(who, u64::MAX)).await?;
        }
        let stored = persons.find(who, behind, PAGE_MAX).await?;
        self.audit("export", stored.clicks.len() as u64);
        Ok(Exported { refused, stored })
    }

    /// Erases the clicks of a person that a node recorded: this one, unless another is named that is gone.
    ///
    /// # Errors
    /// [`PersonsError`]; what was erased before is erased.
    pub async fn erase(&self, who: &Selector, node: Option<&str>) -> Result<Erased, PersonsError> {
        let _work = self.work.try_lock().map_err(|_| PersonsError::Busy)?;
        let persons = self.persons()?;
        let mut done = Erased { before_ms: self.clock.wall_ms(), ..Erased::default() };
        self.settle().await?;
        let began = self.clock.now();
        // Of an earlier one that was broken off.
        let begun = self.on_ledger(|ledger| ledger.erasing()).await?;
        if !begun.is_empty() {
            persons.erase(&begun).await?;
            self.on_ledger(move |ledger| ledger.end_erasing(&begun)).await?;
        }
        done.journal = self.blank(who, done.before_ms).await?;
        done.dead_letters = self.letters.erase(meant(who, done.before_ms), of_id(who)).await?;
        let outcome = self.erase_stored(persons, who, node, began, &mut done).await;
        self.audit("erase", done.store + done.dead_letters);
        outcome.map(|()| done)
    }

    async fn erase_stored(
        &self,
        persons: &dyn Persons,
        who: &Selector,
        node: Option<&str>,
        began: Duration,
        done: &mut Erased,
    ) -> Result<(), PersonsError> {
        let own = node.unwrap_or(self.ledger.node());
        let (mut behind, is_counted) = (None, own == self.ledger.node());
        loop {
            let found = persons.find(who, behind, PAGE_MAX).await?;
            let mut ids = Vec::new();
            for click in &found.clicks {
                if click.node != own {
                    *done.other_nodes.entry(click.node.clone()).or_default() += 1;
                } else if let Some(id) = id_before(click, done.before_ms) {
                    ids.push(id);
                }
            }
            if !ids.is_empty() {
                self.erase_page(persons, &ids, is_counted).await?;
                done.store += ids.len() as u64;
            }
            behind = found.next;
            if behind.is_none() {
                break;
            }
            if self.clock.now().saturating_sub(began) >= TIME_MAX {
                done.more = true;
                return Ok(());
            }
        }
        done.left = self.look(persons, who, own, began, done.before_ms).await?;
        done.more = done.left.is_none();
        Ok(())
    }

    async fn erase_page(&self, persons: &dyn Persons, ids: &[ClickId], counted: bool) -> Result<(), PersonsError> {
        if counted {
            let begun = ids.to_vec();
            self.on_ledger(move |ledger| ledger.begin_erasing(&begun)).await?;
        }
        persons.erase(ids).await?;
        if counted {
            let ended = ids.to_vec();
            self.on_ledger(move |ledger| ledger.end_erasing(&ended)).await?;
        }
        // Rows of theirs that were refused first, and stored later.
        let nobody: IsMeant = Arc::new(|_| false);
        self.letters.erase(nobody, ids.iter().copied().collect()).await?;
        Ok(())
    }

    /// What is left, everywhere; `None` when the time is over.
    async fn look(
        &self,
        persons: &dyn Persons,
        who: &Selector,
        own: &str,
        began: Duration,
        before_ms: u64,
    ) -> Result<Option<u64>, PersonsError> {
        let mut left = self.blank(who, before_ms).await?;
        let refused = self.letters.find(meant(who, before_ms)).await?;
        left += refused.iter().map(|refusal| refusal.rows.len() as u64).sum::<u64>();
        let mut behind = None;
        loop {
            let found = persons.find(who, behind, PAGE_MAX).await?;
            let own = found.clicks.iter().filter(|click| click.node == own && id_before(click, before_ms).is_some());
            left += own.count() as u64;
            behind = found.next;
            if behind.is_none() {
                return Ok(Some(left));
            }
            if self.clock.now().saturating_sub(began) >= TIME_MAX {
                return Ok(None);
            }
        }
    }

    fn persons(&self) -> Result<&dyn Persons, PersonsError> {
        self.store.persons().ok_or(PersonsError::Unsupported(self.store.name()))
    }

    /// Waits until everything that was accepted by now is finished, and noted so on the disk.
    async fn settle(&self) -> Result<(), PersonsError> {
        let (written, began) = (self.journals.written(), self.clock.now());
        loop {
            if self.ledger.has_only_live_clicks() && self.journals.are_finished_up_to(&written) {
                return Ok(());
            }
            if self.clock.now().saturating_sub(began) >= SETTLE_MAX {
                return Err(PersonsError::NotSettled);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn blank(&self, who: &Selector, before_ms: u64) -> Result<u64, PersonsError> {
        let (journals, meant) = (self.journals.clone(), meant(who, before_ms));
        let blanked = tokio::task::spawn_blocking(move || {
            journals.blank(&|frame| Click::decode(frame).is_ok_and(|click| meant(&click)))
        });
        Ok(blanked.await.map_err(io::Error::other)??)
    }

    async fn on_ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, BooksError> + Send + 'static,
    ) -> Result<T, PersonsError> {
        let ledger = Arc::clone(&self.ledger);
        Ok(tokio::task::spawn_blocking(move || work(&ledger)).await.map_err(io::Error::other)??)
    }

    /// Says that somebody asked, and not about whom.
    fn audit(&self, action: &str, clicks: u64) {
        tracing::info!(audit = true, who = self.actor.name(), action, clicks, "clicks of a person");
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("journals", &self.journals).finish_non_exhaustive()
    }
}

fn meant(who: &Selector, before_ms: u64) -> IsMeant {
    let who = who.clone();
    Arc::new(move |click| click.id.unix_ms() < before_ms && who.is(click))
}

/// A row that was dropped is known by nothing but its id.
fn of_id(who: &Selector) -> HashSet<ClickId> {
    match who {
        Selector::ClickId(id) => HashSet::from([*id]),
        Selector::ExternalClickId(_) | Selector::Ip(_) => HashSet::new(),
    }
}

fn id_before(click: &StoredClick, before_ms: u64) -> Option<ClickId> {
    click.click_id.parse().ok().filter(|id: &ClickId| id.unix_ms() < before_ms)
}
