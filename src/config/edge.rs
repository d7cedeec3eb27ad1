//! `[edge]`: the public side.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::association;
use super::check::{Keys, Machine, hours, minutes, ms};
use super::units::{KIB, MIB, host, list, number, size, socket, text, time};
use crate::click::OwnHosts;
use crate::click::address::Network;

/// Threads on a machine with more cores, unless a number is set: each has a worker beside it, and the default queues and
/// batches keep within what `relations` allows up to 50.
pub(super) const THREADS_FOUND_MAX: usize = 48;

/// `[edge]`
#[derive(Clone, Debug)]
pub struct Edge {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// Event loops; at least 1.
    pub threads: usize,
    /// Open connections of all threads together.
    pub connections_max: usize,
    /// Bytes of path and query.
    pub uri_bytes_max: usize,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Peers whose X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto are believed.
    pub trusted_proxies: Vec<Network>,
    /// Host names of this service, in lower case.
    pub public_hosts: Vec<String>,
    /// How long a browser keeps the cookie of a sticky campaign.
    pub sticky_cookie_max_age: Duration,
    /// The file by which iOS apps claim links of this host.
    pub apple_app_site_association: Option<Bytes>,
    /// The file by which Android apps do.
    pub assetlinks: Option<Bytes>,
    /// One request in so many is measured phase by phase; 0: none.
    pub sample_every: u32,
}

impl Edge {
    /// The names under which this service is reached: the configured ones on any port, and the address that it listens
    /// on; `bound` is the one that was found for port 0.
    #[must_use]
    pub fn own_hosts(&self, bound: Option<SocketAddr>) -> OwnHosts {
        let listen = bound.unwrap_or(self.listen);
        let mut sockets = Vec::new();
        if listen.port() != 0 {
            let port = listen.port();
            sockets.push(listen.to_string());
            if listen.ip().is_unspecified() || listen.ip().is_loopback() {
                sockets.extend(["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{port}")));
            }
        }
        OwnHosts { hosts: self.public_hosts.clone(), sockets }
    }
}

impl Keys {
    pub(super) fn edge(&mut self, machine: &Machine) -> Edge {
        let threads = match self.get("edge.threads", number(0..=1024)) {
            0 => machine.cores.clamp(1, THREADS_FOUND_MAX),
            threads => threads,
        };
        Edge {
            listen: self.get("edge.listen", text(socket)),
            threads,
            // A descriptor each; Linux grants about a million.
            connections_max: self.get("edge.connections_max", number(1..=1_000_000)),
            // hyper refuses a target above 65,534 bytes by itself; a slug with a query needs some room.
            uri_bytes_max: self.get("edge.uri_bytes_max", size(64..=64 * KIB)),
            // hyper's smallest buffer is 8 KiB; each connection may hold one.
            head_bytes_max: self.get("edge.head_bytes_max", size(8 * KIB..=MIB)),
            // Below 8 a browser would be refused.
            headers_max: self.get("edge.headers_max", number(8..=1000)),
            // Connections are looked at every 50 ms.
            head_timeout: self.get("edge.head_timeout", time(ms(50)..=minutes(60))),
            idle_timeout: self.get("edge.idle_timeout", time(ms(50)..=hours(24))),
            trusted_proxies: self.get("edge.trusted_proxies", list(str::parse)),
            public_hosts: self.get("edge.public_hosts", list(host)),
            // Browsers keep none for longer.
            sticky_cookie_max_age: self.get("edge.sticky_cookie_max_age", time(minutes(1)..=hours(400 * 24))),
            apple_app_site_association: self.get("edge.apple_app_site_association", text(association::object)),
            assetlinks: self.get("edge.assetlinks", text(association::list)),
            sample_every: self.get("edge.sample_every", number(0..=1_000_000)),
        }
    }
}
