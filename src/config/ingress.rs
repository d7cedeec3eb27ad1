//! `[ingress]`: the entry for visits without a link.
//!
//! Its fallback is a destination as a link has one, and is checked as one.

use super::Edge;
use super::check::Keys;
use super::units::{boolean, number, text, word};
use crate::click::link::check_url;
use crate::click::{Org, OwnHosts, Template};

/// `[ingress]`
#[derive(Clone, Debug)]
pub struct Ingress {
    /// Whether `/in` is answered.
    pub enabled: bool,
    /// Whether a visit needs a key.
    pub keys: IngressKeys,
    /// The organisation of visits without a key.
    pub org: Org,
    /// Where visits go for which no campaign has a destination.
    pub fallback: Option<Template>,
    /// Campaigns with a `when` that are asked for a visit that names none.
    pub campaigns_max: usize,
}

/// `ingress.keys`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressKeys {
    /// Without one nobody is let in.
    Required,
    /// Without one the visit is of [`Ingress::org`]; one that was sent must be good.
    Optional,
}

impl Keys {
    pub(super) fn ingress(&mut self, edge: &Edge) -> Ingress {
        let own = edge.own_hosts(None);
        Ingress {
            enabled: self.get("ingress.enabled", boolean),
            keys: self.get(
                "ingress.keys",
                word(&[("required", IngressKeys::Required), ("optional", IngressKeys::Optional)], &[]),
            ),
            org: self.get("ingress.org", text(Org::check)),
            fallback: self.get("ingress.fallback_url", text(|url| destination(url, &own))),
            // Each is a condition on the request thread.
            campaigns_max: self.get("ingress.campaigns_max", number(1..=1000)),
        }
    }
}

fn destination(url: &str, own: &OwnHosts) -> Result<Option<Template>, String> {
    if url.is_empty() { Ok(None) } else { check_url(url, own).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;

    #[test]
    fn the_fallback_is_checked_as_a_links_url() {
        for (setting, message) in [
            ("org = \"a b\"", "must be 1 to 64 of the characters"),
            ("keys = \"none\"", "must be \"required\" or \"optional\""),
            ("campaigns_max = 0", "must be 1 to 1000"),
            ("fallback_url = \"mailto:a@b.example\"", "http"),
            ("fallback_url = \"https://a.example/{nonsense}\"", "{nonsense}"),
            ("fallback_url = \"https://go.example/x\"", "points at this service itself (go.example): a loop"),
            ("fallback_url = \"http://localhost:8080/x\"", "points at this service itself (localhost): a loop"),
        ] {
            let told = problems(&format!("edge.public_hosts = [\"go.example\"]\n[ingress]\n{setting}"));
            let key = setting.split(' ').next().unwrap();
            assert!(told.len() == 1 && told[0].starts_with(&format!("3: ingress.{key} = ")), "{setting}: {told:?}");
            assert!(told[0].contains(message), "{setting}: {told:?}");
        }
    }
}
