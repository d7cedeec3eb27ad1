//! Keys against a store in memory, and against one that fails.

use std::collections::BTreeMap;
use std::sync::Mutex as Lock;

use super::*;
use crate::click::Scope;
use crate::testing::ManualClock;

/// Keeps keys in memory, and fails when told to.
#[derive(Default)]
struct Shelf {
    keys: Lock<BTreeMap<String, Key>>,
    fails: std::sync::atomic::AtomicBool,
}

impl Shelf {
    fn answer<T: Send>(&self, work: impl FnOnce(&mut BTreeMap<String, Key>) -> T) -> Result<T, CatalogError> {
        match self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(CatalogError::Unavailable("told to".into())),
            false => Ok(work(&mut self.keys.lock().unwrap())),
        }
    }
}

impl KeyStore for Shelf {
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>> {
        let answer = self.answer(|keys| keys.values().cloned().collect());
        Box::pin(std::future::ready(answer))
    }

    fn put_key<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>> {
        let answer = self.answer(|keys| drop(keys.insert(key.id.clone(), key.clone())));
        Box::pin(std::future::ready(answer))
    }

    fn delete_key<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        let answer = self.answer(|keys| drop(keys.remove(id)));
        Box::pin(std::future::ready(answer))
    }
}

struct World {
    keys: Keys,
    shelf: Arc<Shelf>,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new(keys_max: usize) -> Self {
        let (shelf, clock) = (Arc::new(Shelf::default()), Arc::new(ManualClock::new(NOW_MS)));
        let keys = open(&shelf, "", keys_max, &clock).await;
        Self { keys, shelf, clock }
    }

    fn peek(&self, key: &Secret) -> Peek {
        self.keys.peek(key.expose().as_bytes(), self.clock.wall_ms())
    }
}

const NOW_MS: u64 = 1_795_262_400_000;

async fn open(shelf: &Arc<Shelf>, pepper: &str, keys_max: usize, clock: &Arc<ManualClock>) -> Keys {
    let (store, clock) = (Arc::clone(shelf) as Arc<dyn KeyStore>, Arc::clone(clock) as Arc<dyn Clock>);
    Keys::open(store, &Secret::new(pepper), keys_max, clock).await.unwrap()
}

fn raw(json: serde_json::Value) -> RawKey {
    serde_json::from_value(json).unwrap()
}

fn ingress() -> RawKey {
    raw(serde_json::json!({"org": "acme", "scopes": ["ingress"]}))
}

fn granted(peek: Peek) -> Arc<Grant> {
    match peek {
        Peek::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_key_is_good_when_it_was_made_and_after_a_restart_and_its_secret_is_kept_nowhere() {
    let world = World::new(10).await;
    let made = world.keys.create(ingress()).await.unwrap();
    let (key, secret) = (&made.entry.key, made.secret.expose());
    assert_eq!((secret.len(), Presented::parse(secret.as_bytes()).unwrap().id), (52, key.id.as_str()));
    let grant = granted(world.peek(&made.secret));
    assert_eq!((&*grant.key_id, &*grant.org, grant.expires_ms), (key.id.as_str(), "acme", None));
    assert!(grant.scopes.allow(Scope::Ingress) && !grant.scopes.allow(Scope::LinksRead));
    let kept = format!("{:?} {made:?} {:?}", world.shelf.keys.lock().unwrap(), world.keys);
    assert!(kept.contains(&key.id) && !kept.contains(secret.rsplit('_').next().unwrap()), "{kept}");
    let again = open(&world.shelf, "", 10, &world.clock).await;
    assert_eq!(again.peek(secret.as_bytes(), NOW_MS), Peek::Granted(grant));
    let peppered = open(&world.shelf, "a pepper of some length", 10, &world.clock).await;
    assert_eq!(peppered.peek(secret.as_bytes(), NOW_MS), Peek::Denied(Why::WrongSecret));
    let loaded = again.load(secret.as_bytes()).await;
    assert!(matches!(loaded, Ok(Checked::Granted(_))), "{loaded:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_told_apart_inside() {
    let world = World::new(10).await;
    let peek = |text: &str| world.keys.peek(text.as_bytes(), world.clock.wall_ms());
    let until = raw(serde_json::json!({"scopes": ["admin"], "expires_at": "2026-11-21T12:00:00.005Z"}));
    let short = world.keys.create(until).await.unwrap();
    let other = world.keys.create(ingress()).await.unwrap();
    let secret = |key: &NewKey| key.secret.expose().rsplit('_').next().unwrap().to_owned();
    let mixed = format!("wdn_sk_{}_{}", short.entry.key.id, secret(&other));
    assert_eq!(peek("wdn_sk_"), Peek::Denied(Why::Malformed));
    assert_eq!(peek(""), Peek::Denied(Why::Malformed));
    assert_eq!(peek(&format!("wdn_sk_000000000000_{}", secret(&other))), Peek::Denied(Why::Unknown));
    assert_eq!(peek(&mixed), Peek::Denied(Why::WrongSecret));
    assert_eq!(granted(world.peek(&short.secret)).expires_ms, Some(NOW_MS + 5));
    world.clock.advance(std::time::Duration::from_millis(5));
    assert_eq!(world.peek(&short.secret), Peek::Denied(Why::Expired));
    world.keys.revoke(&other.entry.key.id).await.unwrap();
    assert_eq!(world.peek(&other.secret), Peek::Denied(Why::Revoked));
    assert_eq!(peek(&format!("wdn_sk_{}_{}", other.entry.key.id, secret(&short))), Peek::Denied(Why::WrongSecret));
}

#[tokio::test]
async fn a_rotated_key_takes_its_old_secret_until_the_grace_is_over() {
    let world = World::new(10).await;
    let first = world.keys.create(ingress()).await.unwrap();
    let id = &first.entry.key.id;
    let second = world.keys.rotate(id, RawRotation { grace_s: Some(1) }).await.unwrap();
    assert_eq!((&second.entry.key.id, second.entry.key.version), (id, 2));
    assert_eq!(granted(world.peek(&first.secret)).expires_ms, Some(NOW_MS + 1000), "a cache may not keep it longer");
    assert_eq!(granted(world.peek(&second.secret)).expires_ms, None);
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.peek(&first.secret), Peek::Denied(Why::WrongSecret));
    let third = world.keys.rotate(id, RawRotation::default()).await.unwrap();
    assert_eq!(world.peek(&second.secret), Peek::Denied(Why::WrongSecret));
    granted(world.peek(&third.secret));
    let fourth = world.keys.rotate(id, RawRotation { grace_s: Some(60) }).await.unwrap();
    world.keys.revoke(id).await.unwrap();
    assert_eq!(world.peek(&fourth.secret), Peek::Denied(Why::Revoked));
    assert_eq!(world.peek(&third.secret), Peek::Denied(Why::WrongSecret), "a revoked key has no grace");
}

#[tokio::test]
async fn a_revoked_key_stays_listed_and_is_changed_no_more() {
    let world = World::new(10).await;
    let key = world.keys.create(ingress()).await.unwrap();
    let id = &key.entry.key.id;
    let revoked = world.keys.revoke(id).await.unwrap();
    assert_eq!(revoked.key.revoked_ms, Some(NOW_MS));
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.keys.revoke(id).await.unwrap().key, revoked.key, "the time of the first one stays");
    assert!(matches!(world.keys.change(id, RawKey::default()).await, Err(KeyError::Revoked)));
    assert!(matches!(world.keys.rotate(id, RawRotation::default()).await, Err(KeyError::Revoked)));
    assert!(matches!(world.keys.revoke("nobody").await, Err(KeyError::Unknown)));
    assert_eq!(world.keys.list(None, None, 10).len(), 1);
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name_and_is_live_at_once() {
    let world = World::new(10).await;
    let limited =
        raw(serde_json::json!({"org": "acme", "name": "gateway", "scopes": ["ingress"], "rate": {"per_second": 5}}));
    let made = world.keys.create(limited).await.unwrap();
    let id = &made.entry.key.id;
    world.keys.change(id, raw(serde_json::json!({"scopes": ["stats:read"]}))).await.unwrap();
    let grant = granted(world.peek(&made.secret));
    assert!(grant.scopes.allow(Scope::StatsRead) && !grant.scopes.allow(Scope::Ingress));
    assert_eq!(grant.rate.map(|rate| rate.per_second), Some(5));
    let changed = world.keys.change(id, raw(serde_json::json!({"rate": null}))).await.unwrap();
    assert_eq!((changed.key.name.as_str(), changed.key.rate, changed.key.version), ("gateway", None, 3));
    let other_org = world.keys.change(id, raw(serde_json::json!({"org": "other"}))).await;
    assert!(matches!(other_org, Err(KeyError::Fields(errors)) if errors[0].field == "org"));
}

#[tokio::test]
async fn when_there_is_no_room_the_key_that_was_revoked_longest_ago_goes() {
    let world = World::new(2).await;
    let (first, second) = (world.keys.create(ingress()).await.unwrap(), world.keys.create(ingress()).await.unwrap());
    assert!(matches!(world.keys.create(ingress()).await, Err(KeyError::Full(2))));
    world.keys.revoke(&second.entry.key.id).await.unwrap();
    world.clock.advance(std::time::Duration::from_secs(1));
    world.keys.revoke(&first.entry.key.id).await.unwrap();
    world.keys.create(ingress()).await.unwrap();
    assert_eq!(world.peek(&second.secret), Peek::Denied(Why::Unknown));
    assert_eq!(world.peek(&first.secret), Peek::Denied(Why::Revoked));
    assert_eq!(world.shelf.keys.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_edit_that_is_not_kept_changes_nothing() {
    let world = World::new(10).await;
    let made = world.keys.create(ingress()).await.unwrap();
    let id = &made.entry.key.id;
    world.shelf.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(world.keys.create(ingress()).await, Err(KeyError::Catalog(_))));
    assert!(matches!(world.keys.revoke(id).await, Err(KeyError::Catalog(_))));
    assert!(matches!(world.keys.rotate(id, RawRotation::default()).await, Err(KeyError::Catalog(_))));
    granted(world.peek(&made.secret));
    assert_eq!(world.keys.list(None, None, 10).len(), 1);
}

#[tokio::test]
async fn lists_are_cut_by_organisation_and_by_page() {
    let world = World::new(10).await;
    for org in ["acme", "other", "acme"] {
        world.keys.create(raw(serde_json::json!({"org": org, "scopes": ["ingress"]}))).await.unwrap();
    }
    let ids = |keys: Vec<Arc<KeyEntry>>| keys.into_iter().map(|entry| entry.key.id.clone()).collect::<Vec<_>>();
    let all = ids(world.keys.list(None, None, 10));
    assert!(all.len() == 3 && all.is_sorted());
    assert_eq!(ids(world.keys.list(None, Some(&all[0]), 1)), all[1..2]);
    assert_eq!(
        (world.keys.list(Some("acme"), None, 10).len(), world.keys.list(Some("nobody"), None, 10).len()),
        (2, 0)
    );
}

#[test]
fn ids_and_secrets_use_the_whole_alphabet() {
    let text = random_text(6200).unwrap();
    assert_eq!(text.len(), 6200);
    for letter in ALPHABET {
        let count = text.bytes().filter(|byte| byte == letter).count();
        // 100 are expected; eleven deviations off on one of 62 letters happens to nobody.
        assert!((1..=210).contains(&count), "{} {count}", char::from(*letter));
    }
}
