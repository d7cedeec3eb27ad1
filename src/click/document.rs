//! Reading a JSON document field by field, so that everything that is wrong with it is told at once, each by its JSON
//! pointer (RFC 6901).

use std::cell::RefCell;

use serde_json::{Map, Value};

/// A place in a document, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// JSON pointer; empty for the whole document.
    pub pointer: String,
    /// What is wrong and how to mend it.
    pub detail: String,
}

/// Everything that is wrong with one document.
#[derive(Debug, Default)]
pub(crate) struct Misfits(RefCell<Vec<Misfit>>);

impl Misfits {
    pub(crate) fn add(&self, pointer: &str, detail: impl Into<String>) {
        self.0.borrow_mut().push(Misfit { pointer: pointer.to_owned(), detail: detail.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All, while what was read of the document is still in use; none is left.
    pub(crate) fn take(&self) -> Vec<Misfit> {
        self.0.take()
    }

    pub(crate) fn into_all(self) -> Vec<Misfit> {
        self.0.into_inner()
    }
}

/// One object of a document, while it is read. What nobody asked for is told of by [`Object::end`].
pub(crate) struct Object<'d> {
    pub(crate) at: String,
    fields: &'d Map<String, Value>,
    misfits: &'d Misfits,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Object<'d> {
    /// `None` when it is no object, which is noted.
    pub(crate) fn of(value: &'d Value, at: String, misfits: &'d Misfits) -> Option<Self> {
        let Value::Object(fields) = value else {
            misfits.add(&at, format!("is {}; an object is wanted", kind(value)));
            return None;
        };
        Some(Self { at, fields, misfits, asked: RefCell::default() })
    }

    pub(crate) fn wrong(&self, field: &str, detail: impl Into<String>) {
        self.misfits.add(&self.pointer(field), detail);
    }

    /// Of the object as a whole.
    pub(crate) fn wrong_itself(&self, detail: impl Into<String>) {
        self.misfits.add(&self.at, detail);
    }

    pub(crate) fn pointer(&self, field: &str) -> String {
        format!("{}/{}", self.at, field.replace('~', "~0").replace('/', "~1"))
    }

    pub(crate) fn value(&self, field: &'static str) -> Option<&'d Value> {
        self.asked.borrow_mut().push(field);
        self.fields.get(field)
    }

    pub(crate) fn text(&self, field: &'static str) -> Option<&'d str> {
        let value = self.value(field)?;
        if let Value::String(text) = value {
            return Some(text);
        }
        self.wrong(field, format!("is {}; a text is wanted", kind(value)));
        None
    }

    /// True or false.
    pub(crate) fn truth(&self, field: &'static str) -> Option<bool> {
        let value = self.value(field)?;
        if value.as_bool().is_none() {
            self.wrong(field, format!("is {}; true or false is wanted", kind(value)));
        }
        value.as_bool()
    }

    /// An object inside of this one.
    pub(crate) fn object(&self, field: &'static str) -> Option<Self> {
        Self::of(self.value(field)?, self.pointer(field), self.misfits)
    }

    /// All fields, whatever their names, where they are texts: those that are.
    pub(crate) fn texts(&self) -> Vec<(&'d str, &'d str)> {
        let text = |(name, value): (&'d String, &'d Value)| {
            if value.as_str().is_none() {
                self.wrong(name, format!("is {}; a text is wanted", kind(value)));
            }
            Some((name.as_str(), value.as_str()?))
        };
        self.fields.iter().filter_map(text).collect()
    }

    /// A number that is no less than 0.
    pub(crate) fn number(&self, field: &'static str) -> Option<f64> {
        let value = self.value(field)?;
        match value.as_f64().filter(|number| number.is_finite() && *number >= 0.0) {
            Some(number) => Some(number),
            None => {
                self.wrong(field, format!("is {}; a number from 0 on is wanted", shown(value)));
                None
            }
        }
    }

    /// A whole number of this range.
    pub(crate) fn whole(&self, field: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(field)?;
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                let (least, most) = range.into_inner();
                self.wrong(field, format!("is {}; a whole number from {least} to {most} is wanted", shown(value)));
                None
            }
        }
    }

    pub(crate) fn list(&self, field: &'static str, most: usize) -> Option<&'d [Value]> {
        match self.value(field)? {
            Value::Array(values) if values.len() > most => {
                self.wrong(field, format!("has {} entries; {most} at most", values.len()));
                None
            }
            Value::Array(values) => Some(values),
            value => {
                self.wrong(field, format!("is {}; a list is wanted", kind(value)));
                None
            }
        }
    }

    /// Notes the fields that nobody asked for.
    pub(crate) fn end(self) {
        let asked = self.asked.borrow();
        for field in self.fields.keys().filter(|field| !asked.contains(&field.as_str())) {
            self.wrong(field, format!("is unknown; there are {}", asked.join(", ")));
        }
    }
}

/// What it is, for messages.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A number as it is, anything else by its kind.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}
