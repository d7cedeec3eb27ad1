//! A table of the file, key by key, each mistake with its line. Knows no key.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::problem::nearest;
use crate::config::units::Value;
use crate::config::{Origin, Problem};

/// A file, and what is wrong with it so far.
pub(super) struct Told<'t> {
    path: &'t Path,
    text: &'t str,
    pub(super) problems: Vec<Problem>,
}

impl<'t> Told<'t> {
    pub(super) const fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, problems: Vec::new() }
    }

    pub(super) fn origin(&self, start: usize) -> Origin {
        let line = 1 + self.text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }

    pub(super) fn problem(&mut self, start: usize, key: String, value: Option<&Value>, message: String) {
        let (origin, value) = (self.origin(start), value.map(ToString::to_string));
        self.problems.push(Problem { key, value, origin, message });
    }
}

/// A table that is being read.
pub(super) struct Row<'t> {
    /// What stands before its keys in messages.
    pub(super) name: String,
    start: usize,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Row<'t> {
    pub(super) const fn new(name: String, start: usize, table: &'t DeTable<'t>) -> Self {
        Self { name, start, table, known: Vec::new() }
    }

    fn find(&mut self, key: &'static str) -> Option<(usize, &'t Spanned<DeValue<'t>>)> {
        self.known.push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((name.span().start, value))
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of a key, if it stands there and is good.
    pub(super) fn optional<T>(
        &mut self,
        told: &mut Told<'_>,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let (start, value) = self.find(key)?;
        let value = Value::from(value.get_ref());
        let error = match parse(&value) {
            Ok(parsed) => return Some(parsed),
            Err(error) => error,
        };
        told.problem(start, self.full(key), Some(&value), error);
        None
    }

    /// The same of a key that must stand there.
    pub(super) fn required<T>(
        &mut self,
        told: &mut Told<'_>,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            told.problem(self.start, self.full(key), None, "is missing".into());
            return None;
        }
        self.optional(told, key, parse)
    }

    /// Keys that may stand there, whatever they say.
    pub(super) fn know(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// What is wrong with a key that was read, or, where it does not stand there, with the table.
    pub(super) fn wrong(&self, told: &mut Told<'_>, key: &str, message: String) {
        match self.table.iter().find(|(name, _)| name.get_ref() == key) {
            Some((name, value)) => {
                let shown = Value::from(value.get_ref());
                let shown = Some(&shown).filter(|_| !matches!(value.get_ref(), DeValue::Array(_)));
                told.problem(name.span().start, self.full(key), shown, message);
            }
            None => told.problem(self.start, self.full(key), None, message),
        }
    }

    /// The tables of a list of tables; none where there is no such list.
    pub(super) fn rows(&mut self, told: &mut Told<'_>, key: &'static str, most: usize) -> Vec<Row<'t>> {
        let Some((start, value)) = self.find(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let message = format!("must be a list of tables: write [[{key}]]");
            told.problem(start, self.full(key), None, message);
            return Vec::new();
        };
        if items.len() > most {
            told.problem(start, self.full(key), None, format!("has {} tables, {most} at most", items.len()));
        }
        let mut rows = Vec::new();
        for (number, item) in items.iter().enumerate().take(most) {
            let name = self.full(&format!("{key} {}", number + 1));
            match item.get_ref() {
                DeValue::Table(table) => rows.push(Row::new(name, item.span().start, table)),
                _ => told.problem(item.span().start, name, None, "must be a table".into()),
            }
        }
        rows
    }

    /// Tells of every key that nobody asked for.
    pub(super) fn finish(self, told: &mut Told<'_>) {
        let known: Vec<String> = self.known.iter().map(|key| (*key).to_owned()).collect();
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if !known.iter().any(|known| known == key) {
                let near = nearest(key, known.iter(), Clone::clone);
                told.problem(name.span().start, self.full(&shown(key)), None, format!("is not a key here{near}"));
            }
        }
    }
}

/// A name that needs quotes keeps them, so that a line break in it makes no second line.
fn shown(key: &str) -> String {
    let bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { key.to_owned() } else { format!("{key:?}") }
}
