//! Levels with their units: `50ms`, `0.1%`, `64MiB`, or a plain number.

use serde::{Deserialize, Serialize};

use crate::config::units::Value;

/// What a level is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time.
    Seconds,
    /// A share of 1.
    Ratio,
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
}

/// By unit, with the base units in one; the largest first.
const UNITS: [(&str, f64, Unit); 11] = [
    ("d", 86_400.0, Unit::Seconds),
    ("h", 3_600.0, Unit::Seconds),
    ("m", 60.0, Unit::Seconds),
    ("s", 1.0, Unit::Seconds),
    ("ms", 1e-3, Unit::Seconds),
    ("us", 1e-6, Unit::Seconds),
    ("%", 1e-2, Unit::Ratio),
    ("GiB", 1_073_741_824.0, Unit::Bytes),
    ("MiB", 1_048_576.0, Unit::Bytes),
    ("KiB", 1_024.0, Unit::Bytes),
    ("B", 1.0, Unit::Bytes),
];

/// A level in base units.
pub(super) fn level(value: &Value) -> Result<(f64, Unit), String> {
    const HINT: &str = "is not a level such as \"50ms\", \"0.1%\", \"64MiB\" or 5000";
    match value {
        Value::Integer(number) if *number >= 0 => Ok((*number as f64, Unit::Count)),
        // A fraction.
        Value::Other(digits) => number(digits).map(|number| (number, Unit::Count)).ok_or_else(|| HINT.into()),
        Value::Text(text) => {
            let (digits, unit) =
                text.split_at(text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count());
            let known = UNITS.iter().find(|(name, ..)| *name == unit);
            let level = known.and_then(|(_, factor, unit)| Some((scaled(number(digits)?, *factor), *unit)));
            level.ok_or_else(|| HINT.into())
        }
        _ => Err(HINT.into()),
    }
}

fn number(digits: &str) -> Option<f64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    digits.parse().ok().filter(|number: &f64| plain && number.is_finite())
}

/// A division gives the number nearest to what was written; a product with 0.001 does not.
fn scaled(number: f64, factor: f64) -> f64 {
    if factor < 1.0 { number / (1.0 / factor).round() } else { number * factor }
}

/// For people, with three digits or more: `12.5 ms`, `0.02 %`, `5,000`.
#[must_use]
pub fn show(value: f64, unit: Unit) -> String {
    let (scaled, name) = match unit {
        Unit::Count => (value, ""),
        Unit::Ratio => (value * 100.0, " %"),
        Unit::Seconds if value.abs() >= 1.0 || value == 0.0 => (value, " s"),
        Unit::Seconds if value.abs() >= 1e-3 => (value * 1e3, " ms"),
        Unit::Seconds => (value * 1e6, " µs"),
        Unit::Bytes => {
            let units = UNITS.iter().filter(|(.., of)| *of == Unit::Bytes);
            let (name, factor, _) = units.clone().find(|(_, factor, _)| value.abs() >= *factor).unwrap_or(&UNITS[10]);
            return format!("{} {name}", digits(value / factor));
        }
    };
    format!("{}{name}", digits(scaled))
}

/// Three digits that count, and no fewer before the point.
fn digits(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let whole = if value.abs() >= 1.0 { value.abs().log10().floor() as i32 } else { 0 };
    let small = if value != 0.0 && value.abs() < 1.0 { value.abs().log10().floor() as i32 } else { whole };
    let places = usize::try_from(2 - small).unwrap_or(0).min(9);
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    grouped(text)
}

/// Thousands apart.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.find('.').map_or((text, ""), |dot| text.split_at(dot));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut shown = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    format!("{sign}{shown}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_units_and_are_exact() {
        let text = |text: &str| level(&Value::Text(text.into()));
        for (written, expected) in [
            ("50ms", (0.05, Unit::Seconds)),
            ("0.8ms", (0.0008, Unit::Seconds)),
            ("250us", (0.000_25, Unit::Seconds)),
            ("15m", (900.0, Unit::Seconds)),
            ("0.1%", (0.001, Unit::Ratio)),
            ("100%", (1.0, Unit::Ratio)),
            ("2MiB", (2_097_152.0, Unit::Bytes)),
        ] {
            assert_eq!(text(written), Ok(expected), "{written}");
        }
        assert_eq!(level(&Value::Integer(5)), Ok((5.0, Unit::Count)));
        assert_eq!(level(&Value::Other("0.5".into())), Ok((0.5, Unit::Count)));
        for bad in ["", "ms", "5", "-5ms", "5 ms", "1.2.3s", "5parsec", "1e3s", "inf"] {
            assert!(text(bad).unwrap_err().starts_with("is not a level such as"), "{bad}");
        }
        assert!(level(&Value::Integer(-1)).is_err() && level(&Value::Other("inf".into())).is_err());
        assert!(level(&Value::Other("2026-11-21".into())).is_err());
    }

    #[test]
    fn values_are_shown_with_three_digits_in_a_unit_that_fits() {
        for (value, unit, shown) in [
            (0.0123456, Unit::Seconds, "12.3 ms"),
            (0.000_05, Unit::Seconds, "50 µs"),
            (60.0, Unit::Seconds, "60 s"),
            (0.0, Unit::Seconds, "0 s"),
            (0.0002, Unit::Ratio, "0.02 %"),
            (1.0, Unit::Ratio, "100 %"),
            (12_345.6, Unit::Count, "12,346"),
            (999.0, Unit::Count, "999"),
            (1_572_864.0, Unit::Bytes, "1.5 MiB"),
            (12.0, Unit::Bytes, "12 B"),
        ] {
            assert_eq!(show(value, unit), shown);
        }
    }
}
