//! From a campaign's document to a campaign, with everything that is wrong.

use std::collections::BTreeSet;
use std::hash::Hasher as _;

use serde_json::Value;
use siphasher::sip::SipHasher13;

use super::{Campaign, Choice, DESTINATIONS_MAX, Destination, RULES_MAX, Rule, Sticky, Strategy, Zone};
use crate::click::cap::RESERVED;
use crate::click::condition::{Condition, Needs};
use crate::click::document::{Misfit, Misfits, Object};
use crate::click::link::{NAME_BYTES_MAX, OwnHosts, check_url};
use crate::click::{Cap, Dedup, Org, Template};

/// The greatest weight: a thousand of them are far from any overflow.
const WEIGHT_MAX: u64 = 1_000_000;

pub(super) fn check(id: &str, document: Value, own: &OwnHosts) -> Result<Campaign, Vec<Misfit>> {
    let misfits = Misfits::default();
    let campaign = read(id, &document, own, &misfits);
    let misfits = misfits.into_all();
    match campaign {
        Some(campaign) if misfits.is_empty() => Ok(Campaign { document, ..campaign }),
        _ => Err(misfits),
    }
}

fn read(id: &str, document: &Value, own: &OwnHosts, misfits: &Misfits) -> Option<Campaign> {
    let object = Object::of(document, String::new(), misfits)?;
    if let Err(detail) = check_name(id) {
        object.wrong("id", detail);
    }
    if object.text("id").is_some_and(|named| named != id) {
        object.wrong("id", format!("is not `{id}`, as the path says; leave it out, or write the same"));
    }
    let org = object.text("org").map(|name| Org::check(name).map_err(|detail| object.wrong("org", detail)));
    let dedup = object.object("dedup").map(Dedup::read).unwrap_or_default();
    let zone = object.text("zone").map(|name| Zone::named(name).map_err(|detail| object.wrong("zone", detail)));
    let mut reader = Reader { own, misfits, needs: Needs::default(), is_capped: false, reserved: Vec::new() };
    let when = reader.condition(&object);
    let (mut rules, mut names) = (Vec::new(), BTreeSet::new());
    for (number, value) in object.list("rules", RULES_MAX).unwrap_or_default().iter().enumerate() {
        let Some(rule) = Object::of(value, format!("{}/{number}", object.pointer("rules")), misfits) else { continue };
        let name = rule.text("name").unwrap_or_default();
        if let Err(detail) = check_name(name) {
            rule.wrong("name", detail);
        } else if !names.insert(name) {
            rule.wrong("name", format!("`{name}` is the name of another rule"));
        }
        let when = reader.condition(&rule);
        let strategy = strategy(&rule);
        if rule.value("to").is_none() {
            rule.wrong("to", "is missing; give one destination at least");
        }
        let choice = reader.choice(&rule, "to", strategy);
        let cap = reader.cap(&rule);
        rule.end();
        rules.extend(choice.map(|choice| Rule { name: name.into(), when, choice, cap }));
    }
    let default = object.value("default").and_then(|_| reader.choice(&object, "default", Strategy::Weighted));
    let sticky = match object.text("sticky") {
        None | Some("none") => Sticky::None,
        Some("visitor") => Sticky::Visitor,
        Some("cookie") => Sticky::Cookie,
        Some(other) => {
            object.wrong("sticky", format!("is `{other}`; use `none`, `visitor` or `cookie`"));
            Sticky::None
        }
    };
    let fallback = object.text("fallback_url").and_then(|url| reader.url(&object, "fallback_url", url));
    if rules.is_empty() && default.is_none() && fallback.is_none() && misfits.is_empty() {
        misfits.add("", "says nothing: give `rules`, `default` or `fallback_url`");
    }
    object.end();
    reader.end();
    Some(Campaign {
        id: id.to_owned(),
        org: org.and_then(Result::ok).unwrap_or_default(),
        when,
        zone: zone.and_then(Result::ok).unwrap_or_default(),
        rules,
        default,
        sticky,
        dedup,
        fallback,
        document: Value::Null,
        needs: reader.needs,
        is_capped: reader.is_capped,
        mark: hash(id),
        version: 0,
        created_ms: 0,
        updated_ms: 0,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        Err("is missing; give it a name, which is recorded with its clicks".into())
    } else if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        Err(format!("is over {NAME_BYTES_MAX} bytes, or holds a control character"))
    } else {
        Ok(())
    }
}

fn strategy(rule: &Object<'_>) -> Strategy {
    let Some(word) = rule.text("strategy") else { return Strategy::default() };
    if let Some((_, strategy)) = Strategy::ALL.iter().find(|(known, _)| *known == word) {
        return *strategy;
    }
    let known: Vec<_> = Strategy::ALL.iter().map(|(known, _)| *known).collect();
    rule.wrong("strategy", format!("is `{word}`; there are {}", known.join(", ")));
    Strategy::default()
}

struct Reader<'d> {
    own: &'d OwnHosts,
    misfits: &'d Misfits,
    needs: Needs,
    is_capped: bool,
    /// Where destinations have names that say what became of a click.
    reserved: Vec<String>,
}

impl<'d> Reader<'d> {
    fn condition(&mut self, object: &Object<'d>) -> Option<Condition> {
        match Condition::parse(object.text("when")?) {
            Ok(condition) => {
                self.needs = self.needs.and(condition.needs());
                Some(condition)
            }
            Err(faults) => {
                faults.iter().for_each(|fault| object.wrong("when", fault.to_string()));
                None
            }
        }
    }

    /// Whether a click counts goes by its class, for which the user agent is read.
    fn cap(&mut self, of: &Object<'d>) -> Option<Cap> {
        let cap = Cap::read(of.object("cap")?, self.own);
        self.is_capped = true;
        self.needs = self.needs.and(Needs::AGENT);
        cap
    }

    /// What can be told when everything is read.
    fn end(&self) {
        for pointer in self.reserved.iter().filter(|_| self.is_capped) {
            let known = RESERVED.join(", ");
            self.misfits
                .add(pointer, format!("says what became of a click ({known}); in a campaign with caps use another"));
        }
    }

    fn url(&mut self, object: &Object<'d>, field: &str, url: &str) -> Option<Template> {
        match check_url(url, self.own) {
            Ok(template) => Some(template),
            Err(detail) => {
                object.wrong(field, detail);
                None
            }
        }
    }

    fn choice(&mut self, of: &Object<'d>, field: &'static str, strategy: Strategy) -> Option<Choice> {
        let entries = of.list(field, DESTINATIONS_MAX)?;
        let (mut to, mut names) = (Vec::with_capacity(entries.len()), BTreeSet::new());
        for (number, value) in entries.iter().enumerate() {
            let at = format!("{}/{number}", of.pointer(field));
            let Some(object) = Object::of(value, at, self.misfits) else { continue };
            let Some(destination) = self.destination(object, number, strategy) else { continue };
            if !names.insert(destination.name.clone()) {
                self.misfits.add(
                    &format!("{}/{number}/name", of.pointer(field)),
                    format!(
                        "`{}` is the name of another destination; without one its number is taken",
                        destination.name
                    ),
                );
            }
            to.push(destination);
        }
        if entries.is_empty() {
            of.wrong(field, "is empty; give one destination at least");
        } else if to.len() == entries.len() && to.iter().all(|destination| destination.weight == 0) {
            of.wrong(field, "has no weight above 0, so nobody could go anywhere");
        }
        Choice::new(strategy, to)
    }

    fn destination(&mut self, object: Object<'d>, number: usize, strategy: Strategy) -> Option<Destination> {
        let name = match object.text("name") {
            None => (number + 1).to_string(),
            Some(name) => {
                if let Err(detail) = check_name(name) {
                    object.wrong("name", detail);
                } else if RESERVED.contains(&name) {
                    self.reserved.push(object.pointer("name"));
                }
                name.to_owned()
            }
        };
        if object.value("url").is_none() {
            object.wrong("url", "is missing; give an absolute http or https URL");
        }
        let target = object.text("url").and_then(|url| self.url(&object, "url", url));
        let weight = object.whole("weight", 0..=WEIGHT_MAX).unwrap_or(1);
        let bid = object.number("bid");
        if bid.is_none() && strategy == Strategy::HighestBid && object.value("bid").is_none() {
            object.wrong("bid", "is missing; `highest_bid` compares bids");
        }
        let cap = self.cap(&object);
        object.end();
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let seed = hash(&name);
        Some(Destination { name: name.into(), target: target?, weight, bid: bid.unwrap_or_default(), cap, seed })
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}
