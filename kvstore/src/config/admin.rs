//! The keys of the admin API.

use std::path::PathBuf;

use super::Config;
use super::events::{show_list, texts};
use super::keys::{Key, quoted};
use super::read::{self, Raw};
use super::remote_keys::{path_or_none, shown_path};

/// Longest name of an administrator.
const NAME_BYTES_MAX: usize = 1024;
const NAMES_BOUNDS: &str = "a list of names (comma-separated in the environment)";
const PATH_BOUNDS: &str = "\"none\", or an absolute path; wanted with admin.listen";

pub(super) const SOCKET: Key = Key {
    name: "admin.socket",
    default: "auto: beside socket, kvtier-admin.sock where that is kvtier.sock",
    bounds: "\"auto\", or an absolute path of at most 107 bytes",
    doc: "Where the admin API is served, which `kvtier` speaks. Root and the daemon's own user may change things; mode \
          and group are those of the other socket.",
    set: |config, raw| read::socket_or_auto(raw).map(|path| config.admin.socket = path),
    show: |config| {
        let path = config.admin.socket.as_ref();
        Some(quoted(path.map_or_else(
            || "auto".to_owned(),
            |path| path.display().to_string(),
        )))
    },
};

pub(super) const READER_UIDS: Key = Key {
    name: "admin.reader-uids",
    default: "[]",
    bounds: "a list of numeric ids (comma-separated in the environment)",
    doc: "Users who may look at everything over the admin API and change nothing.",
    set: |config, raw| read::ids(raw).map(|ids| config.admin.readers.uids = ids),
    show: |config| Some(format!("{:?}", config.admin.readers.uids)),
};

pub(super) const READER_GIDS: Key = Key {
    name: "admin.reader-gids",
    default: "[]",
    bounds: "a list of numeric ids (comma-separated in the environment)",
    doc: "Groups whose processes may do so as well. Only a process's primary group counts.",
    set: |config, raw| read::ids(raw).map(|ids| config.admin.readers.gids = ids),
    show: |config| Some(format!("{:?}", config.admin.readers.gids)),
};

pub(super) const LISTEN: Key = Key {
    name: "admin.listen",
    default: "none",
    bounds: "\"none\", or an address and a port such as \"10.0.0.7:9471\" or \"[::]:9471\"",
    doc: "Where the admin API is served over TCP as well, with TLS 1.3 and certificates on both sides. Who has none of \
          admin.tls-client-ca is refused before anything is asked.",
    set: |config, raw| read::listen(raw).map(|address| config.admin.listen = address),
    show: |config| {
        let address = config.admin.listen;
        Some(quoted(
            address.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        ))
    },
};

pub(super) const TLS_CERTIFICATE: Key = Key {
    name: "admin.tls-certificate",
    default: "none",
    bounds: PATH_BOUNDS,
    doc: "The daemon's certificate (PEM), followed by those between it and its CA. This file and the next two are read \
          again when they change, and at SIGHUP: new connections use what is in them then.",
    set: |config, raw| path_or_none(raw).map(|path| config.admin.tls.certificate = path),
    show: |config| Some(shown_path(&config.admin.tls.certificate)),
};

pub(super) const TLS_KEY: Key = Key {
    name: "admin.tls-key",
    default: "none",
    bounds: PATH_BOUNDS,
    doc: "The private key of admin.tls-certificate (PEM, without a password).",
    set: |config, raw| path_or_none(raw).map(|path| config.admin.tls.key = path),
    show: |config| Some(shown_path(&config.admin.tls.key)),
};

pub(super) const TLS_CLIENT_CA: Key = Key {
    name: "admin.tls-client-ca",
    default: "none",
    bounds: PATH_BOUNDS,
    doc: "The CA of clients (PEM; several may stand one after another). Every certificate of it may look at everything: \
          let it be one for this purpose.",
    set: |config, raw| path_or_none(raw).map(|path| config.admin.tls.client_ca = path),
    show: |config| Some(shown_path(&config.admin.tls.client_ca)),
};

pub(super) const TLS_ADMINISTRATORS: Key = Key {
    name: "admin.tls-administrators",
    default: "[]",
    bounds: NAMES_BOUNDS,
    doc: "Names in clients' certificates that may change things as well: a DNS name or URI among the alternative names, or a \
          common name, letter for letter.",
    set: |config, raw| names(raw).map(|names| config.admin.tls.administrators = names),
    show: |config| Some(show_list(config.admin.tls.administrators.iter().cloned())),
};

fn names(raw: Raw<'_>) -> Result<Vec<String>, String> {
    let names = texts(raw).ok_or_else(|| format!("want {NAMES_BOUNDS}"))?;
    // U+FFFD stands where text was not what it was taken for.
    let is_odd = |name: &&String| name.contains(|c: char| c.is_control() || c == '\u{fffd}');
    if let Some(name) = names.iter().find(is_odd) {
        return Err(format!("want names of printable characters, got {name:?}"));
    }
    match names
        .iter()
        .find(|name| name.is_empty() || name.len() > NAME_BYTES_MAX)
    {
        None => Ok(names),
        Some(name) => Err(format!(
            "want names of 1 to {NAME_BYTES_MAX} bytes, got one of {}",
            name.len()
        )),
    }
}

/// What only shows when several keys are seen together: keys and what is wrong.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let admin = &config.admin;
    let files: [(&str, &Option<PathBuf>); 3] = [
        (TLS_CERTIFICATE.name, &admin.tls.certificate),
        (TLS_KEY.name, &admin.tls.key),
        (TLS_CLIENT_CA.name, &admin.tls.client_ca),
    ];
    let wrong = files
        .into_iter()
        .filter(|(_, path)| path.is_some() != admin.listen.is_some());
    let text = if admin.listen.is_some() {
        "want a PEM file, because admin.listen is set"
    } else {
        "want admin.listen with it"
    };
    let mut problems: Vec<_> = wrong.map(|(key, _)| (key.to_owned(), text.to_owned())).collect();
    if admin.listen.is_none() && !admin.tls.administrators.is_empty() {
        problems.push((TLS_ADMINISTRATORS.name.to_owned(), text.to_owned()));
    }
    if admin.listen.is_some_and(|address| address.port() != 0) && admin.listen == config.metrics.listen {
        let text = "want another address or port than that of metrics.listen";
        problems.push((LISTEN.name.to_owned(), text.to_owned()));
    }
    problems
}
