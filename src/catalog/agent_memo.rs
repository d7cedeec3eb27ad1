//! What user agents say, remembered.

use std::sync::Arc;

use quick_cache::unsync::Cache;

use super::agents::{Agent, Agents};
use crate::click::class::AgentReasons;
use crate::telemetry::caches::{self, CacheShard};

/// User agents remembered by a thread: at some 200 bytes an entry about 2 MB. Real traffic has a few thousand.
const MEMO_ENTRIES: usize = 10_000;

/// Remembers what user agents say; one for each thread, so that it needs no lock.
pub struct AgentMemo {
    agents: Arc<Agents>,
    memo: Cache<Box<[u8]>, Agent>,
    caches: Option<Arc<CacheShard>>,
}

impl AgentMemo {
    /// With shared words and nothing remembered.
    #[must_use]
    pub fn new(agents: Arc<Agents>) -> Self {
        Self { agents, memo: Cache::new(MEMO_ENTRIES), caches: None }
    }

    /// Counts there how often it remembered; the shard is that of its thread.
    #[must_use]
    pub fn counting(self, caches: Arc<CacheShard>) -> Self {
        Self { caches: Some(caches), ..self }
    }

    /// One with the same words and counts, and nothing remembered.
    #[must_use]
    pub fn forgetful(&self) -> Self {
        Self { caches: self.caches.clone(), ..Self::new(Arc::clone(&self.agents)) }
    }

    /// What this user agent says.
    pub fn read(&mut self, ua: &[u8]) -> Agent {
        let remembered = self.memo.get(ua).copied();
        if let Some(caches) = &self.caches {
            caches.count(caches::Cache::Agents, remembered.is_some());
        }
        if let Some(agent) = remembered {
            return agent;
        }
        let agent = self.agents.read(ua);
        self.memo.insert(ua.into(), agent);
        agent
    }

    /// What speaks against a person in this user agent, without its names, which may be remembered or not.
    pub fn reasons(&mut self, ua: &[u8]) -> AgentReasons {
        self.memo.get(ua).map_or_else(|| self.agents.reasons(ua), |agent| agent.reasons)
    }

    /// The words.
    #[must_use]
    pub const fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }
}

impl std::fmt::Debug for AgentMemo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentMemo").field("memo", &self.memo.len()).finish_non_exhaustive()
    }
}
