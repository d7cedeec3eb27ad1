//! The canary: a link that every node has, for probes. It stands in no catalog, belongs to no operator, and is there for
//! monitors alone: to everybody else there is no such link.

/// Its name in the path and in its clicks. No slug has this character, so it is in nobody's way.
pub const SLUG: &str = "-/canary";
/// The organisation of its clicks. No organisation has this name, so no key sees them.
pub const ORG: &str = "/";
/// Where it leads: what every edge answers.
pub const DESTINATION: &str = "/robots.txt";
/// The header by which the node's own prober shows its secret.
pub const SECRET_HEADER: &str = "x-trellis-probe";
/// What stands in the user agents of probes; `config/classify.toml` has it among the words of monitors.
pub const AGENT: &str = "TrellisProbe/";
/// Bytes of the name of a place from which probes come.
pub const LOCATION_BYTES_MAX: usize = 64;

/// The user agent of probes from this place.
#[must_use]
pub fn agent(location: &str) -> String {
    format!("{AGENT}{} ({location})", crate::VERSION)
}

/// Checks the name of a place.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_location(name: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=LOCATION_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
        Ok(name.to_owned())
    } else {
        Err(format!("must be 1 to {LOCATION_BYTES_MAX} of the characters A-Z a-z 0-9 - _ ."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::Org;
    use crate::click::domain::is_reserved;
    use crate::click::link::check_slug;

    #[test]
    fn nobody_can_take_its_names() {
        assert!(check_slug(SLUG).is_err() && Org::check(ORG).is_err());
        assert!(!is_reserved(SLUG), "a domain sends visitors on who ask for it, as for any path that is no link's");
    }

    #[test]
    fn a_place_has_a_plain_name_that_stands_in_the_agent() {
        assert_eq!(agent("fra-1"), format!("TrellisProbe/{} (fra-1)", crate::VERSION));
        for bad in ["", "a b", "x)", "\u{e9}", &"x".repeat(65)] {
            assert!(check_location(bad).unwrap_err().contains("1 to 64"), "{bad}");
        }
        assert_eq!(check_location(&"x".repeat(64)).unwrap().len(), 64);
    }
}
