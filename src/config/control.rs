//! `[control]`: the operator side.

use std::net::SocketAddr;

use super::check::Keys;
use super::units::{KIB, MIB, Secret, number, size, socket, text, token};

/// `[control]`
#[derive(Clone, Debug)]
pub struct Control {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// Empty: made at the first start.
    pub token: Secret,
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Bytes of an import of links.
    pub import_bytes_max: usize,
    /// Links of an import.
    pub import_links_max: usize,
}

impl Keys {
    pub(super) fn control(&mut self) -> Control {
        Control {
            listen: self.get("control.listen", text(socket)),
            token: self.get("control.token", text(token)),
            // A body is held in memory.
            body_bytes_max: self.get("control.body_bytes_max", size(KIB..=64 * MIB)),
            import_bytes_max: self.get("control.import_bytes_max", size(KIB..=64 * MIB)),
            // Other writes wait for a thousand of them at most.
            import_links_max: self.get("control.import_links_max", number(1..=100_000)),
        }
    }
}
