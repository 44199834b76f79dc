//! Namespace files.

use std::io;

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId, PAGE_BYTES};

use super::error::DirectoryError;
use super::files::{read, remove, replace};
use super::names::{FileKind, namespace_name};
use super::{Directory, list};
use crate::format::{decode_namespace, encode_namespace};

/// Longest namespace file that is read: the longest descriptor, and the most groups and ranks there may be.
const BYTES_MAX: usize = NamespaceDescriptor::BYTES_MAX
    + 64
    + NamespaceGeometry::GROUPS_MAX * (24 + 16 * NamespaceGeometry::RANKS_MAX);

/// What a file of so many bytes takes.
fn pages_of(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// The namespaces of a directory.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Those that can be used.
    pub(crate) good: Vec<(NamespaceDescriptor, NamespaceGeometry)>,
    /// Names of files that cannot be used, and why.
    pub(crate) damaged: Vec<(String, String)>,
}

impl Directory {
    /// Remembers what a namespace stands for, durably. Costs little if it is known already. The files of all of them never
    /// take more than `bytes_max` together, in whole pages; without room for one more it is `StorageFull`.
    pub(crate) fn keep_namespace(
        &self,
        descriptor: &NamespaceDescriptor,
        geometry: &NamespaceGeometry,
        bytes_max: u64,
    ) -> Result<(), DirectoryError> {
        let path = self.path.join(namespace_name(descriptor.id()));
        let bytes = encode_namespace(descriptor, geometry);
        if read(&path, BYTES_MAX).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        let used = self
            .names_bytes()
            .map_err(DirectoryError::new("read", &self.path))?;
        if used + pages_of(bytes.len() as u64) > bytes_max {
            let problem = format!("the files of namespaces take {used} of the {bytes_max} bytes they may");
            let full = io::Error::new(io::ErrorKind::StorageFull, problem);
            return Err(DirectoryError::new("write", &path)(full));
        }
        replace(&path, &bytes)
    }

    /// Bytes on disk that the files of namespaces take.
    fn names_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in self.path.read_dir()? {
            let entry = entry?;
            if matches!(
                FileKind::of(&entry.file_name().to_string_lossy()),
                FileKind::Namespace(_)
            ) {
                bytes += entry.metadata().map_or(0, |metadata| pages_of(metadata.len()));
            }
        }
        Ok(bytes)
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
