//! What a write would make of the domains in use, found out before it is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::domains::{Domains, DomainsFull, Names};
use crate::click::OwnHosts;
use crate::click::domain::ANY;

impl Domains {
    /// What a write would make of the names in use, beginning with what they are.
    pub(super) fn prospect(&self) -> Prospect {
        Prospect { names: self.names.load_full(), domains_max: self.domains_max(), touched: BTreeMap::new(), more: 0 }
    }

    /// The names of this service after a write.
    pub(super) fn own_hosts_after(&self, prospect: &Prospect) -> OwnHosts {
        let mut own = OwnHosts::clone(&self.fixed.load());
        let stay = prospect.names.keys().map(|name| &**name).filter(|name| !prospect.touched.contains_key(*name));
        let touched = prospect.touched.iter().filter(|(_, state)| state.is_in_use()).map(|(name, _)| &**name);
        own.hosts.extend(stay.chain(touched).filter(|name| *name != ANY).map(str::to_owned));
        own
    }
}

/// What a write would make of the names in use.
pub(super) struct Prospect {
    names: Arc<Names>,
    domains_max: usize,
    touched: BTreeMap<Box<str>, Planned>,
    /// Names in use beyond those of `names`.
    more: isize,
}

/// A name as it would be.
#[derive(Clone, Copy, Debug)]
struct Planned {
    links: isize,
    is_said: bool,
}

impl Planned {
    const fn is_in_use(self) -> bool {
        self.is_said || self.links > 0
    }
}

impl Prospect {
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Planned)) {
        let is = self.names.get(name);
        let planned = self.touched.entry(name.into()).or_insert_with(|| Planned {
            links: is.map_or(0, |found| found.links.load(Ordering::Relaxed).cast_signed()),
            is_said: is.is_some_and(|found| found.domain.is_some()),
        });
        let before = planned.is_in_use();
        change(planned);
        self.more += isize::from(planned.is_in_use()) - isize::from(before);
    }

    /// More links of this domain, or fewer.
    pub(super) fn links(&mut self, name: &str, more: isize) {
        self.change(name, |planned| planned.links += more);
    }

    /// Something is said of this domain, or nothing any longer.
    pub(super) fn say(&mut self, name: &str, is_said: bool) {
        self.change(name, |planned| planned.is_said = is_said);
    }

    /// Names in use.
    pub(super) fn len(&self) -> usize {
        self.names.len().saturating_add_signed(self.more)
    }

    /// One more link of this domain.
    ///
    /// # Errors
    /// There is no room for another name.
    pub(super) fn take(&mut self, name: &str) -> Result<(), DomainsFull> {
        let before = self.len();
        self.links(name, 1);
        if self.len() > before && self.len() > self.domains_max {
            self.links(name, -1);
            return Err(DomainsFull(self.domains_max));
        }
        Ok(())
    }
}
