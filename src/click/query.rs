//! Query strings: reading parameters and writing values so that they stay values.

use std::borrow::Cow;

/// Calls for each `key=value` of a query string as received, in order; a part without `=` has an empty value and empty
/// parts are skipped.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// The decoded value of the first parameter with this name (compared after decoding), if there is one.
#[must_use]
pub fn find<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    find_as_sent(query, name).map(decode)
}

/// The same, as it stands in the query.
#[must_use]
pub fn find_as_sent<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    pairs(query).find(|(key, _)| decode(key).as_ref() == name.as_bytes()).map(|(_, value)| value)
}

type Text<'q> = Cow<'q, [u8]>;

/// The parameters of one query string, decoded, sorted by name, the first of each name. Kept and filled again from row
/// to row, so that a row without escapes allocates nothing.
#[derive(Debug, Default)]
pub struct Parameters<'q> {
    pairs: Vec<(Text<'q>, Text<'q>)>,
}

impl<'q> Parameters<'q> {
    /// Takes the parameters of this query string. n log n in their number: it is the visitor's.
    pub fn read(&mut self, text: &'q str) {
        self.pairs.clear();
        self.pairs.extend(pairs(text).map(|(key, value)| (decode(key), decode(value))));
        if self.pairs.len() > 1 {
            // Stable, so the first of a repeated name stays, as in the macros.
            self.pairs.sort_by(|a, b| a.0.cmp(&b.0));
            self.pairs.dedup_by(|later, first| later.0 == first.0);
        }
    }

    /// The value of this name; empty when there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &[u8] {
        let found = self.pairs.binary_search_by(|(key, _)| key.as_ref().cmp(name.as_bytes()));
        found.map_or(&[], |at| self.pairs[at].1.as_ref())
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

/// Percent-decodes and turns `+` into a space. A `%` without two hex digits stays as it is.
#[must_use]
pub fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = match bytes[i] {
            b'%' => bytes.get(i + 1).zip(bytes.get(i + 2)).and_then(|(h, l)| Some(hex(*h)? << 4 | hex(*l)?)),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    Cow::Owned(out)
}

/// Appends the value percent-encoded: only RFC 3986's unreserved characters stay as they are, so a value can end no
/// parameter, no path segment and no header.
pub fn encode_value(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ => push_escaped(byte, out),
        }
    }
}

/// Appends a value that may be percent-encoded already: escapes (`%` and two hex digits) and the characters
/// `- . _ ~ ! $ ' ( ) * + , : = @` stay as they are, so that `+` and `%2B` stay apart. All else is percent-encoded, a `%`
/// without its digits too: a value can end no path segment (`/`, `\`), no parameter (`&`, `;`), no path or query (`?`,
/// `#`) and no header.
pub fn encode_as_sent(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let [byte, after @ ..] = rest {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            b'!' | b'$' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b':' | b'=' | b'@' => out.push(*byte),
            b'%' if after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit) => out.push(b'%'),
            _ => push_escaped(*byte, out),
        }
        rest = after;
    }
}

/// Appends a whole received query string, parameters and separators as they are; what may not stand in a URL or a
/// header (controls, spaces, quotes, brackets, `#`, `\`, anything beyond ASCII) is percent-encoded.
pub fn append_query(query: &str, out: &mut Vec<u8>) {
    for &byte in query.as_bytes() {
        match byte {
            0..=0x20 | 0x7f.. | b'"' | b'<' | b'>' | b'#' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                push_escaped(byte, out);
            }
            _ => out.push(byte),
        }
    }
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_is_found_and_decoded() {
        assert_eq!(find("a=1&click_id=x%2By+z&click_id=2", "click_id").as_deref(), Some(&b"x+y z"[..]));
        assert_eq!(find("click%5Fid=7", "click_id").as_deref(), Some(&b"7"[..]));
        assert_eq!(find("a&&b=", "a").as_deref(), Some(&b""[..]));
        assert_eq!(find("a=1", "b"), None);
        assert_eq!(decode("100%&%zz%4").as_ref(), b"100%&%zz%4");
    }

    #[test]
    fn the_first_of_a_repeated_parameter_stays() {
        let mut parameters = Parameters::default();
        parameters.read("b=2&a=1&&a=3&c%5F=x+y&b=%zz&d=&d=1");
        let pairs: Vec<_> = parameters.iter().collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"c_", b"x y"), (b"d", b"")]);
        assert_eq!((parameters.get("a"), parameters.get("z"), parameters.len()), (&b"1"[..], &b""[..], 4));
        parameters.read("");
        assert!(parameters.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn parameters_and_single_look_ups_agree(query in "([a-c]{0,2}(=[a-z%0-9+]{0,4})?&){0,6}") {
            let mut parameters = Parameters::default();
            parameters.read(&query);
            for name in ["", "a", "ab", "b", "cc"] {
                let found = find(&query, name).unwrap_or_default();
                proptest::prop_assert_eq!(parameters.get(name), found.as_ref());
            }
        }

        #[test]
        fn what_was_encoded_decodes_to_itself(value: Vec<u8>) {
            let mut out = Vec::new();
            encode_value(&value, &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            proptest::prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            let decoded = decode(text);
            proptest::prop_assert_eq!(decoded.as_ref(), value.as_slice());
        }
    }
}
