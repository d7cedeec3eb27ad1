//! Where links are read: the port, its pages, and what any part of the catalog may fail with.

use super::caps::TooManyCaps;
use super::domains::DomainsFull;
use crate::BoxFuture;
use crate::click::{FieldError, Link};

/// What a catalog cannot do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The slug is taken, in its domain.
    #[error("the slug is taken")]
    Taken,
    /// The catalog did not answer, or holds what this program cannot read.
    #[error("catalog: {0}")]
    Unavailable(String),
}

/// What can go wrong with an edit of a link.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// Fields that are wrong.
    #[error("the link has wrong fields")]
    Fields(Vec<FieldError>),
    /// No such link.
    #[error("there is no such link")]
    Unknown,
    /// `catalog.links_max` is reached.
    #[error("this node serves {0} links already, the most that `catalog.links_max` allows")]
    Full(usize),
    /// `catalog.domains_max` is reached, and its domain would be one more.
    #[error(transparent)]
    DomainsFull(#[from] DomainsFull),
    /// `caps.counters_max` would be passed.
    #[error(transparent)]
    Caps(#[from] TooManyCaps),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Domain and slug of a link; [`ANY`](crate::click::domain::ANY) for the domain of one that belongs to none.
pub type Name = (String, String);

/// Some entries of the source, in the order of their names.
#[derive(Clone, Debug)]
pub struct Page<T, N = String> {
    /// Those that can be read.
    pub entries: Vec<T>,
    /// Names of those that cannot, and why.
    pub unreadable: Vec<(N, String)>,
    /// The last name, when there may be more behind it.
    pub last: Option<N>,
}

/// The port: where links are read. [`super::ReleaseStore`] writes them.
pub trait LinkStore: Send + Sync {
    /// Links in the order of their domains and slugs.
    fn list<'a>(&'a self, page: LinkPage<'a>) -> BoxFuture<'a, Result<Vec<Link>, CatalogError>>;
    /// Links of all domains behind `after`, at most `limit`, with those that cannot be read, which count as well.
    fn page<'a>(&'a self, after: Option<Name>, limit: usize) -> BoxFuture<'a, Result<Page<Link, Name>, CatalogError>>;
    /// All links, one by one, in the order of their domains and slugs. One that cannot be read is told in the log and left out:
    /// it must not keep the others from being served.
    fn load<'a>(&'a self, take: &'a mut (dyn FnMut(Link) + Send)) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), CatalogError>>;
}

/// Which links to list. Domains are given as they are compared, and [`ANY`](crate::click::domain::ANY) stands for the links of any.
#[derive(Clone, Copy, Debug)]
pub struct LinkPage<'a> {
    /// Only of this organisation.
    pub org: Option<&'a str>,
    /// Only of this domain.
    pub domain: Option<&'a str>,
    /// Behind this domain and slug.
    pub after: Option<(&'a str, &'a str)>,
    /// At most so many.
    pub limit: usize,
}
