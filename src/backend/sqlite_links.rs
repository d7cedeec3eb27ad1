//! Rows of links in the embedded catalog's file: read, saved, removed.
//!
//! It judges nothing: what was checked when it was saved is only parsed again. Called by `sqlite_catalog` and
//! `sqlite_releases`, on the catalog's thread; [`Unchecked::check`] may be called on any.

use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, named_params, params_from_iter};
use serde_json::Value;

use crate::catalog::source::Name;
use crate::catalog::{CatalogError, Page};
use crate::click::domain::ANY;
use crate::click::{Link, OwnHosts, QueryMode, RawLink};
use crate::clock::rfc_3339;

const SELECT: &str =
    "SELECT domain, slug, url, status, query, campaign, paused, tags, external_id, starts_ms, expires_ms, expired_url,
     version, created_ms, updated_ms, cap, max_clicks, org FROM links WHERE (domain, slug) > (?1, ?2)";
const ORDER: &str = "ORDER BY domain, slug";
const INSERT: &str =
    "INSERT INTO links (domain, slug, url, status, query, campaign, paused, tags, external_id, starts_ms, expires_ms, expired_url,
     version, created_ms, updated_ms, cap, max_clicks, org)
     VALUES (:domain, :slug, :url, :status, :query, :campaign, :paused, :tags, :external_id, :starts_ms, :expires_ms, :expired_url,
     :version, :created_ms, :updated_ms, :cap, :max_clicks, :org)";
const UPDATE: &str =
    "UPDATE links SET url = :url, status = :status, query = :query, campaign = :campaign, paused = :paused,
     tags = :tags, external_id = :external_id, starts_ms = :starts_ms, expires_ms = :expires_ms,
     expired_url = :expired_url, version = :version, created_ms = :created_ms, updated_ms = :updated_ms,
     cap = :cap, max_clicks = :max_clicks, org = :org WHERE domain = :domain AND slug = :slug";

/// [`SELECT`] of one organisation, or of one domain, or of both.
pub(super) fn selecting(of: &[Option<String>; 2]) -> String {
    let mut sql = SELECT.to_owned();
    for (place, (column, _)) in ["org", "domain"].iter().zip(of).filter(|(_, name)| name.is_some()).enumerate() {
        sql.push_str(&format!(" AND {column} = ?{}", place + 3));
    }
    sql + " " + ORDER
}

/// Links behind `after` in the order of their domains and slugs, at most `limit`; of an organisation, of a domain. One that this program cannot read is told in the
/// log and left out: it must not keep the others from being served, and it does not count towards `limit`.
pub(super) fn select(
    connection: &mut Connection,
    after: [String; 2],
    of: [Option<String>; 2],
    limit: usize,
) -> rusqlite::Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut statement = connection.prepare_cached(&selecting(&of))?;
    let mut rows = statement.query(params_from_iter(after.into_iter().chain(of.into_iter().flatten())))?;
    while links.len() < limit
        && let Some(row) = rows.next()?
    {
        links.extend(named(row)?.and_then(Unchecked::check).map_err(Unreadable::tell).ok());
    }
    Ok(links)
}

/// A stored link that this program cannot read.
#[derive(Debug)]
pub(super) struct Unreadable {
    name: Name,
    problem: String,
}

impl Unreadable {
    /// It is not served, and the log says so.
    pub(super) fn tell(self) {
        let Self { name: (domain, slug), problem } = self;
        tracing::error!(domain, slug, problem, "a stored link cannot be read and is not served; save it again");
    }
}

/// Rows that were read, and the name of the last one when there may be more behind it.
pub(super) type Rows = (Vec<Result<Unchecked, Unreadable>>, Option<Name>);

/// Rows behind `after` in the order of their domains and slugs, at most `limit`.
pub(super) fn rows(connection: &mut Connection, after: Name, limit: usize) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} {ORDER}"))?;
    let mut rows = statement.query([after.0, after.1])?;
    let (mut found, mut last) = (Vec::with_capacity(limit), None);
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        found.push(named(row)?);
        if found.len() == limit {
            last = Some(name(row)?);
        }
    }
    Ok((found, last))
}

fn name(row: &Row<'_>) -> rusqlite::Result<Name> {
    Ok((row.get(Column::Domain as usize)?, row.get(Column::Slug as usize)?))
}

/// A row; one that cannot be read is named.
fn named(row: &Row<'_>) -> rusqlite::Result<Result<Unchecked, Unreadable>> {
    match read(row) {
        Ok(unchecked) => Ok(Ok(unchecked)),
        Err(problem) => Ok(Err(Unreadable { name: name(row)?, problem })),
    }
}

/// Links behind `after` in the order of their domains and slugs, with those that this program cannot read; at most `limit` of
/// both.
pub(super) fn page(connection: &mut Connection, after: Name, limit: usize) -> rusqlite::Result<Page<Link, Name>> {
    let (rows, last) = rows(connection, after, limit)?;
    let mut page = Page { entries: Vec::with_capacity(rows.len()), unreadable: Vec::new(), last };
    for row in rows {
        match row.and_then(Unchecked::check) {
            Ok(link) => page.entries.push(link),
            Err(Unreadable { name, problem }) => page.unreadable.push((name, problem)),
        }
    }
    Ok(page)
}

/// Columns of [`SELECT`], in its order: names would be looked up for each of a million rows.
#[derive(Clone, Copy)]
enum Column {
    Domain,
    Slug,
    Url,
    Status,
    Query,
    Campaign,
    Paused,
    Tags,
    ExternalId,
    StartsMs,
    ExpiresMs,
    ExpiredUrl,
    Version,
    CreatedMs,
    UpdatedMs,
    Cap,
    MaxClicks,
    Org,
}

/// A row, not parsed yet: that takes longer than to read it, and another thread may do it.
pub(super) struct Unchecked {
    raw: RawLink,
    version: u64,
    created_ms: u64,
    updated_ms: u64,
}

impl Unchecked {
    /// The link.
    pub(super) fn check(self) -> Result<Link, Unreadable> {
        let name = (self.raw.domain.clone(), self.raw.slug.clone().unwrap_or_default());
        // A host that became one of ours after the link was saved is no reason to stop serving it.
        let link = Link::check(self.raw, &OwnHosts::default()).map_err(|errors| Unreadable {
            name: (name.0.unwrap_or_else(|| ANY.to_owned()), name.1),
            problem: errors.iter().map(|e| format!("{} {}", e.field, e.detail)).collect::<Vec<_>>().join("; "),
        })?;
        Ok(Link { version: self.version, created_ms: self.created_ms, updated_ms: self.updated_ms, ..link })
    }
}

fn read(row: &Row<'_>) -> Result<Unchecked, String> {
    fn get<T: FromSql>(row: &Row<'_>, column: Column) -> Result<T, String> {
        row.get(column as usize).map_err(|e| e.to_string())
    }
    let text = |column| get::<String>(row, column);
    let lent = |column| {
        let value = row.get_ref(column as usize).map_err(|e| e.to_string())?;
        value.as_str().map_err(|e| e.to_string())
    };
    let number = |column, name| u64::try_from(get::<i64>(row, column)?).map_err(|_| format!("{name} is negative"));
    // In the form in which it is checked.
    let moment = |column, name| -> Result<Option<Value>, String> {
        let number = get::<Option<i64>>(row, column)?.map(u64::try_from).transpose();
        Ok(number.map_err(|_| format!("{name} is negative"))?.map(|unix_ms| rfc_3339(unix_ms).into()))
    };
    let query = match lent(Column::Query)? {
        "ignore" => QueryMode::Ignore,
        "forward" => QueryMode::Forward,
        other => return Err(format!("query: unknown mode `{other}`")),
    };
    let raw = RawLink {
        domain: Some(lent(Column::Domain)?).filter(|domain| *domain != ANY).map(str::to_owned),
        slug: Some(text(Column::Slug)?),
        url: Some(text(Column::Url)?),
        status: Some(get(row, Column::Status)?),
        query: Some(query),
        org: Some(text(Column::Org)?),
        campaign: Some(text(Column::Campaign)?),
        paused: Some(get(row, Column::Paused)?),
        tags: Some(serde_json::from_str(lent(Column::Tags)?).map_err(|e| format!("tags: {e}"))?),
        external_id: Some(text(Column::ExternalId)?),
        starts_at: moment(Column::StartsMs, "starts_ms")?,
        expires_at: moment(Column::ExpiresMs, "expires_ms")?,
        expired_url: get::<Option<String>>(row, Column::ExpiredUrl)?.map(Value::from),
        cap: get::<Option<String>>(row, Column::Cap)?
            .map(|text| serde_json::from_str(&text).map_err(|e| format!("cap: {e}")))
            .transpose()?,
        max_clicks: get::<Option<i64>>(row, Column::MaxClicks)?.map(Value::from),
    };
    Ok(Unchecked {
        raw,
        version: number(Column::Version, "version")?,
        created_ms: number(Column::CreatedMs, "created_ms")?,
        updated_ms: number(Column::UpdatedMs, "updated_ms")?,
    })
}

/// Keeps a link: in place of the one that is there, or as a new one.
pub(super) fn put(connection: &Connection, is_there: bool, link: &Link) -> Result<(), CatalogError> {
    match save(connection, if is_there { UPDATE } else { INSERT }, link)? {
        0 => Err(CatalogError::Unavailable("the link is not in the file: another program changed it".into())),
        _ => Ok(()),
    }
}

/// Forgets a link.
pub(super) fn delete(connection: &Connection, link: &Link) -> rusqlite::Result<()> {
    let sql = "DELETE FROM links WHERE domain = ?1 AND slug = ?2";
    connection.prepare_cached(sql)?.execute([link.domain(), &link.slug]).map(|_| ())
}

/// Runs INSERT or UPDATE with the link; the rows that it changed.
fn save(connection: &Connection, sql: &str, link: &Link) -> rusqlite::Result<usize> {
    let query = match link.query {
        QueryMode::Ignore => "ignore",
        QueryMode::Forward => "forward",
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (life, caps) = (link.life.as_deref(), link.caps.as_deref());
    connection.prepare_cached(sql)?.execute(named_params! {
        ":domain": link.domain(),
        ":slug": link.slug.as_str(),
        ":url": link.url,
        ":status": link.status,
        ":query": query,
        ":campaign": link.campaign,
        ":paused": link.paused,
        ":tags": Value::from(link.tags.as_slice()).to_string(),
        ":external_id": link.external_id,
        ":starts_ms": life.and_then(|life| life.starts_ms).map(number),
        ":expires_ms": life.and_then(|life| life.expires_ms).map(number),
        ":expired_url": life.and_then(|life| life.expired.as_ref()).map(|expired| &expired.url),
        ":cap": caps.and_then(|caps| caps.document.as_ref()).map(Value::to_string),
        ":max_clicks": caps.and_then(|caps| caps.max_clicks.as_ref()).map(|cap| number(cap.limit)),
        ":version": number(link.version),
        ":created_ms": number(link.created_ms),
        ":updated_ms": number(link.updated_ms),
        ":org": link.org.as_str(),
    })
}
