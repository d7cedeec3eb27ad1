//! Why a user agent is no person's: the crawler list, and the words of monitors, scanners and previews.
//!
//! Which words there are is configuration (`config/classify.toml`); what follows from them is said by [`Classifier`]. Asked
//! by `agents`, which remembers the answer.

use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::crawlers::Crawlers;
use crate::click::Classifier;
use crate::click::class::AgentReasons;

/// Looks for words.
#[derive(Debug)]
pub(super) struct AgentWords {
    /// In the order of the classifier's rules.
    words: AhoCorasick,
    crawlers: Crawlers,
    classifier: Arc<Classifier>,
}

impl AgentWords {
    pub(super) fn new(classifier: Arc<Classifier>) -> Result<Self, String> {
        let words = classifier.rules().words.iter().map(|known| &known.word);
        let words = AhoCorasick::new(words).map_err(|e| e.to_string())?;
        Ok(Self { words, crawlers: Crawlers::new()?, classifier })
    }

    pub(super) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    pub(super) fn reasons(&self, ua: &[u8]) -> AgentReasons {
        let found = self.words.find_overlapping_iter(ua).map(|found| found.pattern().as_usize());
        self.classifier.agent(ua, self.crawlers.matches(ua), found)
    }
}

#[cfg(test)]
mod tests;
