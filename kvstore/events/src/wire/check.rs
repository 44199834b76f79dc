//! What clients said of their blocks, checked before it is passed on: one malformed event makes a router drop the whole
//! batch that it came in.

use kvstore_types::{BlockHash, DescriptorBytes};

/// Longest extra keys that are passed on.
const EXTRA_KEYS_BYTES_MAX: usize = 3840;
/// Values within values.
const DEPTH_MAX: usize = 8;

/// Why extra keys are not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraKeysError {
    /// They are longer than may be.
    #[error("the extra keys are longer than {EXTRA_KEYS_BYTES_MAX} bytes")]
    TooLong,
    /// They are neither nil nor an array.
    #[error("the extra keys are neither nil nor an array")]
    NoArray,
    /// One of them is neither nil nor an array.
    #[error("an entry of the extra keys is neither nil nor an array")]
    EntryNoArray,
    /// They end too early, or something follows them.
    #[error("the extra keys are not exactly one MessagePack value")]
    Length,
    /// Values are nested too deeply.
    #[error("the extra keys are nested deeper than {DEPTH_MAX} values")]
    Depth,
    /// A text is no text.
    #[error("a text in the extra keys is not UTF-8")]
    Text,
    /// A kind of value that consumers do not understand: a map, an extension, a reserved byte.
    #[error("the extra keys have a value of kind {0:#04x}, which consumers do not understand")]
    Kind(u8),
}

/// The parent of a block, if its description can be announced; what is wrong with it otherwise.
pub(crate) fn check(descriptor: &DescriptorBytes) -> Result<Option<BlockHash>, &'static str> {
    let descriptor = descriptor.view().map_err(|_| "it cannot be decoded")?;
    if descriptor.tokens.is_empty() {
        return Err("it has no tokens");
    }
    check_extra_keys(descriptor.extra_keys).map_err(|_| "its extra keys cannot be passed on")?;
    Ok(descriptor.parent)
}

/// Whether a block's extra keys can be passed on: nothing at all, nil, or an array with an entry for each of the engine's
/// blocks, each nil or an array of values that every consumer can decode.
pub fn check_extra_keys(bytes: &[u8]) -> Result<(), ExtraKeysError> {
    if bytes.len() > EXTRA_KEYS_BYTES_MAX {
        return Err(ExtraKeysError::TooLong);
    }
    let (entries, bytes) = match bytes.split_first() {
        None => return Ok(()),
        Some((0xc0, rest)) => (0, rest),
        Some((kind @ 0x90..=0x9f, rest)) => (usize::from(kind & 0x0f), rest),
        Some((0xdc, rest)) => count(rest, 2)?,
        Some((0xdd, rest)) => count(rest, 4)?,
        Some(_) => return Err(ExtraKeysError::NoArray),
    };
    // Each entry has a byte at least, so this ends as soon as the bytes do.
    let rest = (0..entries).try_fold(bytes, |rest, _| match rest.first() {
        None | Some(0xc0 | 0x90..=0x9f | 0xdc | 0xdd) => skip(rest, 1),
        Some(_) => Err(ExtraKeysError::EntryNoArray),
    })?;
    if rest.is_empty() {
        Ok(())
    } else {
        Err(ExtraKeysError::Length)
    }
}

/// What follows one value.
fn skip(bytes: &[u8], depth: usize) -> Result<&[u8], ExtraKeysError> {
    if depth > DEPTH_MAX {
        return Err(ExtraKeysError::Depth);
    }
    let (&kind, rest) = bytes.split_first().ok_or(ExtraKeysError::Length)?;
    let small = usize::from(kind & 0x1f);
    match kind {
        // Small integers, nil, false, true.
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Ok(rest),
        0xcc | 0xd0 => take(rest, 1).map(|(_, rest)| rest),
        0xcd | 0xd1 => take(rest, 2).map(|(_, rest)| rest),
        0xca | 0xce | 0xd2 => take(rest, 4).map(|(_, rest)| rest),
        0xcb | 0xcf | 0xd3 => take(rest, 8).map(|(_, rest)| rest),
        0xa0..=0xbf => text(rest, small),
        0xd9..=0xdb => {
            let (count, rest) = count(rest, 1 << (kind - 0xd9))?;
            text(rest, count)
        }
        0xc4..=0xc6 => {
            let (count, rest) = count(rest, 1 << (kind - 0xc4))?;
            take(rest, count).map(|(_, rest)| rest)
        }
        0x90..=0x9f => values(rest, small & 0x0f, depth),
        0xdc | 0xdd => {
            let (count, rest) = count(rest, if kind == 0xdc { 2 } else { 4 })?;
            values(rest, count, depth)
        }
        other => Err(ExtraKeysError::Kind(other)),
    }
}

fn take(bytes: &[u8], count: usize) -> Result<(&[u8], &[u8]), ExtraKeysError> {
    bytes.split_at_checked(count).ok_or(ExtraKeysError::Length)
}

fn count(bytes: &[u8], width: usize) -> Result<(usize, &[u8]), ExtraKeysError> {
    let (number, rest) = take(bytes, width)?;
    let count = number
        .iter()
        .fold(0_usize, |count, byte| (count << 8) | usize::from(*byte));
    Ok((count, rest))
}

fn text(bytes: &[u8], count: usize) -> Result<&[u8], ExtraKeysError> {
    let (text, rest) = take(bytes, count)?;
    std::str::from_utf8(text).map_err(|_| ExtraKeysError::Text)?;
    Ok(rest)
}

fn values(bytes: &[u8], count: usize, depth: usize) -> Result<&[u8], ExtraKeysError> {
    // Each value has a byte at least, so this ends as soon as the bytes do.
    (0..count).try_fold(bytes, |rest, _| skip(rest, depth + 1))
}
