//! What a question to `explain` is about: a link, a campaign, or one that is not saved.
//!
//! Reads the body and looks up what it names; decides nothing. Bounds: those of [`super`].

use std::sync::Arc;

use serde_json::{Map, Value};

use super::visit::Supposed;
use crate::catalog::{CampaignError, Entry, LinkError};
use crate::click::Misfit;
use crate::click::campaign::Campaign;
use crate::click::document::{Misfits, Object};
use crate::click::domain::host;
use crate::control::Parts;
use crate::control::campaigns::without_answers_own;
use crate::control::problem::{Problem, Wrong};

/// What is asked about.
pub(super) struct Subject {
    pub(super) link: Option<Arc<Entry>>,
    /// As the link or the question names it; empty for none.
    pub(super) campaign_id: String,
    pub(super) campaign: Option<Arc<Campaign>>,
}

/// The subject, of this organisation if it is given, and the visit of a question, or all that is wrong with it.
pub(super) fn read(parts: &Parts, org: Option<&str>, body: &Value) -> Result<(Subject, Supposed), Problem> {
    let misfits = Misfits::default();
    let refused = |misfits: Vec<Misfit>| {
        Problem::fields(misfits.into_iter().map(|misfit| Wrong::at(&misfit.pointer, misfit.detail)))
    };
    let Some(question) = Object::of(body, String::new(), &misfits) else { return Err(refused(misfits.take())) };
    let (link, campaign) = (question.text("link"), question.text("campaign"));
    let document = question.value("document");
    let given = ["link", "campaign", "document"].into_iter().filter(|field| body.get(field).is_some());
    match given.collect::<Vec<_>>().as_slice() {
        [_] => {}
        [] => misfits.add("", "names nothing to explain: give `link`, `campaign` or `document`"),
        [_, others @ ..] => {
            others.iter().for_each(|field| question.wrong(field, "is one too many: ask about one thing"))
        }
    }
    let none = Value::Object(Map::new());
    let visit = Object::of(question.value("visit").unwrap_or(&none), question.pointer("visit"), &misfits);
    let supposed = visit.map(|visit| Supposed::read(visit, link.is_some()));
    let document = document.and_then(|document| unsaved(parts, document, &misfits));
    question.end();
    let misfits = misfits.take();
    let Some(supposed) = supposed.filter(|_| misfits.is_empty()) else { return Err(refused(misfits)) };
    let asked = |slug: &str| {
        let entry = parts.links.get_asked(&host(supposed.visit().host), slug);
        entry.filter(|entry| org.is_none_or(|org| *entry.link.org == *org)).ok_or(LinkError::Unknown)
    };
    let link = link.map(asked).transpose()?;
    let campaign_id = match (&link, &document) {
        (Some(entry), _) => entry.link.campaign.clone(),
        (None, Some((id, _))) => id.clone(),
        (None, None) => campaign.unwrap_or_default().to_owned(),
    };
    let campaign = match document {
        Some((_, campaign)) => Some(Arc::new(campaign)),
        // A campaign decides for links of its organisation alone.
        None => parts.campaigns.get_of(link.as_ref().map(|entry| &*entry.link.org).or(org), &campaign_id),
    };
    if link.is_none() && campaign.is_none() {
        return Err(CampaignError::Unknown.into());
    }
    Ok((Subject { link, campaign_id, campaign }, supposed))
}

/// A campaign that is not saved, checked as when it is; with the name that it gives itself, or none.
fn unsaved(parts: &Parts, document: &Value, misfits: &Misfits) -> Option<(String, Campaign)> {
    let mut document = document.clone();
    if let Some(fields) = document.as_object_mut()
        && let Err(detail) = without_answers_own(fields)
    {
        misfits.add("/document/version", detail);
    }
    let named = document["id"].as_str().map(str::to_owned);
    match parts.campaigns.check(named.as_deref().unwrap_or("unsaved"), document) {
        Ok(campaign) => Some((named.unwrap_or_default(), campaign)),
        Err(faults) => {
            faults.into_iter().for_each(|fault| misfits.add(&format!("/document{}", fault.pointer), fault.detail));
            None
        }
    }
}
