//! What a click may keep of its visit: three levels, and the policy that chooses one.
//!
//! Pure, and never remembers a visitor; `memo` remembers decisions. The edge asks it for every click before anything of it
//! is written; what a level takes away is in no frame, so it is neither in the journal nor behind it, and in no destination.
//! Bounds: a policy has a level for each country, and the query is walked once for its consent and once for what is kept.

mod memo;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::class::AgentReasons;
use super::facts::{first_tag, origin};
use super::query::{decode, pairs};
use super::visit::Visit;

pub use memo::Decisions;

/// How much a click keeps. A later one is stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All that the record has room for; of the address what `privacy.ip` says.
    #[default]
    Full,
    /// What describes many visitors alike, and nothing that tells one from others.
    Limited,
    /// That there was a click on this link, and of which class.
    None,
}

/// How much of a text is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// As it came.
    All,
    /// The part that the field's own documentation names.
    Part,
    /// Nothing.
    Nothing,
}

/// What a click of a level keeps. The table of the README; everything that is not in here (link, campaign, rule,
/// destination, time, status, class with its reasons and score) is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    /// The address, as far as `privacy.ip` allows; by it the visitor is recognised, so without it there is no
    /// fingerprint, no visitor to be sticky to, and no cookie.
    pub address: bool,
    /// The text of the user agent.
    pub ua: bool,
    /// Country, device, system and browser.
    pub facts: bool,
    /// The referrer; in part, its origin.
    pub referrer: Extent,
    /// The languages; in part, the first.
    pub language: Extent,
    /// The parameters; in part, those of [`Policy::parameters`]. The external click id is one of them.
    pub parameters: Extent,
}

impl Level {
    /// From the least strict to the strictest.
    pub const ALL: [Self; 3] = [Self::Full, Self::Limited, Self::None];
    /// Their words in the settings, in the store and in metrics, in that order.
    pub const NAMES: [&'static str; 3] = ["full", "limited", "none"];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What a click of this level keeps.
    #[must_use]
    pub const fn keeps(self) -> Keeps {
        let (referrer, language, parameters) = match self {
            Self::Full => (Extent::All, Extent::All, Extent::All),
            Self::Limited => (Extent::Part, Extent::Part, Extent::Part),
            Self::None => (Extent::Nothing, Extent::Nothing, Extent::Nothing),
        };
        let full = matches!(self, Self::Full);
        Keeps { address: full, ua: full, facts: !matches!(self, Self::None), referrer, language, parameters }
    }

    /// The visit with what a click of this level keeps of its texts. `query`: what is kept of the query
    /// ([`Policy::query`]). The address stays: it is not text, and `privacy.ip` has a word in it.
    #[must_use]
    pub fn cut<'v>(self, visit: &Visit<'v>, query: &'v str) -> Visit<'v> {
        let keeps = self.keeps();
        let part = |extent, all: &'v [u8], part: fn(&[u8]) -> &[u8]| match extent {
            Extent::All => all,
            Extent::Part => part(all),
            Extent::Nothing => b"",
        };
        Visit {
            query,
            ua: if keeps.ua { visit.ua } else { b"" },
            referrer: part(keeps.referrer, visit.referrer, origin),
            language: part(keeps.language, visit.language, first_tag),
            ..*visit
        }
    }
}

/// What privacy did to a click, as its frame carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privacy<'a> {
    /// How much was kept.
    pub level: Level,
    /// What the user agent said, where the click does not keep the user agent.
    pub agent: Option<Agent<'a>>,
}

/// What was found out about a user agent before it was taken away. The names are empty where the level keeps no facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent<'a> {
    /// Kind of machine.
    pub device: &'a str,
    /// System.
    pub os: &'a str,
    /// Family.
    pub browser: &'a str,
    /// What spoke against a person.
    pub reasons: AgentReasons,
}

/// What a visit says about its consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It was given.
    Given,
    /// It was refused.
    Refused,
    /// Nothing that is known, or there is no parameter for it.
    Missing,
}

/// What the decision goes by.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    /// `Sec-GPC: 1`
    pub gpc: bool,
    /// `DNT: 1`
    pub dnt: bool,
    /// See [`Policy::consent`].
    pub consent: Consent,
    /// Of the address; only asked for with [`Policy::asks_for_country`].
    pub country: Option<[u8; 2]>,
}

impl Signals {
    /// Below [`COUNTRY_PLACES`]; all that are no country have the same.
    fn country_place(&self) -> usize {
        self.country.and_then(place).unwrap_or(COUNTRY_PLACES - 1)
    }
}

/// Which level a visit gets. Checked by `config`.
#[derive(Clone, Debug)]
pub struct Policy {
    /// With `Sec-GPC: 1`.
    pub gpc: Level,
    /// With `DNT: 1`.
    pub dnt: Level,
    /// Name of the parameter that says whether there is consent; empty: there is none.
    pub parameter: String,
    /// Its values that give consent, compared without regard to the case of ASCII letters.
    pub given: Vec<String>,
    /// Its values that refuse it, likewise.
    pub refused: Vec<String>,
    /// With consent refused.
    pub consent_refused: Level,
    /// With nothing said.
    pub consent_missing: Level,
    /// By country, where consent was not given.
    pub regions: Regions,
    /// Parameters that a limited click keeps.
    pub parameters: Vec<String>,
}

impl Policy {
    /// The strictest level that applies. Consent lifts what the country asks for, and never what the browser does. The edge
    /// asks by way of its [`Decisions`].
    #[must_use]
    pub fn decide(&self, signals: &Signals) -> Level {
        let by_consent = match signals.consent {
            Consent::Given => Level::Full,
            Consent::Refused => self.consent_refused.max(self.regions.of(signals.country)),
            Consent::Missing => self.consent_missing.max(self.regions.of(signals.country)),
        };
        let when = |holds, level| if holds { level } else { Level::Full };
        by_consent.max(when(signals.gpc, self.gpc)).max(when(signals.dnt, self.dnt))
    }

    /// Whether the country of a visit can change anything.
    #[must_use]
    pub const fn asks_for_country(&self) -> bool {
        self.regions.any
    }

    /// What the query says. Of a repeated parameter one refusal is enough.
    #[must_use]
    pub fn consent(&self, query: &str) -> Consent {
        let mut consent = Consent::Missing;
        if self.parameter.is_empty() {
            return consent;
        }
        for (_, value) in pairs(query).filter(|(key, _)| *decode(key) == *self.parameter.as_bytes()) {
            let value = decode(value);
            let is_in = |words: &[String]| words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(&value));
            if is_in(&self.refused) {
                return Consent::Refused;
            }
            if is_in(&self.given) {
                consent = Consent::Given;
            }
        }
        consent
    }

    /// What a click of this level keeps of a query, as it was sent. Copies only what loses a part and keeps another.
    #[must_use]
    pub fn query<'q>(&self, level: Level, query: &'q str) -> Cow<'q, str> {
        match level.keeps().parameters {
            Extent::All => return query.into(),
            Extent::Nothing => return "".into(),
            Extent::Part => {}
        }
        let mut kept = String::new();
        for part in query.split('&') {
            let name = decode(part.split('=').next().unwrap_or_default());
            if self.parameters.iter().any(|known| known.as_bytes() == &*name) {
                if kept.is_empty() {
                    kept.reserve(query.len());
                } else {
                    kept.push('&');
                }
                kept.push_str(part);
            }
        }
        kept.into()
    }
}

const LETTERS: usize = 26;
/// Of a country by its letters, or of none.
const COUNTRY_PLACES: usize = LETTERS * LETTERS + 1;

/// A level for each country, at its two letters; 677 bytes.
#[derive(Clone)]
pub struct Regions {
    by_letters: [Level; LETTERS * LETTERS],
    unknown: Level,
    any: bool,
}

impl Default for Regions {
    /// [`Level::Full`] for all.
    fn default() -> Self {
        Self { by_letters: [Level::Full; LETTERS * LETTERS], unknown: Level::Full, any: false }
    }
}

impl Regions {
    /// Demands at least this level of a country (`DE`), of the countries of `EU` or `EEA`, or of addresses whose country
    /// is not known (`unknown`). False when it is none of these.
    #[must_use]
    pub fn demand(&mut self, region: &str, level: Level) -> bool {
        let mut demand = |codes: &str| {
            for code in codes.split(' ') {
                if let Some(at) = code.as_bytes().try_into().ok().and_then(place) {
                    self.by_letters[at] = self.by_letters[at].max(level);
                }
            }
        };
        match region {
            "unknown" => self.unknown = self.unknown.max(level),
            "EU" => demand(EU),
            "EEA" => {
                demand(EU);
                demand(EEA_WITHOUT_EU);
            }
            code if COUNTRIES.split(' ').any(|known| known == code) => demand(code),
            _ => return false,
        }
        self.any |= level > Level::Full;
        true
    }

    /// What this country demands.
    #[must_use]
    pub fn of(&self, country: Option<[u8; 2]>) -> Level {
        country.and_then(place).map_or(self.unknown, |at| self.by_letters[at])
    }
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let strict = COUNTRIES.split(' ').map(|code| (code, self.of(code.as_bytes().try_into().ok())));
        f.debug_map().entries(strict.filter(|(_, level)| *level > Level::Full)).finish()
    }
}

fn place([first, second]: [u8; 2]) -> Option<usize> {
    let letter = |byte: u8| byte.is_ascii_uppercase().then(|| usize::from(byte - b'A'));
    Some(letter(first)? * LETTERS + letter(second)?)
}

/// The member states of the European Union, and those of their territories with a code of their own in which its law on
/// data applies: Åland, French Guiana, Guadeloupe, Martinique, Mayotte, Réunion, Saint Martin.
const EU: &str =
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK AX GF GP MF MQ RE YT";
/// The other states of the European Economic Area.
const EEA_WITHOUT_EU: &str = "IS LI NO";

/// All codes that the shipped data knows: ISO 3166-1 alpha-2, and XK.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS \
     BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ \
     FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT \
     JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP \
     MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE \
     RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV \
     TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";
