//! The names of a folder on the disk that fails: as processes see them, as the disk has them, and what lies between.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Names and what they stand for.
type Entries = BTreeMap<OsString, usize>;

/// One change: names with what they stand for from now on; a rename is one change of two names.
type Change = Vec<(OsString, Option<usize>)>;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: Entries,
    forced: Entries,
    /// What was done since they were forced, in order.
    since: Vec<Change>,
}

impl Names {
    /// As processes see them.
    pub(super) const fn seen(&self) -> &Entries {
        &self.seen
    }

    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.since.push(change);
    }

    /// The disk has all of them.
    pub(super) fn force(&mut self) {
        self.forced = self.seen.clone();
        self.since.clear();
    }

    /// What the disk has, and, with a generator, a random first part of what was done since.
    pub(super) fn after_crash(&self, random: Option<&mut fastrand::Rng>) -> Self {
        let mut entries = self.forced.clone();
        let survives = random.map_or(0, |random| random.usize(..=self.since.len()));
        self.since[..survives].iter().for_each(|change| apply(&mut entries, change));
        Self { seen: entries.clone(), forced: entries, since: Vec::new() }
    }
}

fn apply(entries: &mut Entries, change: &Change) {
    for (name, node) in change {
        match node {
            Some(node) => entries.insert(name.clone(), *node),
            None => entries.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_forced_and_with_a_generator_a_first_part_of_the_rest() {
        let (mut names, mut random) = (Names::default(), fastrand::Rng::with_seed(1));
        let name = |text: &str| OsString::from(text);
        names.change(vec![(name("a"), Some(1))]);
        names.force();
        names.change(vec![(name("a"), None), (name("b"), Some(1))]);
        names.change(vec![(name("c"), Some(2))]);
        let listed =
            |names: &Names| names.seen().keys().map(|name| name.to_string_lossy().into_owned()).collect::<String>();
        assert_eq!(listed(&names), "bc");
        assert_eq!(listed(&names.after_crash(None)), "a");
        let mut found: Vec<_> = (0..100).map(|_| listed(&names.after_crash(Some(&mut random)))).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, ["a", "b", "bc"], "a rename is whole or not at all");
    }
}
