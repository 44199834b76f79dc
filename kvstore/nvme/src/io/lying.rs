//! A device that lies: it answers writes before they are safe, loses, tears, reorders and misdirects them, gives back other
//! bits, moves less than it was asked to, and fails. What it does is decided by a seed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::backend::{Backend, Completion, Direction, Transfer};
use crate::directory::{Pages, SegmentFile};

const PAGE: usize = 4096;

/// How often each fault happens, of 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) misdirected: f64,
    pub(crate) bit_flip: f64,
    pub(crate) short: f64,
    pub(crate) error: f64,
    pub(crate) no_space: f64,
}

/// What the device holds. Shared with the test.
pub(crate) struct Platter {
    rng: SmallRng,
    faults: Faults,
    images: BTreeMap<u32, Image>,
    /// Every transfer that was begun, in order.
    pub(crate) begun: Vec<(Direction, u32, u64)>,
    /// Transfers that ended.
    calls: u64,
    /// The transfer that fails, counted from 0, and how.
    pub(crate) fails: Option<(u64, i32)>,
    /// Transfers end in the order they began, one for each sleep.
    pub(crate) in_order: bool,
    /// Sleeps there were.
    pub(crate) sleeps: u64,
}

/// One segment.
struct Image {
    /// What is given back by reads.
    seen: Vec<u8>,
    /// What a power cut cannot take away.
    safe: Vec<u8>,
    /// Writes that were answered and are not safe.
    unsafe_writes: Vec<(usize, Vec<u8>)>,
}

/// The backend.
pub(crate) struct Lying {
    platter: Arc<Mutex<Platter>>,
    depth: usize,
    under_way: VecDeque<Transfer>,
    completions: Vec<Completion>,
}

impl Platter {
    pub(crate) fn new(seed: u64, faults: Faults) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            rng: SmallRng::seed_from_u64(seed),
            faults,
            images: BTreeMap::new(),
            begun: Vec::new(),
            calls: 0,
            fails: None,
            in_order: false,
            sleeps: 0,
        }))
    }

    /// Cuts the power: every write that is not safe is there, not there, or there in part, and in any order.
    pub(crate) fn cut_power(&mut self) {
        for image in self.images.values_mut() {
            let mut writes = std::mem::take(&mut image.unsafe_writes);
            writes.shuffle(&mut self.rng);
            for (offset, bytes) in writes {
                let sector = if self.rng.random() { 512 } else { PAGE };
                match self.rng.random_range(0..4) {
                    0 => {}
                    1 => image.safe[offset..offset + bytes.len()].copy_from_slice(&bytes),
                    2 => {
                        let kept = self.rng.random_range(0..=bytes.len() / sector) * sector;
                        image.safe[offset..offset + kept].copy_from_slice(&bytes[..kept]);
                    }
                    _ => {
                        for (index, piece) in bytes.chunks(sector).enumerate() {
                            if self.rng.random() {
                                let at = offset + index * sector;
                                image.safe[at..at + piece.len()].copy_from_slice(piece);
                            }
                        }
                    }
                }
            }
            image.seen.clone_from(&image.safe);
        }
    }

    /// Writes what reads would give into the real files.
    pub(crate) fn write_out(&self, directory: &Path) {
        for (index, image) in &self.images {
            let path = directory.join(format!("segment-{index:08}.kvt"));
            // The header page is written by the directory itself, past this device.
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &image.seen[PAGE..], PAGE as u64).unwrap();
        }
    }

    fn carry_out(&mut self, transfer: &Transfer) -> io::Result<u32> {
        let call = self.calls;
        self.calls += 1;
        if let Some((fails, errno)) = self.fails
            && fails == call
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let writes = transfer.direction == Direction::Write;
        if self.rng.random_bool(self.faults.error) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if writes && self.rng.random_bool(self.faults.no_space) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut bytes = transfer.bytes as usize;
        if self.rng.random_bool(self.faults.short) {
            bytes = self.rng.random_range(0..=bytes);
        }
        if writes {
            self.write(transfer, bytes);
        } else {
            self.read(transfer, bytes);
        }
        Ok(u32::try_from(bytes).unwrap())
    }

    fn write(&mut self, transfer: &Transfer, bytes: usize) {
        let mut copy = vec![0_u8; bytes];
        // SAFETY: whoever pushed the transfer vouches for its bytes until the completion, which comes later.
        unsafe { transfer.place.0.copy_to_nonoverlapping(copy.as_mut_ptr(), bytes) };
        let image = self.images.get_mut(&transfer.file).unwrap();
        let mut offset = usize::try_from(transfer.offset).unwrap();
        if self.rng.random_bool(self.faults.misdirected) {
            let pages = (image.seen.len() - bytes) / PAGE;
            offset = self.rng.random_range(1..=pages.max(1)) * PAGE;
        }
        let end = (offset + bytes).min(image.seen.len());
        copy.truncate(end - offset);
        image.seen[offset..end].copy_from_slice(&copy);
        image.unsafe_writes.push((offset, copy));
    }

    fn read(&mut self, transfer: &Transfer, bytes: usize) {
        let image = &self.images[&transfer.file];
        let offset = usize::try_from(transfer.offset).unwrap();
        let mut copy = image.seen[offset..offset + bytes].to_vec();
        if bytes > 0 && self.rng.random_bool(self.faults.bit_flip) {
            let at = self.rng.random_range(0..bytes);
            copy[at] ^= 1 << self.rng.random_range(0..8);
        }
        // SAFETY: whoever pushed the transfer vouches for its bytes until the completion, which comes later.
        unsafe { transfer.place.0.copy_from_nonoverlapping(copy.as_ptr(), bytes) };
    }
}

impl Lying {
    pub(crate) fn new(platter: Arc<Mutex<Platter>>, depth: usize) -> Self {
        Self {
            platter,
            depth,
            under_way: VecDeque::new(),
            completions: Vec::new(),
        }
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    fn complete(&mut self) {
        let mut platter = self.platter.lock().unwrap();
        let at = if platter.in_order {
            0
        } else {
            platter.rng.random_range(0..self.under_way.len())
        };
        let transfer = self.under_way.remove(at).unwrap();
        let result = platter.carry_out(&transfer);
        self.completions.push(Completion {
            token: transfer.token,
            result,
        });
    }
}

impl Backend for Lying {
    fn name(&self) -> &'static str {
        "lying"
    }

    fn depth_max(&self) -> usize {
        self.depth
    }

    fn add_file(&mut self, index: u32, file: Arc<SegmentFile>) {
        let pages = file.pages().unwrap() as usize;
        let mut bytes = Pages::new(pages);
        file.read_at(&mut bytes, 0).unwrap();
        let image = Image {
            seen: bytes.to_vec(),
            safe: bytes.to_vec(),
            unsafe_writes: Vec::new(),
        };
        self.platter().images.insert(index, image);
    }

    fn remove_file(&mut self, index: u32) {
        self.platter().images.remove(&index);
    }

    unsafe fn push(&mut self, transfer: Transfer) {
        let mut platter = self.platter();
        platter
            .begun
            .push((transfer.direction, transfer.file, transfer.offset));
        drop(platter);
        self.under_way.push_back(transfer);
    }

    fn enter(&mut self, wait: bool) {
        if self.under_way.is_empty() {
            return;
        }
        if wait {
            self.platter().sleeps += 1;
            self.complete();
            return;
        }
        // A transfer may end at any time.
        let now = {
            let mut platter = self.platter();
            !platter.in_order && platter.rng.random()
        };
        if now {
            self.complete();
        }
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.completions);
    }
}
