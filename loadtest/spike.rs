//! A spike of connections, and what its visitors see: a few steady ones, then thousands within seconds, then few again.
//!
//! Three groups, from addresses of 127.0.0.0/8, which the node under test must not exempt:
//! - *steady*: open all the time, each from a network of its own, well within its limits; now and then on a new connection;
//! - *crowd*: rises from none to the peak, holds and goes; its networks ask for more than they may;
//! - what each second shows of the two is printed as JSON, for `spike` in this folder to judge.
//!
//! Closed loop: a client asks, reads the answer, pauses and asks again. It speaks to loopback addresses only, and ends by
//! itself.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a tool for the terminal that measures real time")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// For one answer; a longer one counts as an error.
const ANSWER: Duration = Duration::from_secs(5);
/// A steady client asks so often on one connection before it opens the next.
const PER_CONNECTION: u32 = 10;

/// Sends a spike of connections to a redirect server on this machine.
#[derive(Clone, Parser)]
struct Args {
    /// Address of the edge; loopback only.
    #[arg(long)]
    edge: SocketAddr,
    /// A link that is there.
    #[arg(long, default_value = "/spike")]
    path: String,
    /// Connections before and after; all within their limits.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steady: u32,
    /// Connections at the peak, the steady ones too.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    peak: u32,
    /// Networks of the crowd.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    networks: u32,
    /// Seconds before the crowd, of its rise, of its stay, and after it.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 10, 5, 12])]
    seconds: Vec<u64>,
    /// From an answer to the client's next request, milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pause: u64,
}

/// What one group saw in one second.
#[derive(Default)]
struct Second {
    statuses: BTreeMap<u16, u64>,
    errors: u64,
    micros: Vec<u64>,
    open: u64,
}

/// What a group saw.
#[derive(Default)]
struct Seen {
    seconds: Vec<Second>,
    open: u64,
    first_errors: Vec<String>,
}

struct Run {
    args: Args,
    start: Instant,
    end: Duration,
    crowd_leaves: Duration,
    groups: [RefCell<Seen>; 2],
}

impl Run {
    fn note(&self, group: usize, asked: Instant, answer: Result<u16>) {
        let mut seen = self.groups[group].borrow_mut();
        let second = (asked - self.start).as_secs() as usize;
        if seen.seconds.len() <= second {
            seen.seconds.resize_with(second + 1, Second::default);
        }
        let open = seen.open;
        let at = &mut seen.seconds[second];
        at.open = at.open.max(open);
        match answer {
            Ok(status) => {
                *at.statuses.entry(status).or_default() += 1;
                at.micros.push(asked.elapsed().as_micros() as u64);
            }
            Err(error) => {
                at.errors += 1;
                if seen.first_errors.len() < 5 {
                    seen.first_errors.push(format!("{error:#}"));
                }
            }
        }
    }
}

/// One client until its time is over. One who is turned away comes back after a pause, as Retry-After asks.
async fn client(run: Rc<Run>, group: usize, from: Ipv4Addr, begins: Duration, until: Duration) {
    tokio::time::sleep_until((run.start + begins).into()).await;
    let pause = Duration::from_millis(run.args.pause);
    let request =
        format!("GET {} HTTP/1.1\r\nHost: spike\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n", run.args.path);
    while run.start.elapsed() < until {
        let asked = Instant::now();
        let mut stream = match open(run.args.edge, from).await {
            Ok(stream) => stream,
            Err(error) => {
                run.note(group, asked, Err(error));
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        run.groups[group].borrow_mut().open += 1;
        let mut asked = asked;
        for _ in 0..if group == 0 { PER_CONNECTION } else { u32::MAX } {
            let answer = tokio::time::timeout(ANSWER, ask(&mut stream, request.as_bytes())).await;
            let answer = answer.context("no answer in time").flatten();
            let goes_on = matches!(answer, Ok((_, false)));
            run.note(group, asked, answer.map(|(status, _)| status));
            tokio::time::sleep(pause).await;
            if !goes_on || run.start.elapsed() >= until {
                break;
            }
            asked = Instant::now();
        }
        run.groups[group].borrow_mut().open -= 1;
    }
}

async fn open(edge: SocketAddr, from: Ipv4Addr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.set_nodelay(true)?;
    tokio::time::timeout(ANSWER, socket.connect(edge)).await.context("no connection in time")?.context("connecting")
}

/// The status of the answer, and whether the connection closes behind it.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<(u16, bool)> {
    // One who is turned away may find the door closed while it speaks; the answer is there all the same.
    let _ = stream.write_all(request).await;
    let mut bytes = [0; 4096];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut bytes[filled..]).await.context("reading")?;
        ensure!(read > 0, "closed after {filled} bytes of an answer");
        filled += read;
        let text = std::str::from_utf8(&bytes[..filled])?.to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
        if body.len() >= length.parse()? {
            let status = head.get(9..12).context("no status")?.parse()?;
            return Ok((status, head.contains("connection: close")));
        }
    }
}

fn report(seen: &mut Seen) -> Value {
    let first_errors = std::mem::take(&mut seen.first_errors);
    let seconds = seen.seconds.iter_mut().map(|second| {
        second.micros.sort_unstable();
        let at = |share: f64| second.micros.get((second.micros.len() as f64 * share) as usize).copied();
        let statuses: BTreeMap<_, _> = second.statuses.iter().map(|(status, n)| (status.to_string(), *n)).collect();
        json!({"open": second.open, "statuses": statuses, "errors": second.errors, "p50_us": at(0.5), "p99_us": at(0.99)})
    });
    json!({"seconds": seconds.collect::<Vec<_>>(), "first_errors": first_errors})
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.edge.ip().is_loopback(), "--edge {}: only loopback addresses are accepted", args.edge);
    let &[before, rise, stay, after] = args.seconds.as_slice() else { anyhow::bail!("--seconds takes four numbers") };
    ensure!(before + rise + stay + after <= 60, "--seconds: a minute in all at most");
    ensure!(args.steady < args.peak, "--steady must be less than --peak");
    let crowd_leaves = Duration::from_secs(before + rise + stay);
    let run = Rc::new(Run {
        start: Instant::now() + Duration::from_millis(100),
        end: Duration::from_secs(before + rise + stay + after),
        crowd_leaves,
        groups: Default::default(),
        args: args.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = tokio::task::LocalSet::new();
    clients.block_on(&runtime, async {
        let mut all = tokio::task::JoinSet::new();
        for n in 0..args.steady {
            let from = Ipv4Addr::new(127, 200 + (n / 250) as u8, (n % 250) as u8, 1);
            // Spread over a pause: they are no crowd.
            let begins = Duration::from_millis(args.pause * u64::from(n) / u64::from(args.steady));
            all.spawn_local(client(Rc::clone(&run), 0, from, begins, run.end));
        }
        let crowd = args.peak - args.steady;
        for n in 0..crowd {
            let (network, host) = (n % args.networks, n / args.networks);
            let from = Ipv4Addr::new(127, 100, network as u8, (1 + host % 250) as u8);
            let begins = Duration::from_secs(before) + Duration::from_secs(rise) * n / crowd;
            all.spawn_local(client(Rc::clone(&run), 1, from, begins, run.crowd_leaves));
        }
        while let Some(ended) = all.join_next().await {
            ended.context("a client panicked")?;
        }
        anyhow::Ok(())
    })?;
    let [steady, crowd] = &run.groups;
    let report = json!({
        "crowd_leaves_s": crowd_leaves.as_secs(),
        "steady": report(&mut steady.borrow_mut()),
        "crowd": report(&mut crowd.borrow_mut()),
    });
    println!("{report}");
    Ok(())
}
