//! Reading a block: in ranges, twice if the first answer is late, and proven.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select, try_join_all};
use kvstore_types::{BlockKey, Corruption};
use xxhash_rust::xxh3::Xxh3;

use super::shared::Shared;
use crate::backend::{Body, Fault, Hold};
use crate::format::{BlockHeader, HEADER_BYTES, PAGE, block_name};

/// A block that was read and is what it should be.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) descriptor: Vec<u8>,
    /// The payload, in pieces.
    pub(super) payload: Vec<Bytes>,
}

impl Shared {
    /// Reads an object of `bytes` bytes; if the answer is late, a second time as well.
    pub(super) async fn get_hedged(
        &self,
        key: &BlockKey,
        bytes: u64,
        hold: &Hold,
    ) -> Result<Option<Body>, Fault> {
        let first = pin!(self.get_whole(key, bytes, hold));
        let Some(late) = self.spec.timing.hedge_after else {
            return first.await;
        };
        let first = match select(first, pin!(tokio::time::sleep(late))).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        self.counters.lock().hedges += 1;
        let second = pin!(self.get_whole(key, bytes, hold));
        match select(first, second).await {
            Either::Left((Ok(answer), _)) => Ok(answer),
            Either::Right((Ok(answer), _)) => {
                self.counters.lock().hedges_won += 1;
                Ok(answer)
            }
            Either::Left((Err(_), second)) => second.await,
            Either::Right((Err(_), first)) => first.await,
        }
    }

    async fn get_whole(&self, key: &BlockKey, bytes: u64, hold: &Hold) -> Result<Option<Body>, Fault> {
        let name = block_name(key);
        let share = self.spec.limits.range_bytes.unwrap_or(bytes);
        // Ranges begin on pages, so that they can pass the page cache by.
        let share = share.next_multiple_of(HEADER_BYTES).max(HEADER_BYTES);
        if share >= bytes {
            return self.backend.get(&name, 0..bytes, hold.clone()).await;
        }
        let step = usize::try_from(share).unwrap_or(usize::MAX);
        let ranges = (0..bytes).step_by(step).map(|start| {
            let range = start..bytes.min(start + share);
            self.backend.get(&name, range, hold.clone())
        });
        let mut whole = Body {
            pieces: Vec::new(),
            object_bytes: bytes,
        };
        for part in try_join_all(ranges).await? {
            let Some(part) = part else {
                return Ok(None);
            };
            if part.object_bytes != bytes {
                whole.object_bytes = part.object_bytes;
            }
            whole.pieces.extend(part.pieces);
        }
        Ok(Some(whole))
    }
}

/// Compares everything that was read with what was asked for.
pub(super) fn prove(body: Body, key: &BlockKey, payload_bytes: u64) -> Result<Proven, Corruption> {
    if body.object_bytes < HEADER_BYTES + payload_bytes {
        return Err(Corruption::Truncated);
    }
    let (page, payload) = split(body.pieces).ok_or(Corruption::Header)?;
    let (header, descriptor) = BlockHeader::decode(&page).map_err(|_| Corruption::Header)?;
    header.check(key, payload_bytes)?;
    if body.object_bytes != HEADER_BYTES + payload_bytes {
        return Err(Corruption::Payload);
    }
    let mut hasher = Xxh3::new();
    let mut bytes = 0;
    for piece in &payload {
        hasher.update(piece);
        bytes += piece.len() as u64;
    }
    if bytes != payload_bytes || hasher.digest128() != header.checksum {
        return Err(Corruption::Payload);
    }
    Ok(Proven {
        descriptor: descriptor.to_vec(),
        payload,
    })
}

/// The first page, and what is behind it.
fn split(pieces: Vec<Bytes>) -> Option<([u8; PAGE], Vec<Bytes>)> {
    let mut page = [0; PAGE];
    let mut filled = 0;
    let mut rest = Vec::with_capacity(pieces.len());
    for mut piece in pieces {
        if filled < PAGE {
            let head = piece.split_to(piece.len().min(PAGE - filled));
            page[filled..filled + head.len()].copy_from_slice(&head);
            filled += head.len();
        }
        if !piece.is_empty() {
            rest.push(piece);
        }
    }
    (filled == PAGE).then_some((page, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, object};

    fn body(object: &[u8], piece_bytes: usize) -> Body {
        Body {
            pieces: object.chunks(piece_bytes).map(Bytes::copy_from_slice).collect(),
            object_bytes: object.len() as u64,
        }
    }

    #[test]
    fn a_block_is_proven_however_it_is_cut() {
        let object = object(key(1), 8192, b"descriptor");
        for piece_bytes in [1, 100, 4095, 4096, 4097, 5000, 100_000] {
            let proven = prove(body(&object, piece_bytes), &key(1), 8192).unwrap();
            assert_eq!(proven.descriptor, b"descriptor");
            assert!(proven.payload.concat() == object[PAGE..]);
        }
    }

    #[test]
    fn every_difference_is_found_and_named() {
        let good = object(key(1), 8192, b"");
        let prove = |object: &[u8], key, bytes| prove(body(object, 3000), &key, bytes).unwrap_err();
        let flipped = |at: usize| {
            let mut object = good.clone();
            object[at] ^= 0x10;
            object
        };
        assert_eq!(prove(&good, key(2), 8192), Corruption::Key);
        assert_eq!(prove(&good, key(1), 4096), Corruption::Payload);
        assert_eq!(prove(&flipped(0), key(1), 8192), Corruption::Header);
        assert_eq!(prove(&flipped(3000), key(1), 8192), Corruption::Header);
        assert_eq!(prove(&flipped(4096), key(1), 8192), Corruption::Payload);
        assert_eq!(prove(&flipped(12_287), key(1), 8192), Corruption::Payload);
        for bytes in [0, 4000, 4096, 9000, good.len() - 1] {
            assert_eq!(prove(&good[..bytes], key(1), 8192), Corruption::Truncated);
        }
        assert_eq!(
            prove(&[&good[..], b"more"].concat(), key(1), 8192),
            Corruption::Payload
        );
        // A store that says how long the object is and gives less.
        let short = Body {
            pieces: vec![Bytes::copy_from_slice(&good[..9000])],
            object_bytes: good.len() as u64,
        };
        let found = super::prove(short, &key(1), 8192).unwrap_err();
        assert_eq!(found, Corruption::Payload);
    }
}
