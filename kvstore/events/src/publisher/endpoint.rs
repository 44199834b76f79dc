//! Addresses of ZeroMQ sockets.

use std::fmt;
use std::str::FromStr;

/// `tcp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// A name, an address, or `*` for every interface.
    host: String,
    port: u16,
}

/// What an address has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "want an address such as \"tcp://router.example:5557\" (\"tcp://*:5557\" to listen on every interface)"
)]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text
            .strip_prefix("tcp://")
            .and_then(|rest| rest.rsplit_once(':'))
            .ok_or(AddressError)?;
        let port = port.parse().map_err(|_| AddressError)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            Some(_) => return Err(AddressError),
            None => host,
        };
        let is_name = |host: &str| {
            host.chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        };
        if host.is_empty() || (bare.is_none() && host != "*" && !is_name(host)) {
            return Err(AddressError);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "tcp://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "tcp://{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Whether it stands for every interface, and so is nothing to connect to.
    pub fn is_wildcard(&self) -> bool {
        self.host == "*"
    }

    /// Host and port, as the resolver wants them.
    pub(crate) fn parts(&self) -> (&str, u16) {
        let host = if self.is_wildcard() { "0.0.0.0" } else { &self.host };
        (host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in [
            "tcp://10.0.0.1:5557",
            "tcp://*:5557",
            "tcp://router.llm-d.svc:80",
            "tcp://[::1]:9",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.0.0.1:5557",
            "ipc:///tmp/x",
            "tcp://:1",
            "tcp://host",
            "tcp://host:70000",
            "tcp://[host]:1",
            "tcp://a b:1",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }
}
