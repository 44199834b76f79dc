//! Private memory that messages are copied into.

use zerocopy::IntoBytes;

/// Private, reusable memory for one message, aligned to 8 bytes so that its arrays can be read in place.
///
/// It grows to the largest message seen, which the capacity of the ring bounds.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    words: Vec<u64>,
    length: usize,
}

impl MessageBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            words: Vec::new(),
            length: 0,
        }
    }

    /// The message that was copied in last; empty before the first.
    pub fn message(&self) -> &[u8] {
        &self.words.as_bytes()[..self.length]
    }

    /// Room for `length` bytes, whose old content is left as it is.
    pub(crate) fn reserve(&mut self, length: usize) -> &mut [u8] {
        let words = length.div_ceil(8);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        self.length = length;
        &mut self.words.as_mut_bytes()[..length]
    }
}
