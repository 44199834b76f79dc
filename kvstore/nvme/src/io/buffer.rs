//! Memory of our own for blocks that no slot is meant for.

use std::io;

use memmap2::{MmapMut, MmapRaw};

/// Page-aligned bytes that are read from or written to a device.
#[derive(Debug)]
pub(crate) struct Buffer {
    map: MmapRaw,
}

impl Buffer {
    fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self {
            map: MmapMut::map_anon(bytes)?.into(),
        })
    }

    /// Where it begins.
    pub(crate) fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// A buffer at a time for each of a few users, kept between uses unless it is large.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    kept: Vec<Buffer>,
    lent: usize,
}

impl Buffers {
    /// Most buffers at a time.
    pub(crate) const COUNT_MAX: usize = 2;
    /// Larger ones are not kept.
    const KEPT_BYTES_MAX: usize = 8 << 20;

    /// Whether one can be had.
    pub(crate) fn any_left(&self) -> bool {
        self.lent < Self::COUNT_MAX
    }

    /// A buffer of at least `bytes` bytes.
    pub(crate) fn lend(&mut self, bytes: usize) -> io::Result<Buffer> {
        let kept = self.kept.pop().filter(|buffer| buffer.map.len() >= bytes);
        let buffer = kept.map_or_else(|| Buffer::new(bytes), Ok)?;
        self.lent += 1;
        Ok(buffer)
    }

    /// Takes one back that no transfer uses any more.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        self.lent -= 1;
        if buffer.map.len() <= Self::KEPT_BYTES_MAX {
            self.kept.push(buffer);
        }
    }
}
