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
pub(super) struct Misfits(RefCell<Vec<Misfit>>);

impl Misfits {
    pub(super) fn add(&self, pointer: &str, detail: impl Into<String>) {
        self.0.borrow_mut().push(Misfit { pointer: pointer.to_owned(), detail: detail.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(super) fn into_all(self) -> Vec<Misfit> {
        self.0.into_inner()
    }
}

/// One object of a document, while it is read. What nobody asked for is told of by [`Object::end`].
pub(super) struct Object<'d> {
    pub(super) at: String,
    fields: &'d Map<String, Value>,
    misfits: &'d Misfits,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Object<'d> {
    /// `None` when it is no object, which is noted.
    pub(super) fn of(value: &'d Value, at: String, misfits: &'d Misfits) -> Option<Self> {
        let Value::Object(fields) = value else {
            misfits.add(&at, format!("is {}; an object is wanted", kind(value)));
            return None;
        };
        Some(Self { at, fields, misfits, asked: RefCell::default() })
    }

    pub(super) fn wrong(&self, field: &str, detail: impl Into<String>) {
        self.misfits.add(&self.pointer(field), detail);
    }

    pub(super) fn pointer(&self, field: &str) -> String {
        format!("{}/{}", self.at, field.replace('~', "~0").replace('/', "~1"))
    }

    pub(super) fn value(&self, field: &'static str) -> Option<&'d Value> {
        self.asked.borrow_mut().push(field);
        self.fields.get(field)
    }

    pub(super) fn text(&self, field: &'static str) -> Option<&'d str> {
        let value = self.value(field)?;
        if let Value::String(text) = value {
            return Some(text);
        }
        self.wrong(field, format!("is {}; a text is wanted", kind(value)));
        None
    }

    /// A number that is no less than 0.
    pub(super) fn number(&self, field: &'static str) -> Option<f64> {
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
    pub(super) fn whole(&self, field: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
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

    pub(super) fn list(&self, field: &'static str, most: usize) -> Option<&'d [Value]> {
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
    pub(super) fn end(self) {
        let asked = self.asked.borrow();
        for field in self.fields.keys().filter(|field| !asked.contains(&field.as_str())) {
            self.wrong(field, format!("is unknown; there are {}", asked.join(", ")));
        }
    }
}

/// What it is, for messages.
pub(super) const fn kind(value: &Value) -> &'static str {
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
