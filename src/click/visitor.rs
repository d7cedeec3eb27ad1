//! By what a campaign that is sticky by cookie knows a browser again: a random number, in a cookie of this host.
//!
//! It says nothing of who uses the browser, is stored with no click, and whoever makes one up only chooses a destination for
//! themselves. Pure: the edge draws the numbers. Bounds: a value has 32 digits; every other one is as if there were none.

use std::fmt;
use std::hash::Hasher as _;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::facts::cookies;

/// Name of the cookie: one for all campaigns of a host.
pub const COOKIE: &str = "trellis-v";

/// The number in the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisitorId(u128);

impl VisitorId {
    /// The one with these random bits.
    #[must_use]
    pub const fn new(random: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(random))
    }

    /// The first that is well formed in these `Cookie` lines: 32 digits of 0 to 9 and a to f.
    #[must_use]
    pub fn find<'h>(lines: impl Iterator<Item = &'h str>) -> Option<Self> {
        cookies(lines).filter(|(name, _)| *name == COOKIE).find_map(|(_, value)| Self::parse(value))
    }

    fn parse(value: &str) -> Option<Self> {
        let is_ours = value.len() == 32 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_ours.then(|| u128::from_str_radix(value, 16).ok().map(Self))?
    }

    /// The key of choices: a hash, so that numbers that follow each other, which nobody draws, are shared out too.
    #[must_use]
    pub fn key(self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write_u128(self.0);
        hasher.finish()
    }

    /// The value of the `Set-Cookie` that keeps it for this time. ASCII, whatever the number. `secure`: the visit came by https.
    #[must_use]
    pub fn set_cookie(self, max_age: Duration, secure: bool) -> String {
        let seconds = max_age.as_secs();
        let secure = if secure { "; Secure" } else { "" };
        format!("{COOKIE}={self}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }
}

impl fmt::Display for VisitorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn what_is_set_is_found_again_and_has_exactly_these_attributes() {
        let bytes = u128::from_str_radix(VALUE, 16).unwrap().to_be_bytes();
        let visitor = VisitorId::new(bytes);
        let set = |secure| visitor.set_cookie(Duration::from_secs(30 * 86_400), secure);
        let expected = format!("trellis-v={VALUE}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax");
        assert_eq!((set(false), set(true)), (expected.clone(), format!("{expected}; Secure")));
        let sent = format!("a=1; {}; b=2", expected.split_once(';').unwrap().0);
        assert_eq!(VisitorId::find([sent.as_str()].into_iter()), Some(visitor));
        assert_ne!(visitor.key(), VisitorId::new([0; 16]).key());
    }

    #[test]
    fn a_value_that_is_not_ours_is_as_none_and_the_first_good_one_counts() {
        let find = |line: &str| VisitorId::find([line].into_iter()).map(|visitor| visitor.to_string());
        let (huge, upper) = ("f".repeat(8_000), VALUE.to_uppercase());
        for bad in ["", "1", &VALUE[1..], &format!("{VALUE}0"), &upper, &huge, "+0112233445566778899aabbccddeeff"] {
            assert_eq!(find(&format!("trellis-v={bad}")), None, "{bad}");
        }
        assert_eq!(find(&format!("xtrellis-v={VALUE}; TRELLIS-V={VALUE}")), None);
        assert_eq!(find(&format!("trellis-v=x; trellis-v=\"{VALUE}\"; trellis-v=1")).as_deref(), Some(VALUE));
    }
}
