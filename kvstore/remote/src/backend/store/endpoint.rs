//! Where a store is.

use url::{Host, Url};

/// What an address has to be. It is never shown: what is wrong with one may be that it holds a password.
const WANT: &str = "want http:// or https:// and a host, without user, password or query";

/// The address of a server: `http://` or `https://`, a host, perhaps a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Reads one. An error says what is wanted, and shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A URL's parser drops white space and turns backslashes; whoever wrote them meant something else.
        let is_strange = |letter: char| {
            letter.is_whitespace() || letter.is_control() || matches!(letter, '@' | '?' | '#' | '\\')
        };
        let is_begun = text.starts_with("http://") || text.starts_with("https://");
        if !is_begun || text.contains(is_strange) {
            return Err(WANT.to_owned());
        }
        Url::parse(text)
            .map(Self)
            .map_err(|error| format!("{WANT}: {error}"))
    }

    /// Whether its host has a name, and not only an address.
    pub fn has_name(&self) -> bool {
        matches!(self.0.host(), Some(Host::Domain(_)))
    }

    /// What the addresses of requests begin with.
    pub(super) fn url(&self) -> String {
        self.0.as_str().trim_end_matches('/').to_owned()
    }

    /// The same with the bucket as the first part of the host's name.
    pub(super) fn of_bucket(&self, bucket: &str) -> Result<String, String> {
        let Some(Host::Domain(name)) = self.0.host() else {
            return Err(
                "want a host with a name: the bucket's name cannot stand before an address".to_owned(),
            );
        };
        let mut url = self.0.clone();
        url.set_host(Some(&format!("{bucket}.{name}")))
            .map_err(|error| format!("the bucket's name cannot stand before the host's: {error}"))?;
        Ok(Self(url).url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_and_not_shown() {
        for text in [
            "",
            "none",
            "store:9000",
            "ftp://store",
            "https://",
            "http://host:99999",
            "http://host:hush",
            "http://host name",
            "http://ho\nst",
            "http://host\\hush",
            "http://[::1",
            "http://hu%00sh",
            "http://user:hush@host",
            "http://host?key=hush",
        ] {
            let told = Endpoint::parse(text).unwrap_err();
            assert!(
                told.starts_with(WANT) && !told.contains("hush"),
                "{text:?}: {told}"
            );
        }
        let told = Endpoint::parse("http://host:99999").unwrap_err();
        assert!(told.ends_with("invalid port number"), "{told}");
    }

    #[test]
    fn the_bucket_stands_before_a_name_and_before_no_address() {
        let of = |text: &str| Endpoint::parse(text).unwrap();
        for (text, expected) in [
            ("https://store.example", "https://cache.store.example"),
            ("https://store.example/", "https://cache.store.example"),
            ("http://localhost:9000", "http://cache.localhost:9000"),
            (
                "https://store.example:9000/s3/",
                "https://cache.store.example:9000/s3",
            ),
        ] {
            assert!(of(text).has_name());
            assert_eq!(of(text).url(), text.trim_end_matches('/'));
            assert_eq!(of(text).of_bucket("cache").as_deref(), Ok(expected));
        }
        for text in ["http://127.0.0.1:9000", "https://[::1]", "http://0x7f.1"] {
            assert!(!of(text).has_name(), "{text}");
            assert!(of(text).of_bucket("cache").is_err(), "{text}");
        }
        assert!(of("http://localhost").of_bucket("a b").is_err());
    }
}
