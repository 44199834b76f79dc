#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of these tests are small, or random anyway"
)]

use std::sync::Arc;

use memmap2::MmapMut;

use super::*;
use crate::memory::{Mapping, RingLines};

const CAPACITY: usize = 256;
const LINES: RingLines = RingLines {
    tail: 0,
    head: 128,
    consumer_sleeping: 256,
    producer_waiting: 384,
    bytes: 512,
    capacity: CAPACITY,
};

struct Ring {
    producer: Producer,
    consumer: Consumer,
    mapping: Arc<Mapping>,
}

fn ring() -> Ring {
    let mapping = Arc::new(Mapping::new(MmapMut::map_anon(512 + CAPACITY).unwrap().into()));
    Ring {
        producer: Producer::new(RingMemory::new(Arc::clone(&mapping), LINES)),
        consumer: Consumer::new(RingMemory::new(Arc::clone(&mapping), LINES)),
        mapping,
    }
}

impl Ring {
    fn push(&mut self, length: u32, fill: u8) -> Result<(), BeginError> {
        let mut writer = self.producer.begin(length as usize)?;
        writer.write(&length.to_le_bytes());
        writer.write(&vec![fill; length as usize - 4]);
        writer.commit();
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<Vec<u8>>, PeerCursorError> {
        let mut buffer = MessageBuffer::new();
        Ok(self.consumer.pop_into(&mut buffer)?.map(<[u8]>::to_vec))
    }
}

#[test]
fn messages_come_out_as_they_went_in_whatever_their_place_in_the_circle() {
    let mut ring = ring();
    for round in 0..2000_u32 {
        let length = 32 + 8 * (round % 29);
        ring.push(length, round as u8).unwrap();
        let message = ring.pop().unwrap().unwrap();
        assert_eq!(message[..4], length.to_le_bytes());
        assert_eq!(message[4..], vec![round as u8; length as usize - 4]);
        assert_eq!(ring.pop().unwrap(), None);
    }
}

#[test]
fn a_message_may_fill_the_whole_ring_and_no_more() {
    let mut ring = ring();
    ring.push(64, 1).unwrap();
    ring.pop().unwrap().unwrap();
    ring.push(CAPACITY as u32, 2).unwrap();
    let full = BeginError::Full { needed: 32, free: 0 };
    assert_eq!(ring.push(32, 3).unwrap_err(), full);
    assert_eq!(ring.pop().unwrap().unwrap().len(), CAPACITY);
    let too_large = BeginError::TooLarge {
        needed: CAPACITY + 8,
        capacity: CAPACITY,
    };
    assert_eq!(ring.push(CAPACITY as u32 + 8, 3).unwrap_err(), too_large);
}

#[test]
fn a_message_that_is_not_committed_is_not_seen() {
    let mut ring = ring();
    let mut writer = ring.producer.begin(40).unwrap();
    writer.write(&[7; 40]);
    drop(writer);
    assert_eq!(ring.pop().unwrap(), None);
    ring.push(32, 1).unwrap();
    assert_eq!(ring.pop().unwrap().unwrap().len(), 32);
}

#[test]
fn padding_is_written_by_the_commit() {
    let mut ring = ring();
    ring.push(256, 0xff).unwrap();
    ring.pop().unwrap();
    let mut writer = ring.producer.begin(40).unwrap();
    writer.write(&40_u32.to_le_bytes());
    writer.write(&[1; 29]);
    writer.commit();
    assert_eq!(ring.pop().unwrap().unwrap()[33..], [0; 7]);
}

#[test]
fn a_tail_that_lies_is_refused_and_named() {
    for (cursor, published) in [(264, 0), (u64::MAX - 7, 0), (4, 0), (33, 32), (0, 32)] {
        let mut ring = ring();
        if published > 0 {
            ring.push(published, 0).unwrap();
            ring.pop().unwrap();
        }
        ring.mapping.write(LINES.tail, &u64::to_le_bytes(cursor));
        let own = u64::from(published);
        let error = PeerCursorError::Cursor {
            cursor,
            own,
            capacity: 256,
        };
        let expected = if cursor == own { Ok(None) } else { Err(error) };
        assert_eq!(ring.pop(), expected, "tail {cursor}");
        assert_eq!(ring.consumer.begin_sleep().is_err(), expected.is_err());
    }
}

#[test]
fn a_head_that_lies_is_refused_and_named() {
    for cursor in [8, 264, u64::MAX - 7, 257, 250] {
        let mut ring = ring();
        ring.push(256, 0).unwrap();
        ring.pop().unwrap();
        ring.push(256, 0).unwrap();
        // The consumer has read 256 bytes; the producer has seen that when it wrote the second message.
        ring.mapping.write(LINES.head, &u64::to_le_bytes(cursor));
        let refused = BeginError::Peer(PeerCursorError::Cursor {
            cursor,
            own: 512,
            capacity: 256,
        });
        let expected = if cursor == 264 { Ok(()) } else { Err(refused) };
        let begun = ring.producer.begin(8 * 4).map(drop);
        match expected {
            Ok(()) => assert_eq!(begun, Err(BeginError::Full { needed: 32, free: 8 })),
            Err(error) => assert_eq!(begun, Err(error), "head {cursor}"),
        }
    }
}

#[test]
fn a_length_that_lies_is_refused_and_named() {
    for length in [0_u32, 8, 24, 31, 33, 36, 72, 264, u32::MAX, u32::MAX - 7] {
        let mut ring = ring();
        ring.push(64, 0).unwrap();
        ring.mapping.write(LINES.bytes, &length.to_le_bytes());
        assert_eq!(ring.pop(), Err(PeerCursorError::Length { length, filled: 64 }));
    }
}

#[test]
fn random_scribbling_over_the_ring_never_panics_and_never_grows_memory() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut ring = ring();
    let mut buffer = MessageBuffer::new();
    for _ in 0..200_000 {
        let (at, value) = (random() as usize % (512 + CAPACITY - 8), random());
        let value = if value & 1 == 0 { value & 0xff8 } else { value };
        ring.mapping.write(at & !3, &value.to_le_bytes());
        let popped = ring.consumer.pop_into(&mut buffer);
        assert!(popped.is_err() || popped.is_ok_and(|message| message.is_none_or(|m| m.len() <= CAPACITY)));
        let _ = (
            ring.push(32 + 8 * (value as u32 % 16), 0),
            ring.producer.begin_wait(64),
            ring.producer.is_drained(),
        );
        let _ = (ring.consumer.begin_sleep(), ring.consumer.take_producer_waiting());
    }
}

#[test]
fn each_sleep_is_rung_once() {
    let mut ring = ring();
    assert!(!ring.producer.take_consumer_sleeping());
    assert_eq!(ring.consumer.begin_sleep(), Ok(Sleep::Go));
    ring.push(32, 0).unwrap();
    assert!(ring.producer.take_consumer_sleeping());
    assert!(!ring.producer.take_consumer_sleeping());
    assert_eq!(ring.consumer.begin_sleep(), Ok(Sleep::Stay));
    assert!(!ring.producer.take_consumer_sleeping());
}

#[test]
fn a_producer_that_waits_for_room_is_rung_once_there_is_some() {
    let mut ring = ring();
    ring.push(256, 0).unwrap();
    assert_eq!(ring.producer.begin_wait(64), Ok(Sleep::Go));
    ring.pop().unwrap();
    assert!(ring.consumer.take_producer_waiting());
    assert_eq!(ring.producer.begin_wait(64), Ok(Sleep::Stay));
    assert!(!ring.consumer.take_producer_waiting());
}
