//! The loops that move bytes.
//!
//! Ordinary stores fetch a cache line before they overwrite it and push somebody else's lines out; non-temporal ones
//! do neither, so a copy to cold memory moves a third less over the memory bus: they win from about a kilobyte on, by
//! a factor of up to two. What they lose is that the reader finds nothing in the cache, so small loads, which the engine
//! reads next, go through it (`cargo run --release -p connector-abi --example copy_loops` prints the figures).

use std::ptr::copy_nonoverlapping;

use super::Direction;

/// Pieces smaller than this are copied through the cache.
const STREAM_PIECE_BYTES_MIN: usize = 1 << 10;
/// Loads smaller than this are copied through the cache: they fit there, and the engine reads them next. A store's
/// reader comes much later, if ever.
const STREAM_LOAD_BYTES_MIN: u64 = 64 << 10;
/// Non-temporal stores go to whole cache lines.
const LINE_BYTES: usize = 64;

/// How a loop writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stores {
    /// `memcpy`.
    Cached,
    /// 32 bytes at a time, past the cache (AVX2). AVX-512 was measured, too, and is no faster.
    Streamed,
}

/// Copies bytes in the way that suits this machine and the size.
#[derive(Clone, Copy, Debug)]
pub struct CopyLoop {
    best: Stores,
}

impl CopyLoop {
    /// The best loop this machine has, found at run time.
    pub fn detect() -> Self {
        Self {
            best: Stores::available().last().copied().unwrap_or(Stores::Cached),
        }
    }

    /// A loop of one kind, or `None` if this machine does not have it.
    pub fn of(stores: Stores) -> Option<Self> {
        Stores::available()
            .contains(&stores)
            .then_some(Self { best: stores })
    }

    /// Which stores are right for a piece of a batch of this size.
    pub fn choose(&self, direction: Direction, batch_bytes: u64, piece_bytes: usize) -> Stores {
        let read_soon = direction == Direction::Load && batch_bytes < STREAM_LOAD_BYTES_MIN;
        if piece_bytes < STREAM_PIECE_BYTES_MIN || read_soon {
            Stores::Cached
        } else {
            self.best
        }
    }

    /// Copies one piece of a batch. Streamed bytes are visible to others only after [`fence`](Self::fence).
    ///
    /// # Safety
    /// `stores` is what [`choose`](Self::choose) said or one of [`Stores::available`]. `source` is readable and `target`
    /// writable for `bytes` bytes, they do not overlap, and nobody else writes either or reads `target` meanwhile.
    pub unsafe fn copy(&self, stores: Stores, source: *const u8, target: *mut u8, bytes: usize) {
        match stores {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise; there are streamed stores only where the CPU has AVX2.
            Stores::Streamed => unsafe { x86::stream(source, target, bytes) },
            // SAFETY: the caller's promise.
            _ => unsafe { copy_nonoverlapping(source, target, bytes) },
        }
    }

    /// Orders streamed stores before whatever tells others of them.
    pub fn fence(&self) {
        #[cfg(target_arch = "x86_64")]
        if self.best == Stores::Streamed {
            // SAFETY: every x86-64 CPU has this instruction; it touches no memory.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

impl Stores {
    /// What this machine has, the best last.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return &[Self::Cached, Self::Streamed];
        }
        &[Self::Cached]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm256_stream_si256};
    use std::ptr::copy_nonoverlapping;

    use super::LINE_BYTES;

    /// How far ahead of the loads the source is fetched, in lines: what memory answers in while this much is copied.
    const AHEAD_LINES: usize = 32;

    /// Streams whatever fills whole lines of the target, and copies the rest through the cache.
    ///
    /// # Safety
    /// As `CopyLoop::copy`, and the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn stream(source: *const u8, target: *mut u8, bytes: usize) {
        let head = target.align_offset(LINE_BYTES).min(bytes);
        let body = (bytes - head) / LINE_BYTES;
        let tail_at = head + body * LINE_BYTES;
        // SAFETY: `head` bytes are the beginning of what the caller vouches for.
        unsafe { copy_nonoverlapping(source, target, head) };
        // SAFETY: `head + body * LINE_BYTES <= bytes`, and `target + head` is aligned unless `body` is 0.
        unsafe { stream_lines(source.wrapping_add(head), target.wrapping_add(head), body) };
        let (source, target) = (source.wrapping_add(tail_at), target.wrapping_add(tail_at));
        // SAFETY: the rest of what the caller vouches for.
        unsafe { copy_nonoverlapping(source, target, bytes - tail_at) };
    }

    /// # Safety
    /// `source` is readable, `target` aligned and writable for `count` lines; the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn stream_lines(source: *const u8, target: *mut u8, count: usize) {
        let fetched = count.saturating_sub(AHEAD_LINES);
        for line in 0..fetched {
            // Prefetching never faults, so the addresses need not be vouched for.
            _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add((line + AHEAD_LINES) * LINE_BYTES).cast());
            // SAFETY: line `line`, which the caller vouches for.
            unsafe { stream_line(source, target, line) };
        }
        for line in fetched..count {
            // SAFETY: as above.
            unsafe { stream_line(source, target, line) };
        }
    }

    /// # Safety
    /// As `stream_lines`, for one line.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "loads are unaligned ones, and the target is aligned to a line"
    )]
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn stream_line(source: *const u8, target: *mut u8, line: usize) {
        let from = source.wrapping_add(line * LINE_BYTES).cast::<__m256i>();
        let to = target.wrapping_add(line * LINE_BYTES).cast::<__m256i>();
        // SAFETY: the first half of the line, which the caller vouches for.
        let low = unsafe { _mm256_loadu_si256(from) };
        // SAFETY: the second half of it.
        let high = unsafe { _mm256_loadu_si256(from.wrapping_add(1)) };
        // SAFETY: as above; the target is aligned to a line.
        unsafe { _mm256_stream_si256(to, low) };
        // SAFETY: as above.
        unsafe { _mm256_stream_si256(to.wrapping_add(1), high) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_copies_every_length_at_every_alignment_and_nothing_else() {
        let pattern: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        for &stores in Stores::available() {
            let copy_loop = CopyLoop::of(stores).unwrap();
            for (from, to) in [(0, 0), (1, 0), (0, 1), (3, 63), (63, 33), (17, 64)] {
                for bytes in (0..200).chain([255, 256, 257, 600, 2047, 2048, 2112, 4096, 4900]) {
                    let mut target = vec![0xee_u8; 5000];
                    let (source, target_at) = (pattern[from..].as_ptr(), target[to..].as_mut_ptr());
                    // SAFETY: both lie within their vectors, which are apart.
                    unsafe { copy_loop.copy(stores, source, target_at, bytes) };
                    copy_loop.fence();
                    assert!(target[to..to + bytes] == pattern[from..from + bytes]);
                    let others = target[..to].iter().chain(&target[to + bytes..]);
                    assert!(
                        others.copied().all(|byte| byte == 0xee),
                        "{stores:?} {from} {to} {bytes}"
                    );
                }
            }
        }
    }

    #[test]
    fn small_pieces_and_small_loads_go_through_the_cache() {
        let copy_loop = CopyLoop::detect();
        assert_eq!(copy_loop.choose(Direction::Store, 1 << 30, 64), Stores::Cached);
        assert_eq!(
            copy_loop.choose(Direction::Load, 4 << 10, 4 << 10),
            Stores::Cached
        );
        assert_eq!(
            copy_loop.choose(Direction::Store, 4 << 10, 4 << 10),
            copy_loop.best
        );
        assert_eq!(
            copy_loop.choose(Direction::Load, 1 << 30, 1 << 20),
            copy_loop.best
        );
    }
}
