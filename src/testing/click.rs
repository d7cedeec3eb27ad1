//! A click with nothing special about it, for tests that change what they are about.

use crate::click::domain::ANY;
use crate::click::{Click, ClickId, Marks, Privacy};

/// A person followed the link `a`, of no campaign and any domain, to `https://a.example/`; nothing else is known.
#[must_use]
pub fn click(id: ClickId) -> Click<'static> {
    Click {
        id,
        fingerprint: None,
        window: None,
        head: false,
        prefetch: false,
        bound: false,
        marks: Marks::default(),
        status: 302,
        route_version: 1,
        address: None,
        country: None,
        privacy: Privacy::default(),
        org: "default",
        campaign: "",
        domain: ANY,
        link: "a",
        path: b"",
        rule: "",
        variant: "",
        destination: b"https://a.example/",
        referrer: b"",
        ua: b"",
        language: b"",
        query: "",
    }
}
