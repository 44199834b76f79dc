//! The descriptors of blocks, beside their records: a record is one cache line, and a look-up never reads a descriptor.

use kvstore_types::DescriptorBytes;

use super::BlockIndex;

const CHUNK_BLOCKS: usize = super::CHUNK_BLOCKS;

type Chunk = Box<[Option<DescriptorBytes>]>;

/// One place for each record. A chunk is made for the first descriptor in it, so blocks without one cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    chunks: Vec<Option<Chunk>>,
    len: usize,
    bytes: usize,
}

impl Descriptors {
    /// How many blocks have one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of all encodings.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A block's descriptor.
    pub(crate) fn get(&self, index: BlockIndex) -> Option<&DescriptorBytes> {
        let chunk = self.chunks.get(index.0 as usize / CHUNK_BLOCKS)?.as_ref()?;
        chunk[index.0 as usize % CHUNK_BLOCKS].as_ref()
    }

    /// Gives a block its descriptor, or takes it away.
    pub(super) fn set(&mut self, index: BlockIndex, descriptor: Option<DescriptorBytes>) {
        let (chunk, offset) = (index.0 as usize / CHUNK_BLOCKS, index.0 as usize % CHUNK_BLOCKS);
        if self.chunks.len() <= chunk {
            if descriptor.is_none() {
                return;
            }
            self.chunks.resize_with(chunk + 1, || None);
        }
        let place = match &mut self.chunks[chunk] {
            Some(chunk) => &mut chunk[offset],
            None if descriptor.is_none() => return,
            empty => &mut empty.insert(vec![None; CHUNK_BLOCKS].into_boxed_slice())[offset],
        };
        if let Some(before) = place.take() {
            self.len -= 1;
            self.bytes -= before.as_bytes().len();
        }
        if let Some(after) = &descriptor {
            self.len += 1;
            self.bytes += after.as_bytes().len();
        }
        *place = descriptor;
    }
}
