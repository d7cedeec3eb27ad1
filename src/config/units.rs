//! What one value may look like: text, numbers, sizes, times, words, lists, secrets.
//!
//! Never knows a key, never reads a file or the environment. Sizes and times are bounded by `u64` bytes and milliseconds;
//! a text shown in a message is cut at [`SHOWN_CHARS_MAX`] characters, a
//! list at [`SHOWN_ITEMS_MAX`] items.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::JournalSync;

/// Characters of a value in a message; the rest is cut.
const SHOWN_CHARS_MAX: usize = 100;
/// Items of a list in a message; the others are left out.
const SHOWN_ITEMS_MAX: usize = 8;

/// Bytes of a KiB, a MiB and a GiB.
pub(super) const KIB: u64 = 1 << 10;
/// See [`KIB`].
pub(super) const MIB: u64 = 1 << 20;
/// See [`KIB`].
pub(super) const GIB: u64 = 1 << 30;

const SIZES: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
const TIMES_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Text that is printed nowhere: `Debug` and `Display` say `***`, or `(empty)`.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; not for logs, errors or metrics.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "(empty)" } else { "***" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value as written. No `Debug`: it may be a secret.
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    /// In quotes, or from the environment or the command line.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// `[...]`
    List(Vec<Value>),
    /// What no setting takes (a date, a fraction, a table), as it is to be shown.
    Other(String),
}

/// As in a TOML file, without what stands before `@` or after `?` in a URL: passwords travel there.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                let text = without_userinfo(text);
                match text.char_indices().nth(SHOWN_CHARS_MAX) {
                    Some((end, _)) => write!(f, "{:?}...", &text[..end]),
                    None => write!(f, "{text:?}"),
                }
            }
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().take(SHOWN_ITEMS_MAX).enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str(if items.len() > SHOWN_ITEMS_MAX { ", ...]" } else { "]" })
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, mark) = rest.split_once('?').map_or((rest, ""), |(before, _)| (before, "?***"));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{mark}"),
        None => format!("{scheme}://{rest}{mark}"),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(flag) => Ok(*flag),
        _ => Err("must be true or false, without quotes".into()),
    }
}

/// A whole number in the range.
pub(super) fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<T, String> {
    let hint = format!("{} to {}", range.start(), range.end());
    move |value| match value {
        Value::Integer(number) => within(u64::try_from(*number).ok(), &range, &hint),
        _ => Err(format!("must be a whole number, {hint}, without quotes")),
    }
}

/// Bytes in the range: a whole number, or text such as `64MiB`.
pub(super) fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<T, String> {
    let hint = format!("{} to {}", show_size(*range.start()), show_size(*range.end()));
    move |value| match value {
        Value::Integer(number) => within(u64::try_from(*number).ok(), &range, &hint),
        Value::Text(text) => within(Some(parse_size(text)?), &range, &hint),
        _ => Err("is not a size such as 500, \"16KiB\" or \"64MiB\"".into()),
    }
}

fn within<T: TryFrom<u64>>(number: Option<u64>, range: &RangeInclusive<u64>, hint: &str) -> Result<T, String> {
    let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("must be {hint}"))
}

/// A time in the range: text such as `250ms`.
pub(super) fn time(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, String> {
    text(move |text| {
        let time = parse_time(text)?;
        if range.contains(&time) {
            return Ok(time);
        }
        Err(format!("must be {} to {}", show_time(*range.start()), show_time(*range.end())))
    })
}

/// Text that `check` accepts; its error goes on.
pub(super) fn text<T>(check: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Value) -> Result<T, String> {
    move |value| match value {
        Value::Text(text) => check(text),
        _ => Err("must be text in quotes".into()),
    }
}

/// A list whose items `check` accepts; its error, which is to name the item, goes on.
pub(super) fn list<T>(check: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    let item = move |item: &Value| match item {
        Value::Text(text) => check(text),
        other => Err(format!("{other} must be text in quotes")),
    };
    move |value| match value {
        Value::List(items) => items.iter().map(&item).collect(),
        _ => Err("must be a list such as [\"a\", \"b\"]".into()),
    }
}

/// One of the words. `not_built` are words that will be taken one day: they get an answer of their own.
pub(super) fn word<T: Copy>(words: &[(&str, T)], not_built: &[&str]) -> impl Fn(&Value) -> Result<T, String> {
    text(move |text| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let known = known.join(" or ");
        if not_built.contains(&text) {
            return Err(format!("is not built yet; use {known}"));
        }
        Err(format!("must be {known}"))
    })
}

/// A path; relative ones start at the working folder.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; name a folder".into()) } else { Ok(text.into()) }
}

/// An address with a port.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an address such as 0.0.0.0:8080".into())
}

/// Whether two listeners would want the same port. An unspecified address (`0.0.0.0`, `::`) stands for all of its family,
/// `::` for IPv4 too.
pub(super) fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// Up to 64 printable ASCII characters without spaces: the room in the header of a journal file.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned()).ok_or_else(|| "is not a name of 1 to 64 ASCII characters without spaces".into())
}

/// A host name in the form that URLs are compared in: lower case, ASCII (`xn--`), no final dot.
pub(super) fn host(text: &str) -> Result<String, String> {
    let host = url::Host::parse(text.trim_end_matches('.'));
    host.map(|host| host.to_string()).map_err(|_| format!("{text:?} is not a host name alone, such as go.example"))
}

/// `process`, `interval:TIME` or `always`.
pub(super) fn journal_sync(text: &str) -> Result<JournalSync, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
    match (text, text.strip_prefix("interval:").map(parse_time)) {
        ("process", _) => Ok(JournalSync::Process),
        ("always", _) => Ok(JournalSync::Always),
        (_, Some(Ok(time))) if RANGE.contains(&time) => Ok(JournalSync::Interval(time)),
        (_, Some(Ok(_))) => Err("the interval must be 1ms to 10s".into()),
        (_, Some(Err(error))) => Err(format!("the interval {error}")),
        (_, None) => Err("must be \"process\", \"always\" or an interval such as \"interval:50ms\"".into()),
    }
}

/// Empty, or 16 to 256 printable ASCII characters without spaces: it travels in a header, and a shorter one is guessed.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    secret_or(text, "one is made at the first start")
}

/// The same, where an empty one follows from another secret.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    secret_or(text, "it follows from dedup.secret")
}

fn secret_or(text: &str, empty: &str) -> Result<Secret, String> {
    let fits = text.is_empty() || (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| Secret::new(text))
        .ok_or_else(|| format!("must be 16 to 256 ASCII characters without spaces, or empty: {empty}"))
}

/// What a header can carry: up to 256 printable ASCII characters, no space at either end.
pub(super) fn header_text(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let fits = text.len() <= 256 && printable && text.trim() == text;
    fits.then(|| text.to_owned()).ok_or_else(|| "must be at most 256 printable ASCII characters".into())
}

/// A name that needs no quotes in SQL.
pub(super) fn identifier(text: &str) -> Result<String, String> {
    let body = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let fits = (1..=64).contains(&text.len()) && body && !text.as_bytes()[0].is_ascii_digit();
    fits.then(|| text.to_owned()).ok_or_else(|| "must be 1 to 64 letters, digits or _, no digit first".into())
}

/// `redis://[user:password@]host[:port][/number]`.
pub(super) fn redis_url(text: &str) -> Result<Secret, String> {
    if text.starts_with("rediss:") {
        return Err("rediss:// (TLS) is not built yet; use redis://".into());
    }
    let number = |path: &str| path.is_empty() || path.bytes().all(|byte| byte.is_ascii_digit());
    let fits = |url: &Url| url.scheme() == "redis" && url.has_host() && number(url.path().trim_start_matches('/'));
    let url = Url::parse(text).ok().filter(fits);
    url.map(|_| Secret::new(text)).ok_or_else(|| "is not a URL such as redis://127.0.0.1:6379".into())
}

/// `http://host[:port]`, without a final slash.
pub(super) fn clickhouse_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("is not a URL such as http://127.0.0.1:8123")?;
    if url.scheme() == "https" {
        return Err("https:// is not built yet; use http://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password; use store.clickhouse.user and store.clickhouse.password".into());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Bytes from `500`, `16KiB`, `64MiB`, `1GiB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => Some(1),
        unit => SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes),
    };
    match factor {
        Some(factor) if !number.is_empty() => multiply(number, factor),
        _ => Err("is not a size such as 500, 16KiB, 64MiB or 1GiB".into()),
    }
}

/// A time from `250ms`, `30s`, `10m`, `24h`, `7d`.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    if unit.is_empty() && !number.is_empty() {
        return Err("has no unit; write 250ms, 30s, 10m, 24h or 7d".into());
    }
    match TIMES_MS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) if !number.is_empty() => multiply(number, *factor).map(Duration::from_millis),
        _ => Err("is not a time such as 250ms, 30s, 10m, 24h or 7d".into()),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn multiply(number: &str, factor: u64) -> Result<u64, String> {
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(|| "is too large".into())
}

/// Bytes in the largest unit that leaves no rest.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

/// A time in the largest unit that leaves no rest.
pub(super) fn show_time(time: Duration) -> String {
    match u64::try_from(time.as_millis()).unwrap_or(u64::MAX) {
        0 => "0s".into(),
        ms => show(ms, &TIMES_MS),
    }
}

fn show(number: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    fits.map_or_else(|| number.to_string(), |(unit, factor)| format!("{}{unit}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_binary_units() {
        for (text, bytes) in [("500", 500), ("7B", 7), ("16KiB", 16_384), ("64MiB", 64 * MIB), ("1GiB", GIB)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64MB", "64 MiB", "-1", "1.5MiB", "1kib", "1é"] {
            assert!(parse_size(text).unwrap_err().starts_with("is not a size such as"), "{text}");
        }
        assert_eq!(parse_size("99999999999GiB"), Err("is too large".into()));
        assert_eq!(size::<u8>(0..=GIB)(&Value::Text("1KiB".into())), Err("must be 0 to 1GiB".into()), "more than a u8");
        assert_eq!(size(0..=GIB)(&Value::Integer(500)), Ok(500_u32));
        assert_eq!(size::<u32>(KIB..=GIB)(&Value::Integer(-5)), Err("must be 1KiB to 1GiB".into()));
    }

    #[test]
    fn times_have_a_unit() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_time("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(parse_time("30").unwrap_err().starts_with("has no unit"));
        for text in ["", "s", "1m30s", "1.5s", "-1s", "1 s", "5us"] {
            assert!(parse_time(text).unwrap_err().starts_with("is not a time such as"), "{text}");
        }
        assert_eq!(parse_time("99999999999999999d"), Err("is too large".into()));
        for text in ["250ms", "30s", "10m", "12h", "7d", "0s"] {
            assert_eq!(show_time(parse_time(text).unwrap()), text);
        }
    }

    #[test]
    fn secrets_and_passwords_in_urls_are_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Secret::default()), "*** *** (empty)");
        assert_eq!(secret.expose(), "hunter2");
        let shown = |text: &str| Value::Text(text.into()).to_string();
        assert_eq!(shown("http://me:hunt@r2@store:8123/?password=x"), "\"http://***@store:8123/?***\"");
        assert_eq!(shown("me@example"), "\"me@example\"");
        assert_eq!(shown(&"é".repeat(101)), format!("{:?}...", "é".repeat(100)));
    }
}
