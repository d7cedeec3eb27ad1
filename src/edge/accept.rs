//! Listening sockets, and the loop that turns accepted sockets into connections.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::core::Core;
use super::{Phase, connection, respond};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Pauses after an accept that failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

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
    let mut back_off = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = closing(phase) => return empty(core, listener),
        };
        match accepted {
            Ok((stream, peer)) => {
                back_off = BACK_OFF.0;
                open(core, stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if back_off == BACK_OFF.0 {
                    tracing::warn!(%error, "connections cannot be accepted for now");
                }
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF.1);
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
    if core.connections.len() >= core.connections_max {
        core.metrics.connections_refused.add(1);
        // The answer fits the empty send buffer; whether it arrives is the visitor's luck.
        let _ = stream.try_write(respond::OVERLOADED.as_bytes());
        return;
    }
    // Without it a pipelined answer may wait for an acknowledgement; failure changes nothing but that.
    let _ = stream.set_nodelay(true);
    connection::spawn(Rc::clone(core), stream, peer.ip().to_canonical());
}
