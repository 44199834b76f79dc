//! Clients that store and load bytes which can be checked: each block's follow from its number.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use connector_shm::{GroupKeys, Keys, RankLayout, Request, Role};
use kvstore_types::{BlockHash, GroupSpan, SlotRef};

use super::client::{Pair, Said, hash};
use super::{Daemon, eventually};

/// Bytes of one block.
pub(crate) const BLOCK_BYTES: u64 = 64 << 10;
/// Blocks of one prefix.
pub(crate) const CHAIN: u32 = 8;

/// An engine whose blocks have checkable bytes.
pub(crate) struct Cache {
    pair: Pair,
    region: File,
    layout: RankLayout,
    /// Look-ups that had to wait for blocks on their way.
    pub(crate) waited: u32,
}

impl Cache {
    /// Attaches to a tenant; an empty name is the first one.
    pub(crate) fn open(daemon: &Daemon, tenant: &str) -> Self {
        Self::of(
            daemon,
            tenant,
            Pair::open_with(daemon.socket(), 1, tenant, BLOCK_BYTES),
        )
    }

    /// The same for an engine with a model of its own, of the first tenant.
    pub(crate) fn open_model(daemon: &Daemon, model: &str) -> Self {
        Self::of(
            daemon,
            "",
            Pair::open_model(daemon.socket(), 1, "", BLOCK_BYTES, model),
        )
    }

    /// The same engine of an earlier version, as far as the daemon knows.
    pub(crate) fn open_as(daemon: &Daemon, abi_minor: u16) -> Self {
        let pair = Pair::open_changed(daemon.socket(), 2, |request| {
            request.abi_minor = abi_minor;
            if matches!(request.role, Role::Worker(_)) {
                request.groups[0].rank_bytes = BLOCK_BYTES;
            }
        });
        Self::of(daemon, "", pair)
    }

    fn of(daemon: &Daemon, tenant: &str, pair: Pair) -> Self {
        let layout = pair.worker.layout.unwrap();
        Self {
            pair,
            region: region(daemon, if tenant.is_empty() { "default" } else { tenant }),
            layout,
            waited: 0,
        }
    }

    /// Stores all blocks of these prefixes; how many became usable.
    pub(crate) fn store(&mut self, chains: Range<u32>) -> u32 {
        chains
            .map(|chain| {
                let numbers = numbers(chain);
                let slots = self.pair.scheduler.reserve_described(numbers.clone());
                let mut granted = Vec::new();
                for (number, slot) in numbers.zip(slots) {
                    if slot.page != 0 {
                        self.region
                            .write_all_at(&payload(number), self.place(slot))
                            .unwrap();
                        granted.push(slot);
                    }
                }
                match self.pair.worker.seal(&granted) {
                    Said::Sealed { published, .. } => published,
                    other => panic!("want a seal's answer, got {other:?}"),
                }
            })
            .sum()
    }

    /// Looks up and loads a prefix: how many of its blocks were there. Their bytes are checked.
    pub(crate) fn load(&mut self, chain: u32) -> u32 {
        let numbers = numbers(chain);
        let scheduler = &mut self.pair.scheduler;
        let tag = scheduler.tag();
        let hashes: Vec<BlockHash> = numbers.clone().map(hash).collect();
        scheduler.send(&Request::Lookup {
            tag,
            tokens_max: u64::MAX,
            keys: Keys::new(&[GroupKeys {
                group: 0,
                hashes: &hashes,
            }]),
        });
        let tokens = loop {
            match scheduler.hear() {
                Said::Lookup(tokens) => break tokens,
                Said::Pending => self.waited += 1,
                other => panic!("want a look-up's answer, got {other:?}"),
            }
        };
        let count = u32::try_from(tokens / 16).unwrap();
        if count == 0 {
            scheduler.send(&Request::LookupRelease { tag });
            return 0;
        }
        let lease = scheduler.tag();
        let spans = [GroupSpan {
            group: 0,
            first: 0,
            count,
        }];
        scheduler.send(&Request::LoadCommit {
            tag,
            lease,
            spans: &spans,
        });
        let slots = match scheduler.answer() {
            Said::Grants(slots) => slots,
            other => panic!("want grants, got {other:?}"),
        };
        let mut found = 0;
        let mut bytes = vec![0; usize::try_from(BLOCK_BYTES).unwrap()];
        for (number, slot) in numbers.zip(slots) {
            if slot.page != 0 {
                self.region.read_exact_at(&mut bytes, self.place(slot)).unwrap();
                assert!(bytes == payload(number), "block {number} has wrong bytes");
                found += 1;
            }
        }
        self.pair.scheduler.send(&Request::LeaseRelease { lease });
        found
    }

    /// Loads prefixes: how many blocks of all were there.
    pub(crate) fn load_all(&mut self, chains: Range<u32>) -> u32 {
        chains.map(|chain| self.load(chain)).sum()
    }

    /// Stores prefixes, a few at a time, each time waiting until the devices have them.
    pub(crate) fn store_durably(&mut self, daemon: &Daemon, chains: Range<u32>) {
        for chain in chains {
            assert_eq!(self.store(chain..chain + 1), CHAIN);
            if chain % 4 == 3 {
                written(daemon);
            }
        }
        written(daemon);
    }

    pub(crate) fn close(self) {
        self.pair.close();
    }

    fn place(&self, slot: SlotRef) -> u64 {
        slot.byte_offset() + self.layout.rank_offset
    }
}

/// Waits until so many devices have told all they have.
pub(crate) fn loaded(daemon: &Daemon, devices: usize) {
    eventually("all devices are loaded", || {
        (daemon.log().matches("NVMe device loaded").count() == devices).then_some(())
    });
}

/// Waits until nothing is left to be written.
pub(crate) fn written(daemon: &Daemon) {
    eventually("everything is written", || {
        let occupancy = &daemon.status()["occupancy"];
        let zero = |name: &str| occupancy[name].as_u64() == Some(0);
        (zero("nvme_queue") && zero("nvme_writes_in_flight")).then_some(())
    });
}

/// Bytes on disk of everything in a directory.
pub(crate) fn bytes_on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = directory.read_dir() else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_on_disk(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            // Removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// The names of the segments in a tenant's directory, sorted.
pub(crate) fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = directory
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("segment-")
        })
        .collect();
    paths.sort();
    paths
}

fn numbers(chain: u32) -> Range<u32> {
    chain * CHAIN..(chain + 1) * CHAIN
}

fn payload(number: u32) -> Vec<u8> {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..BLOCK_BYTES / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// The tenant's region, found among the daemon's open files.
fn region(daemon: &Daemon, tenant: &str) -> File {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let found = descriptors.flatten().find_map(|entry| {
        let target = entry.path().read_link().ok()?;
        if !target.to_string_lossy().contains("memfd:kvtier-region") {
            return None;
        }
        let file = File::options().read(true).write(true).open(entry.path()).ok()?;
        let mut header = [0; 512];
        file.read_exact_at(&mut header, 0).ok()?;
        let has_name = header
            .windows(tenant.len() + 1)
            .any(|window| window[..tenant.len()] == *tenant.as_bytes() && window[tenant.len()] == 0);
        (has_name).then_some(file)
    });
    found.unwrap()
}
