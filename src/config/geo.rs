//! `[geo]`: files in MaxMind's format that the operator supplies, for regions, cities and networks.
//!
//! Read whole when the configuration is, and never again: `catalog::geo` looks up in them. A record that is damaged is found
//! when it is looked up, and is as one that is not there. Bounds: [`BYTES_MAX`] a file, kept in memory once for all threads
//! until the process ends.

use std::fmt;

use maxminddb::{PathElement, Reader, WithinOptions};

use super::check::Keys;
use super::file;
use super::units::{MIB, text};

/// The largest that are sold have some 400 MiB.
const BYTES_MAX: u64 = 512 * MIB;
/// Networks of a file that are asked whether it has what it is for.
const NETWORKS_ASKED_MAX: usize = 100_000;

/// Where a record has the code of its first subdivision.
pub const REGION: [PathElement<'static>; 3] =
    [PathElement::Key("subdivisions"), PathElement::Index(0), PathElement::Key("iso_code")];
/// Where it has the English name of its city.
pub const CITY: [PathElement<'static>; 3] =
    [PathElement::Key("city"), PathElement::Key("names"), PathElement::Key("en")];
/// Where it has the code of its country.
pub const COUNTRY: [PathElement<'static>; 2] = [PathElement::Key("country"), PathElement::Key("iso_code")];
/// Where it has the number of its network.
pub const ASN: [PathElement<'static>; 1] = [PathElement::Key("autonomous_system_number")];

/// `[geo]`
#[derive(Clone, Copy, Debug, Default)]
pub struct Geo {
    /// With regions and cities.
    pub city: Option<GeoFile>,
    /// With numbers of autonomous systems.
    pub asn: Option<GeoFile>,
}

/// A file in memory. It stays there as long as the process, so what is found in it can be handed on without a copy.
#[derive(Clone, Copy)]
pub struct GeoFile {
    /// To look up in it.
    pub reader: &'static Reader<Vec<u8>>,
    /// The same content, the same number.
    pub checksum: u32,
}

impl fmt::Debug for GeoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GeoFile({}, {:08x})", self.reader.metadata().database_type, self.checksum)
    }
}

impl Keys {
    pub(super) fn geo(&mut self) -> Geo {
        let city = self.get("geo.city", text(|path| Ok(open(path)?.map(|file| (path.to_owned(), file)))));
        let asn = self.get(
            "geo.asn",
            text(|path| match &city {
                // One file for both is in memory once.
                Some((known, file)) if known == path => Ok(Some(*file)),
                _ => open(path),
            }),
        );
        let city = city.map(|(_, file)| file);
        for (key, file, has, what) in [
            (
                "geo.city",
                city,
                has_city as fn(&GeoFile) -> bool,
                "neither regions nor cities (subdivisions, city.names.en)",
            ),
            ("geo.asn", asn, has_asn, "no numbers of networks (autonomous_system_number)"),
        ] {
            let fits = file.as_ref().is_none_or(has);
            self.relation(&[key], fits, || {
                let of = file.map_or_else(String::new, |file| file.reader.metadata().database_type.clone());
                format!("the file has {what} in its first {NETWORKS_ASKED_MAX} networks; its type is {of:?}")
            });
        }
        Geo { city, asn }
    }
}

/// The file at this path; `None` where no path is given.
fn open(path: &str) -> Result<Option<GeoFile>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let mut content = file::content(path, BYTES_MAX)?;
    content.shrink_to_fit();
    let checksum = crc32fast::hash(&content);
    let reader = Reader::from_source(content)
        .map_err(|error| format!("the file is no database in MaxMind's format (.mmdb), or it is cut off: {error}"))?;
    Ok(Some(GeoFile { reader: Box::leak(Box::new(reader)), checksum }))
}

fn has_city(file: &GeoFile) -> bool {
    has::<&str>(file, &REGION) || has::<&str>(file, &CITY)
}

fn has_asn(file: &GeoFile) -> bool {
    has::<u32>(file, &ASN)
}

/// Whether a network has this; none that cannot be read has.
fn has<T: serde::Deserialize<'static>>(file: &GeoFile, path: &[PathElement<'_>]) -> bool {
    let networks = file.reader.networks(WithinOptions::default()).into_iter().flatten().flatten();
    networks.take(NETWORKS_ASKED_MAX).any(|network| matches!(network.decode_path::<T>(path), Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::tests::problems;
    use super::*;
    use crate::config::{Config, Sources};
    use crate::testing::mmdb;

    fn load(text: &str) -> Geo {
        Config::from_text(&Sources::default(), text).unwrap().geo
    }

    #[test]
    fn no_path_is_no_file_and_one_path_for_both_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("both.mmdb");
        let record = json!({"city": {"names": {"en": "Ulm"}}, "autonomous_system_number": 3320});
        std::fs::write(&path, mmdb("Enterprise", 7, &[("192.0.2.0/24", record)])).unwrap();
        let none = load("");
        assert!(none.city.is_none() && none.asn.is_none());
        let both = load(&format!("[geo]\ncity = {path:?}\nasn = {path:?}"));
        let [city, asn] = [both.city, both.asn].map(|file| file.unwrap());
        assert!(std::ptr::eq(city.reader, asn.reader));
        assert!(format!("{both:?}").len() < 200, "no content in a log: {both:?}");
    }

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_told_with_its_key_and_path() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
        let country = mmdb("GeoLite2-Country", 7, &[("192.0.2.0/24", json!({"country": {"iso_code": "DE"}}))]);
        let asn = mmdb("GeoLite2-ASN", 7, &[("192.0.2.0/24", json!({"autonomous_system_number": 3320}))]);
        let city = mmdb("GeoLite2-City", 7, &[("192.0.2.0/24", json!({"subdivisions": [{"iso_code": "BW"}]}))]);
        write("country.mmdb", &country);
        write("asn.mmdb", &asn);
        write("city.mmdb", &city);
        write("cut.mmdb", &city[..city.len() / 2]);
        write("text.mmdb", b"<!doctype html>");
        write("void.mmdb", b"");
        for (key, name, reason) in [
            ("city", "none.mmdb", "the file cannot be read: No such file"),
            ("asn", ".", "is not a file"),
            ("city", "text.mmdb", "no database in MaxMind's format"),
            ("city", "void.mmdb", "no database in MaxMind's format"),
            ("city", "cut.mmdb", "or it is cut off"),
            ("city", "country.mmdb", "has neither regions nor cities"),
            ("city", "asn.mmdb", "its type is \"GeoLite2-ASN\""),
            ("asn", "city.mmdb", "has no numbers of networks"),
        ] {
            let path = folder.path().join(name);
            let told = problems(&format!("geo.{key} = {path:?}"));
            assert!(told.len() == 1 && told[0].starts_with(&format!("1: geo.{key} = {path:?}")), "{told:?}");
            assert!(told[0].contains(reason), "{told:?}");
        }
    }
}
