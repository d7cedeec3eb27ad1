//! An agent by the names that its frame carries: what the edge found out before privacy took the user agent away.
//!
//! Never reads a user agent. The worker asks it for each click whose frame has an agent; bound: one walk over the names of
//! `agents`.

use super::agents::{Agent, BROWSERS, DEVICES, SYSTEMS};
use crate::click::privacy;

impl Agent {
    /// The agent of these names. A name that is not of this program's is `Other`, as for a user agent that it does not know;
    /// an empty one stays empty.
    #[must_use]
    pub fn told(agent: &privacy::Agent<'_>) -> Self {
        Self {
            browser: known(agent.browser, BROWSERS.iter().map(|(_, name)| *name).chain(["Safari"]), "Other"),
            os: known(agent.os, SYSTEMS, "Other"),
            device: known(agent.device, DEVICES, "other"),
            reasons: agent.reasons,
        }
    }
}

fn known(name: &str, of: impl IntoIterator<Item = &'static str>, other: &'static str) -> &'static str {
    if name.is_empty() { "" } else { of.into_iter().find(|known| *known == name).unwrap_or(other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::agents::{Agents, SIGNS};
    use crate::click::class::AgentReasons;

    #[test]
    fn what_an_edge_told_of_an_agent_is_what_a_worker_would_have_read() {
        let agents = Agents::new().unwrap();
        let told = |agent: Agent| {
            let Agent { browser, os, device, reasons } = agent;
            Agent::told(&privacy::Agent { browser, os, device, reasons })
        };
        let words = BROWSERS.iter().map(|(word, _)| *word).chain(SIGNS.iter().map(|(word, _)| *word));
        for word in words.chain(["", "Googlebot/2.1", "Version/18 Safari/605", "iPhone AppleWebKit/605", "Mobile"]) {
            for ua in [word.to_owned(), format!("Mozilla/5.0 (Android 15; {word}"), format!("{word} Windows Tablet")] {
                let agent = agents.read(ua.as_bytes());
                assert_eq!(told(agent), agent, "{ua}");
            }
        }
        let reasons = agents.read(b"Googlebot/2.1").reasons;
        let unknown = Agent { browser: "Later", os: "LaterOS", device: "ring", reasons };
        assert_eq!(told(unknown), Agent { browser: "Other", os: "Other", device: "other", reasons });
        let nothing = Agent { browser: "", os: "", device: "", reasons: AgentReasons::default() };
        assert_eq!(told(nothing), nothing);
    }
}
