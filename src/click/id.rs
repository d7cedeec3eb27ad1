//! Click ids: UUID version 7, so that an id carries the time of its click.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The name of a click, ours: the one in `X-Click-Id`. UUID version 7: 48 bits of Unix milliseconds, then random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClickId(Uuid);

impl ClickId {
    /// The id with this time and these random bits (74 of the 80 are used).
    #[must_use]
    pub fn new(unix_ms: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
    }

    /// The id from its 16 bytes, as [`ClickId::as_bytes`] gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The two halves as numbers, most significant first: the form in which ClickHouse's RowBinary wants a UUID.
    #[must_use]
    pub const fn as_u64_pair(&self) -> (u64, u64) {
        self.0.as_u64_pair()
    }

    /// The time of the click in Unix milliseconds, as the edge saw it.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.as_u64_pair().0 >> 16
    }

    /// The 36 characters of the usual form, written into `buffer`.
    pub fn hyphenated<'b>(&self, buffer: &'b mut [u8; 36]) -> &'b str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for ClickId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for ClickId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClickId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// Makes ids; one for each edge thread, seeded apart, so that none waits for another.
#[derive(Debug)]
pub struct IdSource {
    random: fastrand::Rng,
}

impl IdSource {
    /// A source with this seed. Equal seeds give equal ids: in service every edge thread takes a random one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    /// The next id for a click at this time.
    pub fn next(&mut self, unix_ms: u64) -> ClickId {
        let (a, b) = (self.random.u64(..).to_ne_bytes(), self.random.u64(..).to_ne_bytes());
        ClickId::new(unix_ms, &[a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_version_7_uuid_that_carries_its_time() {
        let id = IdSource::new(7).next(1_700_000_000_123);
        assert_eq!(id.unix_ms(), 1_700_000_000_123);
        let text = id.to_string();
        assert_eq!(text.as_bytes()[14], b'7');
        assert_eq!(text.parse::<ClickId>().unwrap(), id);
        assert_eq!(ClickId::from_bytes(*id.as_bytes()), id);
    }

    #[test]
    fn ids_of_one_millisecond_differ() {
        let mut source = IdSource::new(1);
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| source.next(5)).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
