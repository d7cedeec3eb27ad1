//! Migrations: `schema/clickhouse/NNN_*.sql` in their order, each once. Called at start and by `trellis migrate`. Where a
//! table of ours is missing although its step was applied (somebody dropped it), that step and all after it run again.
//!
//! Statements are safe to repeat (`IF NOT EXISTS`, `MODIFY COLUMN`), because ClickHouse has no transaction: a step that fails
//! in its middle runs again from its beginning, and two nodes that migrate at one time do no harm. It drops nothing.

use clickhouse::sql::Identifier;

use super::{ClickHouseStore, queries};
use crate::pipeline::StoreError;

/// Number, name and statements of every step.
const MIGRATIONS: [(u32, &str, &str); 6] = [
    (1, "001_clicks", include_str!("../../../schema/clickhouse/001_clicks.sql")),
    (2, "002_rollups", include_str!("../../../schema/clickhouse/002_rollups.sql")),
    (3, "003_expires", include_str!("../../../schema/clickhouse/003_expires.sql")),
    (4, "004_privacy", include_str!("../../../schema/clickhouse/004_privacy.sql")),
    (5, "005_domain", include_str!("../../../schema/clickhouse/005_domain.sql")),
    (6, "006_place", include_str!("../../../schema/clickhouse/006_place.sql")),
];

/// How a statement that makes a table begins.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS ";

const STEPS_TABLE: &str = "CREATE TABLE IF NOT EXISTS trellis_migrations
    (version UInt32, name String, applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version";

#[derive(serde::Deserialize)]
struct Applied {
    version: u32,
}

#[derive(serde::Deserialize)]
struct Table {
    name: String,
}

#[derive(serde::Deserialize)]
struct Found {
    result: u8,
}

/// Makes the database when it is missing and applies what is missing; the names of what was applied.
///
/// # Errors
/// The server's; [`StoreError::Operator`] when the tables come from a newer program.
pub(super) async fn migrate(store: &ClickHouseStore) -> Result<Vec<String>, StoreError> {
    create_database(store).await?;
    execute(store, STEPS_TABLE).await?;
    let steps: Vec<Applied> =
        queries::rows(store, store.reading().query("SELECT version FROM trellis_migrations GROUP BY version")).await?;
    let known = MIGRATIONS[MIGRATIONS.len() - 1].0;
    if let Some(newer) = steps.iter().map(|step| step.version).max().filter(|version| *version > known) {
        return Err(StoreError::operator(format!(
            "the tables have schema version {newer}, and this program knows {known}: start a newer trellis"
        )));
    }
    let there = "SELECT name FROM system.tables WHERE database = currentDatabase()";
    let there: Vec<Table> = queries::rows(store, store.reading().query(there)).await?;
    let is_there = |made: &str| there.iter().any(|table| table.name == made);
    let missing = |(version, _, sql): &(u32, &str, &str)| {
        !steps.iter().any(|step| step.version == *version) || !tables(sql).iter().all(|made| is_there(made))
    };
    let mut applied = Vec::new();
    for (version, name, sql) in MIGRATIONS.into_iter().skip_while(|step| !missing(step)) {
        for statement in statements(sql) {
            execute(store, &statement).await?;
        }
        let done = store.reading().query("INSERT INTO trellis_migrations (version, name) VALUES (?, ?)");
        store.within(store.query_timeout, done.bind(version).bind(name).execute()).await?;
        applied.push(name.to_owned());
    }
    Ok(applied)
}

/// Looks first: a user without the right to make databases may have been given one.
async fn create_database(store: &ClickHouseStore) -> Result<(), StoreError> {
    let name = Identifier(&store.database);
    let found: Vec<Found> = queries::rows(store, store.server().query("EXISTS DATABASE ?").bind(name)).await?;
    if found.iter().any(|found| found.result == 1) {
        return Ok(());
    }
    let create = store.server().query("CREATE DATABASE IF NOT EXISTS ?").bind(name);
    store.within(store.query_timeout, create.execute()).await
}

async fn execute(store: &ClickHouseStore, statement: &str) -> Result<(), StoreError> {
    store.within(store.query_timeout, store.reading().query_raw(statement).execute()).await
}

/// The tables that a file of ours makes.
fn tables(sql: &str) -> Vec<String> {
    let name = |statement: &str| Some(statement.trim().strip_prefix(CREATE)?.split_whitespace().next()?.to_owned());
    statements(sql).iter().filter_map(|statement| name(statement)).collect()
}

/// The statements of a file of ours: lines that begin with `--` are comments, and a `;` at the end of a line ends a
/// statement.
fn statements(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut open = String::new();
    for line in sql.lines().filter(|line| !line.trim_start().starts_with("--")) {
        let (text, ends) = line.trim_end().strip_suffix(';').map_or((line, false), |text| (text, true));
        open.push_str(text);
        open.push('\n');
        if ends {
            statements.push(std::mem::take(&mut open));
        }
    }
    statements.push(open);
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_its_statements() {
        assert_eq!(statements("-- a;\nA (\n  -- b;\n  'c;d'\n);\n\nB;\n--\n"), ["A (\n  'c;d'\n)\n", "\nB\n"]);
        assert_eq!(statements("A"), ["A\n"]);
        for (_, name, sql) in MIGRATIONS {
            let repeatable =
                [CREATE, "ALTER TABLE clicks MODIFY COLUMN", "ALTER TABLE clicks ADD COLUMN IF NOT EXISTS"];
            let safe = |s: &String| repeatable.iter().any(|begin| s.trim_start().starts_with(begin));
            assert!(statements(sql).iter().all(safe), "{name}");
        }
        assert_eq!(tables(MIGRATIONS[0].2), ["clicks"]);
    }

    /// For each table what stands between its brackets, and what stands behind, in single words. The engine is told
    /// apart by what each version is compared by.
    fn shapes(files: &[&str]) -> Vec<(String, String, String)> {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shapes = Vec::new();
        for statement in files.iter().flat_map(|sql| statements(sql)) {
            if let Some(changed) = statement.trim().strip_prefix("ALTER TABLE clicks MODIFY COLUMN ") {
                let (column, rest) = changed.split_once(' ').unwrap();
                let (_, body, _): &mut (String, String, String) = &mut shapes[0];
                let at = body.find(&format!(" {column} ")).unwrap() + 1;
                let old = body[at..].split(", ").next().unwrap().to_owned();
                *body = body.replace(&old, &format!("{column} {}", words(rest)));
            } else if let Some(added) = statement.trim().strip_prefix("ALTER TABLE clicks ADD COLUMN IF NOT EXISTS ") {
                let (column, before) = added.split_once(" AFTER ").unwrap();
                let (_, body, _): &mut (String, String, String) = &mut shapes[0];
                let at = body.find(&format!(" {} ", before.trim())).unwrap();
                let end = at + body[at..].find(", ").unwrap() + 2;
                body.insert_str(end, &format!("{}, ", words(column)));
            } else if let Some((body, behind)) = statement.split_once("\n)\nENGINE = ") {
                let (head, body) = body.split_once("\n(\n").unwrap();
                let name = head.trim().strip_prefix(CREATE).unwrap().split(' ').next().unwrap();
                let (engine, behind) = behind.split_once('\n').unwrap();
                let version = engine.rsplit(['(', ' ']).next().unwrap();
                shapes.push((
                    name.replace("_local", ""),
                    format!(" {}", words(body)),
                    words(&format!("{version} {behind}")),
                ));
            }
        }
        shapes
    }

    #[test]
    fn the_tables_of_a_cluster_are_those_of_a_single_server() {
        let cluster = [
            include_str!("../../../schema/clickhouse/cluster/001_clicks.sql"),
            include_str!("../../../schema/clickhouse/cluster/002_rollups.sql"),
        ];
        let single = shapes(&MIGRATIONS.map(|(_, _, sql)| sql));
        assert_eq!(single.len(), 4);
        let behind =
            |shape: (String, String, String)| (shape.0, shape.1, shape.2.replace("non_replicated", "replicated"));
        assert_eq!(shapes(&cluster), single.into_iter().map(behind).collect::<Vec<_>>());
        for sql in cluster.iter().flat_map(|sql| statements(sql)) {
            let name = sql.trim().strip_prefix(CREATE).unwrap().split(' ').next().unwrap();
            let expected = match name.strip_suffix("_local") {
                Some(of) => format!(
                    "ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{{database}}/{of}', '{{replica}}', "
                ),
                None => format!("Distributed('{{cluster}}', currentDatabase(), {name}_local, "),
            };
            assert!(sql.contains(&format!("ENGINE = {expected}")) && sql.contains(" ON CLUSTER '{cluster}'"), "{sql}");
        }
    }

    #[test]
    fn steps_are_numbered_as_their_files() {
        for (i, (version, name, _)) in MIGRATIONS.iter().enumerate() {
            assert_eq!(*version as usize, i + 1);
            assert!(name.starts_with(&format!("{version:03}_")), "{name}");
        }
    }
}
