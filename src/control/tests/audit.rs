//! The audit log at the router: what has an entry, when it is answered, who sees it, and what happens while it cannot be kept.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::BoxFuture;
use crate::catalog::CatalogError;
use crate::catalog::audit::{
    AuditEntry, AuditFilter, AuditPage, AuditStore, AuditWrite, Begun, Keep, KeptAnswer, Keyed, RequestKey,
};
use crate::config::Audit;

const CONFIG: Audit = Audit {
    flush_every: Duration::from_millis(100),
    flush_entries: 100,
    retention: Duration::from_secs(86_400),
    entries_max: 1000,
    bytes_max: 1 << 20,
    idempotency_max: 1000,
};

/// Tests write one after the other.
pub(super) const QUICK: Audit = Audit { flush_every: Duration::from_millis(1), ..CONFIG };

/// A request that is known: its digest, the process that is at it, and the answer.
pub(super) type Known = ([u8; 32], u64, Option<KeptAnswer>);

/// The log in memory.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) away: AtomicBool,
    pub(super) entries: Mutex<Vec<AuditEntry>>,
    /// How many entries came together.
    batches: Mutex<Vec<usize>>,
    pub(super) known: Mutex<BTreeMap<(String, String), Known>>,
}

impl Memory {
    fn there(&self) -> Result<(), CatalogError> {
        let away = self.away.load(Ordering::Relaxed);
        if away { Err(CatalogError::Unavailable("the disk is full".into())) } else { Ok(()) }
    }

    fn actions(&self) -> Vec<(String, u16)> {
        self.entries.lock().unwrap().iter().map(|entry| (entry.action.clone(), entry.status)).collect()
    }
}

impl AuditStore for Memory {
    fn write(&self, batch: Arc<Vec<AuditWrite>>, _: Keep) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(async move {
            self.there()?;
            self.batches.lock().unwrap().push(batch.len());
            let mut entries = self.entries.lock().unwrap();
            for AuditWrite { entry, answer } in &*batch {
                let sequence = entries.len() as u64 + 1;
                entries.push(AuditEntry { sequence, ..entry.clone() });
                if let Some((of, answer)) = answer {
                    let mut known = self.known.lock().unwrap();
                    known.get_mut(&(of.actor.clone(), of.key.clone())).unwrap().2 = Some(answer.clone());
                }
            }
            Ok(())
        })
    }

    fn forget(&self, _: Keep) -> BoxFuture<'_, Result<bool, CatalogError>> {
        Box::pin(async { self.there().map(|()| false) })
    }

    fn page(&self, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, CatalogError>> {
        Box::pin(async move {
            self.there()?;
            let mut entries = self.entries.lock().unwrap().clone();
            if !filter.oldest_first {
                entries.reverse();
            }
            let behind = |sequence: u64| match filter.behind {
                Some(behind) => {
                    if filter.oldest_first {
                        sequence > behind
                    } else {
                        sequence < behind
                    }
                }
                None => true,
            };
            entries.retain(|e| behind(e.sequence) && filter.fits(e.at_ms, &e.actor, &e.target, e.org.as_deref()));
            let more = entries.len() > filter.limit;
            entries.truncate(filter.limit);
            Ok(AuditPage { next: entries.last().filter(|_| more).map(|entry| entry.sequence), entries })
        })
    }

    fn begin(&self, keyed: Keyed) -> BoxFuture<'_, Result<Begun, CatalogError>> {
        Box::pin(async move {
            self.there()?;
            let mut known = self.known.lock().unwrap();
            let name = (keyed.of.actor, keyed.of.key);
            Ok(match known.get(&name) {
                None => {
                    known.insert(name, (keyed.digest, keyed.run, None));
                    Begun::New
                }
                Some((digest, ..)) if *digest != keyed.digest => Begun::Mismatch,
                Some((_, _, Some(answer))) => Begun::Answered(answer.clone()),
                Some((_, run, None)) if *run == keyed.run => Begun::InFlight,
                Some(_) => Begun::Interrupted,
            })
        })
    }

    fn release(&self, of: RequestKey) -> BoxFuture<'_, Result<(), CatalogError>> {
        self.known.lock().unwrap().remove(&(of.actor, of.key));
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_made_has_an_entry_and_what_was_refused_or_read_has_none() {
    let bench = Bench::new().await;
    bench.link("a").await;
    bench.api("PATCH", "/links/a", r#"{"paused":true}"#).await;
    for (method, path, body) in [
        ("GET", "/links/a", ""),
        ("POST", "/links", r#"{"slug":"a","url":"https://a.example/"}"#),
        ("POST", "/links", r#"{"slug":7}"#),
        ("PATCH", "/links/b", "{}"),
        ("DELETE", "/links/b", ""),
        ("POST", "/explain", r#"{"link":"a"}"#),
        ("POST", "/verify", r#"{"from":"5","to":"60005","dry_run":true}"#),
    ] {
        bench.api(method, path, body).await;
    }
    assert_eq!(bench.send("DELETE", "/api/v1/links/a", &[], "").await.status, StatusCode::UNAUTHORIZED);
    bench.api("POST", "/verify", r#"{"from":"5","to":"60005"}"#).await;
    bench.api("DELETE", "/links/a", "").await;
    let expected =
        [("POST /links", 201), ("PATCH /links/{slug}", 200), ("POST /verify", 200), ("DELETE /links/{slug}", 204)];
    assert_eq!(bench.audit.actions(), expected.map(|(action, status)| (action.to_owned(), status)));
    let entries = bench.audit.entries.lock().unwrap().clone();
    let entry = &entries[1];
    assert_eq!(
        (entry.actor.as_str(), entry.org.as_deref(), entry.release),
        ("control token", Some("default"), Some(2))
    );
    let after: Value = serde_json::from_str(entry.after.as_deref().unwrap()).unwrap();
    assert_eq!((&after["paused"], entry.at_ms), (&json!(true), 1_700_000_000_000));
    assert_eq!((entries[2].release, entries[2].org.as_deref()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn every_answer_names_its_request_and_so_does_its_entry() {
    let bench = Bench::new().await;
    let bearer = format!("Bearer {TOKEN}");
    let long = "x".repeat(129);
    let key = format!("wdn_sk_000000000000_{}", "x".repeat(32));
    let mut made = Vec::new();
    for (sent, taken) in [("req-7", true), ("a b", false), (&long, false), (&key, false), ("", false)] {
        let headers = [("authorization", bearer.as_str()), ("x-request-id", sent), ("content-type", JSON)];
        let answer = bench.send("POST", "/api/v1/keys", &headers, r#"{"scopes":["ingress"]}"#).await;
        let shown = answer.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!((answer.status, shown == sent), (StatusCode::CREATED, taken), "{sent}");
        assert!(!shown.is_empty());
        made.push(shown);
    }
    for path in ["/health", "/metrics", "/nothing", "/api/v1/links"] {
        assert!(bench.send("GET", path, &[], "").await.headers.contains_key("x-request-id"), "{path}");
    }
    let entries = bench.audit.entries.lock().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.request_id.clone()).collect::<Vec<_>>(), made);
}

#[tokio::test(start_paused = true)]
async fn entries_of_keys_say_what_changed_and_hold_no_secret() {
    let bench = Bench::new().await;
    let (secret, key) = bench.key("acme", &["ingress"]).await;
    let id = key["id"].as_str().unwrap();
    bench.api("PATCH", &format!("/keys/{id}"), r#"{"name":"gateway"}"#).await;
    let rotated = bench.api("POST", &format!("/keys/{id}/rotate"), "{}").await.json();
    bench.api("DELETE", &format!("/keys/{id}"), "").await;
    let entries = bench.audit.entries.lock().unwrap().clone();
    let told = |text: &Option<String>, field: &str| {
        text.as_ref().map(|text| serde_json::from_str::<Value>(text).unwrap()[field].clone())
    };
    for entry in &entries {
        assert_eq!((entry.target.clone(), entry.org.as_deref()), (format!("key {id}"), Some("acme")), "{entry:?}");
    }
    let [made, named, turned, ended] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((told(&made.before, "name"), told(&made.after, "name")), (None, Some(json!(""))));
    assert_eq!((told(&named.before, "name"), told(&named.after, "name")), (Some(json!("")), Some(json!("gateway"))));
    assert_eq!((told(&turned.before, "version"), told(&turned.after, "version")), (Some(json!(2)), Some(json!(3))));
    assert_eq!((told(&ended.before, "revoked_at"), &ended.after), (Some(Value::Null), &None));
    let all = format!("{entries:?}");
    for secret in [secret.as_str(), rotated["secret"].as_str().unwrap(), TOKEN] {
        assert!(!all.contains(secret.rsplit('_').next().unwrap()), "a secret is in the log");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_log_cannot_be_kept_nothing_is_changed_and_no_entry_is_lost() {
    let bench = Bench::new().await;
    bench.audit.away.store(true, Ordering::Relaxed);
    // Nobody knew: it was done, and says so.
    let first = bench.link("a").await;
    first.assert_problem(503, "audit_unavailable");
    assert!(first.json()["detail"].as_str().unwrap().contains("it was done"), "{}", first.text);
    let second = bench.link("b").await;
    second.assert_problem(503, "audit_unavailable");
    assert!(second.json()["detail"].as_str().unwrap().contains("nothing was changed"), "{}", second.text);
    bench.api("GET", "/audit", "").await.assert_problem(503, "audit_unavailable");
    let links = bench.api("GET", "/links", "").await.json();
    assert_eq!((links["links"].as_array().unwrap().len(), &links["links"][0]["slug"]), (1, &json!("a")));
    bench.audit.away.store(false, Ordering::Relaxed);
    assert_eq!(bench.link("c").await.status, StatusCode::CREATED);
    let entries = bench.audit.entries.lock().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.release).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the runtime's own time, which is paused")]
async fn entries_gather_for_100_ms_or_until_there_are_100_of_them() {
    let store = Arc::new(Memory::default());
    let log = AuditLog::start(store.clone(), CONFIG, Arc::new(Noon), Arc::default());
    let write = || AuditWrite { entry: AuditEntry::default(), answer: None };
    let began = tokio::time::Instant::now();
    let many = async |number: usize| {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..number {
            let log = Arc::clone(&log);
            tasks.spawn(async move {
                let _place = log.admit().await.unwrap();
                log.write(write()).await
            });
        }
        tasks.join_all().await.into_iter().for_each(|written| written.unwrap());
    };
    many(1).await;
    many(1).await;
    many(3).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits where there is nobody else to wait for");
    assert_eq!(*store.batches.lock().unwrap(), [1, 1, 3]);
    // It has no entry yet.
    let under_way = log.admit().await.unwrap();
    many(3).await;
    assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < Duration::from_millis(110));
    assert_eq!(*store.batches.lock().unwrap(), [1, 1, 3, 3]);
    many(230).await;
    assert_eq!(*store.batches.lock().unwrap(), [1, 1, 3, 3, 100, 100, 30]);
    assert!(began.elapsed() < Duration::from_millis(220), "100 do not wait: {:?}", began.elapsed());
    drop(under_way);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_read_page_by_page_and_a_key_sees_its_organisation() {
    let bench = Bench::new().await;
    bench.link("a").await;
    let (acme, made) = bench.key("acme", &["admin"]).await;
    let (reader, _) = bench.key("acme", &["links:read", "stats:read"]).await;
    bench.api("DELETE", "/links/a", "").await;
    let sequences = |page: &Value| {
        let entries = page["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let first = bench.api("GET", "/audit?limit=3", "").await.json();
    assert_eq!((sequences(&first), &first["next_cursor"]), (vec![4, 3, 2], &json!("a1.n.2")));
    let last = bench.api("GET", "/audit?limit=3&cursor=a1.n.2", "").await.json();
    assert_eq!((sequences(&last), &last["next_cursor"]), (vec![1], &Value::Null));
    let oldest = bench.api("GET", "/audit?limit=2&order=oldest", "").await.json();
    assert_eq!((sequences(&oldest), &oldest["next_cursor"]), (vec![1, 2], &json!("a1.o.2")));
    let id = made["id"].as_str().unwrap();
    let of_key = bench.api("GET", &format!("/audit?target=key%20{id}&actor=control%20token"), "").await.json();
    assert_eq!(sequences(&of_key), [2]);
    let at = 1_700_000_000_000_u64;
    assert_eq!(sequences(&bench.api("GET", &format!("/audit?from={}", at + 1), "").await.json()), Vec::<u64>::new());
    assert_eq!(sequences(&bench.api("GET", &format!("/audit?from={at}&to={}", at + 1), "").await.json()).len(), 4);
    for bad in ["limit=0", "from=x", "from=5&to=5", "order=up", "nope=1"] {
        bench.api("GET", &format!("/audit?{bad}"), "").await.assert_problem(400, "invalid_parameter");
    }
    for bad in ["cursor=a1.o.2", "cursor=a1.n.02", "cursor=7", "order=oldest&cursor=a1.n.2"] {
        bench.api("GET", &format!("/audit?{bad}"), "").await.assert_problem(400, "invalid_cursor");
    }
    let theirs = bench.with(&acme, "GET", "/audit", "").await.json();
    assert_eq!(sequences(&theirs), [3, 2], "what the operator did to their keys too");
    bench.with(&reader, "GET", "/audit", "").await.assert_problem(403, "forbidden");
    let export = bench.api("GET", "/audit/export", "").await;
    assert_eq!(export.headers[CONTENT_TYPE], "application/x-ndjson");
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(bench.with(&acme, "GET", "/audit/export", "").await.text.lines().count(), 2);
}
