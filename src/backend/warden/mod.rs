//! Warden over gRPC, both ends: [`client`] asks one, [`server`] answers from the keys of this process.
//!
//! The protocol is `schema/warden.proto`; what is generated from it stands beside it and is made anew by a test. Nothing
//! else in Trellis names gRPC. Keys never travel: a client sends the id of a key and the SHA-256 of the whole. Bounds:
//! 16 KiB for a message; others with each end.

pub mod client;
pub mod server;
#[cfg(test)]
mod tests;
mod translate;

use std::time::Duration;

use tonic::transport::Identity as Shown;

use crate::config::Identity;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub(crate) mod wire {
    include!("../../../schema/warden.rs");
}

/// Bytes of a message from either side.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The server says something on a watch stream at least this often.
const BEAT: Duration = Duration::from_millis(250);
/// A stream on which nothing came for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Where a token travels, and the word before it.
const AUTHORIZATION: &str = "authorization";
const BEARER: &str = "Bearer ";

fn shown(identity: &Identity) -> Shown {
    Shown::from_pem(&identity.cert, identity.key.expose())
}
