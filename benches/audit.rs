//! What an entry of the audit log costs on this disk: alone, and among a hundred; and what beginning a request with an
//! `Idempotency-Key` does. Each is one commit, forced to the disk. `cargo bench --bench audit`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use trellis::backend::sqlite_catalog::SqliteCatalog;
use trellis::catalog::AuditStore as _;
use trellis::catalog::audit::{AuditEntry, AuditWrite, Begun, Keep, Keyed, RequestKey};

fn entry() -> AuditWrite {
    let document = format!("{{\"org\":\"acme\",\"url\":\"https://a.example/{}\"}}", "x".repeat(400));
    let entry = AuditEntry {
        at_ms: 1_700_000_000_000,
        request_id: "046f2b36cf9cebfa5426cc25df3d98b5".into(),
        actor: "key abcdefgh1234".into(),
        org: Some("acme".into()),
        action: "PATCH /links/{slug}".into(),
        target: "link */spring".into(),
        status: 200,
        before: Some(document.clone()),
        after: Some(document),
        ..AuditEntry::default()
    };
    AuditWrite { entry, answer: None }
}

fn write(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteCatalog::open(&folder.path().join("catalog.db")).expect("a catalog");
    let keep = Keep { from_ms: 0, entries_max: 1_000_000, bytes_max: 1 << 30 };
    let mut group = c.benchmark_group("audit write");
    for entries in [1, 100] {
        let batch = Arc::new(vec![entry(); entries]);
        group.bench_function(format!("{entries} together"), |b| {
            b.iter(|| runtime.block_on(store.write(Arc::clone(&batch), keep)).expect("written"));
        });
    }
    let mut number = 0_u64;
    group.bench_function("a request begun", |b| {
        b.iter(|| {
            number += 1;
            let of = RequestKey { actor: "control token".into(), key: number.to_string() };
            let keyed = Keyed { of, digest: [7; 32], now_ms: number, from_ms: 0, run: number, max: 10_000 };
            assert_eq!(runtime.block_on(store.begin(keyed)).expect("begun"), Begun::New);
        });
    });
    group.finish();
}

criterion_group!(benches, write);
criterion_main!(benches);
