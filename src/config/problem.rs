//! What is wrong with a configuration, told so that it can be mended: where, which key, which value, what would be right.
//!
//! Never reads anything, and shows no value that its maker did not put in. Made by `layers` and `check`; printed by the
//! command line. Bounds: one problem for each key that was written.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written; in the order in which problems are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config/default.toml`, or found on this machine in its place.
    Default,
    /// A configuration file.
    File {
        /// As it was given.
        path: PathBuf,
        /// From 1; 0 is the file as a whole.
        line: usize,
    },
    /// The environment.
    Env {
        /// Its full name.
        variable: String,
    },
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { variable } => f.write_str(variable),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong. Printed as `my.toml:12: edge.listen = "x": is not an address such as 0.0.0.0:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Full name of the setting as it was written; empty when the file itself is wrong.
    pub key: String,
    /// The value, `***` for a secret; `None` where it says nothing, or might be a secret under a mistyped key.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.value {
            _ if self.key.is_empty() => {}
            Some(value) => write!(f, "{} = {value}: ", self.key)?,
            None => write!(f, "{}: ", self.key)?,
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, at least one thing; file first, each line in its turn. Printed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// `None` when there are none.
    pub(super) fn of(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// All of them; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Settings of earlier versions, and what says it now.
const MOVED: [(&str, &str); 3] = [
    ("batch.retry_base", "retry.insert.base"),
    ("batch.retry_max", "retry.insert.max"),
    ("redis.tries", "retry.dedup.tries"),
];

/// `; did you mean X?`, where X is what a setting of an earlier version is called now, or the known name with the fewest edits, if they are few, or else one that goes on where
/// the wrong one ends, or one that ends alike in another section; `spell` writes it. Empty when there is none.
pub(super) fn nearest<'a>(
    wrong: &str,
    known: impl Iterator<Item = &'a String> + Clone,
    spell: impl Fn(&String) -> String,
) -> String {
    let moved = MOVED.iter().find(|(old, _)| *old == wrong).map(|(_, new)| *new);
    let moved = moved.and_then(|new| known.clone().find(|name| *name == new));
    let few = (wrong.len() / 4).clamp(2, 4);
    let near = known.clone().map(|name| (edits(wrong, name), name)).min().filter(|(edits, _)| *edits <= few);
    let longer = |name: &&String| name.strip_prefix(wrong).is_some_and(|rest| rest.starts_with('_'));
    let same_end = |name: &&String| name.rsplit('.').next() == wrong.rsplit('.').next();
    let near = moved
        .or(near.map(|(_, name)| name))
        .or_else(|| known.clone().find(longer))
        .or_else(|| known.clone().find(same_end));
    near.map(|name| format!("; did you mean {}?", spell(name))).unwrap_or_default()
}

/// Levenshtein's distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::super::layers::Layers;
    use super::*;

    #[test]
    fn settings_that_moved_are_gone_and_their_new_names_exist() {
        let layers = Layers::new(&Sources::default(), "").unwrap();
        for (old, new) in MOVED {
            assert!(!layers.settings.contains_key(old) && layers.settings.contains_key(new), "{old}");
            assert_eq!(nearest(old, layers.settings.keys(), Clone::clone), format!("; did you mean {new}?"));
        }
    }
}
