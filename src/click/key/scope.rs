//! What a key may do: a set of bits.

use serde::{Serialize, Serializer};

/// One thing that a key may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Send visits to `/in`.
    Ingress,
    /// Read links and campaigns.
    LinksRead,
    /// Make, change and remove links and campaigns.
    LinksWrite,
    /// Read and count clicks.
    StatsRead,
    /// Everything in its organisation, its keys too.
    Admin,
}

impl Scope {
    /// All, in the order in which they are shown.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Ingress, "ingress"),
        (Self::LinksRead, "links:read"),
        (Self::LinksWrite, "links:write"),
        (Self::StatsRead, "stats:read"),
        (Self::Admin, "admin"),
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The scope of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(scope, _)| *scope)
    }
}

/// Scopes of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// With one more.
    #[must_use]
    pub const fn and(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Whether this scope itself is in it.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether it may be done: by its own scope, or as [`Scope::Admin`].
    #[must_use]
    pub const fn allow(self, scope: Scope) -> bool {
        self.has(scope) || self.has(Scope::Admin)
    }

    /// Whether everything in `other` may be done with these.
    #[must_use]
    pub fn cover(self, other: Self) -> bool {
        other.iter().all(|scope| self.allow(scope))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().map(|(scope, _)| scope).filter(move |scope| self.has(*scope))
    }

    /// Their names, with spaces between, as they are kept.
    #[must_use]
    pub fn to_text(self) -> String {
        self.iter().map(Scope::name).collect::<Vec<_>>().join(" ")
    }

    /// What [`Scopes::to_text`] wrote; `None` when a name is unknown.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().try_fold(Self::default(), |scopes, name| Some(scopes.and(Scope::named(name)?)))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::default(), Self::and)
    }
}

/// A list of names.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set_and_keep_their_names() {
        for (number, (scope, name)) in Scope::ALL.into_iter().enumerate() {
            assert_eq!((scope as usize, scope.name(), Scope::named(name)), (number, name, Some(scope)));
        }
        let scopes = Scopes::from_text("stats:read ingress ingress").unwrap();
        assert_eq!(scopes.to_text(), "ingress stats:read");
        assert!(scopes.has(Scope::Ingress) && !scopes.has(Scope::LinksRead) && !scopes.is_empty());
        assert_eq!(Scopes::from_text("ingress links"), None);
        assert_eq!(serde_json::json!(scopes), serde_json::json!(["ingress", "stats:read"]));
    }

    #[test]
    fn admin_allows_everything_and_nothing_else_does() {
        let admin = Scopes::default().and(Scope::Admin);
        let most: Scopes = Scope::ALL.into_iter().map(|(scope, _)| scope).filter(|s| *s != Scope::Admin).collect();
        assert!(Scope::ALL.iter().all(|(scope, _)| admin.allow(*scope)));
        assert!(!most.allow(Scope::Admin) && !most.cover(admin) && admin.cover(most));
        assert!(!Scopes::default().and(Scope::LinksWrite).allow(Scope::LinksRead));
    }
}
