//! The organisation that a thing belongs to.

use std::fmt;
use std::ops::Deref;

/// The organisation of what names none.
pub const DEFAULT_ORG: &str = "default";
/// Bytes of the name of an organisation.
pub const ORG_BYTES_MAX: usize = 64;

/// The name of an organisation. [`DEFAULT_ORG`] takes no memory of its own: it is that of most links.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Org(Option<Box<str>>);

impl Org {
    /// Checks a name.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn check(name: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=ORG_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(format!("must be 1 to {ORG_BYTES_MAX} of the characters A-Z a-z 0-9 - _ ."));
        }
        Ok(Self((name != DEFAULT_ORG).then(|| name.into())))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT_ORG)
    }
}

impl Deref for Org {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Org {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organisations_have_plain_names() {
        for good in ["default", "acme-1", "A.b_c", &"x".repeat(64)] {
            assert_eq!(Org::check(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert!(Org::check(bad).unwrap_err().contains("1 to 64"), "{bad}");
        }
        assert_eq!(Org::default(), Org::check("default").unwrap());
        assert_ne!(Org::default(), Org::check("Default").unwrap());
    }
}
