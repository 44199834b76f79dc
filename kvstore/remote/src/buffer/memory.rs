//! Where buffers lie.
//!
//! A buffer that holds a huge page or more gets memory of its own whose payload lies in huge pages, if the kernel has any
//! (`madvise`): one request to a device has a bounded number of pieces (254 for virtio, 127 for many NVMe), and 2 MiB in
//! pages of 4 KiB are up to 512 of them. bench/README.md has what it brings.

use memmap2::{Advice, MmapMut};
use tokio_uring::buf::{IoBuf, IoBufMut};

use crate::format::PAGE;

/// A huge page of x86-64, and of arm64 with small pages of 4 KiB. Elsewhere the advice does less.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes that stay where they are when this is moved. All are initialised.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Of the allocator.
    Heap(Vec<u8>),
    /// Of the kernel's.
    Mapped(MmapMut),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl Memory {
    /// Memory with a place for `bytes` bytes, and where that begins: on a page, and what follows its first page on a huge one if
    /// it is that long.
    pub(super) fn make(bytes: usize) -> (Self, usize) {
        let huge = bytes.saturating_sub(PAGE) / HUGE_PAGE * HUGE_PAGE;
        if huge > 0
            && let Ok(mapped) = MmapMut::map_anon(bytes + HUGE_PAGE)
        {
            let payload = mapped.as_ptr().wrapping_add(PAGE).align_offset(HUGE_PAGE) + PAGE;
            // A kernel without huge pages refuses, which is as good as before.
            let _ = mapped.advise_range(Advice::HugePage, payload, huge);
            return (Self::Mapped(mapped), payload - PAGE);
        }
        // One page more, so that an aligned place for all of it is in there wherever the allocation begins.
        let memory = vec![0; bytes + PAGE];
        let begin = memory.as_ptr().align_offset(PAGE).min(PAGE);
        (Self::Heap(memory), begin)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_ref().is_empty()
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Heap(memory) => memory,
            Self::Mapped(memory) => memory,
        }
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(memory) => memory,
            Self::Mapped(memory) => memory,
        }
    }
}

#[expect(unsafe_code, reason = "tokio-uring asks for the promise")]
// SAFETY: the bytes of a vector that nobody makes longer, and those of a mapping, stay where they are when their owner is
// moved, and all of them are initialised.
unsafe impl IoBuf for Memory {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ref().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.as_ref().len()
    }

    fn bytes_total(&self) -> usize {
        self.as_ref().len()
    }
}

#[expect(unsafe_code, reason = "tokio-uring asks for the promise")]
// SAFETY: as above.
unsafe impl IoBufMut for Memory {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut().as_mut_ptr()
    }

    #[expect(
        unsafe_code,
        reason = "all bytes are initialised already, so there is nothing to do"
    )]
    unsafe fn set_init(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_a_huge_page_begin_on_one_and_smaller_ones_on_a_page() {
        for bytes in [PAGE, 2 * PAGE, HUGE_PAGE] {
            let (memory, begin) = Memory::make(bytes);
            assert!(matches!(memory, Memory::Heap(_)), "{bytes}");
            assert_eq!(memory.as_ref()[begin..].as_ptr().align_offset(PAGE), 0);
            assert!(memory.as_ref().len() >= begin + bytes);
        }
        for bytes in [HUGE_PAGE + PAGE, 3 * HUGE_PAGE + 5 * PAGE] {
            let (mut memory, begin) = Memory::make(bytes);
            assert!(matches!(memory, Memory::Mapped(_)), "{bytes}");
            assert_eq!(
                memory.as_ref()[begin + PAGE..].as_ptr().align_offset(HUGE_PAGE),
                0
            );
            memory.as_mut()[begin..begin + bytes].fill(1);
        }
    }
}
