//! Conditions of campaigns: a small, typed part of CEL, compiled when a campaign is saved.
//!
//! ```text
//! country == "DE" && device in ["mobile", "tablet"] && !is_bot
//! query["utm_source"].startsWith("news") || ip.in_cidr("192.0.2.0/24")
//! ```
//! What it knows: the names of `names.rs`; texts, whole numbers, `true` and `false`; `==` `!=` `<` `<=` `>` `>=` between two
//! texts or two numbers (`==` and `!=` also between two conditions); `in` with a list, with `tags`, and with a map for "has
//! this key"; `&&` `||` `!`; `.startsWith` `.endsWith` `.contains` `.matches` of texts; `ip.in_cidr`; `has(query.x)`. All
//! else is refused when it is parsed, with line and column: CEL itself would say of an unknown name nothing until it is
//! asked, and then that the condition failed.
//!
//! A key that is not there decides as an error does in CEL: `&&` with something false is false, `||` with something true
//! is true, and what then is still undecided does not hold.
//!
//! Asking costs some nanoseconds for each comparison and allocates nothing but for values that must be decoded. Bounds:
//! [`SOURCE_BYTES_MAX`], [`NODES_MAX`], [`DEPTH_MAX`].

pub mod explain;
mod names;
mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;

use regex::Regex;

pub use names::{Map, Needs, Number, Text};

use super::address::Network;

/// Length of a condition.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// Names, values and operators of a condition, together.
pub const NODES_MAX: usize = 500;
/// Operators inside operators.
pub const DEPTH_MAX: u16 = 32;

/// What a condition may ask of a visit.
pub trait Facts {
    /// A text; empty when it is not known.
    fn text(&self, name: Text) -> Cow<'_, str>;
    /// A number; 0 when it is not known.
    fn number(&self, name: Number) -> i64;
    /// The value of a key; `None` when the key is not there, or its value is no UTF-8.
    fn entry(&self, of: Map, key: &str) -> Option<Cow<'_, str>>;
    /// Whether a program made the request, as far as it is known before the answer.
    fn is_bot(&self) -> bool;
    /// The full client address.
    fn address(&self) -> IpAddr;
    /// Whether the link has this tag.
    fn has_tag(&self, tag: &str) -> bool;
}

/// One thing that is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1 on.
    pub line: usize,
    /// In characters, from 1 on.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.detail)
    }
}

/// A checked condition.
#[derive(Clone, Debug)]
pub struct Condition {
    source: Box<str>,
    root: Node,
    needs: Needs,
}

impl Condition {
    /// Parses, checks and compiles it.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text.
    pub fn parse(source: &str) -> Result<Self, Vec<Fault>> {
        let (root, needs) = parse::parse(source)?;
        Ok(Self { source: source.into(), root, needs })
    }

    /// Whether it holds for this visit.
    pub fn holds(&self, facts: &impl Facts) -> bool {
        self.root.truth(facts) == Some(true)
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What must be known of a visit before it can be asked.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.needs
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Condition {}

/// A part of a condition that is true, false, or undecided for want of a key.
#[derive(Clone, Debug)]
enum Node {
    Always(bool),
    IsBot,
    Not(Box<Node>),
    All(Box<[Node]>),
    Any(Box<[Node]>),
    /// Both or neither.
    Same(Box<Node>, Box<Node>),
    Texts(TextOf, Compare, TextOf),
    Numbers(NumberOf, Compare, NumberOf),
    TextAmong(TextOf, Box<[Box<str>]>),
    NumberAmong(Number, Box<[i64]>),
    Starts(TextOf, TextOf),
    Ends(TextOf, TextOf),
    Contains(TextOf, TextOf),
    Matches(TextOf, Regex),
    Within(Network),
    HasKey(Map, Box<str>),
    HasTag(TextOf),
}

/// Where a text comes from.
#[derive(Clone, Debug)]
enum TextOf {
    Name(Text),
    Entry(Map, Box<str>),
    Literal(Box<str>),
}

/// Where a number comes from.
#[derive(Clone, Copy, Debug)]
enum NumberOf {
    Name(Number),
    Literal(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Node {
    fn truth(&self, facts: &impl Facts) -> Option<bool> {
        Some(match self {
            Self::Always(truth) => *truth,
            Self::IsBot => facts.is_bot(),
            Self::Not(node) => !node.truth(facts)?,
            Self::All(nodes) => return decided_by(false, nodes, facts),
            Self::Any(nodes) => return decided_by(true, nodes, facts),
            Self::Same(left, right) => {
                let (left, right) = (left.truth(facts)?, right.truth(facts)?);
                left == right
            }
            Self::Texts(left, compare, right) => compare.holds(left.get(facts)?.cmp(&right.get(facts)?)),
            Self::Numbers(left, compare, right) => compare.holds(left.get(facts).cmp(&right.get(facts))),
            Self::TextAmong(text, among) => {
                let text = text.get(facts)?;
                among.iter().any(|one| **one == *text)
            }
            Self::NumberAmong(number, among) => among.contains(&facts.number(*number)),
            Self::Starts(text, part) => text.get(facts)?.starts_with(&*part.get(facts)?),
            Self::Ends(text, part) => text.get(facts)?.ends_with(&*part.get(facts)?),
            Self::Contains(text, part) => text.get(facts)?.contains(&*part.get(facts)?),
            Self::Matches(text, regex) => regex.is_match(&text.get(facts)?),
            Self::Within(network) => network.contains(facts.address()),
            Self::HasKey(map, key) => facts.entry(*map, key).is_some(),
            Self::HasTag(tag) => facts.has_tag(&tag.get(facts)?),
        })
    }
}

/// One node of this truth decides all; without one, one that is undecided leaves all undecided.
fn decided_by(decisive: bool, nodes: &[Node], facts: &impl Facts) -> Option<bool> {
    let mut all = Some(!decisive);
    for node in nodes {
        match node.truth(facts) {
            Some(truth) if truth == decisive => return Some(decisive),
            Some(_) => {}
            None => all = None,
        }
    }
    all
}

impl TextOf {
    fn get<'f>(&'f self, facts: &'f impl Facts) -> Option<Cow<'f, str>> {
        match self {
            Self::Name(name) => Some(facts.text(*name)),
            Self::Entry(map, key) => facts.entry(*map, key),
            Self::Literal(text) => Some(Cow::Borrowed(text)),
        }
    }
}

impl NumberOf {
    fn get(self, facts: &impl Facts) -> i64 {
        match self {
            Self::Name(name) => facts.number(name),
            Self::Literal(number) => number,
        }
    }
}

impl Compare {
    const fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::NotEqual => found.is_ne(),
            Self::Less => found.is_lt(),
            Self::LessOrEqual => found.is_le(),
            Self::Greater => found.is_gt(),
            Self::GreaterOrEqual => found.is_ge(),
        }
    }
}
