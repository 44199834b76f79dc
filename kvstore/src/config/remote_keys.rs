//! The keys of the remote tier.

use std::path::PathBuf;
use std::time::Duration;

use kvstore_remote::{Endpoint, Reserve};

use super::keys::{Key, quoted};
use super::read::{self, Choice, Raw};
use super::units::{format_duration, format_size};

const NAME_BYTES_MAX: usize = 255;
const LIMIT_MIN: u64 = 1 << 20;
const LIMIT_MAX: u64 = 1 << 50;
const BUFFERS_MIN: u64 = 1 << 20;
const BUFFERS_MAX: u64 = 64 << 30;

const DAY: Duration = Duration::from_hours(24);
const AGE_MAX: Duration = Duration::from_hours(24 * 3650);

/// A name without anything strange in it, or `none`.
fn name_or_none(raw: Raw<'_>) -> Result<Option<String>, String> {
    let text = read::text(raw).unwrap_or_default();
    if text == "none" {
        return Ok(None);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("want at most {NAME_BYTES_MAX} bytes, got {}", text.len()));
    }
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!(
            "want \"none\", or a name of letters, digits and \"-_.\", got {text:?}"
        ))
    }
}

/// The name of a bucket. One of dots only would be taken for a directory's by whatever puts names together.
fn bucket(raw: Raw<'_>) -> Result<Option<String>, String> {
    match name_or_none(raw)? {
        Some(name) if name.chars().all(|letter| letter == '.') => Err(format!(
            "want the name of a bucket, got {name:?}, which would be taken for a directory"
        )),
        name => Ok(name),
    }
}

/// The name of a storage account, or `none`. It becomes part of a host's name.
fn account(raw: Raw<'_>) -> Result<Option<String>, String> {
    let text = read::text(raw).unwrap_or_default();
    if text == "none" {
        return Ok(None);
    }
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    if (3..=24).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!("want {ACCOUNT_BOUNDS}, got {text:?}"))
    }
}

/// A path without anything strange in it, relative; may be empty.
fn prefix(raw: Raw<'_>) -> Result<String, String> {
    let text = read::text(raw).unwrap_or("/");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain);
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("want at most {NAME_BYTES_MAX} bytes, got {}", text.len()));
    }
    if text.is_empty() || text.split('/').all(is_part) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "want names of letters, digits and \"-_.\" with \"/\" between them, or \"\", got {text:?}"
        ))
    }
}

/// An address with http or https and nothing secret in it.
pub(super) fn endpoint(raw: Raw<'_>) -> Result<Option<String>, String> {
    let text = read::text(raw).unwrap_or_default();
    if text == "none" {
        return Ok(None);
    }
    // An error shows nothing of it: what is wrong with it may be that it holds a password.
    Endpoint::parse(text)
        .map(|_| Some(text.to_owned()))
        .map_err(|told| told.replacen("want", "want \"none\", or", 1))
}

pub(super) fn path_or_none(raw: Raw<'_>) -> Result<Option<PathBuf>, String> {
    if read::text(raw) == Some("none") {
        return Ok(None);
    }
    let text = read::text(raw).unwrap_or_default();
    match read::directories(Raw::Text(text)) {
        Ok(paths) if paths.len() == 1 => Ok(paths.into_iter().next()),
        _ => Err(format!(
            "want \"none\", or an absolute path without \"..\", got {text:?}"
        )),
    }
}

fn size_or_none(raw: Raw<'_>) -> Result<Option<u64>, String> {
    if read::text(raw) == Some("none") {
        return Ok(None);
    }
    read::size(raw, LIMIT_MIN, LIMIT_MAX)
        .map(Some)
        .map_err(|text| text.replacen("want", "want \"none\", or", 1))
}

fn age_or_none(raw: Raw<'_>) -> Result<Option<Duration>, String> {
    if read::text(raw) == Some("none") {
        return Ok(None);
    }
    read::duration(raw, Duration::from_mins(1), AGE_MAX)
        .map(Some)
        .map_err(|text| text.replacen("want", "want \"none\", or", 1))
}

/// Bytes, or a part of a file system; `none` is nothing.
fn reserve(raw: Raw<'_>) -> Result<Reserve, String> {
    let text = read::text(raw).unwrap_or_default();
    if text == "none" {
        return Ok(Reserve::Bytes(0));
    }
    if let Some(part) = text.strip_suffix('%') {
        return permille(part.trim_end())
            .filter(|parts| (1..=900).contains(parts))
            .map(Reserve::Permille)
            .ok_or_else(|| format!("want a part from 0.1% to 90%, got {text:?}"));
    }
    read::size(raw, LIMIT_MIN, LIMIT_MAX)
        .map(Reserve::Bytes)
        .map_err(|text| text.replacen("want", "want \"none\", a part such as \"5%\", or", 1))
}

/// Thousandths, of hundredths with at most one digit behind the point.
fn permille(text: &str) -> Option<u16> {
    let (whole, tenth) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(tenth) || tenth.len() > 1 {
        return None;
    }
    let (whole, tenth): (u16, u16) = (whole.parse().ok()?, tenth.parse().ok()?);
    whole.checked_mul(10)?.checked_add(tenth)
}

fn shown_reserve(reserve: &Reserve) -> String {
    match reserve {
        Reserve::Bytes(0) => quoted("none"),
        Reserve::Bytes(bytes) => quoted(format_size(*bytes)),
        Reserve::Permille(parts) if parts % 10 == 0 => quoted(format_args!("{}%", parts / 10)),
        Reserve::Permille(parts) => quoted(format_args!("{}.{}%", parts / 10, parts % 10)),
    }
}

fn or_none(text: Option<impl std::fmt::Display>) -> String {
    text.map_or_else(|| quoted("none"), quoted)
}

const NAME_BOUNDS: &str = "\"none\", or a name of letters, digits and \"-_.\"";
const ACCOUNT_BOUNDS: &str = "\"none\", or 3 to 24 lower-case letters and digits";
const PATH_BOUNDS: &str = "\"none\", or an absolute path";

macro_rules! key {
    ($const:ident, $name:literal, $default:literal, $bounds:expr, $doc:literal, $field:ident: $read:expr, $show:expr) => {
        pub(super) const $const: Key = Key {
            name: $name,
            default: $default,
            bounds: $bounds,
            doc: $doc,
            set: |config, raw| $read(raw).map(|value| config.remote.$field = value),
            show: |config| Some($show(&config.remote.$field)),
        };
    };
}

fn name_of<T: Choice>(value: &T) -> String {
    quoted(value.name())
}

#[expect(clippy::ref_option, reason = "the table lends the field as it is")]
pub(super) fn shown_path(path: &Option<PathBuf>) -> String {
    or_none(path.as_ref().map(|path| path.display()))
}

#[expect(clippy::ref_option, reason = "the table lends the field as it is")]
fn shown_name(name: &Option<String>) -> String {
    or_none(name.as_ref())
}

fn shown_duration(duration: &Duration) -> String {
    quoted(format_duration(*duration))
}

fn operations(raw: Raw<'_>) -> Result<usize, String> {
    read::count(raw, 1, 4096)
}

fn buffers(raw: Raw<'_>) -> Result<u64, String> {
    read::size(raw, BUFFERS_MIN, BUFFERS_MAX)
}

key!(KIND, "remote.kind", "none", "\"none\", \"mount\", \"s3\", \"gcs\" or \"azure\"",
    "What is behind this node, shared with others: nothing, a directory that is mounted on all of them (NFS, Lustre, CephFS, \
     GPFS, a volume), or a bucket of an object store: one that speaks S3, Google Cloud Storage, or Azure Blob Storage. What one \
     node has stored all find.",
    kind: read::choice, name_of);
key!(PREFIX, "remote.prefix", "kvtier", "names of letters, digits and \"-_.\" with \"/\" between them, or \"\"",
    "Where in the directory or bucket. Each tenant has a part of its own below it, named like the tenant: nodes share what \
     tenants of the same name store.",
    prefix: prefix, |prefix: &String| quoted(prefix));
key!(DIRECTORY, "remote.directory", "none", PATH_BOUNDS,
    "The mounted directory. It has to be there; what is in it is made, with modes 0770 and 0660: let the nodes' daemons have \
     one user or group.",
    directory: path_or_none, shown_path);
key!(MOUNT_CHECK, "remote.mount-check", "auto", "\"auto\", \"required\" or \"off\"",
    "How it is known that the directory is what it was, so that nothing is written below a mount that is gone. \"auto\": it is \
     held open, and what shows under its name later has to be the same store; until it is back the tier is out of service. \
     \"required\": the same, and something has to be mounted at the directory itself, at the start too. \"off\": whatever has \
     its name is written to.",
    mount_check: read::choice, name_of);
key!(RESERVE, "remote.reserve", "1%", "\"none\", a size from 1MiB to 1024TiB, or a part from 0.1% to 90%",
    "How much of the directory's file system stays free, whoever has filled it. Below it nothing is stored until there is room \
     again; what is there is read all the same. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    reserve: reserve, shown_reserve);
key!(IO, "remote.io", "auto", "\"auto\", \"io-uring\" or \"threads\"",
    "How blocks are read and written at the mount. \"auto\" takes io_uring where it is to be had, else threads.",
    io: read::choice, name_of);
key!(DIRECT, "remote.direct", "auto", "\"auto\", \"always\" or \"never\"",
    "Whether the page cache is passed by at the mount (O_DIRECT). \"auto\" does it where the mount takes it.",
    direct: read::choice, name_of);
key!(SYNC, "remote.sync", "none", "\"none\", \"data\" or \"full\"",
    "What is made safe at the mount before a block gets its name: nothing, its bytes, or its name too. A power cut of the \
     server may lose blocks with \"none\"; it never makes wrong ones.",
    sync: read::choice, name_of);
key!(THREADS, "remote.threads", "16", "1 to 256",
    "Most threads, for each tenant, for calls at the mount that may block.",
    threads: |raw| read::count(raw, 1, 256), |count: &usize| count.to_string());
key!(BUCKET, "remote.bucket", "none", NAME_BOUNDS,
    "The bucket; with kind \"azure\" the container. It has to be there.",
    bucket: bucket, shown_name);
key!(ACCOUNT, "remote.account", "none", ACCOUNT_BOUNDS,
    "With kind \"azure\": the storage account that has the container.",
    account: account, shown_name);
key!(ENDPOINT, "remote.endpoint", "none", "\"none\", or http:// or https:// and a host",
    "Where the store is, if not where its kind usually is (Amazon's, storage.googleapis.com, ACCOUNT.blob.core.windows.net), without \
     the bucket's name; with kind \"azure\" with the account in it. Certificates are verified; redirects are not followed.",
    endpoint: endpoint, shown_name);
key!(REGION, "remote.region", "none", NAME_BOUNDS,
    "With kind \"s3\": the store's region; with \"none\" us-east-1.",
    region: name_or_none, shown_name);
key!(ADDRESSING, "remote.addressing", "path", "\"path\" or \"virtual-host\"",
    "With kind \"s3\": whether the bucket's name stands in the path of a request or before the name of the host, which then cannot be \
     an address.",
    addressing: read::choice, name_of);
key!(CREDENTIALS, "remote.credentials", "environment", "\"environment\", \"file\", \"identity\" or \"anonymous\"",
    "Where credentials come from, and from nowhere else; they are never part of the configuration. \"environment\": of S3 \
     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; of Google GOOGLE_APPLICATION_CREDENTIALS, which names a file; of \
     Azure one of AZURE_STORAGE_KEY (or AZURE_STORAGE_ACCOUNT_KEY), AZURE_STORAGE_SAS_TOKEN, and AZURE_CLIENT_SECRET with \
     AZURE_TENANT_ID and AZURE_CLIENT_ID. \"file\": remote.credentials-file. \"identity\": what the instance, pod or workload is known \
     as: instance metadata, container credentials or web identity tokens; Google's metadata server; Azure's managed identity, or its \
     workload identity where AZURE_FEDERATED_TOKEN_FILE names a token. \"anonymous\": nobody's.",
    credentials: read::choice, name_of);
key!(CREDENTIALS_FILE, "remote.credentials-file", "none", PATH_BOUNDS,
    "S3: a file in the form of AWS's shared credentials. Google: JSON of a service account, or of an authorized user. Azure: the \
     account's key or a SAS token, and nothing else. It is read again when it changes.",
    credentials_file: path_or_none, shown_path);
key!(CREDENTIALS_PROFILE, "remote.credentials-profile", "none", NAME_BOUNDS,
    "With kind \"s3\": the section of that file; with \"none\" it is [default].",
    credentials_profile: name_or_none, shown_name);
key!(CA_FILE, "remote.ca-file", "none", PATH_BOUNDS,
    "Certificates in PEM to trust beside the system's.",
    ca_file: path_or_none, shown_path);
key!(SIGN_PAYLOAD, "remote.sign-payload", "always", "\"always\" or \"never\"",
    "With kind \"s3\": whether blocks are part of their requests' signatures, which costs a SHA-256 of each. Every block is verified when it is \
     read, whatever this is.",
    sign_payload: read::choice, name_of);
key!(ADMISSION, "remote.admission", "everything", "\"everything\", \"second-touch\" or \"on-eviction\"",
    "Which blocks are written, from memory and behind everything else. \"everything\": every one when it is stored, or comes \
     back from NVMe. \"second-touch\": those that a look-up has found in memory. \"on-eviction\": those that leave memory \
     at the watermark; what has to leave at once, because its place is wanted, is not written.",
    admission: read::choice, name_of);
key!(PROMOTION_DEADLINE, "remote.promotion-deadline", "1s", "0s to 1min",
    "How long a look-up waits for the remote tier in all: to hear which blocks behind its hit are there, and for them. What is \
     not in memory then is a miss. With 0s no look-up waits, and the tier is only written.",
    promotion_deadline: |raw| read::duration(raw, Duration::ZERO, Duration::from_mins(1)), shown_duration);
key!(WRITE_DEADLINE, "remote.write-deadline", "30s", "100ms to 10min",
    "How long storing one block may take, attempts that fail included. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    write_deadline: |raw| read::duration(raw, Duration::from_millis(100), Duration::from_mins(10)), shown_duration);
key!(READS, "remote.reads", "64", "1 to 4096",
    "Blocks fetched at a time, for each tenant. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    reads: operations, |count: &usize| count.to_string());
key!(READ_BYTES, "remote.read-bytes", "256MiB", "1MiB to 64GiB",
    "Memory for blocks that are being fetched, for each tenant, beside the region.",
    read_bytes: buffers, |bytes: &u64| quoted(format_size(*bytes)));
key!(WRITES, "remote.writes", "32", "1 to 4096",
    "Blocks stored at a time, for each tenant. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    writes: operations, |count: &usize| count.to_string());
key!(WRITE_BYTES, "remote.write-bytes", "128MiB", "1MiB to 64GiB",
    "Memory for blocks that are being stored, for each tenant, beside the region.",
    write_bytes: buffers, |bytes: &u64| quoted(format_size(*bytes)));
key!(KNOWN_BLOCKS, "remote.known-blocks", "131072", "1 to 268435456",
    "Blocks that are remembered, and announced, though they are only in the remote tier. Others are found by asking it. About \
     100 bytes of memory each, and what is known of their tokens.",
    known_blocks: |raw| read::count(raw, 1, 1 << 28), |count: &usize| count.to_string());
key!(CAPACITY, "remote.capacity", "none", "\"none\", or a size from 1MiB to 1024TiB",
    "Most bytes of blocks of each namespace. One node at a time, chosen through the store, removes what was not used for \
     longest when there are more. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    capacity_bytes: size_or_none, |bytes: &Option<u64>| or_none(bytes.map(format_size)));
key!(AGE_MAX_KEY, "remote.age-max", "none", "\"none\", or a duration from 1min to 87600h",
    "Blocks that no node has written or read for so long are removed. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
    age_max: age_or_none, |age: &Option<Duration>| or_none(age.map(format_duration)));
key!(SWEEP_EVERY, "remote.sweep-every", "10min", "10s to 24h",
    "How often the store is swept: for what is too much or too old, and for what was left half-written.",
    sweep_every: |raw| read::duration(raw, Duration::from_secs(10), DAY), shown_duration);
