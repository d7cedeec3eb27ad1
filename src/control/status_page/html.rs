//! HTML that grows: what this program spells goes in as it is, and everything else escaped.

/// Characters of one value; the rest is cut.
const TEXT_CHARS_MAX: usize = 160;

/// A page, or a part of it.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup of ours: nothing that comes from outside is static.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// A value, for text and for attributes in double quotes. Characters that turn the direction of what follows are shown as
    /// U+FFFD.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        for (at, character) in value.chars().enumerate() {
            if at == TEXT_CHARS_MAX {
                self.0.push('…');
                break;
            }
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.0.push('\u{fffd}'),
                plain if plain.is_control() => self.0.push('\u{fffd}'),
                plain => self.0.push(plain),
            }
        }
        self
    }

    /// A coordinate of a drawing, to a hundredth.
    pub(super) fn coordinate(&mut self, value: f64) -> &mut Self {
        let value = if value.is_finite() { (value * 100.0).round() / 100.0 } else { 0.0 };
        self.0.push_str(&value.to_string());
        self
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_place_and_are_cut() {
        let mut html = Html::default();
        html.raw("<b title=\"").text("a\"b'c<d>&\u{202e}\n\u{0}é").raw("\">").coordinate(f64::NAN).coordinate(1.005_9);
        assert_eq!(html.into_string(), "<b title=\"a&quot;b&#39;c&lt;d&gt;&amp;\u{fffd}\u{fffd}\u{fffd}é\">01.01");
        let mut html = Html::default();
        html.text(&"é".repeat(500));
        assert_eq!(html.into_string().chars().count(), TEXT_CHARS_MAX + 1);
    }
}
