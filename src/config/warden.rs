//! `[warden]`: who checks API keys.

use super::check::Keys;
use super::units::{Secret, number, text, token, word};

/// `[warden]`
#[derive(Clone, Debug)]
pub struct Warden {
    /// Who checks keys.
    pub mode: WardenMode,
    /// Key of the digests; empty: they have none.
    pub pepper: Secret,
    /// Keys of this node, revoked ones included.
    pub keys_max: usize,
}

/// `warden.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WardenMode {
    /// This node, by keys in `<data_dir>/catalog.db`.
    Embedded,
}

impl Keys {
    pub(super) fn warden(&mut self) -> Warden {
        Warden {
            mode: self.get("warden.mode", word(&[("embedded", WardenMode::Embedded)], &["grpc"])),
            pepper: self.get("warden.pepper", text(pepper)),
            // All of them are in memory, and each edit copies a pointer to each.
            keys_max: self.get("warden.keys_max", number(1..=100_000)),
        }
    }
}

fn pepper(written: &str) -> Result<Secret, String> {
    token(written).map_err(|_| "must be 16 to 256 ASCII characters without spaces, or empty: there is none then".into())
}
