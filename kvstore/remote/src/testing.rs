//! What tests of several rooms of this house need: blocks, slots, something to wait with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, Field, GroupGeometry, GroupIndex, NamespaceDescriptor,
    NamespaceGeometry,
};

use crate::format::{BlockHeader, PAGE};
use crate::{SlotMemory, WriterId};

/// How long a test waits for something that has to come.
pub(crate) const WATCHDOG: Duration = Duration::from_mins(1);

/// Bytes of a payload of the namespace below.
pub(crate) const PAYLOAD: usize = 8192;

/// Memory with slots.
pub(crate) struct Slots(Mutex<Vec<u8>>);

impl Slots {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0xee; bytes])))
    }

    pub(crate) fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        self.0.lock().unwrap()[offset..offset + bytes].to_vec()
    }
}

impl SlotMemory for Slots {
    fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let memory = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let Some(found) = memory.get(at..).and_then(|rest| rest.get(..bytes.len())) else {
            return false;
        };
        bytes.copy_from_slice(found);
        true
    }

    fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut memory = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let Some(place) = memory.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) else {
            return false;
        };
        place.copy_from_slice(bytes);
        true
    }
}

/// What the tests' namespace stands for. Group 0 has blocks of [`PAYLOAD`] bytes, group 1 of 1 MiB.
pub(crate) fn namespace() -> (NamespaceDescriptor, NamespaceGeometry) {
    namespace_of("m")
}

pub(crate) fn namespace_of(model: &str) -> (NamespaceDescriptor, NamespaceGeometry) {
    let field = Field {
        tag: "model.id".into(),
        value: model.into(),
    };
    let descriptor = NamespaceDescriptor::new([field]).unwrap();
    let group = |rank_bytes| GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_bytes,
    };
    let groups = [group(PAYLOAD as u64), group(1 << 20)];
    let geometry = NamespaceGeometry::compose(&[&groups]).unwrap();
    (descriptor, geometry)
}

/// A block of group 0.
pub(crate) fn key(number: u64) -> BlockKey {
    let mut hash = [0xa5; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    BlockKey {
        namespace: namespace().0.id(),
        group: GroupIndex(0),
        hash: BlockHash(hash),
    }
}

/// A block of group 1.
pub(crate) fn large_key(number: u64) -> BlockKey {
    BlockKey {
        group: GroupIndex(1),
        ..key(number)
    }
}

/// A payload is made from the block's name, so that a block can be told from every other one.
pub(crate) fn payload(key: BlockKey, bytes: usize) -> Vec<u8> {
    let mut seed = u64::from(key.group.0) + 1;
    for word in key.hash.words() {
        seed = seed.rotate_left(7) ^ word;
    }
    let mut payload = Vec::with_capacity(bytes);
    while payload.len() < bytes {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        payload.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    payload.truncate(bytes);
    payload
}

/// A block's object.
pub(crate) fn object(key: BlockKey, payload_bytes: usize, descriptor: &[u8]) -> Vec<u8> {
    let payload = payload(key, payload_bytes);
    let header = BlockHeader {
        key,
        payload_bytes: payload_bytes as u64,
        checksum: xxhash_rust::xxh3::xxh3_128(&payload),
    };
    let mut page = [0; PAGE];
    header.encode(descriptor, &mut page);
    [&page[..], &payload].concat()
}

/// The same in memory that a backend takes.
pub(crate) fn aligned(object: &[u8]) -> Bytes {
    let pool = crate::buffer::BufferPool::new(0);
    let mut buffer = pool.take(object.len());
    buffer.as_mut().copy_from_slice(object);
    Bytes::from_owner(buffer)
}

pub(crate) fn writer(number: u8) -> WriterId {
    WriterId::new([number; 16], [0xb0; 16])
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WATCHDOG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
