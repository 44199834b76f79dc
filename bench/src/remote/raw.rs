//! The reference: threads that write and read files of the same size in the same directory, with nothing in between.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvstore_types::PAGE_BYTES;
use memmap2::{Advice, MmapMut};

use super::rig::THREADS;

const HUGE_PAGE: usize = 2 << 20;

/// A directory of its own, and how its files are opened.
pub(super) struct Raw {
    directory: PathBuf,
    flags: i32,
    bytes: usize,
    pages: Pages,
}

/// Whether a pass writes or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Write,
    Read,
}

/// What the memory of a pass is made of. Where its pages lie decides how many pieces a request to the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// As it comes.
    Small,
    /// As the tier's buffers are.
    Huge,
}

impl Raw {
    /// With the page cache passed by if the file system can, as the tier does.
    pub(super) fn make(parent: &Path, block_bytes: u64, pages: Pages) -> anyhow::Result<Self> {
        let directory = parent.join(format!("raw-{pages:?}"));
        fs::create_dir_all(&directory)?;
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
        let mut raw = Self {
            directory,
            flags: direct,
            // A block's file has a header page.
            bytes: usize::try_from(block_bytes + PAGE_BYTES)?,
            pages,
        };
        if raw
            .pass(Pass::Write, 1)
            .and_then(|_| raw.pass(Pass::Read, 1))
            .is_err()
        {
            raw.flags = 0;
        }
        Ok(raw)
    }

    /// How files are opened, for people.
    pub(super) fn variant(&self) -> String {
        let cache = if self.flags == 0 { "page cache" } else { "O_DIRECT" };
        format!("{THREADS} threads, {cache}")
    }

    /// Writes or reads so many files, each by one thread and in one call: how long it took.
    pub(super) fn pass(&self, pass: Pass, files: usize) -> io::Result<Duration> {
        let (next, began) = (AtomicUsize::new(0), Instant::now());
        let work = || -> io::Result<()> {
            let mut memory = MmapMut::map_anon(self.bytes + 2 * HUGE_PAGE)?;
            if self.pages == Pages::Huge {
                memory.advise(Advice::HugePage)?;
            }
            // The payload, behind the header page, begins on a huge page.
            let start = memory.as_ptr().wrapping_add(4096).align_offset(HUGE_PAGE);
            let buffer = &mut memory[start..start + self.bytes];
            buffer.fill(0x5A);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= files {
                    return Ok(());
                }
                match pass {
                    Pass::Write => self.write(number, buffer)?,
                    Pass::Read => {
                        let file = self.options().read(true).open(self.path(number))?;
                        file.read_exact_at(buffer, 0)?;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let ends = threads.into_iter().map(|thread| {
                let panicked = |_| io::Error::other("a thread panicked");
                thread.join().map_err(panicked)?
            });
            ends.collect::<io::Result<Vec<()>>>()
        })?;
        Ok(began.elapsed())
    }

    fn write(&self, number: usize, buffer: &[u8]) -> io::Result<()> {
        let temporary = self.directory.join(format!("{number}.temporary"));
        let file = self
            .options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        file.write_all_at(buffer, 0)?;
        fs::rename(temporary, self.path(number))
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.custom_flags(self.flags);
        options
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{number}"))
    }

    /// Removes all files.
    pub(super) fn clear(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.directory)?;
        fs::create_dir_all(&self.directory)
    }
}
