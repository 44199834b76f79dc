//! Namespace files.

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId};

use super::error::DirectoryError;
use super::files::{read, remove, replace};
use super::names::{FileKind, namespace_name};
use super::{Directory, list};
use crate::format::{decode_namespace, encode_namespace};

/// Longest namespace file that is read: the longest descriptor, and the most groups and ranks there may be.
const BYTES_MAX: usize = NamespaceDescriptor::BYTES_MAX
    + 64
    + NamespaceGeometry::GROUPS_MAX * (24 + 16 * NamespaceGeometry::RANKS_MAX);

/// The namespaces of a directory.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Those that can be used.
    pub(crate) good: Vec<(NamespaceDescriptor, NamespaceGeometry)>,
    /// Names of files that cannot be used, and why.
    pub(crate) damaged: Vec<(String, String)>,
}

impl Directory {
    /// Remembers what a namespace stands for, durably. Costs little if it is known already.
    pub(crate) fn keep_namespace(
        &self,
        descriptor: &NamespaceDescriptor,
        geometry: &NamespaceGeometry,
    ) -> Result<(), DirectoryError> {
        let path = self.path.join(namespace_name(descriptor.id()));
        let bytes = encode_namespace(descriptor, geometry);
        if read(&path, BYTES_MAX).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        replace(&path, &bytes)
    }

    /// Reads all of them.
    pub(crate) fn namespaces(&self) -> Result<Namespaces, DirectoryError> {
        let mut namespaces = Namespaces::default();
        for name in list(&self.path)? {
            let FileKind::Namespace(id) = FileKind::of(&name) else {
                continue;
            };
            match self.read_namespace(&name, id) {
                Ok(namespace) => namespaces.good.push(namespace),
                Err(why) => namespaces.damaged.push((name, why)),
            }
        }
        Ok(namespaces)
    }

    /// Forgets a namespace that no block belongs to any more.
    pub(crate) fn drop_namespace(&self, id: NamespaceId) -> Result<(), DirectoryError> {
        remove(&self.path.join(namespace_name(id)))
    }

    fn read_namespace(
        &self,
        name: &str,
        id: NamespaceId,
    ) -> Result<(NamespaceDescriptor, NamespaceGeometry), String> {
        let bytes = read(&self.path.join(name), BYTES_MAX).map_err(|error| error.to_string())?;
        let (descriptor, geometry) = decode_namespace(&bytes).map_err(|error| error.to_string())?;
        let found = descriptor.id();
        if found != id {
            return Err(format!("it describes namespace {found}"));
        }
        Ok((descriptor, geometry))
    }
}
