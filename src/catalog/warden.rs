//! The port by which edge and control have keys checked, wherever these are kept.
//!
//! ```text
//! peek   from memory, never blocks     Granted | Denied | Ask
//! load   only where peek said Ask      Granted | Denied      or Unavailable, within 50 ms
//! ```
//! [`super::Keys`], the embedded Warden, knows every key and never says [`Peek::Ask`]. A remote one keeps what it was told
//! lately, and asks for the rest. Why a key was denied is for counters and tests: whoever sent it is never told.

use std::sync::Arc;

use crate::BoxFuture;
use crate::click::Grant;

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It is no key, or there was none.
    Malformed,
    /// There is none of its id.
    Unknown,
    /// There is one of its id, with another secret.
    WrongSecret,
    /// It had an end.
    Expired,
    /// Somebody has ended it.
    Revoked,
}

/// What is known without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// The key is good.
    Granted(Arc<Grant>),
    /// It is not.
    Denied(Why),
    /// Not known here: [`Warden::load`] asks.
    Ask,
}

/// What the Warden said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The key is good.
    Granted(Arc<Grant>),
    /// It is not.
    Denied(Why),
}

/// The Warden did not say anything; the request is answered 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Not in time.
    #[error("the Warden did not answer in time")]
    Timeout,
    /// It cannot be reached, or answered what is none.
    #[error("the Warden: {0}")]
    Error(String),
}

/// The port: who checks keys.
pub trait Warden: std::fmt::Debug + Send + Sync {
    /// Checks from memory. `presented` is what stands behind `Bearer `, whatever it is. Takes the same time for every key
    /// that it denies. Called on request threads: it takes no lock, and allocates nothing.
    fn peek(&self, presented: &[u8], now_ms: u64) -> Peek;

    /// Asks whoever knows; called only after [`Peek::Ask`]. Called on request threads too, so the work itself belongs on a
    /// runtime of the backend, and this future only waits for its answer. Ready within 50 ms.
    fn load<'a>(&'a self, presented: &'a [u8]) -> BoxFuture<'a, Result<Checked, Unavailable>>;
}
