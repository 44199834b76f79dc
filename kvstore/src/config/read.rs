//! Reads one value, from TOML or from the environment, and says what was wanted if it is another.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use kvstore_engine::{Admission, PolicyKind};
use kvstore_nvme::{Direct, IoEngine};
use toml::Value;

use super::units::{format_duration, format_size, parse_duration, parse_size};
use super::{HugePages, LogFormat, LogLevel, Prefault};
use crate::text::shortened;

/// `sun_path` has 108 bytes, the last of which is NUL.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Most letters of a value that are shown: what refuses it may have to fit a header of an answer.
const SHOWN_MAX: usize = 200;

/// A value as it was given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    /// In the file.
    Toml(&'a Value),
    /// In the environment; lists are separated by commas.
    Text(&'a str),
}

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(Value::String(text)) => Some(text),
            Self::Toml(_) => None,
            Self::Text(text) => Some(text),
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Self::Toml(value) => value.as_integer(),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }

    /// What to add where a unit is wanted, if it is a number and nothing else.
    fn without_unit(&self) -> &'static str {
        let is_bare = match self {
            Self::Toml(Value::Integer(_) | Value::Float(_)) => true,
            _ => self.text().is_some_and(|text| text.trim().parse::<f64>().is_ok()),
        };
        if is_bare { ", which has no unit" } else { "" }
    }

    fn shown(&self) -> String {
        match self {
            Self::Toml(Value::Table(_)) => "a table".to_owned(),
            Self::Toml(value) => shortened(&value.to_string(), SHOWN_MAX),
            Self::Text(text) => shortened(&format!("{text:?}"), SHOWN_MAX),
        }
    }

    fn want<T>(&self, what: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("want {what}, got {}", self.shown()))
    }
}

/// A text.
pub(super) fn text(raw: Raw<'_>) -> Option<&str> {
    match raw {
        Raw::Toml(Value::String(text)) => Some(text),
        Raw::Toml(_) => None,
        Raw::Text(text) => Some(text.trim()),
    }
}

/// A number of bytes in `min..=max`, with its unit.
pub(super) fn size(raw: Raw<'_>, min: u64, max: u64) -> Result<u64, String> {
    match raw.text().and_then(parse_size) {
        Some(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => {
            let what = format_args!(
                "a size from {} to {} such as \"64GiB\"",
                format_size(min),
                format_size(max)
            );
            raw.want(what).map_err(|text| text + raw.without_unit())
        }
    }
}

/// A number of bytes in `min..=max`, or `auto`, which is none.
pub(super) fn size_or_auto(raw: Raw<'_>, min: u64, max: u64) -> Result<Option<u64>, String> {
    if raw.text() == Some("auto") {
        return Ok(None);
    }
    size(raw, min, max).map(Some)
}

/// Bytes per second in `min..=max`; 0, with a unit or without, is none.
pub(super) fn rate(raw: Raw<'_>, min: u64, max: u64) -> Result<Option<u64>, String> {
    if raw.integer() == Some(0) || raw.text().is_some_and(|text| matches!(text.trim(), "0" | "0B")) {
        return Ok(None);
    }
    match raw.text().and_then(parse_size) {
        Some(bytes) if (min..=max).contains(&bytes) => Ok(Some(bytes)),
        _ => raw
            .want(format_args!(
                "\"0\", or bytes per second from {} to {} such as \"200MiB\"",
                format_size(min),
                format_size(max)
            ))
            .map_err(|text| text + raw.without_unit()),
    }
}

/// A duration of at most `max`.
pub(super) fn duration(raw: Raw<'_>, min: Duration, max: Duration) -> Result<Duration, String> {
    match raw.text().and_then(parse_duration) {
        Some(duration) if (min..=max).contains(&duration) => Ok(duration),
        _ => raw
            .want(format_args!(
                "a duration from {} to {} in ms, s, min or h",
                format_duration(min),
                format_duration(max)
            ))
            .map_err(|text| text + raw.without_unit()),
    }
}

/// A number in `min..=max`.
pub(super) fn count(raw: Raw<'_>, min: usize, max: usize) -> Result<usize, String> {
    match raw.integer().and_then(|number| usize::try_from(number).ok()) {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        _ => raw.want(format_args!("a whole number from {min} to {max}")),
    }
}

/// A fraction; its bounds are checked together with its sibling's.
pub(super) fn fraction(raw: Raw<'_>) -> Result<f64, String> {
    let number = match raw {
        Raw::Toml(Value::Float(number)) => Some(*number),
        // Only 0 and 1 make sense as integers, and both are exact.
        Raw::Toml(Value::Integer(number)) => i32::try_from(*number).ok().map(f64::from),
        Raw::Toml(_) => None,
        Raw::Text(text) => text.trim().parse().ok(),
    };
    match number {
        Some(number) if number.is_finite() => Ok(number),
        _ => raw.want("a number from 0 to 1 such as 0.95"),
    }
}

/// An absolute path that fits a socket address.
pub(super) fn socket_path(raw: Raw<'_>) -> Result<PathBuf, String> {
    match raw.text() {
        Some(text) if text.len() > SOCKET_PATH_BYTES_MAX => Err(format!(
            "want at most {SOCKET_PATH_BYTES_MAX} bytes (a limit of unix sockets), got {}",
            text.len()
        )),
        Some(text) if text.starts_with('/') && !text.ends_with('/') => Ok(PathBuf::from(text)),
        _ => raw.want("an absolute path of a file"),
    }
}

/// An address and a port, or `none`.
pub(super) fn listen(raw: Raw<'_>) -> Result<Option<SocketAddr>, String> {
    let text = raw.text().map(str::trim);
    if text == Some("none") {
        return Ok(None);
    }
    match text.and_then(|text| text.parse().ok()) {
        Some(address) => Ok(Some(address)),
        None => raw.want("\"none\", or an address and a port such as \"127.0.0.1:9470\" or \"[::]:9470\""),
    }
}

/// The same, or `auto`, which is none.
pub(super) fn socket_or_auto(raw: Raw<'_>) -> Result<Option<PathBuf>, String> {
    if raw.text() == Some("auto") {
        return Ok(None);
    }
    socket_path(raw).map(Some)
}

/// Absolute paths of directories.
pub(super) fn directories(raw: Raw<'_>) -> Result<Vec<PathBuf>, String> {
    const WANT: &str = "a list of absolute paths without \"..\"";
    let texts: Option<Vec<&str>> = match raw {
        Raw::Toml(Value::Array(items)) => items.iter().map(Value::as_str).collect(),
        Raw::Toml(_) => None,
        Raw::Text(text) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|path| !path.is_empty())
                .collect(),
        ),
    };
    let is_plain = |path: &Path| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let Some(texts) = texts else {
        return raw.want(WANT);
    };
    let (plain, strange): (Vec<&str>, Vec<&str>) =
        texts.into_iter().partition(|text| is_plain(Path::new(text)));
    if !strange.is_empty() {
        let shown: Vec<String> = strange.iter().map(|text| format!("{text:?}")).collect();
        return Err(format!("want {WANT}, got {} among them", shown.join(", ")));
    }
    // Put together anew, so that one directory has one name.
    let paths = plain
        .into_iter()
        .map(|text| Path::new(text).components().collect());
    Ok(paths.collect())
}

/// User or group ids.
pub(super) fn ids(raw: Raw<'_>) -> Result<Vec<u32>, String> {
    let ids: Option<Vec<u32>> = match raw {
        Raw::Toml(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_integer().and_then(|id| u32::try_from(id).ok()))
            .collect(),
        Raw::Toml(_) => None,
        Raw::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(|id| id.parse().ok())
            .collect(),
    };
    ids.map_or_else(|| raw.want("a list of numeric ids"), Ok)
}

/// One id.
pub(super) fn id(raw: Raw<'_>) -> Result<u32, String> {
    match raw.integer().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(id),
        None => raw.want("a numeric id"),
    }
}

/// One of a few names.
pub(super) fn choice<T: Choice>(raw: Raw<'_>) -> Result<T, String> {
    let found = raw
        .text()
        .and_then(|text| T::NAMES.iter().find(|(name, _)| *name == text.trim()));
    if let Some((_, value)) = found {
        Ok(*value)
    } else {
        let names: Vec<String> = T::NAMES.iter().map(|(name, _)| format!("{name:?}")).collect();
        raw.want(names.join(" or "))
    }
}

/// A mode: an enum whose values have names.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// The names and what they mean.
    const NAMES: &'static [(&'static str, Self)];

    /// The name of this value.
    fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("?", |(name, _)| *name)
    }
}

impl Choice for HugePages {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("never", Self::Never),
        ("try", Self::Try),
        ("require", Self::Require),
    ];
}

impl Choice for Prefault {
    const NAMES: &'static [(&'static str, Self)] = &[("start", Self::Start), ("lazy", Self::Lazy)];
}

impl Choice for PolicyKind {
    const NAMES: &'static [(&'static str, Self)] = &[("s3-fifo", Self::S3Fifo), ("lru", Self::Lru)];
}

impl Choice for IoEngine {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("io-uring", Self::IoUring),
        ("threads", Self::Threads),
    ];
}

impl Choice for Direct {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

impl Choice for Admission {
    const NAMES: &'static [(&'static str, Self)] = &[("all", Self::All), ("second-touch", Self::SecondTouch)];
}

impl Choice for LogLevel {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}
