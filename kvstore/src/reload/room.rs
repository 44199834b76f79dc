//! Whether file systems have room for shares that have grown. Asked apart from the main thread: a device that does not answer
//! must not stop the daemon.

use std::path::PathBuf;

use tracing::warn;

use super::Change;
use crate::config::{NvmeLayout, format_size};
use crate::nvme::{self, shortage};

/// A tenant's directory that may come to use more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grown {
    directory: PathBuf,
    share_bytes: u64,
}

/// The directories of the shares that have grown.
pub(super) fn grown(before: &[Option<NvmeLayout>], change: &Change) -> Vec<Grown> {
    let config = &change.config;
    let tenants = config.tenants.iter().zip(before.iter().zip(&change.layouts));
    tenants
        .filter_map(|(tenant, pair)| match pair {
            (Some(before), Some(after)) if after.share_bytes > before.share_bytes => Some((tenant, *after)),
            _ => None,
        })
        .flat_map(|(tenant, layout)| {
            config.nvme.directories.iter().map(move |directory| Grown {
                directory: directory.join(&tenant.name),
                share_bytes: layout.share_bytes,
            })
        })
        .collect()
}

/// Says in the log where a share is more than a file system has room for.
pub(super) fn compare(grown: Vec<Grown>) {
    if grown.is_empty() {
        return;
    }
    let compare = move || {
        for Grown {
            directory,
            share_bytes,
        } in grown
        {
            nvme::compare(&directory, share_bytes);
        }
    };
    let thread = std::thread::Builder::new().name("kvt-room".to_owned());
    if let Err(cause) = thread.spawn(compare) {
        warn!(%cause, "could not look whether the file systems have room for the new capacity");
    }
}

impl Grown {
    /// Says to a person what is missing. Asks the file system, which may take as long as it likes.
    pub(crate) fn explain(&self) -> Option<String> {
        let Self {
            directory,
            share_bytes,
        } = self;
        let shortage = shortage(directory, *share_bytes)?;
        Some(format!(
            "{}: the file system has room for {} of these {}, a reserve of {} excepted: the tier uses what there is",
            directory.display(),
            format_size(shortage.room_bytes),
            format_size(*share_bytes),
            format_size(shortage.reserve_bytes)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_the_file_system_has_no_room_for_is_explained() {
        let place = tempfile::tempdir().unwrap();
        let grown = |share_bytes| Grown {
            directory: place.path().to_owned(),
            share_bytes,
        };
        assert_eq!(grown(0).explain(), None);
        let text = grown(1 << 50).explain().unwrap();
        assert!(text.contains("of these 1024TiB, a reserve of"), "{text}");
    }
}
