//! API keys: how one is written, what is kept of it, and what it may do.
//!
//! ```text
//! wdn_sk_<id>_<secret>      id: 12 letters and digits, in clear      secret: 32 of them (190 bits), kept nowhere
//! ```
//! What is kept is a digest of the whole key ([`Digester`]). A key is looked up by its id and compared by its digest, in a
//! time that depends on neither. Keys of another Warden may have other lengths: [`Presented::parse`] has the bounds.

mod document;
mod scope;

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

pub use document::{GRACE_MS_MAX, KeyFields, RawKey, RawRotation};
pub use scope::{Scope, Scopes};

/// How every key begins.
pub const PREFIX: &str = "wdn_sk_";
/// Letters and digits of the id of a key made here.
pub const ID_BYTES: usize = 12;
/// Letters and digits of the secret of a key made here. With the rest it is 52 bytes: one block of SHA-256.
pub const SECRET_BYTES: usize = 32;
/// What the id and the secret are made of.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Bytes of a whole key at most; a longer one is malformed, and no more than this is looked at.
pub const KEY_BYTES_MAX: usize = PREFIX.len() + ID_BYTES_MAX + 1 + SECRET_BYTES_MAX;
const ID_BYTES_MAX: usize = 32;
/// 131 bits.
const SECRET_BYTES_MIN: usize = 22;
const SECRET_BYTES_MAX: usize = 86;

/// What may be the key in a request, its form checked and nothing else. `Debug` shows no more than the id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Presented<'k> {
    /// By which it is looked up.
    pub id: &'k str,
}

impl<'k> Presented<'k> {
    /// The parts of a key: 4 to 32 letters and digits of id, 22 to 86 of secret.
    #[must_use]
    pub fn parse(text: &'k [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= KEY_BYTES_MAX)?;
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let long =
            (4..=ID_BYTES_MAX).contains(&id.len()) && (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len());
        (long && plain(id) && plain(secret)).then_some(Self { id })
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_***", self.id)
    }
}

/// A text for people in which whatever stands behind the beginning of a key is hidden.
#[must_use]
pub fn without_keys(text: &str) -> Cow<'_, str> {
    if !text.contains(PREFIX) {
        return text.into();
    }
    let mut parts = text.split(PREFIX);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
        shown.push_str(PREFIX);
        shown.push_str("***");
        shown.push_str(rest);
    }
    shown.into()
}

/// What stands behind `Bearer ` in an `Authorization` header.
#[must_use]
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, text) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| text.trim_ascii())
}

/// What is kept of a key in the place of its secret.
#[derive(Clone, Copy)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Compares in a time that does not depend on where they differ.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Not for decisions: those are made by [`Digest::ct_eq`].
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Digest {}

/// It tells nothing of a secret, but a log has no use for it.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

/// Makes digests: SHA-256 of the key, and with a pepper HMAC-SHA-256 of that. The secret has 131 bits or more, so nothing
/// slow is needed. Who has only the SHA-256, as a Warden does that is asked, gets to the same digest ([`Digester::seal`]).
#[derive(Clone)]
pub struct Digester(Option<Hmac>);

impl Digester {
    /// Without a pepper when it is empty.
    #[must_use]
    pub fn new(pepper: &[u8]) -> Self {
        if pepper.is_empty() {
            return Self(None);
        }
        // RFC 2104: a key longer than a block of 64 bytes counts by its hash.
        let mut block = [0_u8; 64];
        match block.get_mut(..pepper.len()) {
            Some(start) => start.copy_from_slice(pepper),
            None => block[..32].copy_from_slice(&Sha256::digest(pepper)),
        }
        let keyed = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        Self(Some(Hmac { inner: keyed(0x36), outer: keyed(0x5c) }))
    }

    /// The digest of a key, of its first [`KEY_BYTES_MAX`] bytes at most.
    #[must_use]
    pub fn digest(&self, key: &[u8]) -> Digest {
        self.seal(Digest(Sha256::digest(&key[..key.len().min(KEY_BYTES_MAX)]).into()))
    }

    /// The digest of the key of this SHA-256.
    #[must_use]
    pub fn seal(&self, plain: Digest) -> Digest {
        self.0.as_ref().map_or(plain, |keyed| keyed.of(&plain.0))
    }
}

/// SHA-256 that has taken the pepper's inner block, and the outer one's.
#[derive(Clone)]
struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    fn of(&self, message: &[u8]) -> Digest {
        let hash = self.inner.clone().chain_update(message).finalize();
        Digest(self.outer.clone().chain_update(hash).finalize().into())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "HMAC-SHA-256" } else { "SHA-256" })
    }
}

/// How many requests a key may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rate {
    /// In the long run, 1 to 1,000,000.
    pub per_second: u32,
    /// At once, 1 to 1,000,000.
    pub burst: u32,
}

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// In clear: in the key, in lists, in the audit log.
    pub id: String,
    /// The organisation whose things it may see.
    pub org: String,
    /// For people; may be empty.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Without one it has no limit of its own.
    pub rate: Option<Rate>,
    /// From then on it is refused; Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// Since then it is refused, for good; Unix milliseconds.
    pub revoked_ms: Option<u64>,
    /// Of the key with its secret of now.
    pub digest: Digest,
    /// Of the key before it was rotated, and until when that one is taken too; Unix milliseconds.
    pub earlier: Option<(Digest, u64)>,
    /// Grows by one with every change.
    pub version: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

/// What a request may do that came with a good key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which key it was.
    pub key_id: Box<str>,
    /// The organisation whose things it may see.
    pub org: Box<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// Without one there is no limit by key.
    pub rate: Option<Rate>,
    /// The grant is worth nothing from then on; Unix milliseconds.
    pub expires_ms: Option<u64>,
}

impl Grant {
    /// What a key grants, whatever its state.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self {
            key_id: key.id.as_str().into(),
            org: key.org.as_str().into(),
            scopes: key.scopes,
            rate: key.rate,
            expires_ms: key.expires_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "wdn_sk_abcdefgh1234_ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

    #[test]
    fn a_key_is_taken_apart_only_in_its_exact_form() {
        assert_eq!(Presented::parse(GOOD.as_bytes()).unwrap().id, "abcdefgh1234");
        let s22 = "S".repeat(22);
        let longest = format!("wdn_sk_{}_{}", "i".repeat(32), "s".repeat(86));
        assert_eq!(longest.len(), KEY_BYTES_MAX);
        for good in [format!("wdn_sk_abcd_{s22}"), longest.clone()] {
            assert!(Presented::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            String::new(),
            "wdn_sk_".into(),
            format!("wdn_pk_abcd_{s22}"),
            format!("WDN_SK_abcd_{s22}"),
            format!("wdn_sk_abc_{s22}"),
            format!("wdn_sk_abcd_{}", &s22[1..]),
            format!("wdn_sk_abcd{s22}"),
            format!("wdn_sk_ab_d_{s22}"),
            format!("wdn_sk_abcd_{s22}_"),
            format!("wdn_sk_abcd_{s22} "),
            format!("wdn_sk_abcd_{s22}-"),
            format!("wdn_sk_abcé_{s22}"),
            format!("{longest}s"),
            format!("wdn_sk_{}_{s22}", "i".repeat(33)),
            format!("wdn_sk_abcd_{}", "s".repeat(87)),
        ] {
            assert_eq!(Presented::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Presented::parse(b"wdn_sk_abcd_\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }

    #[test]
    fn a_digest_is_sha_256_and_with_a_pepper_hmac() {
        let hex = |digest: Digest| digest.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let plain = hex(Digester::new(b"").digest(b"abc"));
        assert_eq!(plain, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // RFC 4231, test cases 2 and 6: a short key, and one that is longer than a block.
        let hmac = |pepper: &[u8], message: &[u8]| hex(Digester::new(pepper).0.unwrap().of(message));
        let short = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(short, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(long, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
        // Who has only the SHA-256 of a key gets to the same digest.
        let peppered = Digester::new(b"Jefe");
        assert_eq!(peppered.digest(b"abc"), peppered.seal(Digester::new(b"").digest(b"abc")));
        assert_ne!(peppered.digest(b"abc"), Digester::new(b"").digest(b"abc"));
    }

    #[test]
    fn no_more_than_the_longest_key_is_hashed() {
        let digester = Digester::new(b"");
        let long = [b'x'; KEY_BYTES_MAX + 1];
        assert_eq!(digester.digest(&long), digester.digest(&long[1..]));
        assert_ne!(digester.digest(&long[1..]), digester.digest(&long[2..]));
    }

    #[test]
    fn keys_are_hidden_in_texts() {
        assert_eq!(without_keys("no key"), "no key");
        let text = format!("`{GOOD}` and wdn_sk_, then {GOOD}");
        assert_eq!(without_keys(&text), "`wdn_sk_***` and wdn_sk_***, then wdn_sk_***");
    }

    #[test]
    fn what_is_printed_holds_no_secret() {
        let presented = format!("{:?}", Presented::parse(GOOD.as_bytes()).unwrap());
        assert_eq!(presented, "wdn_sk_abcdefgh1234_***");
        let digest = Digester::new(b"pepper").digest(GOOD.as_bytes());
        assert_eq!(format!("{digest:?} {:?}", Digester::new(b"pepper")), "Digest(***) HMAC-SHA-256");
    }
}
