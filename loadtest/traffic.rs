//! Open-loop traffic for the load tests: visits at a fixed rate, whatever the server does.
//!
//! Every request has a due time that is known before the run. Its latency runs from that due time to the last byte of
//! the response, so a server that stalls is charged for every visit that had to wait, not only for the ones that were
//! under way (no coordinated omission). A connection carries one request at a time; when all are busy the next one
//! waits, and the wait counts.
//!
//! The schedule is a pure function of the seed: request `n` can be written again at any time, which is how exact
//! duplicates are sent without remembering millions of requests. Due times lie on a grid of 1 ms: the requests of one
//! millisecond leave together, which keeps the generator cheap and the server's bursts honest.
//!
//! It speaks to loopback addresses only and ends by itself. Run it by hand, or through `end-to-end` and
//! `nginx-compare` in this folder.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a tool for the terminal that measures real time")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Requests that leave together; the grid of the schedule.
const TICK: Duration = Duration::from_millis(1);
/// A tick that runs later than this makes its requests "late": the generator itself was too slow.
const LATE: Duration = Duration::from_millis(10);
/// The oldest request that a duplicate repeats.
const DUPLICATE_WITHIN_S: f64 = 20.0;
/// From the opened connections to the first due time: the event loops have turned once by then.
const HEAD_START: Duration = Duration::from_millis(50);
/// The longest response, head and body. Ours have a few hundred bytes.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// Clock ticks a second in /proc/self/stat; a constant of Linux's user interface.
const PROC_TICKS_PER_S: f64 = 100.0;

/// Sends visits to a redirect server on this machine at a fixed rate and reports what came back.
#[derive(Parser)]
struct Args {
    /// Address of the edge; loopback only.
    #[arg(long)]
    edge: SocketAddr,
    /// Requests a second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Length of the schedule.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// After the schedule: time for what is still under way.
    #[arg(long, default_value_t = 10)]
    grace: u64,
    /// Kept-alive connections, all threads together.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Event loops.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=2))]
    threads: u64,
    /// Known slugs, one a line.
    #[arg(long)]
    slugs: PathBuf,
    /// User agents of people, one a line.
    #[arg(long)]
    user_agents: PathBuf,
    /// User agents of crawlers, one a line.
    #[arg(long)]
    crawlers: Option<PathBuf>,
    /// Share of requests for slugs that do not exist (404 is right).
    #[arg(long, default_value_t = 0.02)]
    unknown: f64,
    /// Share of HEAD requests.
    #[arg(long, default_value_t = 0.02)]
    heads: f64,
    /// Share of exact repeats of an earlier GET that was answered with an X-Click-Id.
    #[arg(long, default_value_t = 0.05)]
    duplicates: f64,
    /// Seconds between a GET and its repeat, at least; 20 at most.
    #[arg(long, default_value_t = 2.0)]
    duplicate_after: f64,
    /// Share of crawlers among the other GETs.
    #[arg(long, default_value_t = 0.1)]
    crawler_share: f64,
    /// Send X-Forwarded-For with a public IPv4 address for each visitor.
    #[arg(long)]
    forwarded: bool,
    /// The whole schedule follows from this number. Default: a random one, printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Cut the run at these seconds and report the latency of each part, for example 40,70.
    #[arg(long, value_delimiter = ',')]
    split: Vec<u64>,
    /// Write the report here, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Write every X-Click-Id here, one line `id kind`.
    #[arg(long)]
    click_ids: Option<PathBuf>,
}

impl Args {
    /// What clap cannot say.
    fn check(&self) -> Result<()> {
        ensure!(self.edge.ip().is_loopback(), "--edge {}: only loopback addresses are accepted", self.edge);
        let shares = [self.unknown, self.heads, self.duplicates, self.crawler_share];
        ensure!(shares.iter().all(|s| (0.0..=1.0).contains(s)), "a share lies between 0 and 1");
        ensure!(self.unknown + self.heads + self.duplicates <= 1.0, "the shares add up to more than 1");
        ensure!(
            (0.0..DUPLICATE_WITHIN_S).contains(&self.duplicate_after),
            "--duplicate-after: below {DUPLICATE_WITHIN_S} s"
        );
        ensure!(self.connections as u64 >= self.threads, "at least one connection for each thread");
        ensure!(self.crawlers.is_some() || self.crawler_share == 0.0, "--crawler-share needs --crawlers");
        ensure!(self.split.is_sorted(), "--split: in rising order");
        Ok(())
    }
}

// --- The schedule ---------------------------------------------------------------------------------------------------

/// What a request is, and so which answer is right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Human,
    Crawler,
    Head,
    Unknown,
    Duplicate,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Human, Kind::Crawler, Kind::Head, Kind::Unknown, Kind::Duplicate];

    fn name(self) -> &'static str {
        ["human", "crawler", "head", "unknown", "duplicate"][self as usize]
    }
}

/// The whole run, decided by the seed: when request `n` is due and what it says.
struct Plan {
    seed: u64,
    run: String,
    host: String,
    rate: u64,
    total: u64,
    /// Requests `n` and `m` go through the same event loop when they differ by a multiple of this.
    loops: u64,
    slugs: Vec<String>,
    user_agents: Vec<String>,
    crawlers: Vec<String>,
    unknown: f64,
    heads: f64,
    duplicates: f64,
    crawler_share: f64,
    /// How far back a duplicate looks, in rounds of `loops` requests.
    duplicate_back: std::ops::RangeInclusive<u64>,
    forwarded: bool,
}

impl Plan {
    fn new(args: &Args) -> Result<Plan> {
        let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        let (rate, loops) = (args.rate, args.threads);
        // One grid step more, so that rounding to the grid does not bring the two nearer than asked.
        let nearest = (args.duplicate_after * rate as f64).ceil() as u64 + rate / 1000 + 1;
        let farthest = (DUPLICATE_WITHIN_S * rate as f64) as u64;
        Ok(Plan {
            seed,
            run: format!("{seed:x}"),
            host: args.edge.to_string(),
            rate,
            total: rate * args.seconds,
            loops,
            slugs: read_lines(&args.slugs)?,
            user_agents: read_lines(&args.user_agents)?,
            crawlers: args.crawlers.as_deref().map_or_else(|| Ok(Vec::new()), read_lines)?,
            unknown: args.unknown,
            heads: args.heads,
            duplicates: args.duplicates,
            crawler_share: args.crawler_share,
            duplicate_back: nearest.div_ceil(loops)..=farthest / loops,
            forwarded: args.forwarded,
        })
    }

    /// The random numbers of request `n`: independent of those of every other request.
    fn rng(&self, n: u64) -> fastrand::Rng {
        // Spread by an odd constant: neighbouring seeds of fastrand begin alike.
        fastrand::Rng::with_seed(
            (self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd134_2543_de82_ef95),
        )
    }

    /// Time of request `n` after the start, rounded up to the grid.
    fn due(&self, n: u64) -> Duration {
        Duration::from_millis((n * 1000).div_ceil(self.rate))
    }

    /// Number of requests that are due at this time after the start.
    fn due_count(&self, at: Duration) -> u64 {
        (at.as_millis() as u64 * self.rate / 1000 + 1).min(self.total)
    }

    /// The kind of request `n`, and whether its visitor is a crawler in case it is a GET of its own.
    fn draw(&self, rng: &mut fastrand::Rng) -> (Kind, bool) {
        let (share, crawler) = (rng.f64(), rng.f64() < self.crawler_share);
        let kind = if share < self.unknown {
            Kind::Unknown
        } else if share < self.unknown + self.heads {
            Kind::Head
        } else if share < self.unknown + self.heads + self.duplicates {
            Kind::Duplicate
        } else if crawler {
            Kind::Crawler
        } else {
            Kind::Human
        };
        (kind, crawler)
    }

    /// The earlier request that duplicate `n` repeats: a GET of its own, of the same event loop.
    fn original(&self, n: u64) -> Option<u64> {
        let (nearest, farthest) = (*self.duplicate_back.start(), (*self.duplicate_back.end()).min(n / self.loops));
        if nearest > farthest {
            return None;
        }
        let mut rng = self.rng(!n);
        (0..32)
            .map(|_| n - rng.u64(nearest..=farthest) * self.loops)
            .find(|&m| matches!(self.draw(&mut self.rng(m)).0, Kind::Human | Kind::Crawler))
    }

    /// Writes request `n` as a visit of its own. A duplicate is written by the number that it repeats.
    fn write(&self, n: u64, out: &mut Vec<u8>) -> io::Result<Kind> {
        let mut rng = self.rng(n);
        let (kind, crawler) = match self.draw(&mut rng) {
            (Kind::Duplicate, true) => (Kind::Crawler, true),
            (Kind::Duplicate, false) => (Kind::Human, false),
            (kind, _) => (kind, kind == Kind::Crawler),
        };
        let agents = if crawler { &self.crawlers } else { &self.user_agents };
        let slug = &self.slugs[rng.usize(..self.slugs.len())];
        let agent = &agents[rng.usize(..agents.len())];
        out.clear();
        out.extend_from_slice(if kind == Kind::Head { b"HEAD /" } else { b"GET /" });
        out.extend_from_slice(slug.as_bytes());
        if kind == Kind::Unknown {
            out.extend_from_slice(b"-unknown");
        }
        write!(out, "?click_id={}-{n}&source=load HTTP/1.1\r\nHost: {}\r\n", self.run, self.host)?;
        write!(out, "User-Agent: {agent}\r\nAccept: text/html,*/*;q=0.8\r\nAccept-Language: de-DE,de;q=0.9\r\n")?;
        if self.forwarded {
            // 11.0.0.0 to 99.255.255.255 holds no private or reserved block.
            let [b, c, d, _] = rng.u32(..).to_le_bytes();
            write!(out, "X-Forwarded-For: {}.{b}.{c}.{d}\r\n", rng.u8(11..=99))?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(kind)
    }
}

/// The lines of a file, without empty ones and those that begin with `#`.
fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "{}: no lines", path.display());
    Ok(lines)
}

// --- What is counted ------------------------------------------------------------------------------------------------

/// Times in microseconds: exact to 1 below 64, after that 64 steps to each power of two, so 1.6 % at most.
#[derive(Default)]
struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let us = time.as_micros() as u64;
        let slot = if us < 64 {
            us as usize
        } else {
            let shift = us.ilog2() - 6;
            (u64::from(shift) * 64 + (us >> shift)) as usize
        };
        if slot >= self.counts.len() {
            self.counts.resize(slot + 1, 0);
        }
        self.counts[slot] += 1;
        self.count += 1;
        self.max = self.max.max(us);
    }

    fn merge(&mut self, other: &Histogram) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The highest time in the step that holds this share of the times.
    fn quantile(&self, share: f64) -> u64 {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let slot = slot as u64;
                let shift = (slot / 64).saturating_sub(1);
                return ((((slot - shift * 64) + 1) << shift) - 1).min(self.max);
            }
        }
        self.max
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count,
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "p99_9": self.quantile(0.999),
            "max": self.max,
        })
    }
}

/// Everything that one event loop counts.
#[derive(Default)]
struct Tally {
    sent: [u64; Kind::ALL.len()],
    with_click_id: [u64; Kind::ALL.len()],
    by_status: BTreeMap<u16, [u64; Kind::ALL.len()]>,
    redirects_without_click_id: u64,
    /// Duplicates that went out as visits of their own, because the first one had no X-Click-Id yet.
    duplicates_not_sent: u64,
    /// Requests that ended without a complete response.
    transport_errors: u64,
    connect_errors: u64,
    reconnects: u64,
    late_sends: u64,
    waited_for_connection: u64,
    unanswered: u64,
    unsent: u64,
    last_response: Duration,
    /// From the due time: every response, and those with status 302.
    all: Histogram,
    redirects: Histogram,
    /// Of the redirects, from the moment of sending: what the server alone answers for.
    redirects_from_send: Histogram,
    /// Of the redirects, by the part of the run in which they were due.
    parts: Vec<Histogram>,
}

impl Tally {
    fn merge(&mut self, other: &Tally) {
        let add = |a: &mut [u64], b: &[u64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        add(&mut self.sent, &other.sent);
        add(&mut self.with_click_id, &other.with_click_id);
        for (status, kinds) in &other.by_status {
            add(self.by_status.entry(*status).or_default(), kinds);
        }
        self.redirects_without_click_id += other.redirects_without_click_id;
        self.duplicates_not_sent += other.duplicates_not_sent;
        self.transport_errors += other.transport_errors;
        self.connect_errors += other.connect_errors;
        self.reconnects += other.reconnects;
        self.late_sends += other.late_sends;
        self.waited_for_connection += other.waited_for_connection;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.last_response = self.last_response.max(other.last_response);
        self.all.merge(&other.all);
        self.redirects.merge(&other.redirects);
        self.redirects_from_send.merge(&other.redirects_from_send);
        self.parts.resize_with(other.parts.len(), Histogram::default);
        self.parts.iter_mut().zip(&other.parts).for_each(|(a, b)| a.merge(b));
    }

    fn answered(&self) -> u64 {
        self.all.count
    }
}

/// Collects `id kind` lines and hands them to the writing thread in blocks, so that the event loop never waits for
/// the disk (unless the disk is slower than the clicks for a long time).
struct IdLog {
    block: Vec<u8>,
    to: SyncSender<Vec<u8>>,
}

impl IdLog {
    const BLOCK_BYTES: usize = 64 * 1024;

    fn add(&mut self, id: &[u8], kind: Kind) {
        self.block.extend_from_slice(id);
        self.block.push(b' ');
        self.block.extend_from_slice(kind.name().as_bytes());
        self.block.push(b'\n');
        if self.block.len() > Self::BLOCK_BYTES {
            self.flush();
        }
    }

    /// A writer that has gone away reports its error when it is joined.
    fn flush(&mut self) {
        let next = Vec::with_capacity(Self::BLOCK_BYTES + 128);
        let _ = self.to.send(std::mem::replace(&mut self.block, next));
    }
}

// --- One event loop -------------------------------------------------------------------------------------------------

/// A request under way.
struct Asked {
    n: u64,
    kind: Kind,
    due: Duration,
    sent: Duration,
}

/// One connection, as the sending side sees it. The receiving side is a task of its own.
#[derive(Default)]
struct Line {
    out: Option<OwnedWriteHalf>,
    asked: Option<Asked>,
    opened: bool,
}

/// One event loop: every `plan.loops`-th request, its share of the connections.
struct Shard {
    plan: Arc<Plan>,
    index: u64,
    start: Instant,
    split: Vec<u64>,
    /// Of this loop's requests: the next to send, and the first that is not due yet.
    next: u64,
    due: u64,
    /// First in, first out, so that every connection is used and none reaches the server's idle time-out.
    free: VecDeque<usize>,
    lines: Vec<Line>,
    /// A bit for each of this loop's latest requests: answered with an X-Click-Id.
    kept: Vec<u64>,
    scratch: Vec<u8>,
    ids: Option<IdLog>,
    tally: Tally,
}

impl Shard {
    fn new(plan: Arc<Plan>, index: u64, start: Instant, split: Vec<u64>, lines: usize, ids: Option<IdLog>) -> Shard {
        let kept = (*plan.duplicate_back.end() as usize + 1).next_power_of_two().max(64) / 64;
        let tally = Tally { parts: split.iter().map(|_| Histogram::default()).collect(), ..Tally::default() };
        Shard {
            plan,
            index,
            start,
            split,
            next: 0,
            due: 0,
            free: VecDeque::with_capacity(lines),
            lines: (0..lines).map(|_| Line::default()).collect(),
            kept: vec![0; kept],
            scratch: Vec::with_capacity(1024),
            ids,
            tally,
        }
    }

    /// This loop's requests among the first `n` of the plan.
    fn own(&self, n: u64) -> u64 {
        (n + self.plan.loops - 1 - self.index) / self.plan.loops
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends what has become due. Called about once a millisecond.
    fn tick(&mut self) {
        if Instant::now() < self.start {
            return;
        }
        let now = self.now();
        let overdue = now.checked_sub(LATE).map_or(0, |at| self.own(self.plan.due_count(at)));
        self.tally.late_sends += overdue.saturating_sub(self.due);
        self.due = self.own(self.plan.due_count(now));
        self.send_due();
    }

    fn send_due(&mut self) -> u64 {
        let first = self.next;
        while self.next < self.due {
            let Some(line) = self.free.pop_front() else { break };
            self.send(line);
        }
        self.next - first
    }

    /// Sends the next request on a free connection.
    fn send(&mut self, line: usize) {
        let n = self.next * self.plan.loops + self.index;
        self.next += 1;
        self.keep(n, false);
        let is_duplicate = self.plan.draw(&mut self.plan.rng(n)).0 == Kind::Duplicate;
        let repeats = if is_duplicate { self.plan.original(n).filter(|&m| self.is_kept(m)) } else { None };
        self.tally.duplicates_not_sent += u64::from(is_duplicate && repeats.is_none());
        let kind = self.plan.write(repeats.unwrap_or(n), &mut self.scratch).expect("a Vec takes every byte");
        let kind = if repeats.is_some() { Kind::Duplicate } else { kind };
        self.tally.sent[kind as usize] += 1;
        let sent = self.now();
        let slot = &mut self.lines[line];
        let wrote = slot.out.as_ref().map(|out| out.try_write(&self.scratch));
        if matches!(wrote, Some(Ok(bytes)) if bytes == self.scratch.len()) {
            slot.asked = Some(Asked { n, kind, due: self.plan.due(n), sent });
        } else {
            // An idle connection takes a few hundred bytes or is broken. Dropping this half closes it; its task reopens.
            slot.out = None;
            self.tally.transport_errors += 1;
        }
    }

    /// Counts a complete response and gives the connection its next request.
    fn answered(&mut self, line: usize, response: &Response<'_>) {
        let Some(asked) = self.lines[line].asked.take() else { return };
        let now = self.now();
        let late = now.saturating_sub(asked.due);
        self.tally.all.add(late);
        self.tally.last_response = now;
        self.tally.by_status.entry(response.status).or_default()[asked.kind as usize] += 1;
        if response.status == 302 {
            self.tally.redirects.add(late);
            self.tally.redirects_from_send.add(now.saturating_sub(asked.sent));
            let part = self.split.partition_point(|&s| asked.due >= Duration::from_secs(s));
            self.tally.parts[part - 1].add(late);
        }
        match response.click_id {
            Some(id) => {
                self.tally.with_click_id[asked.kind as usize] += 1;
                self.keep(asked.n, true);
                if let Some(ids) = &mut self.ids {
                    ids.add(id, asked.kind);
                }
            }
            None => self.tally.redirects_without_click_id += u64::from(response.status == 302),
        }
        if !response.close {
            self.free.push_back(line);
            self.tally.waited_for_connection += self.send_due();
        }
    }

    fn opened(&mut self, line: usize, out: OwnedWriteHalf) {
        let slot = &mut self.lines[line];
        slot.out = Some(out);
        self.tally.reconnects += u64::from(std::mem::replace(&mut slot.opened, true));
        self.free.push_back(line);
        self.tally.waited_for_connection += self.send_due();
    }

    fn closed(&mut self, line: usize) {
        self.lines[line].out = None;
        self.free.retain(|&free| free != line);
        self.tally.transport_errors += u64::from(self.lines[line].asked.take().is_some());
    }

    fn keep(&mut self, n: u64, kept: bool) {
        let (word, bit) = self.kept_at(n);
        if kept {
            self.kept[word] |= bit;
        } else {
            self.kept[word] &= !bit;
        }
    }

    fn is_kept(&self, n: u64) -> bool {
        let (word, bit) = self.kept_at(n);
        self.kept[word] & bit != 0
    }

    /// The place of request `n` in the ring of bits. The ring is longer than a duplicate looks back.
    fn kept_at(&self, n: u64) -> (usize, u64) {
        let own = n / self.plan.loops;
        ((own / 64) as usize % self.kept.len(), 1 << (own % 64))
    }

    fn is_done(&self, grace: Duration) -> bool {
        let total = self.own(self.plan.total);
        let all_answered = self.next == total && self.lines.iter().all(|line| line.asked.is_none());
        all_answered || self.now() > self.plan.due(self.plan.total) + grace
    }

    /// What has no answer at the end has none.
    fn finish(&mut self) -> Tally {
        self.tally.unanswered = self.lines.iter().filter(|line| line.asked.is_some()).count() as u64;
        self.tally.unsent = self.own(self.plan.total) - self.next;
        if let Some(ids) = &mut self.ids {
            ids.flush();
        }
        std::mem::take(&mut self.tally)
    }
}

/// Runs one event loop to its end.
fn run_shard(shard: Shard, streams: Vec<std::net::TcpStream>, wake: &Notify, grace: Duration) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shard = Rc::new(RefCell::new(shard));
    let lines = tokio::task::LocalSet::new();
    lines.block_on(&runtime, async {
        for (line, stream) in streams.into_iter().enumerate() {
            let stream = TcpStream::from_std(stream)?;
            tokio::task::spawn_local(run_line(Rc::clone(&shard), line, stream));
        }
        loop {
            wake.notified().await;
            let mut shard = shard.borrow_mut();
            shard.tick();
            if shard.is_done(grace) {
                return Ok(shard.finish());
            }
        }
    })
}

/// The receiving side of one connection, for the whole run: opens it again when it breaks.
async fn run_line(shard: Rc<RefCell<Shard>>, line: usize, first: TcpStream) {
    let edge = first.peer_addr();
    let mut stream = Some(first);
    loop {
        // Awaiting writability makes it known to tokio: `try_write` fails on a socket it has not heard of yet.
        if let Some(stream) = stream.take()
            && stream.writable().await.is_ok()
        {
            let (mut input, output) = stream.into_split();
            shard.borrow_mut().opened(line, output);
            converse(&shard, line, &mut input).await;
            shard.borrow_mut().closed(line);
        }
        let Ok(edge) = edge else { return };
        match TcpStream::connect(edge).await {
            Ok(new) if new.set_nodelay(true).is_ok() => stream = Some(new),
            _ => {
                shard.borrow_mut().tally.connect_errors += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads responses until the connection is closed or says something that is not one response to one request.
async fn converse(shard: &RefCell<Shard>, line: usize, input: &mut OwnedReadHalf) {
    let mut buffer = vec![0; RESPONSE_BYTES_MAX];
    let mut filled = 0;
    loop {
        match input.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => filled += bytes,
        }
        let mut shard = shard.borrow_mut();
        let Some(asked) = &shard.lines[line].asked else { return };
        match Response::parse(&buffer[..filled], asked.kind == Kind::Head) {
            Some(Some(response)) if response.bytes == filled => {
                shard.answered(line, &response);
                if response.close {
                    return;
                }
                filled = 0;
            }
            Some(None) if filled < buffer.len() => {}
            _ => return,
        }
    }
}

// --- HTTP -----------------------------------------------------------------------------------------------------------

/// The parts of a response that count here.
struct Response<'a> {
    status: u16,
    click_id: Option<&'a [u8]>,
    close: bool,
    /// Length of head and body.
    bytes: usize,
}

impl<'a> Response<'a> {
    /// `Some(None)`: not complete yet. `None`: not a response that we understand (chunked, or without a length).
    fn parse(input: &'a [u8], to_head: bool) -> Option<Option<Response<'a>>> {
        let mut lines = input.split_inclusive(|&byte| byte == b'\n');
        let Some(first) = lines.next().filter(|line| line.ends_with(b"\n")) else { return Some(None) };
        let status = first.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        let (mut head, mut length, mut click_id, mut close) = (first.len(), None, None, false);
        loop {
            let Some(line) = lines.next().filter(|line| line.ends_with(b"\n")) else { return Some(None) };
            head += line.len();
            if line == b"\r\n" {
                break;
            }
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"x-click-id") {
                click_id = Some(value);
            } else if name.eq_ignore_ascii_case(b"content-length") {
                length = Some(std::str::from_utf8(value).ok()?.parse::<usize>().ok()?);
            } else if name.eq_ignore_ascii_case(b"connection") {
                close = value.eq_ignore_ascii_case(b"close");
            }
        }
        let bytes = head + if to_head || matches!(status, 204 | 304) { 0 } else { length? };
        Some((input.len() >= bytes).then_some(Response { status, click_id, close, bytes }))
    }
}

// --- The run --------------------------------------------------------------------------------------------------------

fn main() -> Result<()> {
    let args = Args::parse();
    args.check()?;
    let plan = Arc::new(Plan::new(&args)?);
    println!(
        "traffic seed={} run={} edge={} rate={}/s seconds={} connections={} threads={}",
        plan.seed, plan.run, args.edge, args.rate, args.seconds, args.connections, args.threads
    );
    // Threads started from here on sleep to the microsecond instead of 50 longer. Where this is refused, the latencies
    // from the due time grow by as much.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1000");
    let mut streams = connect(args.edge, args.connections)?;
    let (ids, writer) = args.click_ids.as_deref().map(start_writer).transpose()?.unzip();
    let start = Instant::now() + HEAD_START;
    let wakes: Vec<Arc<Notify>> = (0..args.threads).map(|_| Arc::default()).collect();
    let split: Vec<u64> = [0].into_iter().chain(args.split.iter().copied()).collect();
    let grace = Duration::from_secs(args.grace);
    let mut loops = Vec::new();
    for (index, wake) in wakes.iter().enumerate() {
        let share = streams.split_off(streams.len() - streams.len() / (wakes.len() - index));
        let ids = ids.clone().map(|to| IdLog { block: Vec::new(), to });
        let shard = Shard::new(Arc::clone(&plan), index as u64, start, split.clone(), share.len(), ids);
        let wake = Arc::clone(wake);
        loops.push(thread::spawn(move || run_shard(shard, share, &wake, grace)));
    }
    drop(ids);
    let stop = Arc::new(AtomicBool::new(false));
    let pacer = start_pacer(start, wakes, Arc::clone(&stop));
    println!("started");
    let mut tally = Tally::default();
    for run in loops {
        let Ok(part) = run.join() else { bail!("an event loop panicked") };
        tally.merge(&part?);
    }
    stop.store(true, Ordering::Relaxed);
    ensure!(pacer.join().is_ok(), "the pacer panicked");
    if let Some(writer) = writer {
        let Ok(written) = writer.join() else { bail!("the writer panicked") };
        written.context("--click-ids")?;
    }
    let report = report(&args, &plan, &split, &tally)?;
    print!("{}", readable(&report));
    if let Some(path) = &args.report {
        std::fs::write(path, format!("{report:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Opens all connections before the schedule begins: a server that cannot take them is an error of its own.
fn connect(edge: SocketAddr, count: usize) -> Result<Vec<std::net::TcpStream>> {
    (0..count)
        .map(|n| {
            let stream = std::net::TcpStream::connect_timeout(&edge, Duration::from_secs(5))
                .with_context(|| format!("connection {} of {count} to {edge}", n + 1))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .collect()
}

/// A thread that writes to a file.
type Writer = thread::JoinHandle<io::Result<()>>;

/// Starts a thread that writes blocks to a file until all senders are gone.
fn start_writer(path: &Path) -> Result<(SyncSender<Vec<u8>>, Writer)> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let (to, from): (_, mpsc::Receiver<Vec<u8>>) = sync_channel(64);
    Ok((to, thread::spawn(move || from.iter().try_for_each(|block| file.write_all(&block)))))
}

/// Wakes the event loops at each tick. A thread of its own, because tokio's timers round up to whole milliseconds and
/// would add up to one to every latency.
fn start_pacer(start: Instant, wakes: Vec<Arc<Notify>>, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // Before the start and after it: to the next point of the grid.
            let to_next = match Instant::now().checked_duration_since(start) {
                Some(since) => TICK - Duration::from_nanos((since.as_nanos() % TICK.as_nanos()) as u64),
                None => start - Instant::now(),
            };
            thread::sleep(to_next);
            wakes.iter().for_each(|wake| wake.notify_one());
        }
    })
}

// --- The report -----------------------------------------------------------------------------------------------------

/// Processor seconds of this process, user and system.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the name, may hold spaces; it ends at the last parenthesis. utime and stime are fields 14, 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [utime, stime] = [fields.get(11), fields.get(12)].map(|field| field.and_then(|f| f.parse::<f64>().ok()));
    Ok((utime.context("utime")? + stime.context("stime")?) / PROC_TICKS_PER_S)
}

fn report(args: &Args, plan: &Plan, split: &[u64], tally: &Tally) -> Result<Value> {
    let elapsed_s = tally.last_response.as_secs_f64().max(args.seconds as f64);
    let by_status = |of: &dyn Fn(&[u64; Kind::ALL.len()]) -> u64| {
        let counts = tally.by_status.iter().map(|(status, kinds)| (status.to_string(), json!(of(kinds))));
        Value::Object(counts.filter(|(_, count)| count != 0).collect())
    };
    let by_kind = Kind::ALL.map(|kind| {
        let k = kind as usize;
        let counts = json!({
            "sent": tally.sent[k],
            "with_click_id": tally.with_click_id[k],
            "by_status": by_status(&|kinds| kinds[k]),
        });
        (kind.name().to_owned(), counts)
    });
    let ends = split[1..].iter().chain([&args.seconds]);
    let parts = split
        .iter()
        .zip(ends)
        .zip(&tally.parts)
        .map(|((from_s, to_s), histogram)| json!({"from_s": from_s, "to_s": to_s, "us": histogram.json()}));
    Ok(json!({
        "seed": plan.seed,
        "run": plan.run,
        "rate": args.rate,
        "seconds": args.seconds,
        "connections": args.connections,
        "threads": args.threads,
        "sent": tally.sent.iter().sum::<u64>(),
        "answered": tally.answered(),
        "unsent": tally.unsent,
        "unanswered": tally.unanswered,
        "transport_errors": tally.transport_errors,
        "connect_errors": tally.connect_errors,
        "reconnects": tally.reconnects,
        "by_status": by_status(&|kinds| kinds.iter().sum()),
        "by_kind": Value::Object(by_kind.into_iter().collect()),
        "with_click_id": tally.with_click_id.iter().sum::<u64>(),
        "redirects_without_click_id": tally.redirects_without_click_id,
        "duplicates_not_sent": tally.duplicates_not_sent,
        "latency_us": {
            "all": tally.all.json(),
            "redirects": tally.redirects.json(),
            "redirects_from_send": tally.redirects_from_send.json(),
            "redirects_by_part": parts.collect::<Vec<_>>(),
        },
        "achieved_rate": (tally.answered() as f64 / elapsed_s).round(),
        "late_sends": tally.late_sends,
        "waited_for_connection": tally.waited_for_connection,
        "cpu_seconds": cpu_seconds()?,
    }))
}

/// The report for people: one value a line, nested names joined by a blank.
fn readable(report: &Value) -> String {
    fn add(name: &str, value: &Value, out: &mut String) {
        match value {
            Value::Object(fields) if fields.contains_key("p50") => {
                let times = fields.iter().map(|(key, value)| format!("{key} {value}"));
                out.push_str(&format!("{name:<44} {}\n", times.collect::<Vec<_>>().join("  ")));
            }
            Value::Object(fields) => fields.iter().for_each(|(key, value)| add(&format!("{name} {key}"), value, out)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, value)| add(&format!("{name} {n}"), value, out));
            }
            _ => out.push_str(&format!("{name:<44} {value}\n")),
        }
    }
    let mut out = String::new();
    add("", report, &mut out);
    out.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}
