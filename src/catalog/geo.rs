//! Where addresses are: countries from the shipped file (`config/data/README.md`), and, from files that the operator supplies
//! (`[geo]`), countries, regions, cities and networks. Where the operator's file knows the country of an address, it wins.

use std::net::IpAddr;

use maxminddb::{PathElement, Reader};
use serde::Deserialize;

use crate::config::{ASN, CITY, COUNTRY, Geo as Files, GeoFile, REGION};

static COUNTRIES: &[u8] = include_bytes!("../../config/data/country.mmdb");

/// A longer name of a region or a city is as none: it stands in every row.
const NAME_BYTES_MAX: usize = 128;

/// Looks up countries, cities and networks; some 100 ns each, and nothing is copied. The shipped file stays where the binary
/// has it: only pages that are looked at are read.
pub struct Geo {
    countries: Reader<&'static [u8]>,
    files: Files,
}

/// Where in its country an address is, and in whose network. Borrowed from files that stay as long as the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The code of ISO 3166-2 without the country in front: `BE` of `DE-BE`. Empty when not known.
    pub region: &'static str,
    /// Its English name; empty when not known.
    pub city: &'static str,
    /// The number of the autonomous system; 0 when not known.
    pub asn: u32,
}

impl Place {
    /// Nowhere.
    pub const UNKNOWN: Self = Self { region: "", city: "", asn: 0 };
}

impl Geo {
    /// With the shipped file alone.
    ///
    /// # Errors
    /// When it is damaged, which a test sees first.
    pub fn new() -> Result<Self, String> {
        Self::with(Files::default())
    }

    /// With these files of the operator too.
    ///
    /// # Errors
    /// As [`Geo::new`].
    pub fn with(files: Files) -> Result<Self, String> {
        Reader::from_source(COUNTRIES).map(|countries| Self { countries, files }).map_err(|e| e.to_string())
    }

    /// Names the data: the same number, the same places. Without files of the operator it is when the shipped one was made, in
    /// Unix seconds.
    #[must_use]
    pub fn version(&self) -> u64 {
        let mark = |file: Option<GeoFile>| file.map_or(0, |file| u64::from(file.checksum));
        self.countries.metadata().build_epoch
            ^ mark(self.files.city).rotate_left(24)
            ^ mark(self.files.asn).rotate_left(40)
    }

    /// What of these is there to be asked: regions and cities, and networks.
    #[must_use]
    pub const fn has(&self) -> (bool, bool) {
        (self.files.city.is_some(), self.files.asn.is_some())
    }

    /// ISO 3166-1 alpha-2; `None` for an address that is in no country: a private one, or one that nobody knows.
    #[must_use]
    pub fn country(&self, address: IpAddr) -> Option<[u8; 2]> {
        let address = address.to_canonical();
        let code = |code: &str| <[u8; 2]>::try_from(code.as_bytes()).ok();
        if let Some(file) = self.files.city
            && let Some(known) = find(file, address, &COUNTRY).and_then(code)
        {
            return Some(known);
        }
        if !is_public(address) {
            return None;
        }
        let found = self.countries.lookup(address).ok()?;
        found.decode_path(&[PathElement::Key("country_code")]).ok()?.and_then(code)
    }

    /// Region and city, as a [`Place`] has them; from one look-up.
    #[must_use]
    pub fn city(&self, address: IpAddr) -> (&'static str, &'static str) {
        let found = self.files.city.and_then(|file| file.reader.lookup(address.to_canonical()).ok());
        let Some(found) = found else { return ("", "") };
        let name = |path: &[PathElement<'_>]| -> &'static str {
            let name: Option<&'static str> = found.decode_path(path).ok().flatten();
            name.filter(|name| name.len() <= NAME_BYTES_MAX).unwrap_or_default()
        };
        (name(&REGION), name(&CITY))
    }

    /// The number of the autonomous system; 0 when not known.
    #[must_use]
    pub fn asn(&self, address: IpAddr) -> u32 {
        self.files.asn.and_then(|file| find(file, address.to_canonical(), &ASN)).unwrap_or_default()
    }

    /// All of it.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place {
        let (region, city) = self.city(address);
        Place { region, city, asn: self.asn(address) }
    }
}

/// What a record has there; nothing where it is damaged.
fn find<T: Deserialize<'static>>(file: GeoFile, address: IpAddr, path: &[PathElement<'_>]) -> Option<T> {
    file.reader.lookup(address).ok()?.decode_path(path).ok()?
}

impl std::fmt::Debug for Geo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let built = self.countries.metadata().build_epoch;
        f.debug_struct("Geo").field("built", &built).field("files", &self.files).finish_non_exhaustive()
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
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, Sources};
    use crate::testing::mmdb;

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

    /// With a file of these networks as both files.
    fn with(folder: &tempfile::TempDir, networks: &[(&str, Value)]) -> Geo {
        let path = folder.path().join("a.mmdb");
        std::fs::write(&path, mmdb("Test", 7, networks)).unwrap();
        let config = Config::from_text(&Sources::default(), &format!("[geo]\ncity = {path:?}\nasn = {path:?}"));
        Geo::with(config.unwrap().geo).unwrap()
    }

    fn record(country: &str, region: &str, city: &str, asn: u32) -> Value {
        json!({"city": {"geoname_id": 1, "names": {"de": "anders", "en": city}}, "country": {"iso_code": country},
            "subdivisions": [{"iso_code": region}, {"iso_code": "second"}], "autonomous_system_number": asn})
    }

    #[test]
    fn a_file_of_the_operator_says_where_in_a_country_and_whose_and_wins_where_it_knows() {
        let folder = tempfile::tempdir().unwrap();
        let partly = json!({"subdivisions": [], "city": {"names": {"de": "Genf"}}, "country": {"iso_code": "CHE"}});
        let geo = with(
            &folder,
            &[
                ("10.1.0.0/16", record("AT", "9", "Vienna", 8447)),
                ("8.8.8.0/24", record("DE", "BE", "Berlin", 3320)),
                ("2001:db8:7::/48", record("FR", "IDF", "Paris", u32::MAX)),
                ("8.8.4.0/24", partly),
                ("9.9.9.0/24", json!({"city": {"names": {"en": "x".repeat(NAME_BYTES_MAX + 1)}}})),
            ],
        );
        let at = |address: &str| {
            let address = address.parse().unwrap();
            let Place { region, city, asn } = geo.place(address);
            (geo.country(address).map(|code| String::from_utf8(code.into()).unwrap()), region, city, asn)
        };
        let known = |country: &str, region, city, asn| (Some(country.to_owned()), region, city, asn);
        assert_eq!(at("8.8.8.255"), known("DE", "BE", "Berlin", 3320), "the shipped file says US");
        assert_eq!(at("::ffff:8.8.8.8"), known("DE", "BE", "Berlin", 3320));
        assert_eq!(at("10.1.2.3"), known("AT", "9", "Vienna", 8447), "an operator may know networks of their own");
        assert_eq!(at("2001:db8:7::1"), known("FR", "IDF", "Paris", u32::MAX));
        assert_eq!(at("8.8.4.4"), known("US", "", "", 0), "half a record, and a country that is none");
        assert_eq!(at("9.9.9.9").2, "", "too long");
        assert_eq!((at("1.1.1.1").1, at("10.2.0.1")), ("", (None, "", "", 0)));
    }

    #[test]
    fn other_files_are_other_data_and_damage_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let network = |city| [("8.8.8.0/24", record("DE", "BE", city, 1))];
        let versions =
            [Geo::new().unwrap(), with(&folder, &network("a")), with(&folder, &network("b"))].map(|geo| geo.version());
        assert!(versions[0] != versions[1] && versions[1] != versions[2], "{versions:?}");
        assert_eq!(
            versions[0],
            Geo::new().unwrap().countries.metadata().build_epoch,
            "as before there were such files"
        );
        // Each byte of the file in turn, damaged: whatever is found, nothing breaks.
        let whole = mmdb("Test", 7, &network("Berlin"));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let Ok(reader) = Reader::from_source(damaged) else { continue };
            let file = Some(GeoFile { reader: Box::leak(Box::new(reader)), checksum: 1 });
            let geo = Geo::with(Files { city: file, asn: file }).unwrap();
            let _ = (geo.country([8, 8, 8, 8].into()), geo.place([8, 8, 8, 8].into()));
        }
    }
}
