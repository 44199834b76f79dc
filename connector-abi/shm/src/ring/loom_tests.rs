//! Every interleaving of a producer and a consumer that sleep on each other.
//!
//! Run with: `RUSTFLAGS="--cfg loom" cargo test -p connector-shm --release --lib loom`

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

use super::*;

/// Two of the smallest messages fit, so the third one waits and the circle wraps.
const CAPACITY: usize = 64;

/// A doorbell in loom's world: remembers a ring until somebody waits.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Loom reports a deadlock if the ring that would end this was lost.
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn message(number: u8) -> [u8; 32] {
    let mut message = [number; 32];
    message[..4].copy_from_slice(&32_u32.to_le_bytes());
    message
}

fn produce(producer: &mut Producer, count: u8, own: &Bell, peer: &Bell) {
    for number in 0..count {
        loop {
            match producer.begin(32) {
                Ok(mut writer) => {
                    writer.write(&message(number));
                    writer.commit();
                    break;
                }
                Err(BeginError::Full { .. }) => {
                    if producer.begin_wait(32).unwrap() == Sleep::Go {
                        own.wait();
                        producer.end_wait();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        if producer.take_consumer_sleeping() {
            peer.ring();
        }
    }
}

fn consume(consumer: &mut Consumer, count: u8, own: &Bell, peer: &Bell) {
    let mut buffer = MessageBuffer::new();
    for number in 0..count {
        loop {
            if let Some(bytes) = consumer.pop_into(&mut buffer).unwrap() {
                assert_eq!(bytes, message(number));
                break;
            }
            if consumer.begin_sleep().unwrap() == Sleep::Go {
                own.wait();
                consumer.end_sleep();
            }
        }
        if consumer.take_producer_waiting() {
            peer.ring();
        }
    }
}

fn exchange(count: u8) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let memory = RingMemory::new(CAPACITY);
        let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
        let (of_producer, of_consumer) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let (own, peer) = (Arc::clone(&of_producer), Arc::clone(&of_consumer));
        let thread = thread::spawn(move || produce(&mut producer, count, &own, &peer));
        consume(&mut consumer, count, &of_consumer, &of_producer);
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_sleeping_consumer_misses_no_message() {
    exchange(1);
}

#[test]
fn loom_a_producer_that_waits_for_room_misses_no_room() {
    exchange(3);
}
