//! What privacy leaves of an address: its network, a keyed hash of it, or nothing.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::address::truncate;

/// What stands before the hex digits of a hash, so that it is taken for no address.
const HASH_MARK: &str = "h:";
/// Bytes of a block of SHA-256.
const BLOCK_BYTES: usize = 64;

/// What a click keeps of the address that it came from. As text it is the column `ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The address without its host part.
    Network(IpAddr),
    /// A keyed hash of the whole address: the same address has the same one until the key changes.
    Hash([u8; 16]),
}

impl Kept {
    /// Where it lies, as far as it can be known.
    #[must_use]
    pub const fn network(&self) -> Option<IpAddr> {
        match self {
            Self::Network(address) => Some(*address),
            Self::Hash(_) => None,
        }
    }
}

impl<T: Into<IpAddr>> From<T> for Kept {
    fn from(address: T) -> Self {
        Self::Network(address.into())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Hash(hash) => write!(f, "{HASH_MARK}{:032x}", u128::from_be_bytes(*hash)),
        }
    }
}

/// What clicks keep of an address: `privacy.ip`, with its key.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// IPv4 /24, IPv6 /48.
    Truncate,
    /// Nothing.
    Nothing,
    /// A hash under this key.
    Hmac(Box<AddressKey>),
}

impl Keeping {
    /// What is kept of this address.
    #[must_use]
    pub fn keep(&self, address: IpAddr) -> Option<Kept> {
        match self {
            Self::Truncate => Some(Kept::Network(truncate(address.to_canonical()))),
            Self::Nothing => None,
            Self::Hmac(key) => Some(Kept::Hash(key.hash(address))),
        }
    }
}

/// The key of HMAC-SHA-256, with its two blocks hashed ahead: two blocks are left for each address.
#[derive(Clone)]
pub struct AddressKey {
    inner: Sha256,
    outer: Sha256,
}

impl AddressKey {
    /// The key that follows from a secret: one secret of a fleet gives one hash for an address. Other keys that follow
    /// from the same secret say nothing about this one.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let key = Sha256::new().chain_update(b"trellis address 1\0").chain_update(secret).finalize();
        Self::from_key(&key.into())
    }

    fn from_key(key: &[u8; 32]) -> Self {
        let block = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(key).for_each(|(byte, of_key)| *byte ^= of_key);
            Sha256::new().chain_update(block)
        };
        Self { inner: block(0x36), outer: block(0x5c) }
    }

    /// The first 16 bytes of the HMAC of the address, 4 or 16 bytes.
    #[must_use]
    pub fn hash(&self, address: IpAddr) -> [u8; 16] {
        let inner = self.inner.clone();
        let inner = match address.to_canonical() {
            IpAddr::V4(v4) => inner.chain_update(v4.octets()),
            IpAddr::V6(v6) => inner.chain_update(v6.octets()),
        };
        let hash = self.outer.clone().chain_update(inner.finalize()).finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        first
    }
}

/// It shows nothing: whoever has the key can find the address of every hash.
impl fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_hmac_sha_256() {
        // From another implementation: Python's hmac, with the key 00 01 .. 1f.
        let key: [u8; 32] = std::array::from_fn(|n| n as u8);
        let hash = |address: &str| Kept::Hash(AddressKey::from_key(&key).hash(address.parse().unwrap())).to_string();
        assert_eq!(hash("192.0.2.1"), "h:1b7fac6f9fb86d0bbede55cc04e3b416");
        assert_eq!(hash("::ffff:192.0.2.1"), "h:1b7fac6f9fb86d0bbede55cc04e3b416");
        assert_eq!(hash("2001:db8::1"), "h:df134d4f4e188c9f97906d62fb0fc7f4");
    }

    #[test]
    fn a_hash_depends_on_the_whole_address_and_the_secret_alone() {
        let of = |secret: &[u8], address: &str| AddressKey::new(secret).hash(address.parse().unwrap());
        assert_eq!(of(b"s", "192.0.2.1"), of(b"s", "192.0.2.1"));
        assert_ne!(of(b"s", "192.0.2.1"), of(b"s", "192.0.2.2"));
        assert_ne!(of(b"s", "2001:db8::1"), of(b"s", "2001:db8::2"));
        assert_ne!(of(b"s", "192.0.2.1"), of(b"t", "192.0.2.1"));
        assert_eq!(format!("{:?}", AddressKey::new(b"hunter2")), "***");
    }

    #[test]
    fn each_way_of_keeping_keeps_its_own() {
        let keep = |keeping: Keeping| keeping.keep("::ffff:203.0.113.77".parse().unwrap()).map(|kept| kept.to_string());
        assert_eq!(keep(Keeping::Truncate).as_deref(), Some("203.0.113.0"));
        assert_eq!(keep(Keeping::Nothing), None);
        let hash = keep(Keeping::Hmac(Box::new(AddressKey::new(b"s")))).unwrap();
        assert!(hash.len() == 34 && hash.starts_with("h:") && hash.parse::<IpAddr>().is_err(), "{hash}");
    }
}
