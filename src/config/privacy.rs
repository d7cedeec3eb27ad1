//! `[privacy]`: what clicks may keep of their visitors.
//!
//! Only reads the section; which click may keep what is decided in `click::privacy`. Bounds: 16 values of consent, 300
//! regions (there are 250 countries), 100 parameters, all of them of 64 bytes at most, for they are compared for each click.

use std::sync::Arc;

use super::check::Keys;
use super::units::{Value, list, secret, text, word};
use super::{IpPrivacy, Privacy};
use crate::click::privacy::{Level, Policy, Regions};

const VALUES_MAX: usize = 16;
const REGIONS_MAX: usize = 300;
const PARAMETERS_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 64;

const LEVELS: [(&str, Level); 3] = [("full", Level::Full), ("limited", Level::Limited), ("none", Level::None)];

impl Keys {
    pub(super) fn privacy(&mut self) -> Privacy {
        let ips = [("truncate", IpPrivacy::Truncate), ("none", IpPrivacy::None), ("hmac", IpPrivacy::Hmac)];
        let policy = Policy {
            gpc: self.get("privacy.gpc", word(&LEVELS, &[])),
            dnt: self.get("privacy.dnt", word(&LEVELS, &[])),
            parameter: self.get(
                "privacy.consent_parameter",
                text(|text| if text.is_empty() { Ok(String::new()) } else { name(text) }),
            ),
            given: self.get("privacy.consent_given", at_most(VALUES_MAX, list(name))),
            refused: self.get("privacy.consent_refused", at_most(VALUES_MAX, list(name))),
            consent_refused: self.get("privacy.refused", word(&LEVELS, &[])),
            consent_missing: self.get("privacy.consent_missing", word(&LEVELS, &[])),
            regions: self.get("privacy.regions", regions),
            parameters: self.get("privacy.limited_parameters", at_most(PARAMETERS_MAX, list(name))),
        };
        let both = policy.given.iter().find(|given| policy.refused.iter().any(|word| word.eq_ignore_ascii_case(given)));
        self.relation(&["privacy.consent_given", "privacy.consent_refused"], both.is_none(), || {
            format!(
                "{:?} stands in privacy.consent_given and in privacy.consent_refused; keep one",
                both.map_or("", |v| v)
            )
        });
        Privacy {
            ip: self.get("privacy.ip", word(&ips, &[])),
            ip_secret: self.get("privacy.ip_secret", text(secret)),
            policy: Arc::new(policy),
        }
    }
}

/// The name of a parameter, or one of its values, as they are after decoding.
fn name(text: &str) -> Result<String, String> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is not a text of 1 to {NAME_BYTES_MAX} bytes"))
}

fn at_most<T>(
    most: usize,
    read: impl Fn(&Value) -> Result<Vec<T>, String>,
) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| match read(value)? {
        items if items.len() > most => Err(format!("has {} items, {most} at most", items.len())),
        items => Ok(items),
    }
}

/// Entries such as `EEA=limited`, each region once. A country that is meant by several gets the strictest.
fn regions(value: &Value) -> Result<Regions, String> {
    let mut regions = Regions::default();
    let mut seen = Vec::new();
    for (region, level) in at_most(REGIONS_MAX, list(entry))(value)? {
        if seen.contains(&region) {
            return Err(format!("`{region}` stands there twice; keep one"));
        }
        if !regions.demand(&region, level) {
            let near = match &*region {
                "UK" => "; the United Kingdom is GB",
                "EL" => "; Greece is GR",
                _ => "",
            };
            return Err(format!("`{region}` is no country such as DE, nor EU, EEA or unknown{near}"));
        }
        seen.push(region);
    }
    Ok(regions)
}

fn entry(text: &str) -> Result<(String, Level), String> {
    let Some((region, level)) = text.split_once('=') else {
        return Err(format!("{text:?} is not a region and a level, such as \"EEA=limited\""));
    };
    let level =
        word(&LEVELS, &[])(&Value::Text(level.to_owned())).map_err(|error| format!("{text:?}: the level {error}"))?;
    Ok((region.to_owned(), level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::tests::problems;
    use crate::config::{Config, Sources};

    #[test]
    fn every_mistake_of_the_section_is_told_with_its_line() {
        let told = problems(
            "[privacy]\ngpc = \"off\"\ndnt = 1\nconsent_parameter = \"a\\tb\"\nconsent_given = [\"\"]\nconsent_refused = \"no\"\n\
             consent_missing = \"hmac\"\nrefused = \"strict\"\nregions = [\"EEA=limited\", \"UK=none\"]\nlimited_parameters = [1]\nconsent = \"c\"",
        );
        let levels = "must be \"full\" or \"limited\" or \"none\"";
        let expected = [
            format!("2: privacy.gpc = \"off\": {levels}"),
            "3: privacy.dnt = 1: must be text in quotes".into(),
            "4: privacy.consent_parameter = \"a\\tb\": \"a\\tb\" is not a text of 1 to 64 bytes".into(),
            "5: privacy.consent_given = [\"\"]: \"\" is not a text of 1 to 64 bytes".into(),
            "6: privacy.consent_refused = \"no\": must be a list such as [\"a\", \"b\"]".into(),
            format!("7: privacy.consent_missing = \"hmac\": {levels}"),
            format!("8: privacy.refused = \"strict\": {levels}"),
            "9: privacy.regions = [\"EEA=limited\", \"UK=none\"]: `UK` is no country such as DE, nor EU, EEA or unknown; the \
             United Kingdom is GB"
                .into(),
            "10: privacy.limited_parameters = [1]: 1 must be text in quotes".into(),
        ];
        assert_eq!(told.len(), expected.len() + 1, "{told:#?}");
        for line in expected {
            assert!(told.contains(&line), "{line} is not in {told:#?}");
        }
        assert!(told.iter().any(|line| line.starts_with("11: privacy.consent: is not a setting")), "{told:#?}");
    }

    #[test]
    fn regions_and_values_that_contradict_each_other_are_refused() {
        for (setting, message) in [
            ("regions = [\"DE=full\", \"DE=none\"]", "`DE` stands there twice; keep one"),
            ("regions = [\"de=full\"]", "`de` is no country such as DE, nor EU, EEA or unknown"),
            ("regions = [\"EL=full\"]", "`EL` is no country such as DE, nor EU, EEA or unknown; Greece is GR"),
            ("regions = [\"DE\"]", "\"DE\" is not a region and a level, such as \"EEA=limited\""),
            ("regions = [\"DE=some\"]", "\"DE=some\": the level must be \"full\" or \"limited\" or \"none\""),
            (
                "consent_given = [\"ok\", \"NO\"]",
                "\"NO\" stands in privacy.consent_given and in privacy.consent_refused; keep one",
            ),
        ] {
            let told = problems(&format!("[privacy]\n{setting}"));
            assert!(told.len() == 1 && told[0].starts_with("2: privacy.") && told[0].ends_with(message), "{told:?}");
        }
        let many = format!("[privacy]\nlimited_parameters = [{}]", "\"a\",".repeat(PARAMETERS_MAX + 1));
        assert!(problems(&many)[0].ends_with(": has 101 items, 100 at most"));
    }

    #[test]
    fn a_country_that_is_meant_twice_gets_the_strictest() {
        let text = "privacy.regions = [\"EEA=limited\", \"DE=none\", \"FR=full\", \"unknown=limited\"]";
        let config = Config::from_text(&Sources::default(), text).unwrap();
        let of = |code: &[u8; 2]| config.privacy.policy.regions.of(Some(*code));
        assert_eq!(
            [of(b"DE"), of(b"FR"), of(b"NO"), of(b"US")],
            [Level::None, Level::Limited, Level::Limited, Level::Full]
        );
        assert_eq!(config.privacy.policy.regions.of(None), Level::Limited);
    }
}
