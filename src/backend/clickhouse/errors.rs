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
    /// A row is at fault.
    Poison,
}

use Meaning::{Ambiguous, Operator, Poison, Transient};

/// Codes as in ClickHouse's `ErrorCodes.cpp`.
const CODES: [(u32, Meaning); 34] = [
    (6, Poison),      // CANNOT_PARSE_TEXT
    (27, Poison),     // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    (33, Poison),     // CANNOT_READ_ALL_DATA: a value ends early
    (38, Poison),     // CANNOT_PARSE_DATE
    (41, Poison),     // CANNOT_PARSE_DATETIME
    (53, Poison),     // TYPE_MISMATCH
    (117, Poison),    // INCORRECT_DATA
    (131, Poison),    // TOO_LARGE_STRING_SIZE
    (321, Poison),    // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    (469, Poison),    // VIOLATED_CONSTRAINT: of a table that a person has changed
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
    (252, Transient), // TOO_MANY_PARTS: merges are behind; or, told apart by DIVIDE, partitions
    (394, Transient), // QUERY_WAS_CANCELLED: killed, or the server goes down
    (425, Transient), // SYSTEM_ERROR
    (999, Transient), // KEEPER_EXCEPTION
    (319, Ambiguous), // UNKNOWN_STATUS_OF_INSERT
];

/// TOO_MANY_PARTS, when it speaks of partitions: one insert has rows of too many of them.
const DIVIDE: (u32, &str) = (252, "partitions");

/// INCORRECT_DATA, when it speaks of the head: the table has another type than this program. No row is at fault.
const ANOTHER_TYPE: (u32, &str) = (117, "while reading header");

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
    let (code, meaning) = meaning(error);
    match meaning {
        Transient if code == DIVIDE.0 && text.contains(DIVIDE.1) => StoreError::Divide(text),
        Transient => StoreError::Transient(text),
        Ambiguous => StoreError::Ambiguous(text),
        Operator => StoreError::Operator { code, text },
        Poison if code == ANOTHER_TYPE.0 && text.contains(ANOTHER_TYPE.1) => StoreError::Operator { code, text },
        Poison => StoreError::Poison { code, text },
    }
}

/// Why a question was not answered. Asking twice does no harm, so nothing is ambiguous; and there is no row to find.
pub(super) fn of_query(error: &Error) -> StoreError {
    match of_insert(error) {
        StoreError::Ambiguous(text) | StoreError::Divide(text) => StoreError::Transient(text),
        StoreError::Poison { code, text } => StoreError::Operator { code, text },
        other => other,
    }
}

/// With the number behind it: ClickHouse's code, the status of a proxy, or 0.
fn meaning(error: &Error) -> (u32, Meaning) {
    match error {
        Error::BadResponse(text) => of_answer(text),
        Error::TimedOut => (0, Ambiguous),
        Error::Network(cause) if speaks_tls(cause.as_ref()) => (0, Operator),
        Error::Network(cause) => match cause.downcast_ref::<hyper_util::client::legacy::Error>() {
            // Not a byte was sent.
            Some(error) if error.is_connect() => (0, Transient),
            _ => (0, Ambiguous),
        },
        // No URL, or not http://.
        Error::InvalidParams(_) | Error::Unsupported(_) => (0, Operator),
        _ => (0, Transient),
    }
}

fn of_answer(text: &str) -> (u32, Meaning) {
    let (number, table) = match code_of(text) {
        Some(code) => (code, &CODES[..]),
        None => (leading_number(text).unwrap_or(0), &STATUSES[..]),
    };
    (number, table.iter().find(|(n, _)| *n == number).map_or(Transient, |(_, meaning)| *meaning))
}

/// A server that wants TLS, or a certificate that is not trusted: no number tells it, only the words.
fn speaks_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string().to_ascii_lowercase();
        if ["tls", "certificate", "scheme is not http"].iter().any(|word| text.contains(word)) {
            return true;
        }
        cause = error.source();
    }
    false
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
                StoreError::Transient(_) => (code, Transient),
                StoreError::Ambiguous(_) => (code, Ambiguous),
                StoreError::Operator { code, .. } => (*code, Operator),
                StoreError::Poison { code, .. } => (*code, Poison),
                StoreError::Divide(_) => panic!("{code}"),
            };
            assert_eq!(found, (code, meaning));
        }
        assert!(matches!(answer(&text(1)), StoreError::Transient(_)), "an unknown code is sent again");
        assert!(matches!(answer("Code: 60"), StoreError::Operator { code: 60, .. }), "an answer without a body");
        assert!(matches!(answer("Code: 6099. DB"), StoreError::Transient(_)));
    }

    #[test]
    fn a_proxy_speaks_by_status() {
        assert!(matches!(answer("429 Too Many Requests"), StoreError::Transient(_)));
        assert!(matches!(answer("503 Service Unavailable"), StoreError::Transient(_)));
        for status in [401, 403, 404] {
            assert!(matches!(answer(&format!("{status} No")), StoreError::Operator { code, .. } if code == status));
        }
        assert!(matches!(answer("<html>502</html>"), StoreError::Transient(_)));
    }

    #[test]
    fn what_may_have_arrived_is_ambiguous_for_an_insert_alone() {
        assert!(matches!(of_insert(&Error::TimedOut), StoreError::Ambiguous(_)));
        assert!(matches!(of_insert(&Error::Network("connection reset".into())), StoreError::Ambiguous(_)));
        assert!(matches!(of_query(&Error::TimedOut), StoreError::Transient(_)));
        assert!(matches!(of_query(&Error::InvalidParams("url".into())), StoreError::Operator { code: 0, .. }));
    }

    #[test]
    fn too_many_partitions_are_sent_in_parts_and_too_many_parts_again() {
        let partitions =
            "Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100). (TOO_MANY_PARTS)";
        assert!(matches!(answer(partitions), StoreError::Divide(_)));
        let parts = "Code: 252. DB::Exception: Too many parts (3001). Merges are processing slower than inserts";
        assert!(matches!(answer(parts), StoreError::Transient(_)));
        assert!(matches!(answer("Code: 1. DB::Exception: partitions"), StoreError::Transient(_)));
    }

    #[test]
    fn a_column_of_another_type_waits_for_a_person() {
        let of_type = "Code: 117. DB::Exception: Type of 'expires' must be Date, not DateTime: (while reading header)";
        assert!(matches!(answer(of_type), StoreError::Operator { code: 117, .. }));
        assert!(matches!(answer("Code: 117. DB::Exception: no"), StoreError::Poison { code: 117, .. }));
    }

    #[test]
    fn a_question_has_no_row_at_fault() {
        let of = |text: &str| of_query(&Error::BadResponse(text.into()));
        assert!(matches!(of("Code: 53. DB::Exception: no"), StoreError::Operator { code: 53, .. }));
        assert!(matches!(of("Code: 252. DB::Exception: partitions"), StoreError::Transient(_)));
        assert!(matches!(of("Code: 319. DB::Exception: no"), StoreError::Transient(_)));
    }

    #[test]
    fn a_server_that_wants_tls_waits_for_a_person() {
        let network = |text: &str| of_insert(&Error::Network(text.into()));
        assert!(matches!(network("invalid peer certificate: UnknownIssuer"), StoreError::Operator { .. }));
        assert!(matches!(network("received fatal alert: TLS handshake"), StoreError::Operator { .. }));
        assert!(matches!(network("connection reset"), StoreError::Ambiguous(_)));
    }

    #[test]
    fn a_long_text_is_cut_to_one_line() {
        let error = answer(&format!("Code: 1. a\nb{}", "ü".repeat(1000)));
        let text = error.to_string();
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && text.contains("a b") && text.ends_with('…'), "{text}");
    }
}
