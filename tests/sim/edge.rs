//! The visitors of the simulation: clicks in groups, and what they were told.

use std::task::{Context, Poll, Waker};

use trellis::click::dedup::Window;
use trellis::click::{Click, ClickId, Fingerprint};
use trellis::clock::Clock;
use trellis::handoff::Ticket;

use crate::books::{Answer, Pushed};
use crate::clock::SimClock;
use crate::disk::look;
use crate::node::Node;
use crate::trace::say;
use crate::world::World;

const LINKS: [&str; 4] = ["a", "spring", "summer-sale", "x"];
const AGENTS: [&[u8]; 3] = [b"", b"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/130.0", b"Googlebot/2.1"];
/// Codes of rows that the store refuses.
const CODES: [u32; 5] = [6, 27, 53, 321, 469];

/// One group of clicks into one core's journal.
pub(crate) fn push(world: &mut World, node: &mut Node, clock: &SimClock) {
    let core = world.random.usize(..node.cores.len());
    let count = world.random.u64(1..=world.plan.group_clicks_max);
    let query = "q".repeat(world.plan.query_bytes_max);
    let mut tickets = Vec::new();
    for _ in 0..count {
        let pushed = draw(world, clock.wall_ms());
        if pushed.poison {
            let code = *world.random.choice(&CODES).expect("one");
            world.outside.store.refuse(pushed.id, code);
        }
        let ua = *world.random.choice(&AGENTS).expect("one");
        let ticket = node.cores[core].intake.push(&click(&pushed, ua, &query));
        tickets.push((world.books.push(pushed), ticket));
    }
    look(&world.watch).begin_group();
    node.cores[core].intake.flush();
    say(|| format!("{count} clicks up to {} at core {core}", world.books.clicks.len() - 1));
    node.cores[core].waiting.append(&mut tickets);
    take_answers_of(world, node, core);
}

fn draw(world: &mut World, now_ms: u64) -> Pushed {
    let mut random = [0; 10];
    // Version and variant take bits of the first three bytes.
    random[3..].copy_from_slice(&(world.books.clicks.len() as u64).to_be_bytes()[1..]);
    Pushed {
        id: ClickId::new(now_ms, &random),
        link: world.random.choice(&LINKS).expect("one"),
        query_bytes: world.random.usize(..world.plan.query_bytes_max),
        answer: Answer::None,
        poison: world.random.u32(..1000) < world.plan.poison,
    }
}

fn click<'a>(pushed: &Pushed, ua: &'a [u8], query: &'a str) -> Click<'a> {
    Click {
        fingerprint: Some(Fingerprint(*pushed.id.as_bytes())),
        // Every other click is of a campaign with a window of its own.
        window: Window::of_seconds(u32::from(pushed.id.as_bytes()[15] % 2) * 90),
        link: pushed.link,
        ua,
        query: &query[..pushed.query_bytes],
        ..trellis::testing::click(pushed.id)
    }
}

/// The edge threads do what the keeper asked for.
pub(crate) fn attend(node: &mut Node) {
    node.cores.iter_mut().for_each(|core| core.intake.attend());
}

/// Visitors that have an answer by now; of a dead process nobody gets one.
pub(crate) fn take_answers(world: &mut World, node: &mut Node) {
    for core in 0..node.cores.len() {
        take_answers_of(world, node, core);
    }
}

fn take_answers_of(world: &mut World, node: &mut Node, core: usize) {
    let mut watch = look(&world.watch);
    if watch.is_dead() {
        return;
    }
    let mut kept = Vec::new();
    node.cores[core].waiting.retain_mut(|(number, ticket)| {
        let click = &mut world.books.clicks[*number];
        match answer(ticket) {
            None => return true,
            Some(true) => {
                click.answer = Answer::Kept;
                kept.push(click.id);
            }
            Some(false) => {
                click.answer = Answer::Refused;
                world.figures.untracked += 1;
            }
        }
        false
    });
    watch.keep(&kept);
}

/// What a ticket says by now.
fn answer(ticket: &mut Ticket) -> Option<bool> {
    match std::pin::Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(kept) => Some(kept),
        Poll::Pending => None,
    }
}
