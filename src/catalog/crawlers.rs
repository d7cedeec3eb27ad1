//! The shipped list of crawlers, link previews, monitors and HTTP libraries (`config/data/README.md`).
//!
//! Nearly all of its 1,500 patterns are plain words: those go into one Aho-Corasick automaton, which costs a few
//! nanoseconds a byte whatever the visitor sends. As one regular expression they would be quick on people, and slow on
//! an agent made of pieces of crawler names. Only the patterns with operators are a regular expression.

use aho_corasick::AhoCorasick;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

const LIST: &str = include_str!("../../config/data/crawler-user-agents.json");

/// Recognises crawlers.
#[derive(Debug)]
pub(super) struct Crawlers {
    words: AhoCorasick,
    rest: Regex,
}

#[derive(Deserialize)]
struct Listed {
    pattern: String,
}

impl Crawlers {
    pub(super) fn new() -> Result<Self, String> {
        let listed: Vec<Listed> = serde_json::from_str(LIST).map_err(|e| e.to_string())?;
        let (mut words, mut rest) = (Vec::new(), Vec::new());
        for Listed { pattern } in listed {
            match plain(&pattern) {
                Some(word) => words.push(word),
                None => rest.push(format!("(?:{pattern})")),
            }
        }
        Ok(Self {
            words: AhoCorasick::new(words).map_err(|e| e.to_string())?,
            // On bytes and without Unicode classes: a user agent need not be UTF-8.
            rest: RegexBuilder::new(&rest.join("|")).unicode(false).build().map_err(|e| e.to_string())?,
        })
    }

    pub(super) fn matches(&self, ua: &[u8]) -> bool {
        self.words.find(ua).is_some() || self.rest.is_match(ua)
    }
}

/// Of the shipped list.
pub(super) fn checksum() -> u32 {
    crc32fast::hash(LIST.as_bytes())
}

/// The word that a pattern stands for, if it has no operator in it.
fn plain(pattern: &str) -> Option<String> {
    let (mut word, mut chars) = (String::new(), pattern.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.push(chars.next().filter(|escaped| !escaped.is_ascii_alphanumeric())?),
            '.' | '[' | ']' | '(' | ')' | '{' | '}' | '*' | '+' | '?' | '^' | '$' | '|' => return None,
            c => word.push(c),
        }
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_operators_is_a_word() {
        assert_eq!(plain("Googlebot\\/").as_deref(), Some("Googlebot/"));
        assert_eq!(plain("AdsBot-Google([^-]|$)"), None);
        assert_eq!(plain("a\\d"), None);
    }
}
