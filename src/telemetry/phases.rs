//! Where the time goes: of a request until it is answered, and of a click behind it until it is stored.
//!
//! ```text
//! phase     from                                     to                                      counted once for
//! accept    the connection is accepted               its first read                          a sampled connection
//! head      the first bytes of a head are read       the head is whole                       a sampled request, if
//! limit     -- the overload, the address and its network, the link, the key may it? --       it came that far
//! auth      -- /in: the key is checked, from memory or by the Warden ------------------       "
//! resolve   -- domain, link and campaign are looked up, privacy decides and takes away,       "
//!              the destination is spelled ------------------------------------------------
//! choose    -- the campaign decides: its facts, its rules, the destination ---------------    "
//! journal   the click is named and encoded           its turn is written (forced), and       "
//!                                                    the request runs again
//! respond   the journal has it, or all is decided    the kernel has taken the answer         "
//! queue     the click                                its chunk is taken up                   a chunk: its first click
//! enrich    -- the chunk is decoded, country, agent and class are found ------------------    a chunk
//! dedup     it is enriched                           it is labelled, and all before it       a chunk
//! batch     the first click is in the open batch     the batch is frozen                     a batch
//! insert    the batch is frozen                      its last row is stored or refused       a batch
//! ```
//! The phases of a request stand one behind the other without a gap: but for `accept`, which a connection has once, they add
//! up to all that the server sees of it, from the first bytes to the answer in the kernel. What a client takes between its
//! connection and its first byte is nobody's. Of a click, the phases behind the answer add up to its way to the store.
//!
//! A request is measured now and then ([`Stopwatch`]): the others pay for a look at a flag in each phase.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::{histogram, histograms};
use super::metrics::Decided;
use super::shard::{Histogram, Scale, Snapshot};

/// A stretch of a request. Three of them make the phase `resolve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lap {
    /// Its head arrives.
    Head,
    /// Limits are asked.
    Limit,
    /// Its key is checked.
    Auth,
    /// Domain, link and campaign are looked up.
    LookUp,
    /// Privacy decides what is kept, and takes the rest away.
    Comply,
    /// The campaign decides.
    Choose,
    /// The destination is spelled.
    Spell,
    /// The journal takes the click.
    Journal,
    /// The answer is made and written.
    Respond,
}

impl Lap {
    const COUNT: usize = Self::Respond as usize + 1;
}

/// Phases of a request behind `accept`, and the laps of each.
const REQUEST: [(&str, &[Lap]); 7] = [
    ("head", &[Lap::Head]),
    ("limit", &[Lap::Limit]),
    ("auth", &[Lap::Auth]),
    ("resolve", &[Lap::LookUp, Lap::Comply, Lap::Spell]),
    ("choose", &[Lap::Choose]),
    ("journal", &[Lap::Journal]),
    ("respond", &[Lap::Respond]),
];

/// The laps of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Laps {
    since: Duration,
    took_ns: [u64; Lap::COUNT],
    /// A bit for each lap that it came by.
    came_by: u16,
    decided: Option<Decided>,
}

impl Laps {
    /// Gives the time since the last lap ended to this one.
    pub fn end(&mut self, lap: Lap, now: Duration) {
        let took = now.saturating_sub(self.since);
        self.took_ns[lap as usize] += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.came_by |= 1 << lap as u16;
        self.since = now;
    }

    /// The time of these laps together; `None` when it came by none of them.
    fn of(&self, laps: &[Lap]) -> Option<u64> {
        let came_by = laps.iter().any(|lap| self.came_by & (1 << *lap as u16) != 0);
        came_by.then(|| laps.iter().map(|lap| self.took_ns[*lap as usize]).sum())
    }
}

/// One in so many.
#[derive(Debug)]
struct Sample {
    every: u32,
    /// Until the next one.
    left: Cell<u32>,
}

impl Sample {
    /// Of 0: never.
    fn new(every: u32) -> Self {
        Self { every, left: Cell::new(if every == 0 { u32::MAX } else { 0 }) }
    }

    fn is_due(&self) -> bool {
        self.left.get() == 0
    }

    /// Counts one; true when it was due and `may` be taken.
    fn take(&self, may: bool) -> bool {
        let left = self.left.get();
        let taken = left == 0 && may;
        if taken {
            self.left.set(self.every - 1);
        } else if left > 0 && self.every > 0 {
            self.left.set(left - 1);
        }
        taken
    }
}

/// Measures one request in so many on one edge thread. It belongs to the thread: no lock, and no allocation.
#[derive(Debug)]
pub struct Stopwatch {
    requests: Sample,
    connections: Sample,
    /// The request that is resolved now is measured.
    runs: Cell<bool>,
    /// Its laps.
    laps: RefCell<Laps>,
}

impl Stopwatch {
    /// Measures one request in so many, and one connection; 0: none. A prime number measures clients that take turns alike.
    #[must_use]
    pub fn new(every: u32) -> Self {
        let sample = || Sample::new(every);
        Self { requests: sample(), connections: sample(), runs: Cell::new(false), laps: RefCell::default() }
    }

    /// Counts a connection; whether it is measured.
    pub fn takes_connection(&self) -> bool {
        self.connections.take(true)
    }

    /// Whether a request is to be measured: then the time is to be noted at which a head begins.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.requests.is_due()
    }

    /// Counts a request whose head is whole now, and began then, if that was noted. Its laps, if it is measured.
    pub fn begin(&self, head_began: Option<Duration>, now: Duration) -> Option<Laps> {
        self.requests.take(head_began.is_some()).then(|| {
            let mut laps = Laps { since: head_began.unwrap_or(now), ..Laps::default() };
            laps.end(Lap::Head, now);
            laps
        })
    }

    /// Runs what ends laps of this request by [`Stopwatch::end`].
    pub fn run<T>(&self, laps: &mut Option<Laps>, run: impl FnOnce() -> T) -> T {
        let Some(measured) = laps else { return run() };
        self.laps.replace(*measured);
        self.runs.set(true);
        let ran = run();
        self.runs.set(false);
        *measured = *self.laps.borrow();
        ran
    }

    /// Ends a lap of the request that runs, if it is measured.
    #[inline]
    pub fn end(&self, lap: Lap, now: impl FnOnce() -> Duration) {
        if self.runs.get() {
            self.laps.borrow_mut().end(lap, now());
        }
    }

    /// Notes what decided on the request that runs.
    pub fn decide(&self, decided: Decided) {
        if self.runs.get() {
            self.laps.borrow_mut().decided = Some(decided);
        }
    }
}

/// Written by one edge thread, of the requests that it measures.
#[derive(Debug)]
pub struct RequestTimes {
    accept: Histogram,
    phases: [Histogram; REQUEST.len()],
    /// The lap `Choose`, by what decided.
    routing: [Histogram; Decided::NAMES.len()],
    /// The lap `LookUp`.
    resolve: Histogram,
    /// The lap `Comply`.
    compliance: Histogram,
}

impl Default for RequestTimes {
    fn default() -> Self {
        let histogram = || Histogram::new(Scale::Durations);
        Self {
            accept: histogram(),
            phases: std::array::from_fn(|_| histogram()),
            routing: std::array::from_fn(|_| histogram()),
            resolve: histogram(),
            compliance: histogram(),
        }
    }
}

impl RequestTimes {
    /// Counts what passed from a connection to its first read.
    pub fn accept(&self, took: Duration) {
        self.accept.observe_duration(took);
    }

    /// Counts a request that is answered. A phase that it did not come by does not count it.
    pub fn count(&self, laps: &Laps) {
        for ((_, of), histogram) in REQUEST.iter().zip(&self.phases) {
            laps.of(of).into_iter().for_each(|ns| histogram.observe(ns));
        }
        laps.of(&[Lap::LookUp]).into_iter().for_each(|ns| self.resolve.observe(ns));
        laps.of(&[Lap::Comply]).into_iter().for_each(|ns| self.compliance.observe(ns));
        if let (Some(ns), Some(decided)) = (laps.of(&[Lap::Choose]), laps.decided) {
            self.routing[decided as usize].observe(ns);
        }
    }
}

/// A phase of a click behind the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// It waits to be taken up.
    Queue,
    /// Facts are found.
    Enrich,
    /// The deduper is asked.
    Dedup,
    /// The batch fills.
    Batch,
    /// The batch is stored.
    Insert,
}

impl Behind {
    const NAMES: [&str; 5] = ["queue", "enrich", "dedup", "batch", "insert"];
}

/// Written by one worker: of each chunk and of each batch.
#[derive(Debug)]
pub struct ClickTimes([Histogram; Behind::NAMES.len()]);

impl Default for ClickTimes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::new(Scale::Durations)))
    }
}

impl ClickTimes {
    /// Counts a chunk, or a batch.
    pub fn observe(&self, phase: Behind, took: Duration) {
        self.0[phase as usize].observe_duration(took);
    }
}

impl Shards {
    pub(super) fn phase_families(&self) -> [MetricFamily; 4] {
        let edges = |of: &dyn Fn(&RequestTimes) -> &Histogram| sum(self.edges.iter().map(|edge| of(&edge.times)));
        let mut phases = vec![("accept", edges(&|times| &times.accept))];
        for (place, (name, _)) in REQUEST.iter().enumerate() {
            phases.push((name, edges(&|times| &times.phases[place])));
        }
        for (place, name) in Behind::NAMES.into_iter().enumerate() {
            phases.push((name, sum(self.workers.iter().map(|worker| &worker.times.0[place]))));
        }
        let strategies = Decided::NAMES.into_iter().enumerate();
        let routing: Vec<_> = strategies.map(|(place, name)| (name, edges(&|times| &times.routing[place]))).collect();
        let help = "Of requests and clicks, by phase; those of requests in samples";
        let routes = "A campaign's decision, by what decided; in samples";
        let (looked, complied) = (edges(&|times| &times.resolve), edges(&|times| &times.compliance));
        let resolve = "Look-up of domain, link and campaign; in samples";
        let compliance = "Privacy decides what a click keeps, and takes the rest away; in samples";
        [
            histograms("trellis_phase_duration_seconds", help, "phase", &phases),
            histograms("trellis_routing_duration_seconds", routes, "strategy", &routing),
            histogram("trellis_resolve_duration_seconds", resolve, &looked),
            histogram("trellis_compliance_duration_seconds", compliance, &complied),
        ]
    }
}

fn sum<'h>(shards: impl Iterator<Item = &'h Histogram>) -> Snapshot {
    let mut total = Snapshot::default();
    shards.for_each(|shard| shard.merge_into(&mut total));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// Which of so many requests are measured, all of whose heads are noted.
    fn measured(every: u32, requests: usize) -> Vec<usize> {
        let stopwatch = Stopwatch::new(every);
        let head = |_: &usize| stopwatch.begin(stopwatch.is_due().then_some(Duration::ZERO), Duration::ZERO).is_some();
        (0..requests).filter(head).collect()
    }

    #[test]
    fn one_request_in_so_many_is_measured_or_all_or_none() {
        assert_eq!(measured(61, 200), [0, 61, 122, 183]);
        assert_eq!(measured(1, 3), [0, 1, 2]);
        assert_eq!(measured(0, 200), [0; 0]);
        let stopwatch = Stopwatch::new(3);
        let connections: Vec<_> = (0..7).map(|_| stopwatch.takes_connection()).collect();
        assert_eq!(connections, [true, false, false, true, false, false, true]);
        assert!(!Stopwatch::new(0).takes_connection());
    }

    #[test]
    fn a_request_whose_beginning_was_not_noted_is_left_to_the_next_one() {
        let (stopwatch, second) = (Stopwatch::new(2), Duration::from_secs(1));
        assert!(stopwatch.begin(None, second).is_none() && stopwatch.is_due());
        assert!(stopwatch.begin(Some(Duration::ZERO), second).is_some() && !stopwatch.is_due());
        assert!(
            stopwatch.begin(Some(Duration::ZERO), second).is_none(),
            "noted for the one before, which took its turn"
        );
        assert!(stopwatch.is_due());
    }

    #[test]
    fn laps_go_on_where_a_request_waited_and_others_ran() {
        let (stopwatch, ms) = (Stopwatch::new(1), Duration::from_millis);
        let mut one = stopwatch.begin(Some(ms(0)), ms(1));
        let mut other = stopwatch.begin(Some(ms(0)), ms(2));
        stopwatch.run(&mut one, || stopwatch.end(Lap::Limit, || ms(11)));
        stopwatch.run(&mut other, || stopwatch.end(Lap::Limit, || ms(102)));
        stopwatch.run(&mut None, || stopwatch.end(Lap::Limit, || panic!("nobody asks for the time")));
        stopwatch.end(Lap::Limit, || panic!("nobody asks for the time"));
        stopwatch.run(&mut one, || {
            stopwatch.decide(Decided::Weighted);
            stopwatch.end(Lap::Choose, || ms(31));
            stopwatch.end(Lap::Limit, || ms(32));
        });
        let (one, other) = (one.unwrap(), other.unwrap());
        let took = |laps: &Laps, lap| laps.of(&[lap]).map(|ns| ns / 1_000_000);
        assert_eq!(
            [Lap::Head, Lap::Limit, Lap::Choose, Lap::Spell].map(|lap| took(&one, lap)),
            [Some(1), Some(11), Some(20), None]
        );
        assert_eq!([Lap::Head, Lap::Limit, Lap::Choose].map(|lap| took(&other, lap)), [Some(2), Some(100), None]);
        assert_eq!((one.decided, other.decided), (Some(Decided::Weighted), None));
    }

    #[test]
    fn each_phase_has_its_series_and_those_of_all_threads_add_up() {
        let metrics = Metrics::new(2, 1, &[], || 0).unwrap();
        metrics.edge(0).times.accept(Duration::from_millis(1));
        for core in 0..2 {
            let mut laps = Laps { decided: Some(Decided::RoundRobin), ..Laps::default() };
            laps.end(Lap::Choose, Duration::from_micros(2));
            metrics.edge(core).times.count(&laps);
        }
        metrics.worker(0).times.observe(Behind::Insert, Duration::from_millis(3));
        metrics.worker(1).times.observe(Behind::Insert, Duration::from_millis(7));
        let text = metrics.render(0);
        for line in [
            "trellis_phase_duration_seconds_sum{phase=\"accept\"} 0.001",
            "trellis_phase_duration_seconds_bucket{phase=\"choose\",le=\"0.000001\"} 0",
            "trellis_phase_duration_seconds_bucket{phase=\"choose\",le=\"0.0000025\"} 2",
            "trellis_phase_duration_seconds_sum{phase=\"insert\"} 0.01",
            "trellis_phase_duration_seconds_count{phase=\"head\"} 0",
            "trellis_routing_duration_seconds_count{strategy=\"round_robin\"} 2",
            "trellis_routing_duration_seconds_count{strategy=\"weighted\"} 0",
            "trellis_resolve_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let phases = [
            "accept", "head", "auth", "limit", "resolve", "choose", "journal", "respond", "queue", "enrich", "dedup",
            "batch", "insert",
        ];
        for phase in phases {
            assert!(text.contains(&format!("trellis_phase_duration_seconds_count{{phase=\"{phase}\"}}")), "{phase}");
        }
    }
}
