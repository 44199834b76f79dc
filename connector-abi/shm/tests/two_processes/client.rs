//! The client's side: the second process.

use super::*;

pub(super) fn attach(socket: &Path) -> Attachment {
    Attachment::open(socket, &attach_request(), Instant::now() + WATCHDOG).unwrap()
}

/// The hashes and tokens of the request `number`: most requests are small, some nearly fill the ring.
pub(super) fn lookup(number: u64, hashes: &mut Vec<BlockHash>) -> u64 {
    let mut random = Random(number + 1);
    random.next();
    let bound = if random.below(50) == 0 { 1500 } else { 20 };
    hashes.clear();
    for _ in 0..random.below(bound) {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&random.next().to_le_bytes());
        hashes.push(BlockHash(hash));
    }
    if random.below(50) == 0 {
        random.below(600)
    } else {
        random.below(5)
    }
}

/// Sends whenever there is room, reads whenever there is something, and sleeps when there is neither.
pub(super) fn client_exchange(socket: &Path) {
    let mut attachment = attach(socket);
    let end = &mut attachment.end;
    let (mut buffer, mut hashes, mut random) = (MessageBuffer::new(), Vec::new(), Random(5));
    let (mut sent, mut received) = (0, 0);
    while received < REQUESTS {
        let mut wanted = 0;
        while sent < REQUESTS {
            let tokens_max = lookup(sent, &mut hashes);
            let groups = [GroupKeys {
                group: 0,
                hashes: &hashes,
            }];
            match end.send(&Request::Lookup {
                tag: Tag(sent),
                tokens_max,
                keys: Keys::new(&groups),
            }) {
                Ok(()) => sent += 1,
                Err(SendError::Full { needed, .. }) => {
                    wanted = needed;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let before = received;
        while let Some(completion) = end.receive(&mut buffer).unwrap() {
            check_answer(&completion, received, &mut hashes);
            received += 1;
        }
        end.notify().unwrap();
        if random.below(500) == 0 {
            thread::sleep(Duration::from_micros(300));
        }
        if received == before && end.begin_sleep(wanted).unwrap() == Sleep::Go {
            assert_eq!(end.doorbell().wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
            end.end_sleep();
        }
    }
    say_good_bye(attachment);
}

pub(super) fn check_answer(completion: &Completion<'_>, number: u64, hashes: &mut Vec<BlockHash>) {
    let Completion::Lookup {
        tag,
        hit_tokens,
        spans,
        ..
    } = *completion
    else {
        panic!("unexpected {completion:?}")
    };
    let tokens_max = lookup(number, hashes);
    assert_eq!(tag, Tag(number));
    assert_eq!(hit_tokens, sum(Keys::new(&[GroupKeys { group: 0, hashes }])));
    assert_eq!(spans.len() as u64, tokens_max);
}

pub(super) fn say_good_bye(mut attachment: Attachment) {
    let place = attachment
        .region
        .slot_address(
            SlotRef {
                page: 5,
                generation: 1,
            },
            0,
            4096,
        )
        .unwrap();
    // SAFETY: in the region, as `slot_address` checked; the daemon does not touch it before the good-bye.
    unsafe { place.write(0xa5) };
    attachment.end.send(&Request::Close).unwrap();
    attachment.end.notify().unwrap();
    // Stay until the daemon has read it: its end of the doorbell goes when it is done.
    while attachment
        .end
        .doorbell()
        .wait(Some(WATCHDOG))
        .is_ok_and(|wake| wake == Wake::Rung)
    {}
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "random numbers, bounded where it matters"
)]
pub(super) fn client_scribble(socket: &Path) {
    for number in 0..SCRIBBLES {
        let stream = UnixStream::connect(socket).unwrap();
        let frame = attach_request().encode().unwrap();
        std::io::Write::write_all(&mut &stream, &frame).unwrap();
        let mut reader = FrameReader::with_fds(connector_shm::ATTACH_FDS);
        let frame = loop {
            match reader.advance(stream.as_fd()).unwrap() {
                Some(frame) => break frame,
                None => thread::yield_now(),
            }
        };
        let map = MmapOptions::new().map_raw(&frame.fds[0]).unwrap();
        let mut random = Random(number * 0x1234_5678_9abc + 99);
        // The header's page and the beginnings of both rings, in words that are now plausible, now wild.
        let places = [0, 4096, 4096 + RING_BYTES];
        while !connector_shm::hung_up(stream.as_fd()).unwrap() {
            let at = places[random.below(3) as usize] + random.below(4096 / 4) * 4;
            let word = if random.below(2) == 0 {
                random.next() as u32
            } else {
                random.below(64) as u32 * 8
            };
            // SAFETY: below the end of the second ring. The daemon is this test's subject: it must not
            // mind what is written, nor when.
            unsafe {
                map.as_mut_ptr()
                    .wrapping_add(at as usize)
                    .cast::<[u8; 4]>()
                    .write_volatile(word.to_le_bytes());
            }
            let _ = connector_shm::Doorbell::from(frame.fds[2].try_clone().unwrap()).ring();
        }
    }
}

pub(super) fn client_linger(socket: &Path) {
    let attachment = attach(socket);
    attachment.end.doorbell().ring().unwrap();
    loop {
        thread::sleep(WATCHDOG);
    }
}
