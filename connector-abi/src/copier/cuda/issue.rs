//! Hands the pieces of a batch to the driver: many in one call where it can, one by one where it cannot.

use std::sync::Arc;

use super::bounce::Bounce;
use super::context::{Context, Entered, Stream};
use super::driver::{Address, CopyAttributes, CopyBatch, Handle};
use super::error::{DriverError, INVALID_VALUE, NOT_SUPPORTED};
use super::registration::Registration;
use crate::copier::{CopyJob, Direction, Piece};

/// Most pieces in one call.
const PIECES_MAX: usize = 4096;
/// The source is read in stream order: what a store reads is what the engine's stream has written.
const SOURCE_IN_STREAM_ORDER: i32 = 1;
const PREFER_OVERLAP_WITH_COMPUTE: u32 = 1;

/// Pieces that wait for one call.
#[derive(Default)]
pub(super) struct Pieces {
    targets: Vec<Address>,
    sources: Vec<Address>,
    bytes: Vec<usize>,
}

impl Pieces {
    pub(super) fn push(&mut self, direction: Direction, device: usize, host: usize, bytes: usize) {
        let (target, source) = match direction {
            Direction::Store => (host, device),
            Direction::Load => (device, host),
        };
        self.targets.push(target as Address);
        self.sources.push(source as Address);
        self.bytes.push(bytes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= PIECES_MAX
    }

    fn clear(&mut self) {
        self.targets.clear();
        self.sources.clear();
        self.bytes.clear();
    }
}

/// Issues copies to one stream.
pub(super) struct Issuer {
    context: Arc<Context>,
    pub(super) stream: Stream,
    batch: CopyBatch,
    pieces: Pieces,
    bounce: Option<Bounce>,
    /// Bytes of the buffer for memory that is not pinned.
    bounce_bytes: usize,
}

impl Issuer {
    pub(super) fn new(context: &Arc<Context>, bounce_bytes: usize) -> Result<Self, DriverError> {
        Ok(Self {
            context: Arc::clone(context),
            stream: Stream::create(context)?,
            batch: context.driver.copy_batch,
            pieces: Pieces::default(),
            bounce: None,
            bounce_bytes,
        })
    }

    /// Gives a batch to the stream. On an error some of its pieces may have been given all the same.
    pub(super) fn issue(
        &mut self,
        entered: &Entered<'_>,
        job: &CopyJob,
        after: Option<Handle>,
        registration: Option<&Registration>,
    ) -> Result<(), DriverError> {
        if let Some(event) = after {
            self.stream.wait_for(entered, event)?;
        }
        match registration.filter(|registration| registration.is_pinned()) {
            Some(registration) => self.issue_pinned(entered, job, registration.piece_bytes()),
            None => self.issue_through_buffer(entered, job),
        }
    }

    fn issue_pinned(
        &mut self,
        entered: &Entered<'_>,
        job: &CopyJob,
        piece_bytes: usize,
    ) -> Result<(), DriverError> {
        let base = job.memory().base().addr();
        let mut outcome = Ok(());
        self.pieces.clear();
        job.for_each_piece(0..job.page_count(), |piece| {
            for part in split(piece, base, piece_bytes) {
                self.pieces
                    .push(job.direction(), part.device.addr(), part.slot.addr(), part.bytes);
                if outcome.is_ok() && self.pieces.is_full() {
                    outcome = self.flush(entered);
                }
            }
        });
        outcome?;
        self.flush(entered)
    }

    fn issue_through_buffer(&mut self, entered: &Entered<'_>, job: &CopyJob) -> Result<(), DriverError> {
        let mut bounce = match self.bounce.take() {
            Some(bounce) => bounce,
            None => Bounce::new(&self.context, self.bounce_bytes)?,
        };
        let outcome = bounce.copy(self, entered, job);
        self.bounce = Some(bounce);
        outcome
    }

    pub(super) fn pieces(&mut self) -> &mut Pieces {
        &mut self.pieces
    }

    /// Gives the waiting pieces to the stream.
    pub(super) fn flush(&mut self, entered: &Entered<'_>) -> Result<(), DriverError> {
        if self.pieces.bytes.is_empty() {
            return Ok(());
        }
        let outcome = match self.flush_batch() {
            None => self.flush_each(entered),
            Some(Ok(())) => Ok(()),
            // What the batched call does not take, the plain one may. Pieces that were taken are copied twice, in
            // stream order and to the same effect.
            Some(Err(error)) if error.status == NOT_SUPPORTED => {
                self.batch = CopyBatch::None;
                self.flush_each(entered)
            }
            Some(Err(error)) if error.status == INVALID_VALUE => self.flush_each(entered),
            Some(Err(error)) => Err(error),
        };
        self.pieces.clear();
        outcome
    }

    fn flush_batch(&self) -> Option<Result<(), DriverError>> {
        let Pieces {
            targets,
            sources,
            bytes,
        } = &self.pieces;
        let attributes = CopyAttributes {
            source_order: SOURCE_IN_STREAM_ORDER,
            flags: PREFER_OVERLAP_WITH_COMPUTE,
            ..CopyAttributes::default()
        };
        let (first, stream) = (0_usize, self.stream.handle());
        let (targets, sources, count) = (targets.as_ptr(), sources.as_ptr(), bytes.len());
        let bytes = bytes.as_ptr();
        let status = match self.batch {
            CopyBatch::None => return None,
            CopyBatch::Version2(call) => {
                // SAFETY: three arrays of `count`, one attribute for all from the first on. Every piece lies within device
                // pages (the promise of `Copier::set_group`) and pinned memory that the job or the buffer keeps.
                unsafe {
                    call(
                        targets,
                        sources,
                        bytes,
                        count,
                        &raw const attributes,
                        &raw const first,
                        1,
                        stream,
                    )
                }
            }
            CopyBatch::Version1(call) => {
                let mut refused = usize::MAX;
                let (attributes, refused) = (&raw const attributes, &raw mut refused);
                // SAFETY: as above; `refused` is a place for an index.
                unsafe {
                    call(
                        targets,
                        sources,
                        bytes,
                        count,
                        attributes,
                        &raw const first,
                        1,
                        refused,
                        stream,
                    )
                }
            }
        };
        Some(self.context.check("cuMemcpyBatchAsync", status))
    }

    fn flush_each(&self, _entered: &Entered<'_>) -> Result<(), DriverError> {
        let pieces = &self.pieces;
        for ((&target, &source), &bytes) in pieces.targets.iter().zip(&pieces.sources).zip(&pieces.bytes) {
            // SAFETY: the piece lies within device pages (the promise of `Copier::set_group`) and pinned memory that the
            // job or the buffer keeps.
            let status = unsafe { (self.context.driver.copy)(target, source, bytes, self.stream.handle()) };
            self.context.check("cuMemcpyAsync", status)?;
        }
        Ok(())
    }

    /// Ends the use of the buffer without freeing it: a copy may still be using it.
    pub(super) fn leak_buffer(&mut self) {
        std::mem::forget(self.bounce.take());
    }
}

/// A piece in parts that lie within one pinned piece each.
fn split(piece: Piece, base: usize, piece_bytes: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == piece.bytes {
            return None;
        }
        let at = piece.slot.addr() + done - base;
        let bytes = (piece.bytes - done).min(piece_bytes - at % piece_bytes);
        let part = Piece {
            device: piece.device.wrapping_add(done),
            slot: piece.slot.wrapping_add(done),
            bytes,
        };
        done += bytes;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_crosses_from_one_pinned_piece_to_the_next() {
        let at = |address: usize| std::ptr::without_provenance_mut::<u8>(address);
        let piece = Piece {
            device: at(1 << 20),
            slot: at(5000),
            bytes: 2500,
        };
        let parts: Vec<_> = split(piece, 4000, 1024)
            .map(|part| (part.device.addr() - (1 << 20), part.slot.addr(), part.bytes))
            .collect();
        assert_eq!(
            parts,
            [
                (0, 5000, 24),
                (24, 5024, 1024),
                (1048, 6048, 1024),
                (2072, 7072, 428)
            ]
        );
    }
}
