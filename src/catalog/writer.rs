//! Who writes to the catalog: releases name it, and what is of another organisation is not there for it.

use serde_json::Value;

use crate::click::Org;
use crate::click::org::DEFAULT_ORG;

/// Of a field `org`.
pub(super) const NOT_YOURS: &str = "is not the organisation of the key; leave it out";
/// Likewise.
pub(super) const FIXED: &str = "cannot be changed; remove it first, or take another name";

/// Who makes a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// As releases name it.
    pub actor: String,
    /// The organisation whose things it may write; `None` for all.
    pub org: Option<Box<str>>,
}

impl Writer {
    /// One that may write in all organisations.
    #[must_use]
    pub fn of_all(actor: &str) -> Self {
        Self { actor: actor.into(), org: None }
    }

    /// Names the organisation in a document that does not, where it is another than [`DEFAULT_ORG`]: that of `earlier`, or
    /// the writer's own.
    pub(super) fn place(&self, document: &mut Value, earlier: Option<&Org>) {
        let of = self.org.as_deref().or(earlier.map(Org::as_str)).filter(|of| *of != DEFAULT_ORG);
        if let (Some(of), Some(fields)) = (of, document.as_object_mut()) {
            fields.entry("org").or_insert_with(|| of.into());
        }
    }

    /// Whether it may write what is of this organisation.
    pub(super) fn may(&self, org: &Org) -> bool {
        self.org.as_deref().is_none_or(|own| *own == **org)
    }
}
