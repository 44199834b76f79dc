//! File systems in memory, mounted for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount that ends with the test.
#[derive(Debug)]
pub struct Mounted {
    place: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    /// A new file system of so many bytes; `None`, and a word about it, where nothing may be mounted.
    pub fn tmpfs(place: &Path, bytes: u64) -> Option<Self> {
        Self::mount(
            place,
            &["-t", "tmpfs", "-o", &format!("size={bytes}"), "kvtier-test"],
        )
    }

    /// Another directory, shown at this one.
    pub fn bind(of: &Path, place: &Path) -> Option<Self> {
        Self::mount(place, &["--bind", of.to_str().unwrap()])
    }

    fn mount(place: &Path, arguments: &[&str]) -> Option<Self> {
        let output = Command::new("mount").args(arguments).arg(place).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("SKIPPED: no file system can be mounted here: {said}");
            return None;
        }
        Some(Self {
            place: place.to_owned(),
            is_mounted: true,
        })
    }

    /// Takes it away from its place. Who has something open in it still has it.
    pub fn detach(mut self) {
        self.is_mounted = false;
        self.unmount();
    }

    fn unmount(&self) {
        let ended = Command::new("umount").arg("--lazy").arg(&self.place).status();
        assert!(ended.unwrap().success(), "{} stays mounted", self.place.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            self.unmount();
        }
    }
}
