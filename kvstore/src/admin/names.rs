//! Names as callers write them: hexadecimal digits of namespaces and hashes.

use kvstore_types::{BlockHash, BlockKey, GroupIndex, NamespaceId};
use kvtier_proto::v1;
use tonic::Status;

use crate::text::shortened;

/// Most letters of a name that are shown: a message names what was wrong, not all of a megabyte.
const SHOWN_MAX: usize = 80;

/// So many bytes in hexadecimal.
fn bytes<const N: usize>(field: &str, text: &str) -> Result<[u8; N], Status> {
    let wrong = || {
        Status::invalid_argument(format!(
            "{field}: want {} hexadecimal digits, got {:?}",
            2 * N,
            shortened(text, SHOWN_MAX)
        ))
    };
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        // Parsing would take a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// A block's whole name.
pub(super) fn key(name: &v1::BlockName) -> Result<BlockKey, Status> {
    let group = u8::try_from(name.group)
        .map_err(|_| Status::invalid_argument(format!("group: want 0 to 255, got {}", name.group)))?;
    Ok(BlockKey {
        namespace: NamespaceId(bytes("namespace", &name.namespace)?),
        group: GroupIndex(group),
        hash: BlockHash(bytes("hash", &name.hash)?),
    })
}

/// A namespace's whole name.
pub(super) fn namespace(digits: &str) -> Result<NamespaceId, Status> {
    bytes("namespace", digits).map(NamespaceId)
}

/// Whether these are the first digits of the namespace.
pub(super) fn begins(namespace: NamespaceId, digits: &str) -> bool {
    namespace
        .to_string()
        .starts_with(digits.to_ascii_lowercase().as_str())
}

/// Digits that can be the first ones of a namespace.
pub(super) fn check_digits(digits: &str) -> Result<(), Status> {
    let fits =
        !digits.is_empty() && digits.len() <= 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if fits {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "namespace: want 1 to 32 hexadecimal digits, got {:?}",
        shortened(digits, SHOWN_MAX)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_whole_or_not_at_all() {
        let name = |namespace: &str, group, hash: &str| v1::BlockName {
            namespace: namespace.to_owned(),
            group,
            hash: hash.to_owned(),
        };
        let (good_namespace, good_hash) = ("00ff".repeat(8), "aB".repeat(32));
        let read = key(&name(&good_namespace, 7, &good_hash)).unwrap();
        assert_eq!(read.namespace.to_string(), good_namespace);
        assert_eq!((read.group.0, read.hash.0), (7, [0xab; 32]));
        let cases = [
            (
                name("00", 0, &good_hash),
                "namespace: want 32 hexadecimal digits, got \"00\"",
            ),
            (name(&"0g".repeat(16), 0, &good_hash), "namespace: want 32"),
            (name(&"+1".repeat(16), 0, &good_hash), "namespace: want 32"),
            (name(&"é".repeat(16), 0, &good_hash), "namespace: want 32"),
            (
                name(&good_namespace, 256, &good_hash),
                "group: want 0 to 255, got 256",
            ),
            (name(&good_namespace, 0, &"0".repeat(1 << 20)), "hash: want 64"),
        ];
        for (name, expected) in cases {
            let text = key(&name).unwrap_err().message().to_owned();
            assert!(text.starts_with(expected) && text.len() < 200, "{text}");
        }
    }

    #[test]
    fn a_namespace_is_known_by_its_first_digits() {
        let namespace = NamespaceId([0xab; 16]);
        assert!(begins(namespace, "AB") && begins(namespace, &"ab".repeat(16)));
        assert!(!begins(namespace, "ac"));
        assert!(check_digits("0aF").is_ok());
        for digits in ["", "0x", &"0".repeat(33)] {
            assert!(check_digits(digits).is_err());
        }
    }
}
