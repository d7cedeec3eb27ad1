//! `[warden]`: who checks API keys. The way to one elsewhere stands in `warden_grpc`.

use super::check::Keys;
use super::units::{Secret, number, text, token, word};
use super::warden_grpc::{WardenGrpc, WardenServe};

/// `[warden]`
#[derive(Clone, Debug)]
pub struct Warden {
    /// Who checks keys.
    pub mode: WardenMode,
    /// Key of the digests; empty: they have none.
    pub pepper: Secret,
    /// Keys of this node, revoked ones included.
    pub keys_max: usize,
    /// The way to a Warden elsewhere.
    pub grpc: WardenGrpc,
    /// The Warden that others ask.
    pub serve: WardenServe,
}

/// `warden.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WardenMode {
    /// This node, by keys in `<data_dir>/catalog.db`.
    Embedded,
    /// One that is asked over the network.
    Grpc,
}

impl Keys {
    pub(super) fn warden(&mut self) -> Warden {
        let modes = [("embedded", WardenMode::Embedded), ("grpc", WardenMode::Grpc)];
        Warden {
            mode: self.get("warden.mode", word(&modes, &[])),
            pepper: self.get("warden.pepper", text(pepper)),
            // All of them are in memory, and each edit copies a pointer to each.
            keys_max: self.get("warden.keys_max", number(1..=100_000)),
            grpc: self.warden_grpc(),
            serve: self.warden_serve(),
        }
    }
}

fn pepper(written: &str) -> Result<Secret, String> {
    token(written).map_err(|_| "must be 16 to 256 ASCII characters without spaces, or empty: there is none then".into())
}
