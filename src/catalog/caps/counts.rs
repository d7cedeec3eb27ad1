//! What has gone through, by cap, period and journal; and what of that is saved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Caps, CatalogError};
use crate::BoxFuture;
use crate::click::cap::{CAPPED, CapId, OVERFLOW, Of, Per, Place, RESERVED};
use crate::click::life::EXPIRED;

const HOUR_MS: u64 = 3_600_000;

/// A part of a journal: its run, the edge thread that wrote it, and the segment that it began with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Name of the run.
    pub run: Arc<str>,
    /// Edge thread.
    pub core: u32,
    /// First segment.
    pub origin: u32,
}

/// Clicks of one journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The edge let them through.
    pub admitted: u64,
    /// A worker has seen them.
    pub processed: u64,
    /// Of these, those that count.
    pub counted: u64,
}

/// What is saved of one cap, period and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapCount {
    /// The cap.
    pub cap: CapId,
    /// Number of the period.
    pub period: u32,
    /// The journal; empty for those that are gone.
    pub run: Arc<str>,
    /// Kind of the period.
    pub per: Per,
    /// The clicks.
    pub counts: Counts,
    /// When it changed last, Unix milliseconds.
    pub updated_ms: u64,
}

/// What is to be saved: all of it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New and changed counts.
    pub counts: Vec<CapCount>,
    /// Clicks before these positions are in the counts.
    pub marks: Vec<(Source, u64)>,
    /// In place of everything that was saved before.
    pub replace: bool,
    /// Counts of hours, and of days, that changed last before these moments are not needed any more.
    pub forget: Option<[u64; 2]>,
}

/// What was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// All counts.
    pub counts: Vec<CapCount>,
    /// All marks.
    pub marks: Vec<(Source, u64)>,
}

/// The port: where counts survive the process.
pub trait CapStore: Send + Sync {
    /// Everything.
    fn load_caps(&self) -> BoxFuture<'_, Result<Saved, CatalogError>>;
    /// Saves all, or nothing.
    fn save_caps<'a>(&'a self, changes: &'a Changes) -> BoxFuture<'a, Result<(), CatalogError>>;
}

/// A click of a person, as a worker has it.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'c> {
    /// Domain (`*` for any) and slug of the link; empty for none.
    pub link: (&'c str, &'c str),
    /// The campaign that the link names.
    pub campaign: &'c str,
    /// What decided.
    pub rule: &'c str,
    /// Where it went.
    pub variant: &'c str,
    /// When, Unix milliseconds.
    pub unix_ms: u64,
    /// It has the label `unique`.
    pub is_unique: bool,
}

/// The counts in memory.
#[derive(Default)]
pub(super) struct Books {
    /// This process's journal.
    run: Arc<str>,
    counts: HashMap<(CapId, u32), Count>,
    marks: HashMap<Source, u64>,
    saved: HashMap<Source, u64>,
    changed: BTreeSet<(CapId, u32, Arc<str>)>,
    moved: BTreeSet<Source>,
    replace: bool,
    forget_at: u64,
}

struct Count {
    per: Per,
    updated_ms: u64,
    runs: BTreeMap<Arc<str>, Counts>,
}

/// Clicks of these lie further back than a worker ever is, but for a backlog, which begins them anew.
const fn kept_ms(per: Per) -> u64 {
    match per {
        Per::Hour => 3 * HOUR_MS,
        Per::Day => 72 * HOUR_MS,
        Per::Total => u64::MAX,
    }
}

impl Caps {
    /// Takes up what was saved. `runs`: the journals that earlier processes left; the clicks of others are all counted.
    pub fn load(&self, saved: Saved, runs: &BTreeSet<Arc<str>>) {
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        let books = &mut state.counts;
        let young = |count: &CapCount| now_ms.saturating_sub(count.updated_ms) < kept_ms(count.per);
        for count in saved.counts.into_iter().filter(young) {
            let is_open = runs.contains(&count.run);
            let run = if is_open { count.run } else { Arc::default() };
            let of = books.entry(count.cap, count.period, count.per, count.updated_ms);
            let sum = of.runs.entry(run).or_default();
            sum.counted += count.counts.counted;
            if is_open {
                (sum.admitted, sum.processed) = (count.counts.admitted, count.counts.processed);
            }
        }
        books.marks = saved.marks.into_iter().filter(|(source, _)| runs.contains(&source.run)).collect();
        books.saved = books.marks.clone();
        let all = |((cap, period), count): (&(CapId, u32), &Count)| {
            let (cap, period) = (*cap, *period);
            count.runs.keys().map(move |run| (cap, period, Arc::clone(run))).collect::<Vec<_>>()
        };
        books.changed = books.counts.iter().flat_map(all).collect();
        books.moved = books.marks.keys().cloned().collect();
        books.replace = true;
    }

    /// The journal of this process.
    pub fn begin_run(&self, run: &str) {
        self.state().counts.run = run.into();
    }

    /// Whether anything is counted at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.load().by_place.is_empty()
    }

    /// Clicks of this source before this position were counted, in this life or before.
    #[must_use]
    pub fn counted_to(&self, source: &Source) -> u64 {
        self.state().counts.marks.get(source).copied().unwrap_or(0)
    }

    /// Counts the clicks of people in a range that ends here, unless it was counted; true when a checkpoint behind it has to
    /// wait until that is saved.
    pub fn count<'c>(&self, source: &Source, end: u64, clicks: impl Iterator<Item = Counted<'c>>) -> bool {
        let known = self.known.load();
        let mut found = Vec::new();
        for click in clicks {
            for place in places(&click).into_iter().flatten() {
                for ruler in known.by_place.get(&place.id()).into_iter().flatten() {
                    let period = ruler.per.period(&ruler.zone, click.unix_ms);
                    found.push((ruler.id, period, ruler.per, ruler.of == Of::Clicks || click.is_unique));
                }
            }
        }
        if found.is_empty() {
            return false;
        }
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        let books = &mut state.counts;
        let mark = books.marks.entry(source.clone()).or_default();
        // What an earlier process let through, which this one's gates do not know of.
        let mut inherited = BTreeSet::new();
        if end > *mark {
            *mark = end;
            books.moved.insert(source.clone());
            for (cap, period, per, counts) in found {
                let of = books.entry(cap, period, per, now_ms).runs.entry(Arc::clone(&source.run)).or_default();
                of.processed += 1;
                of.counted += u64::from(counts);
                books.changed.insert((cap, period, Arc::clone(&source.run)));
                if source.run != books.run {
                    inherited.insert(cap);
                }
            }
        }
        let waits = books.saved.get(source).is_none_or(|saved| *saved < end);
        match (self.is_shared, inherited.is_empty()) {
            (_, true) => {}
            (true, false) => self.hurry.notify_one(),
            (false, false) => inherited.into_iter().for_each(|cap| state.open(cap, now_ms)),
        }
        waits
    }

    /// Up to where the counts of this source are saved.
    #[must_use]
    pub fn saved_to(&self, source: &Source) -> u64 {
        self.state().counts.saved.get(source).copied().unwrap_or(0)
    }

    /// Somebody waits for what is not saved.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// What has changed since the last time; `None` when nothing has.
    #[must_use]
    pub fn take_changes(&self) -> Option<Changes> {
        let (mut state, now_ms) = (self.state(), self.clock.wall_ms());
        let books = &mut state.counts;
        let forget = (now_ms >= books.forget_at).then(|| {
            books.forget_at = now_ms + HOUR_MS;
            books.counts.retain(|_, count| now_ms.saturating_sub(count.updated_ms) < kept_ms(count.per));
            [Per::Hour, Per::Day].map(|per| now_ms.saturating_sub(kept_ms(per)))
        });
        let changed = std::mem::take(&mut books.changed);
        let counts = changed.into_iter().filter_map(|(cap, period, run)| {
            let count = books.counts.get(&(cap, period))?;
            let counts = *count.runs.get(&run)?;
            Some(CapCount { cap, period, run, per: count.per, counts, updated_ms: count.updated_ms })
        });
        let counts: Vec<_> = counts.collect();
        let moved = std::mem::take(&mut books.moved);
        let marks: Vec<_> = moved.into_iter().map(|source| (source.clone(), books.marks[&source])).collect();
        let replace = std::mem::take(&mut books.replace);
        let nothing = counts.is_empty() && marks.is_empty() && !replace && forget.is_none();
        (!nothing).then_some(Changes { counts, marks, replace, forget })
    }

    /// They are saved; or they are not, and come again.
    pub fn note_saved(&self, changes: Changes, are_saved: bool) {
        let mut state = self.state();
        let books = &mut state.counts;
        if are_saved {
            books.saved.extend(changes.marks);
            return;
        }
        books.replace |= changes.replace;
        books.changed.extend(changes.counts.into_iter().map(|count| (count.cap, count.period, count.run)));
        books.moved.extend(changes.marks.into_iter().map(|(source, _)| source));
    }
}

impl Books {
    fn entry(&mut self, cap: CapId, period: u32, per: Per, now_ms: u64) -> &mut Count {
        let new = || Count { per, updated_ms: 0, runs: BTreeMap::new() };
        let count = self.counts.entry((cap, period)).or_insert_with(new);
        count.updated_ms = count.updated_ms.max(now_ms);
        count
    }

    /// What is spent of a cap in a period. `admitted`: what this process has let through, read just now.
    pub(super) fn spent(&mut self, cap: CapId, period: u32, per: Per, admitted: u64, now_ms: u64) -> u64 {
        let known = self.counts.get(&(cap, period)).and_then(|count| count.runs.get(&self.run));
        if known.map_or(0, |counts| counts.admitted) != admitted {
            let run = Arc::clone(&self.run);
            self.entry(cap, period, per, now_ms).runs.entry(Arc::clone(&run)).or_default().admitted = admitted;
            self.changed.insert((cap, period, run));
        }
        let runs = self.counts.get(&(cap, period)).into_iter().flat_map(|count| count.runs.values());
        runs.map(|counts| counts.counted + counts.admitted.saturating_sub(counts.processed)).sum()
    }
}

/// What a click took a place of.
fn places<'c>(click: &Counted<'c>) -> [Option<Place<'c>>; 3] {
    let Counted { link, campaign, rule, variant, .. } = *click;
    let is_past = [EXPIRED, CAPPED].contains(&variant);
    let link = (!link.1.is_empty() && !is_past).then_some(Place::Link(link.0, link.1));
    let decides = !rule.is_empty() && !is_past && variant != OVERFLOW;
    let goes = !campaign.is_empty() && !variant.is_empty() && !RESERVED.contains(&variant);
    [link, decides.then_some(Place::Rule(campaign, rule)), goes.then_some(Place::Destination(campaign, rule, variant))]
}
