//! The end of a click.

/// The one end of a click. Every click has exactly one; the books balance because this enum is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The store has it.
    Stored,
    /// The journal could not take it: the visitor was redirected without an `X-Click-Id`, and nothing was promised.
    Untracked,
}

impl Fate {
    /// All of them, in the order of [`Fate::index`].
    pub const ALL: [Self; 2] = [Self::Stored, Self::Untracked];

    /// The word in metrics and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Untracked => "untracked",
        }
    }

    /// Position in [`Fate::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
