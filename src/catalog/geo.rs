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
