//! The names of a directory's files.

use kvstore_types::NamespaceId;

use crate::format::hex;

pub(crate) const SUPERBLOCK: &str = "tier.kvt";
pub(crate) const LOCK: &str = "lock";
pub(crate) const CATALOGUE: &str = "catalogue";
pub(crate) const PROBE: &str = "probe.kvt";

/// What a half-made file's name ends with. It is renamed when it is whole.
pub(crate) const PARTIAL: &str = ".partial";

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Superblock,
    Lock,
    /// The catalogue, or what is left of an older one.
    Catalogue,
    Segment(u32),
    Namespace(NamespaceId),
    /// A file of ours that was not finished.
    Partial,
    Unknown,
}

impl FileKind {
    pub(crate) fn of(name: &str) -> Self {
        if let Some(whole) = name.strip_suffix(PARTIAL) {
            let ours = whole == PROBE
                || matches!(
                    Self::of(whole),
                    Self::Superblock | Self::Segment(_) | Self::Namespace(_)
                );
            return if ours { Self::Partial } else { Self::Unknown };
        }
        if name == SUPERBLOCK {
            return Self::Superblock;
        }
        if name == LOCK {
            return Self::Lock;
        }
        if name == CATALOGUE || name.starts_with("catalogue.") {
            return Self::Catalogue;
        }
        let stem = |prefix| name.strip_prefix(prefix)?.strip_suffix(".kvt");
        if let Some(index) = stem("segment-").and_then(segment_index) {
            return Self::Segment(index);
        }
        if let Some(id) = stem("namespace-").and_then(namespace_id) {
            return Self::Namespace(id);
        }
        Self::Unknown
    }
}

pub(crate) fn segment_name(index: u32) -> String {
    format!("segment-{index:08}.kvt")
}

pub(crate) fn namespace_name(id: NamespaceId) -> String {
    format!("namespace-{}.kvt", hex(&id.0))
}

/// The number, if this is how it is written.
fn segment_index(text: &str) -> Option<u32> {
    let index = text.parse().ok()?;
    (format!("{index:08}") == text).then_some(index)
}

fn namespace_id(text: &str) -> Option<NamespaceId> {
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    let mut id = [0; 16];
    if digits.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (hex(&id) == text).then_some(NamespaceId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_are_written() {
        let id = NamespaceId([0xab; 16]);
        assert_eq!(FileKind::of(&segment_name(12)), FileKind::Segment(12));
        assert_eq!(FileKind::of(&segment_name(u32::MAX)), FileKind::Segment(u32::MAX));
        assert_eq!(FileKind::of(&namespace_name(id)), FileKind::Namespace(id));
    }

    #[test]
    fn other_spellings_are_nobodys() {
        let upper = namespace_name(NamespaceId([0xab; 16]))
            .to_uppercase()
            .replace("NAMESPACE", "namespace");
        let names = [
            "segment-1.kvt",
            "segment-+0000001.kvt",
            "segment-00000001.kvt~",
            "namespace-.kvt",
            "notes.txt",
            "notes.partial",
            ".partial",
            "tier.kvt.partial.partial",
            &upper,
        ];
        for name in names {
            assert_eq!(FileKind::of(name), FileKind::Unknown, "{name}");
        }
        assert_eq!(FileKind::of("segment-00000001.kvt.partial"), FileKind::Partial);
        assert_eq!(FileKind::of("catalogue.damaged"), FileKind::Catalogue);
    }
}
