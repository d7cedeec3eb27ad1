//! Errors as `application/problem+json` (RFC 9457).
//!
//! `type` is `about:blank`, so `title` is the status in words; machines read `code`, which stays what it is, and people
//! `detail`. Never says what a token or a secret was. Every handler and extractor of `control` answers errors with this.
//! Bounds: [`ERRORS_MAX`] fields.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::catalog::{CatalogError, LinkError};
use crate::click::FieldError;
use crate::click::key::without_keys;
use crate::pipeline::StoreError;
use crate::pipeline::dead_letter::DeadLetterError;

/// Fields told of in one answer.
pub(super) const ERRORS_MAX: usize = 64;

/// What went wrong, for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 401: no token, or a wrong one.
    Unauthorized,
    /// 403: the key lacks a scope, or only the control token is enough.
    Forbidden,
    /// 404: nothing at this path.
    NotFound,
    /// 404: no link of this slug.
    UnknownLink,
    /// 404: no campaign of this name.
    UnknownCampaign,
    /// 404: nothing was said of this domain.
    UnknownDomain,
    /// 404: there was never such a release.
    UnknownRelease,
    /// 404: no key of this id.
    UnknownKey,
    /// 404: no row of this batch was refused, or it is long settled.
    UnknownDeadLetter,
    /// 405: the path is right, the method is not.
    MethodNotAllowed,
    /// 409: there is a link of this slug under this domain.
    SlugTaken,
    /// 409: another organisation has a campaign of this name.
    CampaignTaken,
    /// 409: links belong to the domain, which is to be given or taken away.
    DomainInUse,
    /// 409: the key was revoked, for good.
    KeyRevoked,
    /// 409: keys are kept by a Warden elsewhere.
    KeysElsewhere,
    /// 409: it has another version than the one that was to be replaced.
    Changed,
    /// 409: another action works on this batch.
    DeadLetterBusy,
    /// 409: clicks of before are still on their way.
    NotSettled,
    /// 409: another erase is at work.
    EraseBusy,
    /// 409: the configured store does not know this action.
    NotOfThisStore,
    /// 410: the release is too old to be kept.
    ReleaseGone,
    /// 422: the catalog cannot go back: entries of then would be refused today; `errors` names them.
    RollbackRefused,
    /// 400: the body is no JSON.
    InvalidJson,
    /// 400: the cursor is none of ours.
    InvalidCursor,
    /// 400: a query parameter is unknown or has no usable value.
    InvalidParameter,
    /// 413: the body is longer than `control.body_bytes_max`, or an import than `control.import_bytes_max` and
    /// `control.import_links_max`.
    BodyTooLarge,
    /// 415: the body is not declared as JSON.
    UnsupportedMediaType,
    /// 422: fields of the body are wrong; `errors` names them.
    InvalidFields,
    /// 400: the `Idempotency-Key` is not as it must be.
    InvalidIdempotencyKey,
    /// 409: the first request with this `Idempotency-Key` is under way.
    IdempotencyInFlight,
    /// 409: the node stopped while it was at the first request with this `Idempotency-Key`.
    IdempotencyInterrupted,
    /// 409: it was done, and its answer, a secret or about a person, was given once.
    IdempotencyAnswerNotKept,
    /// 422: this `Idempotency-Key` came with another request.
    IdempotencyMismatch,
    /// 412: it is not what `If-Match` names.
    PreconditionFailed,
    /// 503: the audit log cannot be written.
    AuditUnavailable,
    /// 503: the catalog did not answer.
    CatalogUnavailable,
    /// 503: the store did not answer.
    StoreUnavailable,
    /// 503: the dead letters cannot be read or written.
    DeadLettersUnavailable,
    /// 503: the journal cannot be read or written.
    JournalUnavailable,
    /// 503: the ledger cannot be read.
    LedgerUnavailable,
    /// 503: whoever checks keys did not answer.
    WardenUnavailable,
    /// 503: the answer took too long.
    Timeout,
    /// 507: `catalog.links_max`, `catalog.campaigns_max`, `catalog.domains_max`, `caps.counters_max` or `warden.keys_max` is reached.
    CatalogFull,
}

impl Code {
    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::UnknownLink => (StatusCode::NOT_FOUND, "unknown_link"),
            Self::UnknownCampaign => (StatusCode::NOT_FOUND, "unknown_campaign"),
            Self::UnknownDomain => (StatusCode::NOT_FOUND, "unknown_domain"),
            Self::UnknownRelease => (StatusCode::NOT_FOUND, "unknown_release"),
            Self::ReleaseGone => (StatusCode::GONE, "release_gone"),
            Self::RollbackRefused => (StatusCode::UNPROCESSABLE_ENTITY, "rollback_refused"),
            Self::UnknownKey => (StatusCode::NOT_FOUND, "unknown_key"),
            Self::UnknownDeadLetter => (StatusCode::NOT_FOUND, "unknown_dead_letter"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::SlugTaken => (StatusCode::CONFLICT, "slug_taken"),
            Self::CampaignTaken => (StatusCode::CONFLICT, "campaign_taken"),
            Self::DomainInUse => (StatusCode::CONFLICT, "domain_in_use"),
            Self::KeyRevoked => (StatusCode::CONFLICT, "key_revoked"),
            Self::KeysElsewhere => (StatusCode::CONFLICT, "keys_elsewhere"),
            Self::Changed => (StatusCode::CONFLICT, "changed"),
            Self::DeadLetterBusy => (StatusCode::CONFLICT, "dead_letter_busy"),
            Self::NotSettled => (StatusCode::CONFLICT, "not_settled"),
            Self::EraseBusy => (StatusCode::CONFLICT, "erase_busy"),
            Self::NotOfThisStore => (StatusCode::CONFLICT, "not_of_this_store"),
            Self::InvalidJson => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "invalid_cursor"),
            Self::InvalidParameter => (StatusCode::BAD_REQUEST, "invalid_parameter"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::InvalidFields => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
            Self::InvalidIdempotencyKey => (StatusCode::BAD_REQUEST, "invalid_idempotency_key"),
            Self::IdempotencyInFlight => (StatusCode::CONFLICT, "idempotency_in_flight"),
            Self::IdempotencyInterrupted => (StatusCode::CONFLICT, "idempotency_interrupted"),
            Self::IdempotencyAnswerNotKept => (StatusCode::CONFLICT, "idempotency_answer_not_kept"),
            Self::IdempotencyMismatch => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
            Self::CatalogUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "catalog_unavailable"),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            Self::DeadLettersUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "dead_letters_unavailable"),
            Self::JournalUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable"),
            Self::LedgerUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable"),
            Self::WardenUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "warden_unavailable"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Self::CatalogFull => (StatusCode::INSUFFICIENT_STORAGE, "catalog_full"),
        }
    }

    /// The word in the answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.parts().1
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }
}

/// A field, or a parameter, that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Wrong {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    /// JSON pointer (RFC 6901) into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pointer: Option<String>,
    pub(super) detail: String,
}

impl Wrong {
    /// A field of the body.
    pub(super) fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let field = field.into();
        let pointer = match field.as_str() {
            "" => String::new(),
            name => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        };
        Self { field: Some(field), pointer: Some(pointer), detail: detail.into() }
    }

    /// A place in the body.
    pub(super) fn at(pointer: &str, detail: impl Into<String>) -> Self {
        Self { field: None, pointer: Some(pointer.to_owned()), detail: detail.into() }
    }

    /// A parameter of the query string.
    fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self { field: Some(name.to_owned()), pointer: None, detail: detail.into() }
    }
}

impl From<FieldError> for Wrong {
    fn from(error: FieldError) -> Self {
        // A field inside of another is named by its way there.
        match error.field.split_once('/') {
            Some(_) => Self { field: Some(error.field.into()), ..Self::at(&format!("/{}", error.field), error.detail) },
            None => Self::new(error.field, error.detail),
        }
    }
}

/// An answer that says what went wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<Wrong>,
}

impl Problem {
    /// With a sentence for people.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// What the body has wrong, field by field.
    pub(super) fn fields(errors: impl IntoIterator<Item = impl Into<Wrong>>) -> Self {
        let errors = errors.into_iter().take(ERRORS_MAX).map(Into::into).collect();
        Self { errors, ..Self::new(Code::InvalidFields, "fields of the body are wrong; nothing was changed") }
    }

    /// With each place that is wrong.
    pub(super) fn with(self, errors: impl IntoIterator<Item = Wrong>) -> Self {
        Self { errors: errors.into_iter().take(ERRORS_MAX).collect(), ..self }
    }

    /// As one of many in an answer.
    pub(super) fn of_line(&self) -> Value {
        let mut told = json!({ "code": self.code.parts().1, "detail": self.detail });
        if !self.errors.is_empty() {
            told["errors"] = json!(self.errors);
        }
        told
    }

    /// The one query parameter that is wrong.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let sentence = format!("the parameter `{name}` {detail}");
        Self { errors: vec![Wrong::parameter(name, detail)], ..Self::new(Code::InvalidParameter, sentence) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let (status, code) = self.code.parts();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": code,
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        // Somebody may have put a key where it does not belong: it is not repeated.
        let text = without_keys(&Value::to_string(&body)).into_owned();
        let mut answer = Response::new(Body::from(text));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Fields(errors) => Self::fields(errors),
            LinkError::Unknown => Self::new(Code::UnknownLink, error.to_string()),
            LinkError::Full(_) | LinkError::DomainsFull(_) | LinkError::Caps(_) => {
                Self::new(Code::CatalogFull, error.to_string())
            }
            LinkError::Catalog(error) => error.into(),
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Taken => {
                Self::new(Code::SlugTaken, "there is a link with this slug already, under this domain")
            }
            CatalogError::Unavailable(_) => Self::new(Code::CatalogUnavailable, error.to_string()),
        }
    }
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::Unknown(_) => Self::new(Code::UnknownDeadLetter, error.to_string()),
            DeadLetterError::Busy(_) => Self::new(Code::DeadLetterBusy, error.to_string()),
            DeadLetterError::Shelf(_) => Self::new(Code::DeadLettersUnavailable, error.to_string()),
            DeadLetterError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(Code::StoreUnavailable, format!("the store does not answer: {error}"))
    }
}
