//! ZMTP 3.0 with the NULL mechanism: as much of ZeroMQ's wire protocol as a publisher and a replay socket need.
//!
//! ```text
//! greeting  = ff 00*8 7f | 03 00 | "NULL" 00*16 | as-server 00 | 00*31          64 bytes, each side
//! handshake = READY command with Socket-Type, each side
//! frame     = flags | size (u8, or u64 big-endian if LONG) | body               flags: MORE 1, LONG 2, COMMAND 4
//! command   = size of name (u8) | name | data
//! ```
//!
//! A subscription is a message of one frame, 01 and the prefix (00: cancelled), or from newer peers a command. Everything
//! that a peer sends is bounded before it is read.

mod stream;

pub(crate) use self::stream::{Reader, Writer, handshake};

/// Bytes of a greeting.
const GREETING_BYTES: usize = 64;
/// Largest frame that a peer may send: a subscription.
const FRAME_BYTES_MAX: u64 = 4096;
/// Most frames of a message that a peer may send.
const FRAMES_MAX: usize = 8;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZmtpError {
    /// The system says so.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer does not speak the protocol.
    #[error("the peer does not speak ZMTP 3 with the NULL mechanism: {0}")]
    Greeting(&'static str),
    /// The peer's socket is of a kind that does not go together with ours.
    #[error("the peer's socket is a {0:?}")]
    SocketType(String),
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The peer sent what makes no sense.
    #[error("the peer sent {0}")]
    Malformed(&'static str),
    /// The peer had asked for nothing, and somebody else needed its place.
    #[error("it had asked for nothing and its place was needed")]
    Displaced,
    /// The peer took too long.
    #[error("the peer did not finish the handshake in time")]
    TimedOut,
}

/// One thing that a peer has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message's frames.
    Message(Vec<Vec<u8>>),
    /// A command's name and data.
    Command(Vec<u8>, Vec<u8>),
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

fn check_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<(), ZmtpError> {
    if bytes[0] != 0xff || bytes[9] & 1 != 1 {
        return Err(ZmtpError::Greeting("wrong signature"));
    }
    if bytes[10] < 3 {
        return Err(ZmtpError::Greeting("its version is older"));
    }
    if bytes[12..32] != greeting()[12..32] {
        return Err(ZmtpError::Greeting("it wants another mechanism"));
    }
    Ok(())
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = vec![5];
    body.extend_from_slice(b"READY");
    for (name, value) in [("Socket-Type", socket_type), ("Identity", "")] {
        // Both are a few bytes long.
        body.push(u8::try_from(name.len()).unwrap_or(0));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    let mut bytes = Vec::new();
    put_frame(&mut bytes, COMMAND, &body);
    bytes
}

/// The answer to a peer's PING.
pub(crate) fn pong(context: &[u8]) -> Vec<u8> {
    let mut body = vec![4];
    body.extend_from_slice(b"PONG");
    body.extend_from_slice(context);
    let mut bytes = Vec::new();
    put_frame(&mut bytes, COMMAND, &body);
    bytes
}

/// The peer's kind of socket, if the command is a READY.
fn socket_type(name: &[u8], data: &[u8]) -> Result<String, ZmtpError> {
    let malformed = ZmtpError::Malformed("a malformed READY");
    if name == b"ERROR" {
        let reason = data.get(1..).unwrap_or_default();
        return Err(ZmtpError::Refused(String::from_utf8_lossy(reason).into_owned()));
    }
    if name != b"READY" {
        return Err(ZmtpError::Malformed("no READY"));
    }
    let mut rest = data;
    while let Some((&count, after)) = rest.split_first() {
        let Some((name, after)) = after.split_at_checked(usize::from(count)) else {
            return Err(malformed);
        };
        let Some((size, after)) = after.split_first_chunk::<4>() else {
            return Err(malformed);
        };
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        let Some((value, after)) = after.split_at_checked(size) else {
            return Err(malformed);
        };
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Ok(String::from_utf8_lossy(value).into_owned());
        }
        rest = after;
    }
    Err(ZmtpError::Malformed("a READY without Socket-Type"))
}

/// A command's name and data.
fn split_command(body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), ZmtpError> {
    let malformed = ZmtpError::Malformed("a malformed command");
    let Some((&count, rest)) = body.split_first() else {
        return Err(malformed);
    };
    let (name, data) = rest.split_at_checked(usize::from(count)).ok_or(malformed)?;
    Ok((name.to_vec(), data.to_vec()))
}

fn put_frame(out: &mut Vec<u8>, flags: u8, body: &[u8]) {
    if let Ok(size) = u8::try_from(body.len()) {
        out.extend_from_slice(&[flags, size]);
    } else {
        out.push(flags | LONG);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(body);
}

/// Appends a message.
pub(crate) fn put_message(out: &mut Vec<u8>, frames: &[&[u8]]) {
    for (index, frame) in frames.iter().enumerate() {
        let flags = if index + 1 < frames.len() { MORE } else { 0 };
        put_frame(out, flags, frame);
    }
}

/// What the first bytes of a frame say: its flags, and the size of its body if the bytes are enough.
fn frame_size(flags: u8, size: &[u8]) -> Result<u64, ZmtpError> {
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(ZmtpError::Malformed("a frame with unknown flags"));
    }
    let size = size.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    if size > FRAME_BYTES_MAX {
        return Err(ZmtpError::Malformed("a frame that is too large"));
    }
    Ok(size)
}

/// What subscribers ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Everything whose topic begins like this.
    Subscribe(Vec<u8>),
    /// No longer that.
    Cancel(Vec<u8>),
    /// A sign of life, to be answered with these bytes.
    Ping(Vec<u8>),
    /// Nothing that concerns a publisher.
    Nothing,
}

/// What a subscriber has sent.
pub(crate) fn request(received: Received) -> Result<Request, ZmtpError> {
    match received {
        Received::Message(mut frames) => {
            let body = if frames.len() == 1 {
                frames.pop().unwrap_or_default()
            } else {
                return Err(ZmtpError::Malformed("a message that is no subscription"));
            };
            match body.split_first() {
                Some((1, prefix)) => Ok(Request::Subscribe(prefix.to_vec())),
                Some((0, prefix)) => Ok(Request::Cancel(prefix.to_vec())),
                // XSUB sockets may send other messages upstream.
                _ => Ok(Request::Nothing),
            }
        }
        Received::Command(name, data) => Ok(match name.as_slice() {
            b"SUBSCRIBE" => Request::Subscribe(data),
            b"CANCEL" => Request::Cancel(data),
            // Two bytes say for how long it may be silent; a connection's end is seen without them.
            b"PING" => Request::Ping(data.get(2..).unwrap_or_default().to_vec()),
            _ => Request::Nothing,
        }),
    }
}

/// Any bytes as a greeting, as a READY and as a request.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<GREETING_BYTES>() {
        let _ = check_greeting(bytes);
    }
    if let Ok((name, data)) = split_command(data) {
        let _ = socket_type(&name, &data);
        let _ = request(Received::Command(name, data));
    }
    let _ = request(Received::Message(vec![data.to_vec()]));
    if let Some((flags, size)) = data.split_first() {
        let _ = frame_size(*flags, &size[..size.len().min(8)]);
    }
}

#[cfg(test)]
mod tests;
