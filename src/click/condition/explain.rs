//! Why a condition holds, or does not: each of its comparisons with what was found in the visit.
//!
//! For people, not for the request thread: it asks every comparison, also those that [`Condition::holds`] would pass over,
//! and writes texts. Bounds: [`NODES_MAX`](super::NODES_MAX) comparisons; a value is cut at [`FOUND_CHARS_MAX`] characters.

use std::fmt;

use serde_json::Value;

use super::names::{Meaning, NAMES};
use super::{Compare, Condition, Facts, Map, Node, NumberOf, TextOf};

/// Characters of a value that are shown.
pub const FOUND_CHARS_MAX: usize = 200;

/// What a condition says of one visit.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// `None`: undecided, for want of a key. Only `Some(true)` holds.
    pub truth: Option<bool>,
    /// Its comparisons, in the order of the text.
    pub parts: Vec<Part>,
}

/// One comparison. A `!` in front belongs to it, and so does `==` between two that have no `&&` and `||` in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Written as a condition of its own.
    pub text: String,
    /// What it asks of the visit, each with what was found; null for a key that is not there.
    pub found: Vec<(String, Value)>,
    /// `None`: a key is not there.
    pub truth: Option<bool>,
    /// The whole is what it is because of this part, alone or with others.
    pub decides: bool,
}

impl Condition {
    /// Asks every comparison.
    pub fn explain(&self, facts: &impl Facts) -> Explained {
        let mut parts = Vec::new();
        take_apart(&self.root, facts, true, &mut parts);
        Explained { truth: self.root.truth(facts), parts }
    }
}

/// What is found of a visit under each name that stands for one value: all but maps and tags.
pub fn known(facts: &impl Facts) -> impl Iterator<Item = (&'static str, Value)> {
    NAMES.iter().filter_map(|(name, meaning, _)| {
        let value = match meaning {
            Meaning::Text(text) => facts.text(*text).into(),
            Meaning::Number(number) => facts.number(*number).into(),
            Meaning::IsBot => facts.is_bot().into(),
            Meaning::Address => facts.address().to_string().into(),
            Meaning::Map(_) | Meaning::Tags => return None,
        };
        Some((*name, value))
    })
}

fn take_apart(node: &Node, facts: &impl Facts, decides: bool, parts: &mut Vec<Part>) {
    if !node.has_parts() {
        let mut found = Vec::new();
        node.find(facts, &mut found);
        return parts.push(Part { text: node.to_string(), found, truth: node.truth(facts), decides });
    }
    match node {
        // False for one that is false, true because all are, undecided for those that are; likewise with `||`.
        Node::All(nodes) | Node::Any(nodes) => {
            let truth = node.truth(facts);
            nodes.iter().for_each(|one| take_apart(one, facts, decides && one.truth(facts) == truth, parts));
        }
        Node::Not(inner) => take_apart(inner, facts, decides, parts),
        Node::Same(left, right) => {
            let undecided = node.truth(facts).is_none();
            for side in [left, right] {
                take_apart(side, facts, decides && (!undecided || side.truth(facts).is_none()), parts);
            }
        }
        _ => {}
    }
}

impl Node {
    /// Whether there is a `&&` or `||` in it.
    fn has_parts(&self) -> bool {
        match self {
            Self::All(_) | Self::Any(_) => true,
            Self::Not(inner) => inner.has_parts(),
            Self::Same(left, right) => left.has_parts() || right.has_parts(),
            _ => false,
        }
    }

    /// What a node without parts asks of the visit.
    fn find(&self, facts: &impl Facts, found: &mut Vec<(String, Value)>) {
        let mut add = |name: String, value: Value| {
            if found.iter().all(|(known, _)| *known != name) {
                found.push((name, value));
            }
        };
        let mut text = |of: &TextOf| match of {
            TextOf::Literal(_) => {}
            TextOf::Name(_) | TextOf::Entry(..) => add(of.to_string(), shown(of.get(facts).as_deref())),
        };
        match self {
            Self::Always(_) | Self::All(_) | Self::Any(_) => {}
            Self::IsBot => add("is_bot".into(), facts.is_bot().into()),
            Self::Not(inner) => inner.find(facts, found),
            Self::Same(left, right) => {
                left.find(facts, found);
                right.find(facts, found);
            }
            Self::Texts(left, _, right)
            | Self::Starts(left, right)
            | Self::Ends(left, right)
            | Self::Contains(left, right) => {
                text(left);
                text(right);
            }
            Self::TextAmong(one, _) | Self::Matches(one, _) | Self::HasTag(one) => text(one),
            Self::Numbers(left, _, right) => {
                for side in [left, right].into_iter().filter(|side| matches!(side, NumberOf::Name(_))) {
                    add(side.to_string(), side.get(facts).into());
                }
            }
            Self::NumberAmong(number, _) => add(name(Meaning::Number(*number)).into(), facts.number(*number).into()),
            Self::Within(_) => add("ip".into(), facts.address().to_string().into()),
            Self::HasKey(map, key) => add(entry(*map, key), shown(facts.entry(*map, key).as_deref())),
        }
    }

    /// Whether it needs no brackets inside of others.
    const fn is_closed(&self) -> bool {
        matches!(
            self,
            Self::Always(_)
                | Self::IsBot
                | Self::Starts(..)
                | Self::Ends(..)
                | Self::Contains(..)
                | Self::Matches(..)
                | Self::Within(_)
        )
    }
}

/// A value, or where it is long its beginning.
fn shown(value: Option<&str>) -> Value {
    value.map_or(Value::Null, |text| match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    })
}

fn name(of: Meaning) -> &'static str {
    NAMES.iter().find(|(_, meaning, _)| *meaning == of).map_or("", |(name, ..)| name)
}

fn entry(map: Map, key: &str) -> String {
    format!("{}[{}]", name(Meaning::Map(map)), quoted(key))
}

/// In quotes; the escapes of JSON are escapes of CEL.
fn quoted(text: &str) -> Value {
    text.into()
}

/// Inside of another condition.
struct Inner<'n>(&'n Node);

impl fmt::Display for Inner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_closed() { self.0.fmt(f) } else { write!(f, "({})", self.0) }
    }
}

/// As a condition that means the same.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, nodes: &[Self], between: &str| {
            nodes.iter().enumerate().try_for_each(|(number, node)| {
                f.write_str(if number == 0 { "" } else { between })?;
                Inner(node).fmt(f)
            })
        };
        match self {
            Self::Always(truth) => truth.fmt(f),
            Self::IsBot => f.write_str("is_bot"),
            Self::Not(inner) => match &**inner {
                Self::Same(left, right) => write!(f, "{} != {}", Inner(left), Inner(right)),
                other => write!(f, "!{}", Inner(other)),
            },
            Self::All(nodes) => row(f, nodes, " && "),
            Self::Any(nodes) => row(f, nodes, " || "),
            Self::Same(left, right) => write!(f, "{} == {}", Inner(left), Inner(right)),
            Self::Texts(left, compare, right) => write!(f, "{left} {} {right}", compare.sign()),
            Self::Numbers(left, compare, right) => write!(f, "{left} {} {right}", compare.sign()),
            Self::TextAmong(text, among) => {
                let among: Vec<_> = among.iter().map(|one| quoted(one).to_string()).collect();
                write!(f, "{text} in [{}]", among.join(", "))
            }
            Self::NumberAmong(number, among) => write!(f, "{} in {among:?}", name(Meaning::Number(*number))),
            Self::Starts(text, part) => write!(f, "{text}.startsWith({part})"),
            Self::Ends(text, part) => write!(f, "{text}.endsWith({part})"),
            Self::Contains(text, part) => write!(f, "{text}.contains({part})"),
            Self::Matches(text, regex) => write!(f, "{text}.matches({})", quoted(regex.as_str())),
            Self::Within(network) => write!(f, "ip.in_cidr({})", quoted(&network.to_string())),
            Self::HasKey(map, key) => write!(f, "{} in {}", quoted(key), name(Meaning::Map(*map))),
            Self::HasTag(tag) => write!(f, "{tag} in tags"),
        }
    }
}

impl fmt::Display for TextOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) => f.write_str(name(Meaning::Text(*text))),
            Self::Entry(map, key) => f.write_str(&entry(*map, key)),
            Self::Literal(text) => quoted(text).fmt(f),
        }
    }
}

impl fmt::Display for NumberOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(number) => f.write_str(name(Meaning::Number(*number))),
            Self::Literal(number) => number.fmt(f),
        }
    }
}

impl Compare {
    const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}
