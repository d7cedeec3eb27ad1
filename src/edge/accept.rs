//! Listening sockets, and the loop that turns accepted sockets into connections.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::admission::Peer;
use super::core::Core;
use super::{Phase, connection, respond};
use crate::telemetry::metrics::{Limit, Outcome};
use crate::telemetry::overload::Level;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Pauses after an accept that failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// From one log line about it to the next.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Visitors that are told so before each pause.
const TURNED_AWAY_AT_ONCE: usize = 64;
/// A turn with fewer ended because nobody was waiting any more; the event loop stops at 128.
const TURN_ACCEPTS: u64 = 100;
/// Of a visitor who is turned away so much is read.
const HEAD_BYTES: usize = 4096;

pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // [::] serves IPv4 too; its clients appear as ::ffff:a.b.c.d and are taken for IPv4.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the phase leaves `Serving` and the accept queue is empty; then the socket is closed.
pub(super) async fn accept_until_closing(
    core: &Rc<Core>,
    listener: std::net::TcpListener,
    phase: &mut watch::Receiver<Phase>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "an edge thread could not use its listening socket"),
    };
    let mut want = Want::new(&listener);
    let mut waiting = Waiting::default();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = waiting.accept(core, &listener) => accepted,
            () = closing(phase) => return empty(core, listener),
        };
        match accepted {
            Ok((stream, peer)) => {
                want.back_off = BACK_OFF.0;
                open(core, stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => want.attend(core, &listener, &error).await,
        }
    }
}

/// How many connections were accepted in a row with more of them waiting.
#[derive(Default)]
struct Waiting {
    in_turn: u64,
    in_a_row: u64,
}

impl Waiting {
    async fn accept(&mut self, core: &Core, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| {
            let accepted = listener.poll_accept(context);
            core.metrics.accept_backlog.set(self.note(accepted.is_ready()));
            accepted
        })
        .await
    }

    fn note(&mut self, accepted: bool) -> u64 {
        if accepted {
            self.in_turn += 1;
            self.in_a_row += 1;
        } else {
            // After so many it is the event loop that says "no more", to be fair to others.
            if self.in_turn < TURN_ACCEPTS {
                self.in_a_row = 0;
            }
            self.in_turn = 0;
        }
        self.in_a_row
    }
}

/// What is done while connections cannot be accepted for want of descriptors or memory.
struct Want {
    /// A descriptor to give up, so that a visitor can be accepted and told.
    spare: Option<OwnedFd>,
    back_off: Duration,
    told: Option<Duration>,
}

impl Want {
    fn new(listener: &TcpListener) -> Self {
        Self { spare: listener.as_fd().try_clone_to_owned().ok(), back_off: BACK_OFF.0, told: None }
    }

    /// Tells those who wait that there is no room, and pauses: descriptors come back when others close.
    async fn attend(&mut self, core: &Core, listener: &TcpListener, error: &io::Error) {
        core.metrics.accepts_failed.add(1);
        let now = core.parts.clock.now();
        if self.told.is_none_or(|told| now.saturating_sub(told) >= TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!(%error, "connections cannot be accepted for now; visitors are told to come back");
        }
        if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
            self.turn_some_away(core, listener);
        }
        tokio::time::sleep(self.back_off).await;
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
    }

    fn turn_some_away(&mut self, core: &Core, listener: &TcpListener) {
        for _ in 0..TURNED_AWAY_AT_ONCE {
            drop(self.spare.take());
            let accepted = SockRef::from(listener).accept();
            if let Ok((socket, _)) = &accepted
                && socket.set_nonblocking(true).is_ok()
            {
                core.metrics.connections_accepted.add(1);
                core.metrics.connections_refused.add(1);
                core.metrics.count(Outcome::TurnedAway);
                turn_away(socket, respond::OVERLOADED);
            }
            let is_empty = accepted.is_err();
            drop(accepted);
            self.spare = listener.as_fd().try_clone_to_owned().ok();
            if is_empty || self.spare.is_none() {
                return;
            }
        }
    }
}

/// Accepts what is in the accept queue: the kernel has promised those visitors a connection. Asks the socket itself,
/// because the event loop says "nothing yet" after some hundred connections in one turn, to be fair to other tasks.
fn empty(core: &Rc<Core>, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            open(core, stream, peer);
        }
    }
}

async fn closing(phase: &mut watch::Receiver<Phase>) {
    // An error means that the sender is gone, which is an end too.
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
}

/// Errors of a connection that was given up before it was accepted, not of the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn open(core: &Rc<Core>, stream: TcpStream, peer: SocketAddr) {
    core.metrics.connections_accepted.add(1);
    let accepted = core.stopwatch.takes_connection().then(|| core.parts.clock.now());
    if core.metrics.lever.sheds(Level::Connections) {
        core.metrics.connections_refused.add(1);
        core.metrics.shed_connections.add(1);
        core.metrics.count(Outcome::TurnedAway);
        return turn_away(&SockRef::from(&stream), respond::SHED);
    }
    if core.connections.len() >= core.connections_max {
        core.metrics.connections_refused.add(1);
        core.metrics.count(Outcome::TurnedAway);
        return turn_away(&SockRef::from(&stream), respond::OVERLOADED);
    }
    let peer = Peer::new(core, peer.ip().to_canonical());
    let Ok(counted) = peer.connect(core) else {
        core.metrics.connections_refused.add(1);
        core.metrics.limit(Limit::Connections);
        core.metrics.count(Outcome::TooMany);
        return turn_away(&SockRef::from(&stream), respond::TOO_MANY_OF_ADDRESS);
    };
    // Without it a pipelined answer may wait for an acknowledgement; failure changes nothing but that.
    let _ = stream.set_nodelay(true);
    connection::spawn(Rc::clone(core), stream, peer, counted, accepted);
}

/// Answers a connection that will be closed at once. What it has sent is read, for bytes that nobody read would reset the
/// connection before the answer arrives; one that sends later has the answer before it learns that.
fn turn_away(socket: &Socket, answer: &str) {
    let mut socket = socket;
    let _ = socket.read(&mut [0; HEAD_BYTES]);
    // The answer fits the empty send buffer; whether it arrives is the visitor's luck.
    let _ = socket.write(answer.as_bytes());
    let _ = socket.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backlog_grows_until_nobody_is_waiting() {
        let mut waiting = Waiting::default();
        let mut turn = |accepts| {
            (0..accepts).for_each(|_| _ = waiting.note(true));
            waiting.note(false)
        };
        assert_eq!(turn(128), 128, "the turn was over, not the queue");
        assert_eq!(turn(128), 256);
        assert_eq!(turn(5), 0);
        assert_eq!(waiting.note(true), 1);
    }
}
