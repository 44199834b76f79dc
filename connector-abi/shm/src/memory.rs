//! The memory of one ring: four atomics and a circle of bytes.
//!
//! This is all that the ring's algorithm knows of shared memory, so that loom can run it over memory of its own.

#[cfg(loom)]
pub(crate) use self::model::RingMemory;
#[cfg(not(loom))]
pub(crate) use self::shared::{Mapping, RingLines, RingMemory};

#[cfg(not(loom))]
mod shared {
    use std::{ptr::NonNull, sync::Arc};

    use memmap2::MmapRaw;

    use crate::primitive::{AtomicU32, AtomicU64};

    /// A mapping of a sealed memfd: it cannot shrink while it is mapped.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        map: MmapRaw,
    }

    /// Where a ring's parts lie in its mapping, in bytes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct RingLines {
        pub(crate) tail: usize,
        pub(crate) head: usize,
        pub(crate) consumer_sleeping: usize,
        pub(crate) producer_waiting: usize,
        pub(crate) bytes: usize,
        pub(crate) capacity: usize,
    }

    /// One ring in a mapping.
    #[derive(Debug)]
    pub(crate) struct RingMemory {
        mapping: Arc<Mapping>,
        lines: RingLines,
    }

    impl Mapping {
        /// Takes a mapping whose file is sealed against shrinking.
        pub(crate) fn new(map: MmapRaw) -> Self {
            Self { map }
        }

        /// Copies private bytes into the mapping.
        pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
            let place = self.place(offset, bytes.len());
            // SAFETY: `place` checked that the range lies in the mapping; private memory cannot overlap it. That
            // nobody else writes there is the layout's promise; if the peer breaks it, the bytes are garbage to it.
            unsafe {
                bytes.as_ptr().copy_to_nonoverlapping(place.as_ptr(), bytes.len());
            }
        }

        /// Copies out of the mapping. The bytes may be anything the peer wrote, at any moment of the copy.
        pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
            let place = self.place(offset, bytes.len());
            // SAFETY: as in `write`. Every bit pattern is a valid `u8`, so a peer that writes meanwhile can only
            // change what is read; nothing here looks at the shared bytes a second time.
            unsafe {
                bytes
                    .as_mut_ptr()
                    .copy_from_nonoverlapping(place.as_ptr(), bytes.len());
            }
        }

        fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
            let place = self.place(offset, 8).cast::<u64>();
            assert!(place.is_aligned(), "cursors are aligned to 8 bytes");
            // SAFETY: in the mapping (checked by `place`), aligned (checked above), and only ever accessed
            // atomically by us; the mapping outlives the borrow of `self`.
            unsafe { AtomicU64::from_ptr(place.as_ptr()) }
        }

        fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
            let place = self.place(offset, 4).cast::<u32>();
            assert!(place.is_aligned(), "flags are aligned to 4 bytes");
            // SAFETY: as in `atomic_u64`.
            unsafe { AtomicU32::from_ptr(place.as_ptr()) }
        }

        fn place(&self, offset: usize, length: usize) -> NonNull<u8> {
            let end = offset.checked_add(length);
            assert!(
                end.is_some_and(|end| end <= self.map.len()),
                "offsets of the layout lie in the mapping"
            );
            // SAFETY: `offset` lies in the mapping, as just checked, so the sum stays in one allocation.
            let place = unsafe { self.map.as_mut_ptr().add(offset) };
            // SAFETY: a mapping is never at address 0, and neither is anything behind its start.
            unsafe { NonNull::new_unchecked(place) }
        }
    }

    impl RingMemory {
        pub(crate) fn new(mapping: Arc<Mapping>, lines: RingLines) -> Self {
            assert!(
                lines.capacity.is_power_of_two(),
                "capacities are checked when a ring is made or attached"
            );
            Self { mapping, lines }
        }

        pub(crate) fn capacity(&self) -> usize {
            self.lines.capacity
        }

        pub(crate) fn tail(&self) -> &AtomicU64 {
            self.mapping.atomic_u64(self.lines.tail)
        }

        pub(crate) fn head(&self) -> &AtomicU64 {
            self.mapping.atomic_u64(self.lines.head)
        }

        pub(crate) fn consumer_sleeping(&self) -> &AtomicU32 {
            self.mapping.atomic_u32(self.lines.consumer_sleeping)
        }

        pub(crate) fn producer_waiting(&self) -> &AtomicU32 {
            self.mapping.atomic_u32(self.lines.producer_waiting)
        }

        /// Copies into the circle, starting at byte `at < capacity`, without going round its end.
        pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
            assert!(
                at + bytes.len() <= self.lines.capacity,
                "a piece ends where the ring does"
            );
            self.mapping.write(self.lines.bytes + at, bytes);
        }

        /// Copies out of the circle, starting at byte `at < capacity`, without going round its end.
        pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) {
            assert!(
                at + bytes.len() <= self.lines.capacity,
                "a piece ends where the ring does"
            );
            self.mapping.read(self.lines.bytes + at, bytes);
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::{cell::UnsafeCell, sync::Arc};

    use crate::primitive::{AtomicU32, AtomicU64};

    /// A ring in loom's memory, whose bytes are watched for data races.
    #[derive(Clone, Debug)]
    pub(crate) struct RingMemory(Arc<Parts>);

    #[derive(Debug)]
    struct Parts {
        tail: AtomicU64,
        head: AtomicU64,
        consumer_sleeping: AtomicU32,
        producer_waiting: AtomicU32,
        words: Vec<UnsafeCell<[u8; 8]>>,
    }

    impl RingMemory {
        pub(crate) fn new(capacity: usize) -> Self {
            Self(Arc::new(Parts {
                tail: AtomicU64::new(0),
                head: AtomicU64::new(0),
                consumer_sleeping: AtomicU32::new(0),
                producer_waiting: AtomicU32::new(0),
                words: (0..capacity / 8).map(|_| UnsafeCell::new([0; 8])).collect(),
            }))
        }

        pub(crate) fn capacity(&self) -> usize {
            self.0.words.len() * 8
        }

        pub(crate) fn tail(&self) -> &AtomicU64 {
            &self.0.tail
        }

        pub(crate) fn head(&self) -> &AtomicU64 {
            &self.0.head
        }

        pub(crate) fn consumer_sleeping(&self) -> &AtomicU32 {
            &self.0.consumer_sleeping
        }

        pub(crate) fn producer_waiting(&self) -> &AtomicU32 {
            &self.0.producer_waiting
        }

        pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                let at = at + index;
                self.0.words[at / 8].with_mut(|word| {
                    // SAFETY: loom fails the run if this access races with another one.
                    unsafe { (*word)[at % 8] = *byte }
                });
            }
        }

        pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) {
            for (index, byte) in bytes.iter_mut().enumerate() {
                let at = at + index;
                self.0.words[at / 8].with(|word| {
                    // SAFETY: loom fails the run if this access races with another one.
                    *byte = unsafe { (*word)[at % 8] }
                });
            }
        }
    }
}
