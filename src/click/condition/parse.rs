//! From the text of a condition to its checked tree: parsed by the `cel` crate, typed and cut down to our part of CEL here.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use regex::RegexBuilder;

use super::names::{Meaning, NAMES};
use super::{Compare, DEPTH_MAX, Fault, Map, NODES_MAX, Needs, Node, NumberOf, SOURCE_BYTES_MAX, TextOf};

/// Memory of a compiled regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;

/// A typed part of a condition.
enum Value {
    Truth(Node),
    Text(TextOf),
    Number(NumberOf),
    Map(Map),
    Address,
    Tags,
    Texts(Box<[Box<str>]>),
    Numbers(Box<[i64]>),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Truth(_) => "true or false",
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Map(_) => "a map",
            Self::Address => "an address",
            Self::Tags => "the tags of the link",
            Self::Texts(_) | Self::Numbers(_) => "a list",
        }
    }
}

/// What is wrong was noted; the rest is still looked at.
struct Noted;

type Checked<T> = Result<T, Noted>;

struct Checker {
    places: SourceInfo,
    needs: Needs,
    nodes: usize,
    faults: Vec<Fault>,
}

pub(super) fn parse(source: &str) -> Result<(Node, Needs), Vec<Fault>> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(vec![at_start(format!("has {} bytes; {SOURCE_BYTES_MAX} at most", source.len()))]);
    }
    if source.trim().is_empty() {
        return Err(vec![at_start("is empty; leave it out, or write `true`".into())]);
    }
    let parser = cel::parser::Parser::new().max_recursion_depth(DEPTH_MAX);
    let (expression, places) = parser.parse_with_source_info(source).map_err(|errors| {
        let mut faults: Vec<_> = errors.errors.into_iter().map(not_cel).collect();
        faults.dedup();
        faults
    })?;
    let mut checker = Checker { places, needs: Needs::default(), nodes: 0, faults: Vec::new() };
    match checker.truth(&expression) {
        Ok(root) if checker.faults.is_empty() => Ok((root, checker.needs)),
        _ => {
            checker.faults.sort_by_key(|fault| (fault.line, fault.column));
            Err(checker.faults)
        }
    }
}

const fn at_start(detail: String) -> Fault {
    Fault { line: 1, column: 1, detail }
}

fn not_cel(error: cel::ParseError) -> Fault {
    let place = |number: isize| usize::try_from(number).unwrap_or(0);
    let detail = error.msg.lines().next().unwrap_or_default().trim().to_owned();
    Fault { line: place(error.pos.0).max(1), column: place(error.pos.1).max(1), detail: format!("is no CEL: {detail}") }
}

impl Checker {
    fn fault<T>(&mut self, at: &IdedExpr, detail: impl Into<String>) -> Checked<T> {
        let offset = self.places.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let before = self.places.source.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        self.faults.push(Fault { line, column, detail: detail.into() });
        Err(Noted)
    }

    fn truth(&mut self, of: &IdedExpr) -> Checked<Node> {
        match self.value(of)? {
            Value::Truth(node) => Ok(node),
            other => self.fault(of, format!("is {}; a condition is true or false", other.kind())),
        }
    }

    fn text(&mut self, of: &IdedExpr) -> Checked<TextOf> {
        match self.value(of)? {
            Value::Text(text) => Ok(text),
            other => self.fault(of, format!("is {}; a text is wanted here", other.kind())),
        }
    }

    fn literal<'e>(&mut self, of: &'e IdedExpr, what: &str) -> Checked<&'e str> {
        match &of.expr {
            Expr::Literal(LiteralValue::String(text)) => Ok(text.inner()),
            _ => self.fault(of, format!("must be {what} in quotes")),
        }
    }

    fn value(&mut self, of: &IdedExpr) -> Checked<Value> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            // Once is enough.
            return match self.nodes == NODES_MAX + 1 {
                true => self.fault(of, format!("is one too many: {NODES_MAX} names, values and operators at most")),
                false => Err(Noted),
            };
        }
        match &of.expr {
            Expr::Literal(LiteralValue::Boolean(truth)) => Ok(Value::Truth(Node::Always(*truth.inner()))),
            Expr::Literal(LiteralValue::String(text)) => Ok(Value::Text(TextOf::Literal(text.inner().into()))),
            Expr::Literal(LiteralValue::Int(number)) => Ok(Value::Number(NumberOf::Literal(*number.inner()))),
            Expr::Literal(_) => self.fault(of, "is no text, no whole number and neither true nor false"),
            Expr::Ident(name) => self.name(of, name),
            Expr::Select(select) => {
                let map = self.map(&select.operand)?;
                let key = self.key(of, map, &select.field)?;
                Ok(if select.test {
                    Value::Truth(Node::HasKey(map, key))
                } else {
                    Value::Text(TextOf::Entry(map, key))
                })
            }
            Expr::List(list) => self.list(of, &list.elements),
            Expr::Call(call) => self.call(of, call),
            Expr::Comprehension(_) => self.fault(of, "loops are not part of conditions; write the cases out"),
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                self.fault(of, "is not part of conditions; compare names with texts, numbers and lists of them")
            }
        }
    }

    fn name(&mut self, of: &IdedExpr, name: &str) -> Checked<Value> {
        let Some((_, meaning, needs)) = NAMES.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<_> = NAMES.iter().map(|(known, ..)| *known).collect();
            return self.fault(of, format!("`{name}` is unknown; there are {}", known.join(", ")));
        };
        self.needs = self.needs.and(*needs);
        Ok(match meaning {
            Meaning::Text(text) => Value::Text(TextOf::Name(*text)),
            Meaning::Number(number) => Value::Number(NumberOf::Name(*number)),
            Meaning::Map(map) => Value::Map(*map),
            Meaning::IsBot => Value::Truth(Node::IsBot),
            Meaning::Address => Value::Address,
            Meaning::Tags => Value::Tags,
        })
    }

    fn map(&mut self, of: &IdedExpr) -> Checked<Map> {
        match self.value(of)? {
            Value::Map(map) => Ok(map),
            other => self.fault(of, format!("is {}; query, header and cookie have keys", other.kind())),
        }
    }

    fn key(&mut self, of: &IdedExpr, map: Map, key: &str) -> Checked<Box<str>> {
        if map == Map::Header && key.chars().any(char::is_uppercase) {
            return self.fault(of, format!("header names are written in lower case here: `{}`", key.to_lowercase()));
        }
        Ok(key.into())
    }

    fn list(&mut self, of: &IdedExpr, elements: &[IdedExpr]) -> Checked<Value> {
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        for element in elements {
            match self.value(element)? {
                Value::Text(TextOf::Literal(text)) => texts.push(text),
                Value::Number(NumberOf::Literal(number)) => numbers.push(number),
                _ => return self.fault(element, "a list holds texts in quotes or whole numbers, and nothing else"),
            }
        }
        match (texts.is_empty(), numbers.is_empty()) {
            (false, true) => Ok(Value::Texts(texts.into())),
            (true, false) => Ok(Value::Numbers(numbers.into())),
            (true, true) => self.fault(of, "is empty: nothing is in it"),
            (false, false) => self.fault(of, "holds texts and numbers; write one list for each"),
        }
    }

    fn call(&mut self, of: &IdedExpr, call: &CallExpr) -> Checked<Value> {
        if let Some(target) = &call.target {
            return self.method(of, &call.func_name, target, &call.args);
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_NOT, [inner]) => Ok(Value::Truth(Node::Not(Box::new(self.truth(inner)?)))),
            (operators::LOGICAL_AND, [left, right]) => {
                let (left, right) = (self.truth(left), self.truth(right));
                Ok(Value::Truth(Node::All(flat(left?, right?, |node| match node {
                    Node::All(nodes) => Ok(nodes),
                    other => Err(other),
                }))))
            }
            (operators::LOGICAL_OR, [left, right]) => {
                let (left, right) = (self.truth(left), self.truth(right));
                Ok(Value::Truth(Node::Any(flat(left?, right?, |node| match node {
                    Node::Any(nodes) => Ok(nodes),
                    other => Err(other),
                }))))
            }
            (operators::INDEX, [map, key]) => {
                let map = self.map(map)?;
                let text = self.literal(key, "a key")?;
                Ok(Value::Text(TextOf::Entry(map, self.key(key, map, text)?)))
            }
            (operators::NEGATE, [inner]) => match self.value(inner)? {
                Value::Number(NumberOf::Literal(number)) => Ok(Value::Number(NumberOf::Literal(number.wrapping_neg()))),
                other => self.fault(of, format!("`-` stands before a number, and this is {}", other.kind())),
            },
            (operators::IN, [one, many]) => self.among(of, one, many),
            (name, [left, right]) => match compare(name) {
                Some(compare) => self.compare(of, left, compare, right),
                None => self.unknown(of, name),
            },
            (name, _) => self.unknown(of, name),
        }
    }

    fn unknown<T>(&mut self, of: &IdedExpr, name: &str) -> Checked<T> {
        let name = name.trim_matches(['_', '@']);
        self.fault(
            of,
            format!(
                "`{name}` is not part of conditions; there are == != < <= > >= in && || ! has() .startsWith() .endsWith() \
                 .contains() .matches() and ip.in_cidr()"
            ),
        )
    }

    fn compare(&mut self, of: &IdedExpr, left: &IdedExpr, compare: Compare, right: &IdedExpr) -> Checked<Value> {
        let (left, right) = (self.value(left), self.value(right));
        let node = match (left?, right?) {
            (Value::Text(left), Value::Text(right)) => Node::Texts(left, compare, right),
            (Value::Number(left), Value::Number(right)) => Node::Numbers(left, compare, right),
            (Value::Truth(left), Value::Truth(right)) => {
                let same = Node::Same(Box::new(left), Box::new(right));
                match compare {
                    Compare::Equal => same,
                    Compare::NotEqual => Node::Not(Box::new(same)),
                    _ => return self.fault(of, "true and false have no order; use == or !="),
                }
            }
            (Value::Address, _) | (_, Value::Address) => {
                return self.fault(of, "an address is compared with a network: ip.in_cidr(\"192.0.2.0/24\")");
            }
            (left, right) => {
                let (left, right) = (left.kind(), right.kind());
                return self.fault(of, format!("compares {left} with {right}; two texts or two numbers are wanted"));
            }
        };
        Ok(Value::Truth(node))
    }

    fn among(&mut self, of: &IdedExpr, one: &IdedExpr, many: &IdedExpr) -> Checked<Value> {
        let (found, many) = (self.value(one), self.value(many));
        let node = match (found?, many?) {
            (Value::Text(text), Value::Texts(texts)) => Node::TextAmong(text, texts),
            (Value::Number(NumberOf::Name(number)), Value::Numbers(numbers)) => Node::NumberAmong(number, numbers),
            (Value::Number(NumberOf::Literal(number)), Value::Numbers(numbers)) => {
                Node::Always(numbers.contains(&number))
            }
            (Value::Text(tag), Value::Tags) => Node::HasTag(tag),
            (Value::Text(TextOf::Literal(key)), Value::Map(map)) => Node::HasKey(map, self.key(one, map, &key)?),
            (found, many) => {
                let (found, many) = (found.kind(), many.kind());
                return self.fault(of, format!("looks for {found} in {many}; a list of the same kind is wanted"));
            }
        };
        Ok(Value::Truth(node))
    }

    fn method(&mut self, of: &IdedExpr, name: &str, target: &IdedExpr, arguments: &[IdedExpr]) -> Checked<Value> {
        let [argument] = arguments else {
            return self.unknown(of, name);
        };
        if name == "in_cidr" {
            return match self.value(target)? {
                Value::Address => {
                    let text = self.literal(argument, "a network")?;
                    match text.parse() {
                        Ok(network) => Ok(Value::Truth(Node::Within(network))),
                        Err(detail) => self.fault(argument, detail),
                    }
                }
                other => self.fault(target, format!("is {}; only `ip` has in_cidr", other.kind())),
            };
        }
        let pair = |checker: &mut Self| -> Checked<(TextOf, TextOf)> {
            let (text, part) = (checker.text(target), checker.text(argument));
            Ok((text?, part?))
        };
        let node = match name {
            "startsWith" => pair(self).map(|(text, part)| Node::Starts(text, part))?,
            "endsWith" => pair(self).map(|(text, part)| Node::Ends(text, part))?,
            "contains" => pair(self).map(|(text, part)| Node::Contains(text, part))?,
            "matches" => {
                let (text, pattern) = (self.text(target), self.literal(argument, "a regular expression"));
                let (text, pattern) = (text?, pattern?);
                match RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build() {
                    Ok(regex) => Node::Matches(text, regex),
                    Err(error) => {
                        let detail = error.to_string();
                        let detail = detail.lines().last().unwrap_or_default().trim_start_matches("error: ");
                        return self.fault(argument, format!("is no regular expression: {detail}"));
                    }
                }
            }
            _ => return self.unknown(of, name),
        };
        Ok(Value::Truth(node))
    }
}

/// The parts of both sides in one row, when a side is of the same operator.
fn flat(left: Node, right: Node, parts: impl Fn(Node) -> Result<Box<[Node]>, Node>) -> Box<[Node]> {
    let side = |node| parts(node).map_or_else(|one| vec![one], Vec::from);
    let mut nodes = side(left);
    nodes.extend(side(right));
    nodes.into()
}

fn compare(operator: &str) -> Option<Compare> {
    Some(match operator {
        operators::EQUALS => Compare::Equal,
        operators::NOT_EQUALS => Compare::NotEqual,
        operators::LESS => Compare::Less,
        operators::LESS_EQUALS => Compare::LessOrEqual,
        operators::GREATER => Compare::Greater,
        operators::GREATER_EQUALS => Compare::GreaterOrEqual,
        _ => return None,
    })
}
