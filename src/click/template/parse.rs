//! From a destination as it was written to a template, with the reason when it is none.

use std::iter;

use super::names::Name;
use super::{MACROS, MACROS_MAX, MODIFIERS, Modified, PARAMETER_BYTES_MAX, Part, Template};
use crate::click::condition::Needs;
use crate::click::query;

pub(super) fn parse(text: &str) -> Result<(Template, url::Url), String> {
    if let Some(bad) = text.chars().find(|c| c.is_control() || matches!(c, ' ' | '\\')) {
        return Err(format!("holds the character {bad:?}; percent-encode it"));
    }
    let (plain, macros, mark) = cut(text)?;
    let url = url::Url::parse(&plain).map_err(|e| format!("is not an absolute URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("has the scheme `{}`; only http and https are redirected to", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host".into());
    }
    if !url.username().is_empty() || url.password().is_some() || text_authority(text).contains('@') {
        return Err("holds user information (`user:password@`); leave it out".into());
    }
    // Where the marks stand in the URL as it was parsed.
    let whole = url.as_str();
    let marks: Vec<usize> = match macros.is_empty() {
        true => Vec::new(),
        false => whole.match_indices(mark.as_str()).map(|(at, _)| at).collect(),
    };
    let before_path = url[..url::Position::BeforePath].len();
    if marks.first().is_some_and(|first| *first < before_path) {
        return Err("has a macro in its host; a macro may stand behind the host only, after the first `/`".into());
    }
    if marks.len() != macros.len() {
        return Err("has a macro in a part of its path that a `..` takes away; write the path without `..`".into());
    }
    let path = url.path();
    let slashes = path.len() - path.trim_start_matches('/').len();
    let in_path = marks.partition_point(|at| *at < before_path + path.len());
    let needs = macros.iter().fold(Needs::NOTHING, |all, one| all.and(one.needs()));
    let id_can_be_cut = macros
        .iter()
        .enumerate()
        .all(|(number, one)| !one.is_click_id() || number >= in_path && matches!(one, Part::Plain(_)));
    let end_of_main = url.fragment().map_or(whole.len(), |fragment| whole.len() - fragment.len() - 1);
    let (of_main, of_fragment) = marks.split_at(marks.partition_point(|at| *at < end_of_main));
    let mut macros = macros.into_iter();
    let mut parts = |from: usize, end: usize, marks: &[usize]| {
        let starts = iter::once(from).chain(marks.iter().map(|at| at + mark.len()));
        let texts = starts.zip(marks.iter().copied().chain([end]));
        // Exactly as much memory as they take: millions of links have some.
        let count = marks.len() + texts.clone().filter(|(from, to)| from < to).count();
        let mut parts = Vec::with_capacity(count);
        for (number, (from, to)) in texts.enumerate() {
            parts.extend((from < to).then(|| Part::Text(whole[from..to].into())));
            if number < marks.len() {
                parts.extend(macros.next());
            }
        }
        parts.into()
    };
    let template = Template {
        main: parts(0, end_of_main, of_main),
        fragment: parts(end_of_main, whole.len(), of_fragment),
        has_query: url.query().is_some(),
        // The last of the slashes at the beginning: those that the operator wrote stay.
        root: (in_path > 0).then_some(before_path + slashes.max(1) - 1),
        needs,
        id_can_be_cut,
    };
    Ok((template, url))
}

/// Cuts the macros out: the text with a mark in the place of each, the macros in order, and the mark, which is a
/// word of letters and digits that the text does not hold, so that URL normalisation leaves it alone.
fn cut(text: &str) -> Result<(String, Vec<Part>, String), String> {
    let holds = |mark: &str| text.as_bytes().windows(mark.len()).any(|w| w.eq_ignore_ascii_case(mark.as_bytes()));
    let mut marks = (0_u64..).map(|n| format!("trellismacro{n}x"));
    let mark =
        if text.contains('{') { marks.find(|mark| !holds(mark)).ok_or("cannot be parsed")? } else { String::new() };
    let (mut plain, mut macros, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(open) = rest.find(['{', '}']) {
        let inside = rest[open..].strip_prefix('{').and_then(|r| r.split_once('}'));
        let Some((inside, after)) = inside.filter(|(inside, _)| !inside.contains('{')) else {
            return Err("holds a `{` or `}` that belongs to no macro; write %7B or %7D".into());
        };
        macros.push(parse_macro(inside)?);
        plain.push_str(&rest[..open]);
        plain.push_str(&mark);
        rest = after;
    }
    plain.push_str(rest);
    if macros.len() > MACROS_MAX {
        return Err(format!("holds {} macros; {MACROS_MAX} at most", macros.len()));
    }
    let before_path = text.find('{').is_some_and(|at| at < text.len() - after_authority(text).len());
    if before_path {
        return Err(
            "has a macro in its scheme or host; a macro may stand behind the host only, after the first `/`".into()
        );
    }
    Ok((plain, macros, mark))
}

/// What follows scheme and authority; empty when there is nothing.
fn after_authority(text: &str) -> &str {
    let start = text.find("://").map_or(0, |at| at + 3);
    text[start..].find(['/', '?', '#']).map_or("", |at| &text[start + at..])
}

fn text_authority(text: &str) -> &str {
    let start = text.find("://").map_or(0, |at| at + 3);
    &text[start..text.len() - after_authority(text).len()]
}

fn parse_macro(inside: &str) -> Result<Part, String> {
    let (name, modifiers) = match inside.strip_prefix("q:") {
        Some(parameter) => {
            let (parameter, modifiers) = split_modifiers(parameter);
            let parameter = unescaped(parameter);
            let fits = (1..=PARAMETER_BYTES_MAX).contains(&parameter.len());
            let parameter = String::from_utf8(parameter).ok().filter(|_| fits).ok_or_else(|| {
                format!("holds {{{inside}}}; the name of a parameter is 1 to {PARAMETER_BYTES_MAX} bytes of UTF-8")
            })?;
            (Name::Query(parameter.into()), modifiers)
        }
        None => {
            let (word, modifiers) = split_modifiers(inside);
            let unknown = || format!("holds the unknown macro {{{word}}}; there are {MACROS}");
            (Name::find(word).ok_or_else(unknown)?, modifiers)
        }
    };
    let Some(mut rest) = modifiers else { return Ok(Part::Plain(name)) };
    let mut modified = Modified { name, raw: false, hash: false, default: Box::default() };
    loop {
        // The text of a default reaches up to the brace, and may hold colons.
        if let Some(text) = rest.strip_prefix("default=") {
            if text.is_empty() {
                return Err(format!("holds {{{inside}}}, whose default is empty; leave `:default=` out"));
            }
            let mut default = Vec::new();
            query::encode_value(&unescaped(text), &mut default);
            modified.default = default.into();
            break;
        }
        let (word, behind) = split_modifiers(rest);
        match word {
            "raw" if !modified.raw && !modified.hash => modified.raw = true,
            "hash" if !modified.hash => modified.hash = true,
            "raw" | "hash" => {
                return Err(format!(
                    "holds {{{inside}}}, with `:{word}` twice or in the wrong place; {MODIFIERS}, in this order"
                ));
            }
            _ => return Err(format!("holds the unknown modifier `:{word}` in {{{inside}}}; {MODIFIERS}")),
        }
        match behind {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    Ok(Part::Modified(modified.into()))
}

fn split_modifiers(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(first, rest)| (first, Some(rest)))
}

/// Without its percent-escapes; a `+` is a plus, as in the rest of the destination.
fn unescaped(text: &str) -> Vec<u8> {
    query::decode(&text.replace('+', "%2B")).into_owned()
}
