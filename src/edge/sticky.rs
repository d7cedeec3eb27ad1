//! By what the visitors of sticky campaigns are known again: address and agent of the day, or a cookie.
//!
//! Reads and sets nothing for a visit whose click may not be recognised: that one is decided for itself. Only campaigns that
//! are sticky by cookie look at it, and only those visits get one whose destination was chosen by it. Bounds: `head_bytes_max`
//! of the request; a cookie of some hundred bytes.

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use super::core::Core;
use super::route::cookie_lines;
use crate::click::campaign::{Campaign, Decision, Sticky};
use crate::click::visitor::VisitorId;
use crate::click::{ClickId, Marks, Visit};

/// What a campaign goes by, and who is new to it.
pub(super) struct By {
    pub(super) key: u64,
    new: Option<VisitorId>,
}

impl By {
    /// The visitor, or the click, also where a visitor may not be `recognised`.
    pub(super) fn of(
        core: &Core,
        campaign: &Campaign,
        visit: &Visit<'_>,
        headers: &HeaderMap,
        id: ClickId,
        recognised: bool,
    ) -> Self {
        let mut new = None;
        let visitor = || match campaign.sticky {
            Sticky::Visitor if recognised => Some(core.day_key.borrow().visitor(visit)),
            Sticky::Cookie if recognised => {
                let known = VisitorId::find(cookie_lines(headers));
                if known.is_none() {
                    new = draw();
                }
                known.or(new).map(VisitorId::key)
            }
            _ => None,
        };
        let key = campaign.key(id, visitor);
        Self { key, new }
    }

    /// The cookie for a new visitor, when it is what this decision went by.
    pub(super) fn cookie(
        &self,
        core: &Core,
        campaign: &Campaign,
        decision: &Decision<'_>,
        marks: Marks,
    ) -> Option<HeaderValue> {
        let visitor = self.new.filter(|_| campaign.goes_by_key(decision))?;
        let text = visitor.set_cookie(core.parts.config.sticky_cookie_max_age, marks.has(Marks::TLS));
        HeaderValue::try_from(text).ok()
    }
}

/// A number that nobody has. The system that gave the secrets at the start gives these; if ever it does not, the click is
/// decided for itself.
fn draw() -> Option<VisitorId> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok().map(|()| VisitorId::new(random))
}
