//! The keys of the admin API.

use super::keys::{Key, quoted};
use super::read;

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
