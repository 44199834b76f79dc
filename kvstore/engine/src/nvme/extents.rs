//! Where the copies on NVMe are: one entry of 20 bytes each, in chains, one for each segment. A copy's length follows
//! from the size class of its block.

use crate::block::{BlockIndex, ExtentHandle};

/// The beginning of an extent: its segment, of whatever device, and its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    segment: u32,
    pub(crate) page: u32,
}

const INDEX_BITS: u32 = 24;

impl Place {
    /// A page of a segment.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 64 devices")]
    pub(crate) const fn new(device: usize, index: u32, page: u32) -> Self {
        Self {
            segment: (device as u32) << INDEX_BITS | index,
            page,
        }
    }

    /// The device's number.
    pub(crate) const fn device(self) -> usize {
        (self.segment >> INDEX_BITS) as usize
    }

    /// The segment's number at its device.
    pub(crate) const fn index(self) -> u32 {
        self.segment & ((1 << INDEX_BITS) - 1)
    }
}

/// One copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// Its block; `NONE` in an entry that is not used.
    pub(crate) block: BlockIndex,
    /// The next one of its segment; in an unused entry the next unused one.
    pub(crate) next: u32,
    previous: u32,
}

/// The copies in one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) first: u32,
    last: u32,
    pub(crate) len: u32,
}

/// The end of a chain.
pub(crate) const END: u32 = u32::MAX;

impl Chain {
    /// No copies.
    pub(crate) const EMPTY: Self = Self {
        first: END,
        last: END,
        len: 0,
    };
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Extents {
    entries: Vec<Entry>,
    vacant: u32,
    len: usize,
}

impl Extents {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            vacant: END,
            len: 0,
        }
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Room for so many more.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.entries.reserve(count);
    }

    /// A copy.
    pub(crate) fn get(&self, handle: ExtentHandle) -> &Entry {
        &self.entries[handle.0 as usize]
    }

    /// Whether the copy that was at this place under this handle is still there. A place is used once in each use of
    /// its segment, so as long as the segment cannot be opened anew nothing else can be there.
    pub(crate) fn is_at(&self, handle: ExtentHandle, place: Place) -> bool {
        let entry = self.get(handle);
        entry.block != BlockIndex::NONE && entry.place == place
    }

    /// Adds a copy at the end of its segment's chain.
    pub(crate) fn add(&mut self, chain: &mut Chain, place: Place, block: BlockIndex) -> ExtentHandle {
        let entry = Entry {
            place,
            block,
            next: END,
            previous: chain.last,
        };
        let handle = if self.vacant == END {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(END)
        } else {
            let handle = self.vacant;
            self.vacant = self.entries[handle as usize].next;
            self.entries[handle as usize] = entry;
            handle
        };
        match chain.last {
            END => chain.first = handle,
            last => self.entries[last as usize].next = handle,
        }
        chain.last = handle;
        chain.len += 1;
        self.len += 1;
        ExtentHandle(handle)
    }

    /// Removes a copy.
    pub(crate) fn remove(&mut self, chain: &mut Chain, handle: ExtentHandle) {
        let Entry { next, previous, .. } = *self.get(handle);
        match previous {
            END => chain.first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            END => chain.last = previous,
            next => self.entries[next as usize].previous = previous,
        }
        chain.len -= 1;
        self.len -= 1;
        let entry = &mut self.entries[handle.0 as usize];
        entry.block = BlockIndex::NONE;
        entry.next = self.vacant;
        self.vacant = handle.0;
    }

    /// The handles of a chain.
    pub(crate) fn iter(&self, chain: Chain) -> impl Iterator<Item = ExtentHandle> {
        let some = |handle: u32| (handle != END).then_some(handle);
        std::iter::successors(some(chain.first), move |&handle| {
            some(self.entries[handle as usize].next)
        })
        .map(ExtentHandle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_keep_their_order_whatever_is_removed() {
        let mut extents = Extents::new();
        let mut chains = [Chain::EMPTY; 2];
        let place = |page| Place::new(3, 1, page);
        let handles: Vec<_> = (0..10)
            .map(|page| extents.add(&mut chains[page as usize % 2], place(page), BlockIndex(page)))
            .collect();
        for page in [0_usize, 5, 8] {
            extents.remove(&mut chains[page % 2], handles[page]);
            assert!(!extents.is_at(handles[page], place(0)));
        }
        let pages = |extents: &Extents, chain| {
            extents
                .iter(chain)
                .map(|handle| extents.get(handle).place.page)
                .collect::<Vec<_>>()
        };
        assert_eq!(pages(&extents, chains[0]), [2, 4, 6]);
        assert_eq!(pages(&extents, chains[1]), [1, 3, 7, 9]);
        extents.add(&mut chains[0], place(20), BlockIndex(20));
        assert_eq!(pages(&extents, chains[0]), [2, 4, 6, 20]);
        assert_eq!(extents.len(), 8);
    }

    #[test]
    fn a_place_keeps_its_parts() {
        let place = Place::new(63, (1 << 20) - 1, 77);
        assert_eq!(
            (place.device(), place.index(), place.page),
            (63, (1 << 20) - 1, 77)
        );
    }
}
