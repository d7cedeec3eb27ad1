//! API keys in memory: the embedded Warden. One snapshot of all, replaced by each edit; a check holds no lock.
//!
//! A secret is made here, handed out once ([`NewKey`]) and kept nowhere; what is kept is its digest. Revoked keys stay
//! listed; when `warden.keys_max` is reached, the one that was revoked longest ago makes room.

mod changes;

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;

pub use self::changes::{Changes, Since};
use super::CatalogError;
use super::warden::{Checked, Peek, Unavailable, Warden, Why};
use crate::BoxFuture;
use crate::click::Scopes;
use crate::click::key::{
    ALPHABET, Digest, Digester, Grant, ID_BYTES, Key, KeyFields, PREFIX, Presented, RawKey, RawRotation, SECRET_BYTES,
};
use crate::click::link::FieldError;
use crate::clock::Clock;
use crate::config::Secret;

/// A key as it is checked.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// What is known of it.
    pub key: Key,
    grant: Arc<Grant>,
    /// While only the secret from before its rotation fits: the grant ends with it.
    earlier_grant: Arc<Grant>,
}

impl KeyEntry {
    fn new(key: Key) -> Self {
        let grant = Grant::of(&key);
        let until_ms = key.earlier.map(|(_, until_ms)| until_ms);
        let ends = grant.expires_ms.into_iter().chain(until_ms).min();
        let earlier_grant = Arc::new(Grant { expires_ms: ends, ..grant.clone() });
        Self { key, grant: Arc::new(grant), earlier_grant }
    }
}

type ById = HashMap<Box<str>, Arc<KeyEntry>, foldhash::quality::RandomState>;

/// A key that was just made or rotated, and the only copy of its secret.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What is kept of it.
    pub entry: Arc<KeyEntry>,
    /// The whole key, to be shown once.
    pub secret: Secret,
}

/// What can go wrong with an edit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    /// Fields that are wrong.
    #[error("the key has wrong fields")]
    Fields(Vec<FieldError>),
    /// No such key.
    #[error("there is no such key")]
    Unknown,
    /// It was revoked, which is for good.
    #[error("the key is revoked; make a new one")]
    Revoked,
    /// `warden.keys_max` is reached.
    #[error("this node has {0} keys that are not revoked, the most that `warden.keys_max` allows")]
    Full(usize),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The port: where keys are kept.
pub trait KeyStore: Send + Sync {
    /// Every key, in any order.
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>>;
    /// Keeps a key, over an earlier state of it.
    fn put_key<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>>;
    /// Forgets a key.
    fn delete_key<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), CatalogError>>;
}

/// An id that no key has.
const NOBODY: &str = "------------";

/// All keys of this node.
pub struct Keys {
    all: ArcSwap<ById>,
    /// What is compared with where there is no key: no digest fits it.
    nobody: Arc<KeyEntry>,
    digester: Digester,
    keys_max: usize,
    clock: Arc<dyn Clock>,
    store: Arc<dyn KeyStore>,
    /// Held over one edit: catalog and memory change in the same order.
    edits: Mutex<()>,
    changes: Changes,
}

impl Keys {
    /// Loads every key. `pepper` may be empty; with another one than before, no key fits.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn open(
        store: Arc<dyn KeyStore>,
        pepper: &Secret,
        keys_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        let all = store.load_keys().await?.into_iter();
        let all: ById = all.map(|key| (key.id.as_str().into(), Arc::new(KeyEntry::new(key)))).collect();
        let digester = Digester::new(pepper.expose().as_bytes());
        let nobody = Arc::new(KeyEntry::new(nobody()));
        Ok(Self {
            all: ArcSwap::from_pointee(all),
            nobody,
            digester,
            keys_max,
            clock,
            store,
            edits: Mutex::new(()),
            changes: Changes::new(),
        })
    }

    /// Checks a key. Whatever is wrong with it, the work is the same: one digest, one look-up, two comparisons. Where there
    /// is no key of its id, they are with that of nobody.
    fn check(&self, presented: &[u8], now_ms: u64) -> Result<Arc<Grant>, Why> {
        let digest = self.digester.digest(presented);
        self.judge(Presented::parse(presented).map(|parsed| parsed.id), &digest, now_ms)
    }

    /// Checks a key of which only the id and the SHA-256 of the whole are known: another node asks.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn check_digest(&self, id: &str, sha_256: Digest) -> Result<Arc<Grant>, Why> {
        self.judge(Some(id), &self.digester.seal(sha_256), self.clock.wall_ms())
    }

    /// What has changed, for nodes that keep what they were told.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    fn judge(&self, asked: Option<&str>, digest: &Digest, now_ms: u64) -> Result<Arc<Grant>, Why> {
        let all = self.all.load();
        let id = asked.unwrap_or(NOBODY);
        let found = all.get(id);
        if found.is_none() {
            // A look-up that finds something compares the ids.
            black_box(black_box(NOBODY) == id);
        }
        let entry = black_box(found.unwrap_or(&self.nobody));
        let key = &entry.key;
        let (earlier, until_ms) = key.earlier.unwrap_or((Digest([0; 32]), 0));
        let is_now = key.digest.ct_eq(digest);
        let is_earlier = earlier.ct_eq(digest) & u8::from(now_ms < until_ms).ct_eq(&1);
        // Found out before anything is decided by it: the optimiser would leave it out where there is no key.
        let fits = black_box(bool::from(is_now | is_earlier));
        let (is_revoked, is_expired) =
            black_box((key.revoked_ms.is_some(), key.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms)));
        let grant = black_box(Arc::clone(if bool::from(is_now) { &entry.grant } else { &entry.earlier_grant }));
        match (asked, found) {
            (None, _) => Err(Why::Malformed),
            (_, None) => Err(Why::Unknown),
            _ if !fits => Err(Why::WrongSecret),
            _ if is_revoked => Err(Why::Revoked),
            _ if is_expired => Err(Why::Expired),
            _ => Ok(grant),
        }
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<KeyEntry>> {
        self.all.load().get(id).cloned()
    }

    /// Keys behind `after` in the order of their ids, at most `limit`; of one organisation, if it is given.
    #[must_use]
    pub fn list(&self, org: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<KeyEntry>> {
        let all = self.all.load();
        let wanted = |entry: &&Arc<KeyEntry>| {
            org.is_none_or(|org| entry.key.org == org) && after.is_none_or(|after| entry.key.id.as_str() > after)
        };
        let mut keys: Vec<_> = all.values().filter(wanted).map(Arc::clone).collect();
        keys.sort_unstable_by(|a, b| a.key.id.cmp(&b.key.id));
        keys.truncate(limit);
        keys
    }

    /// Makes a key; good when this returns.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is changed then.
    pub async fn create(&self, raw: RawKey) -> Result<NewKey, KeyError> {
        let _edit = self.edits.lock().await;
        let now_ms = self.clock.wall_ms();
        let fields = KeyFields::check(raw, None, now_ms).map_err(KeyError::Fields)?;
        self.make_room().await?;
        let id = self.free_id()?;
        let (secret, digest) = self.secret(&id)?;
        let KeyFields { org, name, scopes, rate, expires_ms } = fields;
        let key = Key {
            id,
            org,
            name,
            scopes,
            rate,
            expires_ms,
            revoked_ms: None,
            digest,
            earlier: None,
            version: 1,
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        Ok(NewKey { entry: self.keep(key).await?, secret })
    }

    /// Changes what is sent; live when this returns.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is changed then.
    pub async fn change(&self, id: &str, change: RawKey) -> Result<Arc<KeyEntry>, KeyError> {
        self.edit(id, |key, now_ms| {
            let fields = KeyFields::check(change, Some(key), now_ms).map_err(KeyError::Fields)?;
            let KeyFields { org: _, name, scopes, rate, expires_ms } = fields;
            Ok(Key { name, scopes, rate, expires_ms, ..key.clone() })
        })
        .await
    }

    /// Gives the key a new secret; the old one is taken for as long as `rotation` says.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is changed then.
    pub async fn rotate(&self, id: &str, rotation: RawRotation) -> Result<NewKey, KeyError> {
        let mut made = Secret::default();
        let entry = self.edit(id, |key, now_ms| {
            let grace_ms = rotation.check().map_err(KeyError::Fields)?;
            let (secret, digest) = self.secret(&key.id)?;
            made = secret;
            let earlier = (grace_ms > 0).then(|| (key.digest, now_ms.saturating_add(grace_ms)));
            Ok(Key { digest, earlier, ..key.clone() })
        });
        let entry = entry.await?;
        Ok(NewKey { entry, secret: made })
    }

    /// Ends a key, for good. One that is revoked stays as it is.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is changed then.
    pub async fn revoke(&self, id: &str) -> Result<Arc<KeyEntry>, KeyError> {
        let revoke = |key: &Key, now_ms| Ok(Key { revoked_ms: Some(now_ms), earlier: None, ..key.clone() });
        match self.edit(id, revoke).await {
            Err(KeyError::Revoked) => self.get(id).ok_or(KeyError::Unknown),
            revoked => revoked,
        }
    }

    async fn edit(
        &self,
        id: &str,
        change: impl FnOnce(&Key, u64) -> Result<Key, KeyError>,
    ) -> Result<Arc<KeyEntry>, KeyError> {
        let _edit = self.edits.lock().await;
        let entry = self.get(id).ok_or(KeyError::Unknown)?;
        if entry.key.revoked_ms.is_some() {
            return Err(KeyError::Revoked);
        }
        let now_ms = self.clock.wall_ms();
        let key = change(&entry.key, now_ms)?;
        Ok(self.keep(Key { version: key.version + 1, updated_ms: now_ms, ..key }).await?)
    }

    async fn keep(&self, key: Key) -> Result<Arc<KeyEntry>, CatalogError> {
        self.store.put_key(&key).await?;
        let entry = Arc::new(KeyEntry::new(key));
        self.swap(|all| {
            all.insert(entry.key.id.as_str().into(), Arc::clone(&entry));
        });
        // Behind the swap: whoever asks because of it gets the new state.
        self.changes.note(&entry.key.id);
        Ok(entry)
    }

    async fn make_room(&self) -> Result<(), KeyError> {
        let all = self.all.load_full();
        if all.len() < self.keys_max {
            return Ok(());
        }
        let revoked = all.values().filter_map(|entry| Some((entry.key.revoked_ms?, entry.key.id.as_str())));
        let (_, id) = revoked.min().ok_or(KeyError::Full(self.keys_max))?;
        self.store.delete_key(id).await?;
        self.swap(|all| {
            all.remove(id);
        });
        self.changes.note(id);
        Ok(())
    }

    fn swap(&self, change: impl Fn(&mut ById)) {
        self.all.rcu(|all| {
            let mut copy = ById::clone(all);
            change(&mut copy);
            copy
        });
    }

    fn free_id(&self) -> Result<String, CatalogError> {
        loop {
            let id = random_text(ID_BYTES)?;
            if self.get(&id).is_none() {
                return Ok(id);
            }
        }
    }

    /// A new secret for this id: the whole key, and its digest.
    fn secret(&self, id: &str) -> Result<(Secret, Digest), CatalogError> {
        let key = format!("{PREFIX}{id}_{}", random_text(SECRET_BYTES)?);
        let digest = self.digester.digest(key.as_bytes());
        Ok((Secret::new(key), digest))
    }
}

fn nobody() -> Key {
    Key {
        id: NOBODY.into(),
        org: String::new(),
        name: String::new(),
        scopes: Scopes::default(),
        rate: None,
        expires_ms: None,
        revoked_ms: None,
        digest: Digest([0; 32]),
        earlier: None,
        version: 0,
        created_ms: 0,
        updated_ms: 0,
    }
}

/// Letters and digits, each as likely as any other.
fn random_text(length: usize) -> Result<String, CatalogError> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0_u8; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes)
            .map_err(|error| CatalogError::Unavailable(format!("the system gives no random bytes: {error}")))?;
        // 248 is four times 62: what lies beyond would favour some.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

impl Warden for Keys {
    fn peek(&self, presented: &[u8], now_ms: u64) -> Peek {
        self.check(presented, now_ms).map_or_else(Peek::Denied, Peek::Granted)
    }

    fn load<'a>(&'a self, presented: &'a [u8]) -> BoxFuture<'a, Result<Checked, Unavailable>> {
        let checked = self.check(presented, self.clock.wall_ms()).map_or_else(Checked::Denied, Checked::Granted);
        Box::pin(std::future::ready(Ok(checked)))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.all.load().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
