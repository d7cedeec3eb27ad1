//! What is asked of whom: a closed set, the values of labels.

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Redis.
    Redis,
    /// Where clicks are kept, and the ledger's books.
    Store,
    /// A Warden elsewhere.
    Warden,
    /// Where links, campaigns, keys and the audit log are kept.
    Catalog,
}

impl Dependency {
    /// The values of the label.
    pub const NAMES: [&str; 4] = ["redis", "store", "warden", "catalog"];

    /// Its word in metrics, log lines and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What is asked of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the metric, in the README")]
pub enum Call {
    RedisClaim,
    RedisCaps,
    RedisFigures,
    RedisPing,
    StoreInsert,
    StoreLook,
    StoreCount,
    StoreRecent,
    StoreTopLinks,
    StoreRollUp,
    StoreCompare,
    StoreMinutes,
    StoreFind,
    StoreErase,
    StoreExpire,
    StoreMonths,
    StoreMerge,
    StoreMigrate,
    StoreFigures,
    StorePing,
    BooksRead,
    BooksWrite,
    WardenValidate,
    WardenWatch,
    LinksList,
    CampaignsList,
    DomainsList,
    Commit,
    Revisions,
    Releases,
    Differences,
    KeysList,
    KeysWrite,
    CapsLoad,
    CapsSave,
    AuditWrite,
    AuditRead,
    AuditForget,
    Idempotency,
    CatalogPing,
}

impl Call {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 40] = [
        Self::RedisClaim,
        Self::RedisCaps,
        Self::RedisFigures,
        Self::RedisPing,
        Self::StoreInsert,
        Self::StoreLook,
        Self::StoreCount,
        Self::StoreRecent,
        Self::StoreTopLinks,
        Self::StoreRollUp,
        Self::StoreCompare,
        Self::StoreMinutes,
        Self::StoreFind,
        Self::StoreErase,
        Self::StoreExpire,
        Self::StoreMonths,
        Self::StoreMerge,
        Self::StoreMigrate,
        Self::StoreFigures,
        Self::StorePing,
        Self::BooksRead,
        Self::BooksWrite,
        Self::WardenValidate,
        Self::WardenWatch,
        Self::LinksList,
        Self::CampaignsList,
        Self::DomainsList,
        Self::Commit,
        Self::Revisions,
        Self::Releases,
        Self::Differences,
        Self::KeysList,
        Self::KeysWrite,
        Self::CapsLoad,
        Self::CapsSave,
        Self::AuditWrite,
        Self::AuditRead,
        Self::AuditForget,
        Self::Idempotency,
        Self::CatalogPing,
    ];

    /// Who is asked, and the word for what.
    #[must_use]
    pub const fn names(self) -> (Dependency, &'static str) {
        use Dependency::{Catalog, Redis, Store, Warden};
        match self {
            Self::RedisClaim => (Redis, "claim"),
            Self::RedisCaps => (Redis, "caps"),
            Self::RedisFigures => (Redis, "figures"),
            Self::RedisPing => (Redis, "ping"),
            Self::StoreInsert => (Store, "insert"),
            Self::StoreLook => (Store, "look"),
            Self::StoreCount => (Store, "count"),
            Self::StoreRecent => (Store, "recent"),
            Self::StoreTopLinks => (Store, "top_links"),
            Self::StoreRollUp => (Store, "roll_up"),
            Self::StoreCompare => (Store, "compare"),
            Self::StoreMinutes => (Store, "minutes"),
            Self::StoreFind => (Store, "find"),
            Self::StoreErase => (Store, "erase"),
            Self::StoreExpire => (Store, "expire"),
            Self::StoreMonths => (Store, "months"),
            Self::StoreMerge => (Store, "merge"),
            Self::StoreMigrate => (Store, "migrate"),
            Self::StoreFigures => (Store, "figures"),
            Self::StorePing => (Store, "ping"),
            Self::BooksRead => (Store, "books_read"),
            Self::BooksWrite => (Store, "books_write"),
            Self::WardenValidate => (Warden, "validate"),
            Self::WardenWatch => (Warden, "watch"),
            Self::LinksList => (Catalog, "links"),
            Self::CampaignsList => (Catalog, "campaigns"),
            Self::DomainsList => (Catalog, "domains"),
            Self::Commit => (Catalog, "commit"),
            Self::Revisions => (Catalog, "revisions"),
            Self::Releases => (Catalog, "releases"),
            Self::Differences => (Catalog, "differences"),
            Self::KeysList => (Catalog, "keys"),
            Self::KeysWrite => (Catalog, "key_write"),
            Self::CapsLoad => (Catalog, "caps"),
            Self::CapsSave => (Catalog, "caps_save"),
            Self::AuditWrite => (Catalog, "audit_write"),
            Self::AuditRead => (Catalog, "audit_read"),
            Self::AuditForget => (Catalog, "audit_forget"),
            Self::Idempotency => (Catalog, "idempotency"),
            Self::CatalogPing => (Catalog, "ping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_calls_is_closed_and_no_two_have_one_name() {
        let mut names = std::collections::BTreeSet::new();
        for (number, call) in Call::ALL.into_iter().enumerate() {
            assert_eq!(number, call as usize);
            let (dependency, op) = call.names();
            assert!(names.insert((dependency.name(), op)), "{op} of {} is there twice", dependency.name());
        }
        assert_eq!(Call::CatalogPing as usize + 1, Call::ALL.len());
    }
}
