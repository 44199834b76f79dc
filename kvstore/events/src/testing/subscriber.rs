//! Sockets of the other side: SUB, and DEALER for replays. Blocking, with a deadline on every wait.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// No wait of a test is longer.
const WATCHDOG: Duration = Duration::from_mins(1);

/// A message's frames.
type Frames = Vec<Vec<u8>>;

/// A SUB socket with one connection.
#[derive(Debug)]
pub struct Subscriber {
    stream: TcpStream,
    /// Number that the next message must have.
    next: u64,
}

/// A DEALER socket for the replay port.
#[derive(Debug)]
pub struct Replayer {
    stream: TcpStream,
}

fn greet(stream: &mut TcpStream, kind: &str) {
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut greeting = [0_u8; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).unwrap();
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).unwrap();
    assert_eq!(
        (theirs[0], theirs[9], &theirs[12..16]),
        (0xff, 0x7f, &b"NULL"[..])
    );
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend_from_slice(&u32::try_from(kind.len()).unwrap().to_be_bytes());
    body.extend_from_slice(kind.as_bytes());
    stream.write_all(&[4, u8::try_from(body.len()).unwrap()]).unwrap();
    stream.write_all(&body).unwrap();
    let (flags, ready) = frame(stream).unwrap();
    assert!(flags & 4 != 0 && ready.starts_with(b"\x05READY"), "{ready:?}");
}

fn frame(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut flags = [0; 1];
    stream.read_exact(&mut flags)?;
    let mut size = [0; 8];
    let width = if flags[0] & 2 == 0 { 1 } else { 8 };
    stream.read_exact(&mut size[8 - width..])?;
    let mut body = vec![0; usize::try_from(u64::from_be_bytes(size)).unwrap()];
    stream.read_exact(&mut body)?;
    Ok((flags[0], body))
}

fn message(stream: &mut TcpStream) -> std::io::Result<Frames> {
    let mut frames = Vec::new();
    loop {
        let (flags, body) = frame(stream)?;
        assert_eq!(flags & 4, 0, "no command is expected");
        frames.push(body);
        if flags & 1 == 0 {
            return Ok(frames);
        }
    }
}

impl Subscriber {
    /// Dials a publisher that listens.
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    /// Takes the next publisher that dials.
    pub fn accept(listener: &TcpListener) -> Self {
        Self::new(listener.accept().unwrap().0)
    }

    fn new(mut stream: TcpStream) -> Self {
        greet(&mut stream, "SUB");
        Self { stream, next: 0 }
    }

    /// Subscribes.
    pub fn subscribe(&mut self, prefix: &str) {
        self.send(1, prefix);
    }

    /// Cancels a subscription.
    pub fn cancel(&mut self, prefix: &str) {
        self.send(0, prefix);
    }

    fn send(&mut self, what: u8, prefix: &str) {
        let mut bytes = vec![0, u8::try_from(prefix.len() + 1).unwrap(), what];
        bytes.extend_from_slice(prefix.as_bytes());
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message: topic, number and payload. Numbers have no gaps, but may begin at 0 again. None: the publisher has closed the connection.
    pub fn receive(&mut self) -> Option<(String, u64, Vec<u8>)> {
        self.stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        let frames = match message(&mut self.stream) {
            Ok(frames) => frames,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing was published for {WATCHDOG:?}")
            }
            Err(_) => return None,
        };
        Some(self.take(frames))
    }

    /// The same, however long it takes.
    pub fn receive_whenever(&mut self) -> Option<(String, u64, Vec<u8>)> {
        self.stream.set_read_timeout(None).unwrap();
        let frames = message(&mut self.stream).ok()?;
        Some(self.take(frames))
    }

    /// Takes everything until the publisher closes, and looks at nothing but the sizes of frames: tells `heard` how many
    /// messages and how many bytes were just taken.
    pub fn count_whenever(&mut self, mut heard: impl FnMut(u64, u64)) {
        self.stream.set_read_timeout(None).unwrap();
        let mut buffer = vec![0; 256 << 10];
        let mut counter = Counter::default();
        while let Ok(count @ 1..) = self.stream.read(&mut buffer) {
            let messages = counter.count(&buffer[..count]);
            heard(messages, count as u64);
        }
    }

    fn take(&mut self, frames: Frames) -> (String, u64, Vec<u8>) {
        let [topic, number, payload] = <[Vec<u8>; 3]>::try_from(frames).expect("three frames");
        let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
        assert!(
            number == self.next || number == 0,
            "got {number}, want {}: no gaps",
            self.next
        );
        self.next = number + 1;
        (String::from_utf8(topic).unwrap(), number, payload)
    }
}

/// Counts messages in a stream that comes in pieces.
#[derive(Debug, Default)]
struct Counter {
    /// Bytes of a frame's header that have come: flags and size.
    header: Vec<u8>,
    /// Bytes of the frame's body that are still to come.
    left: u64,
}

impl Counter {
    /// Messages whose last frame begins in this piece.
    fn count(&mut self, mut piece: &[u8]) -> u64 {
        let mut messages = 0;
        while let Some((&byte, rest)) = piece.split_first() {
            if self.left > 0 {
                let count = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
                piece = &piece[count..];
                self.left -= count as u64;
                continue;
            }
            piece = rest;
            self.header.push(byte);
            let width = if self.header[0] & 2 == 0 { 1 } else { 8 };
            if self.header.len() == 1 + width {
                let size = self.header[1..].iter();
                self.left = size.fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                messages += u64::from(self.header[0] & 1 == 0);
                self.header.clear();
            }
        }
        messages
    }
}

impl Replayer {
    /// Dials a replay socket.
    pub fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        greet(&mut stream, "DEALER");
        Self { stream }
    }

    /// Everything from a number on: topics, numbers and payloads.
    pub fn ask(&mut self, from: u64) -> Vec<(String, u64, Vec<u8>)> {
        let mut bytes = vec![1, 0, 0, 8];
        bytes.extend_from_slice(&from.to_be_bytes());
        self.stream.write_all(&bytes).unwrap();
        let mut messages = Vec::new();
        loop {
            let frames = message(&mut self.stream).unwrap();
            let [delimiter, topic, number, payload] = <[Vec<u8>; 4]>::try_from(frames).expect("four frames");
            assert!(delimiter.is_empty());
            let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
            if payload.is_empty() {
                assert_eq!(number, u64::MAX);
                return messages;
            }
            messages.push((String::from_utf8(topic).unwrap(), number, payload));
        }
    }
}
