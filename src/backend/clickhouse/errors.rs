//! What ClickHouse's errors mean to the one who sent a batch. Pure; the only place that knows its error codes.
//!
//! An answer of ClickHouse names its code in its text (`Code: 60. DB::Exception: …`). What has no code comes from a
//! proxy, or from the network. An unknown code is taken as passing: a batch is then sent again, and never given up.

use std::fmt::Write as _;

use clickhouse::error::Error;

use crate::pipeline::StoreError;

/// Bytes of an error text that are kept.
const TEXT_BYTES_MAX: usize = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It will pass.
    Transient,
    /// It may have been stored.
    Ambiguous,
    /// A person must change something.
    Operator,
}

use Meaning::{Ambiguous, Operator, Transient};

/// Codes as in ClickHouse's `ErrorCodes.cpp`.
const CODES: [(u32, Meaning); 24] = [
    (16, Operator),   // NO_SUCH_COLUMN_IN_TABLE: the table is older or newer than this program
    (47, Operator),   // UNKNOWN_IDENTIFIER: likewise, in a question
    (60, Operator),   // UNKNOWN_TABLE: not migrated
    (81, Operator),   // UNKNOWN_DATABASE: not migrated, or misspelt
    (115, Operator),  // UNKNOWN_SETTING: a server that is too old
    (164, Operator),  // READONLY: the user may not write, or not change settings
    (192, Operator),  // UNKNOWN_USER
    (193, Operator),  // WRONG_PASSWORD
    (194, Operator),  // REQUIRED_PASSWORD
    (497, Operator),  // ACCESS_DENIED: a grant is missing
    (516, Operator),  // AUTHENTICATION_FAILED: user or password
    (159, Transient), // TIMEOUT_EXCEEDED: max_execution_time; the token makes sending again safe
    (202, Transient), // TOO_MANY_SIMULTANEOUS_QUERIES
    (203, Transient), // NO_FREE_CONNECTION
    (209, Transient), // SOCKET_TIMEOUT
    (210, Transient), // NETWORK_ERROR
    (241, Transient), // MEMORY_LIMIT_EXCEEDED
    (242, Transient), // TABLE_IS_READ_ONLY: a replica without its coordinator
    (243, Transient), // NOT_ENOUGH_SPACE: a disk that is full; others may empty it
    (252, Transient), // TOO_MANY_PARTS: merges are behind
    (394, Transient), // QUERY_WAS_CANCELLED: killed, or the server goes down
    (425, Transient), // SYSTEM_ERROR
    (999, Transient), // KEEPER_EXCEPTION
    (319, Ambiguous), // UNKNOWN_STATUS_OF_INSERT
];

/// Answers without a code: a proxy's.
const STATUSES: [(u32, Meaning); 11] = [
    (301, Operator),
    (302, Operator),
    (307, Operator),
    (308, Operator), // Redirects are not followed: `store.clickhouse.url` must name the server itself.
    (401, Operator),
    (403, Operator),
    (404, Operator),
    (429, Transient),
    (502, Transient),
    (503, Transient),
    (504, Transient),
];

/// Why a batch was not stored.
pub(super) fn of_insert(error: &Error) -> StoreError {
    let text = text_of(error);
    match meaning(error) {
        Transient => StoreError::Transient(text),
        Ambiguous => StoreError::Ambiguous(text),
        Operator => StoreError::Operator(text),
    }
}

/// Why a question was not answered. Asking twice does no harm, so nothing is ambiguous.
pub(super) fn of_query(error: &Error) -> StoreError {
    match of_insert(error) {
        StoreError::Ambiguous(text) => StoreError::Transient(text),
        other => other,
    }
}

fn meaning(error: &Error) -> Meaning {
    match error {
        Error::BadResponse(text) => of_answer(text),
        Error::TimedOut => Ambiguous,
        Error::Network(cause) => match cause.downcast_ref::<hyper_util::client::legacy::Error>() {
            // Not a byte was sent.
            Some(error) if error.is_connect() => Transient,
            _ => Ambiguous,
        },
        // No URL, or not http://.
        Error::InvalidParams(_) | Error::Unsupported(_) => Operator,
        _ => Transient,
    }
}

fn of_answer(text: &str) -> Meaning {
    let in_table = |number, table: &[(u32, Meaning)]| table.iter().find(|(n, _)| *n == number).map(|(_, m)| *m);
    if let Some(code) = code_of(text) {
        return in_table(code, &CODES).unwrap_or(Transient);
    }
    leading_number(text).and_then(|status| in_table(status, &STATUSES)).unwrap_or(Transient)
}

/// The code of ClickHouse's own error texts.
fn code_of(text: &str) -> Option<u32> {
    text.split_once("Code: ").and_then(|(_, rest)| leading_number(rest))
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().ok()
}

/// The error and its causes on one line.
fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            // Into memory: cannot fail.
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> StoreError {
        of_insert(&Error::BadResponse(text.into()))
    }

    #[test]
    fn every_code_means_what_its_caller_can_do() {
        let text = |code: u32| format!("Code: {code}. DB::Exception: no. (NAME) (version 26.9)");
        for (code, meaning) in CODES {
            let error = answer(&text(code));
            let found = match &error {
                StoreError::Transient(_) => Transient,
                StoreError::Ambiguous(_) => Ambiguous,
                StoreError::Operator(_) => Operator,
            };
            assert_eq!(found, meaning, "{code}");
        }
        assert!(matches!(answer(&text(1)), StoreError::Transient(_)), "an unknown code is sent again");
        assert!(matches!(answer("Code: 60"), StoreError::Operator(_)), "an answer without a body");
        assert!(matches!(answer("Code: 6099. DB"), StoreError::Transient(_)));
    }

    #[test]
    fn a_proxy_speaks_by_status() {
        assert!(matches!(answer("429 Too Many Requests"), StoreError::Transient(_)));
        assert!(matches!(answer("503 Service Unavailable"), StoreError::Transient(_)));
        assert!(matches!(answer("404 Not Found"), StoreError::Operator(_)));
        assert!(matches!(answer("<html>502</html>"), StoreError::Transient(_)));
    }

    #[test]
    fn what_may_have_arrived_is_ambiguous_for_an_insert_alone() {
        assert!(matches!(of_insert(&Error::TimedOut), StoreError::Ambiguous(_)));
        assert!(matches!(of_insert(&Error::Network("connection reset".into())), StoreError::Ambiguous(_)));
        assert!(matches!(of_query(&Error::TimedOut), StoreError::Transient(_)));
        assert!(matches!(of_query(&Error::InvalidParams("url".into())), StoreError::Operator(_)));
    }

    #[test]
    fn a_long_text_is_cut_to_one_line() {
        let error = answer(&format!("Code: 1. a\nb{}", "ü".repeat(1000)));
        let text = error.to_string();
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && text.contains("a b") && text.ends_with('…'), "{text}");
    }
}
