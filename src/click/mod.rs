//! L0: what a click *is*. Pure: no async, no I/O, no clock, no metrics, no log.
//!
//! [`Visit`] is the request as links may see it; [`Link`] says where it goes ([`Template`] spells the destination), and
//! [`Campaign`] where else, by [`Condition`]s; [`privacy`] says what may be kept, [`Click`] is what is kept of it, and
//! [`frame`] is its one encoding, from the edge to the store. [`Class`] says who clicked; [`Fate`] is the one end of a
//! click. Everything above calls in here; nothing in here calls out.

pub mod address;
pub mod campaign;
pub mod canary;
pub mod cap;
pub mod class;
pub mod condition;
pub mod dedup;
pub mod document;
pub mod domain;
pub mod facts;
pub mod fate;
pub mod fingerprint;
pub mod frame;
pub mod gate;
pub mod id;
pub mod kept;
pub mod key;
pub mod life;
pub mod link;
pub mod link_caps;
pub mod networks;
pub mod org;
pub mod privacy;
pub mod query;
pub mod template;
pub mod visit;
pub mod visitor;

pub use campaign::Campaign;
pub use cap::Cap;
pub use class::{Class, Classifier, Marks, Reasons};
pub use condition::Condition;
pub use dedup::Dedup;
pub use document::Misfit;
pub use domain::Domain;
pub use fate::Fate;
pub use fingerprint::{DayKey, Fingerprint};
pub use frame::Click;
pub use gate::Gate;
pub use id::{ClickId, IdSource};
pub use kept::Kept;
pub use key::{Grant, Key, Scope, Scopes};
pub use life::{Life, Stage};
pub use link::{FieldError, Link, OwnHosts, QueryMode, RawLink};
pub use networks::Networks;
pub use org::Org;
pub use privacy::Privacy;
pub use template::Template;
pub use visit::Visit;
