//! How objects are called. A name is a path below the root of the mount or the prefix in the bucket.
//!
//! ```text
//! v1/sweeper                                            the sweeper's lease
//! v1/<namespace>/namespace                              what the namespace stands for
//! v1/<namespace>/<hash's first byte>/<group><hash>      a block
//! v1/<namespace>/touched/<node><boot>-<number>          blocks that a node has read
//! v1/<namespace>/temporary/<node><boot>-<number>        a file being written (mounts only)
//! v1/temporary/<node><boot>-<number>                    the same, of no namespace
//! ```

use kvstore_types::{BlockHash, BlockKey, GroupIndex, NamespaceId};

use super::{hex, unhex};
use crate::WriterId;

/// Where everything of this version lies.
pub(crate) const ROOT: &str = "v1";

/// The lease of the sweeper.
pub(crate) const LEASE_NAME: &str = "v1/sweeper";

/// The object that says what a namespace stands for.
pub(crate) fn namespace_name(namespace: NamespaceId) -> String {
    format!("{ROOT}/{namespace}/namespace")
}

/// A block's object.
pub(crate) fn block_name(key: &BlockKey) -> String {
    let BlockKey {
        namespace,
        group,
        hash,
    } = key;
    format!("{ROOT}/{namespace}/{:02x}/{:02x}{hash}", hash.0[0], group.0)
}

/// The directories that a namespace's blocks lie in, in order.
pub(crate) fn block_directories(namespace: NamespaceId) -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(move |first| format!("{ROOT}/{namespace}/{first:02x}"))
}

/// Where a namespace's access records lie.
pub(crate) fn touched_directory(namespace: NamespaceId) -> String {
    format!("{ROOT}/{namespace}/touched")
}

/// A record of accesses: the `number`th of this writer.
pub(crate) fn touched_name(namespace: NamespaceId, writer: &WriterId, number: u64) -> String {
    format!("{ROOT}/{namespace}/touched/{writer}-{number:016x}")
}

/// Where files that belong to no namespace are written before they get their names.
pub(crate) const TEMPORARY: &str = "v1/temporary";

/// Where a file is written before it gets this name.
pub(crate) fn temporary_name(name: &str, unique: &str) -> String {
    let mut parts = name.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some(_)) => format!("{ROOT}/{namespace}/temporary/{unique}"),
        _ => format!("{TEMPORARY}/{unique}"),
    }
}

/// Where files of a namespace are written before they get their names.
pub(crate) fn temporary_directory(namespace: NamespaceId) -> String {
    format!("{ROOT}/{namespace}/temporary")
}

/// The block whose object lies in directory `first` under this file name, if it is one.
pub(crate) fn parse_block_name(namespace: NamespaceId, directory: &str, file: &str) -> Option<BlockKey> {
    let (group, hash) = file.split_at_checked(2)?;
    let [group] = unhex::<1>(group)?;
    let hash = BlockHash(unhex(hash)?);
    let key = BlockKey {
        namespace,
        group: GroupIndex(group),
        hash,
    };
    let place = directory.rsplit('/').next()?;
    (place == hex(&hash.0[..1])).then_some(key)
}

/// The namespace that a directory below the root belongs to, if it is one.
pub(crate) fn parse_namespace_directory(directory: &str) -> Option<NamespaceId> {
    unhex(directory).map(NamespaceId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocks_name_leads_back_to_the_block_and_no_other_name_does() {
        let key = BlockKey {
            namespace: NamespaceId([0xab; 16]),
            group: GroupIndex(3),
            hash: BlockHash([0x5c; 32]),
        };
        let name = block_name(&key);
        let (directory, file) = name.rsplit_once('/').unwrap();
        assert_eq!(parse_block_name(key.namespace, directory, file), Some(key));
        assert_eq!(parse_block_name(key.namespace, "v1/x/5d", file), None);
        for other in [
            "",
            "namespace",
            &file[1..],
            &file.to_uppercase(),
            &format!("{file}0"),
        ] {
            assert_eq!(parse_block_name(key.namespace, directory, other), None, "{other}");
        }
        assert!(block_directories(key.namespace).any(|place| place == directory));
        assert_eq!(
            parse_namespace_directory(&key.namespace.to_string()),
            Some(key.namespace)
        );
        assert_eq!(parse_namespace_directory("sweeper"), None);
        let temporary = temporary_name(&name, "x");
        assert_eq!(temporary, format!("{}/x", temporary_directory(key.namespace)));
        assert_eq!(temporary_name(LEASE_NAME, "x"), "v1/temporary/x");
    }
}
