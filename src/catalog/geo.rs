//! Countries of addresses, from the shipped file (`config/data/README.md`).

use std::net::IpAddr;

use maxminddb::{PathElement, Reader};

static COUNTRIES: &[u8] = include_bytes!("../../config/data/country.mmdb");

/// Looks up countries; under 100 ns each. The file stays where the binary has it: only pages that are looked at are
/// read.
pub struct Geo {
    reader: Reader<&'static [u8]>,
}

impl Geo {
    /// Opens the shipped file.
    ///
    /// # Errors
    /// When it is damaged, which a test sees first.
    pub fn new() -> Result<Self, String> {
        Reader::from_source(COUNTRIES).map(|reader| Self { reader }).map_err(|e| e.to_string())
    }

    /// When the data was made, Unix seconds.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// ISO 3166-1 alpha-2; `None` for an address that is in no country: a private one, or one that nobody knows.
    #[must_use]
    pub fn country(&self, address: IpAddr) -> Option<[u8; 2]> {
        let address = address.to_canonical();
        if !is_public(address) {
            return None;
        }
        let found = self.reader.lookup(address).ok()?;
        let code: Option<&str> = found.decode_path(&[PathElement::Key("country_code")]).ok()?;
        code?.as_bytes().try_into().ok()
    }
}

impl std::fmt::Debug for Geo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Geo").field("built", &self.reader.metadata().build_epoch).finish_non_exhaustive()
    }
}

/// Continents with their countries, by ISO 3166-1 alpha-2: the one to which the United Nations' M49 puts a country, with the
/// Americas in two, and the Antarctic.
const CONTINENTS: [(&str, &str); 7] = [
    (
        "AF",
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW IO KE KM LR LS LY MA MG ML MR MU MW MZ NA NE \
         NG RE RW SC SD SH SL SN SO SS ST SZ TD TF TG TN TZ UG YT ZA ZM ZW",
    ),
    ("AN", "AQ BV GS HM"),
    (
        "AS",
        "AE AF AM AZ BD BH BN BT CN CY GE HK ID IL IN IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH PK PS \
         QA SA SG SY TH TJ TL TM TR TW UZ VN YE",
    ),
    (
        "EU",
        "AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK MT NL \
         NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    ),
    (
        "NA",
        "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX TC TT US \
         VC VG VI",
    ),
    ("OC", "AS AU CC CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS"),
    ("SA", "AR BO BR CL CO EC FK GF GY PE PY SR UY VE"),
];

/// The continent of a country: `AF`, `AN`, `AS`, `EU`, `NA`, `OC` or `SA`; `None` for what is no country.
#[must_use]
pub fn continent(country: [u8; 2]) -> Option<&'static str> {
    let is_in = |countries: &str| countries.as_bytes().chunks(3).any(|code| code.starts_with(&country));
    CONTINENTS.iter().find(|(_, countries)| is_in(countries)).map(|(continent, _)| *continent)
}

/// Whether somebody can own it. The file puts some private and documentation networks into a country.
fn is_public(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !(v4.is_private() || v4.is_link_local() || v4.is_documentation() || v4.is_broadcast()),
        IpAddr::V6(v6) => {
            let documentation = v6.segments()[..2] == [0x2001, 0x0db8];
            !(v6.is_unique_local() || v6.is_unicast_link_local() || documentation)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_country_has_one_continent() {
        let mut countries: Vec<_> = CONTINENTS.iter().flat_map(|(_, countries)| countries.split(' ')).collect();
        let number = countries.len();
        assert!(countries.iter().all(|code| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase())));
        countries.sort_unstable();
        countries.dedup();
        assert_eq!((countries.len(), number), (250, 250), "the 249 of ISO 3166-1, and XK");
        let of = |code: &[u8; 2]| continent(*code);
        assert_eq!(
            [of(b"DE"), of(b"US"), of(b"BR"), of(b"SA"), of(b"ZZ")],
            [Some("EU"), Some("NA"), Some("SA"), Some("AS"), None]
        );
    }

    #[test]
    fn public_addresses_have_countries_and_private_ones_have_none() {
        let geo = Geo::new().unwrap();
        let country =
            |address: &str| geo.country(address.parse().unwrap()).map(|c| String::from_utf8(c.into()).unwrap());
        assert_eq!(country("8.8.8.0").as_deref(), Some("US"));
        assert_eq!(country("::ffff:8.8.8.0").as_deref(), Some("US"));
        assert_eq!(country("2a00:1450:4001::").as_deref(), Some("IE"));
        for private in ["10.0.0.1", "127.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "::1", "fd00::1"] {
            assert_eq!(country(private), None, "{private}");
        }
    }
}
