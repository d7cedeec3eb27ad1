//! What the edge sees in the headers of a request and a click does not keep: one byte of the frame.

/// A set of marks. Nothing in it says nothing against the request, so a click of before there were marks has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// No `Accept`.
    pub const NO_ACCEPT: Self = Self(1);
    /// No `Accept-Language`.
    pub const NO_LANGUAGE: Self = Self(1 << 1);
    /// No `Accept-Encoding`.
    pub const NO_ENCODING: Self = Self(1 << 2);
    /// HTTP/1.0, and the peer is no trusted proxy: many proxies ask in HTTP/1.0 for visitors who did not.
    pub const HTTP_1_0: Self = Self(1 << 3);
    /// There is a `Sec-Fetch-Site`, `Sec-Fetch-Mode` or `Sec-Fetch-Dest`.
    pub const FETCH_METADATA: Self = Self(1 << 4);
    /// `Sec-Fetch-Mode` or `Sec-Fetch-Dest` names something else than a link that is followed.
    pub const NO_NAVIGATION: Self = Self(1 << 5);
    /// A trusted proxy says that the visitor came by TLS; without, browsers send no fetch metadata.
    pub const TLS: Self = Self(1 << 6);
    /// The node's own prober, known by its secret, on the [canary](super::super::canary).
    pub const PROBE: Self = Self(1 << 7);

    /// With `mark`, if it holds.
    #[must_use]
    pub const fn with(self, mark: Self, holds: bool) -> Self {
        if holds { Self(self.0 | mark.0) } else { self }
    }

    /// Whether it has this one.
    #[must_use]
    pub const fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    /// As it stands in a frame.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// As it stood in a frame.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}
