//! Reading a message that nobody has checked yet.

use kvstore_types::{BlockHash, NamespaceGeometry};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::runs::RunHead;
use super::{GroupHead, Header, Keys, MessageError, Runs};

/// A message whose length is right; each taking of a part checks that part.
pub(super) struct Reader<'a> {
    pub(super) header: Header,
    payload: &'a [u8],
    op: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let short = MessageError::Length {
            length: 0,
            actual: bytes.len(),
        };
        let (header, payload) = Header::read_from_prefix(bytes).map_err(|_| short)?;
        if header.length as usize != bytes.len() || !bytes.len().is_multiple_of(8) {
            return Err(MessageError::Length {
                length: header.length.into(),
                actual: bytes.len(),
            });
        }
        Ok(Self {
            header,
            payload,
            op: "message",
        })
    }

    /// Names the operation, for errors, and checks that no flag is set: none has a meaning yet.
    pub(super) fn name(&mut self, op: &'static str) -> Result<(), MessageError> {
        self.op = op;
        self.zero("flags", self.header.flags)
    }

    /// Checks that a field the operation does not use is zero.
    pub(super) fn zero(&self, field: &'static str, actual: impl Into<u64>) -> Result<(), MessageError> {
        match actual.into() {
            0 => Ok(()),
            actual => Err(MessageError::NotZero {
                op: self.op,
                field,
                actual,
            }),
        }
    }

    pub(super) fn no_arguments(&self) -> Result<(), MessageError> {
        self.zero("arg32", self.header.arg32)?;
        self.zero("arg", self.header.arg)
    }

    pub(super) fn out_of_range(
        &self,
        field: &'static str,
        actual: u64,
        expected: &'static str,
    ) -> MessageError {
        MessageError::Field {
            op: self.op,
            field,
            actual,
            expected,
        }
    }

    pub(super) fn at_most(&self, what: &'static str, max: u32) -> Result<(), MessageError> {
        match self.header.count {
            actual if actual > max => Err(MessageError::Count {
                op: self.op,
                what,
                actual,
                max,
            }),
            _ => Ok(()),
        }
    }

    /// The payload is nothing.
    pub(super) fn empty(&self) -> Result<(), MessageError> {
        self.zero("count", self.header.count)?;
        self.exactly(0).map(drop)
    }

    /// The payload is exactly `bytes` bytes and zero padding.
    pub(super) fn exactly(&self, bytes: u64) -> Result<&'a [u8], MessageError> {
        let expected = bytes.saturating_add(7) & !7;
        if expected != self.payload.len() as u64 {
            return Err(MessageError::Payload {
                op: self.op,
                expected,
                actual: self.payload.len(),
            });
        }
        // Not larger than the payload, as just checked.
        let (payload, padding) = self.payload.split_at(usize::try_from(bytes).unwrap_or(0));
        match padding.iter().find(|&&byte| byte != 0) {
            Some(&byte) => Err(MessageError::NotZero {
                op: self.op,
                field: "padding",
                actual: byte.into(),
            }),
            None => Ok(payload),
        }
    }

    /// The payload is `count` items.
    pub(super) fn items<T: FromBytes + Immutable + KnownLayout>(&self) -> Result<&'a [T], MessageError> {
        let payload = self.exactly(u64::from(self.header.count) * size_of::<T>() as u64)?;
        self.cast(payload)
    }

    /// The payload is `N` bytes and then `count` items.
    pub(super) fn prefixed<const N: usize, T: FromBytes + Immutable + KnownLayout>(
        &self,
    ) -> Result<([u8; N], &'a [T]), MessageError> {
        let payload = self.exactly(N as u64 + u64::from(self.header.count) * size_of::<T>() as u64)?;
        let (prefix, items) = payload
            .split_first_chunk::<N>()
            .ok_or(self.wrong_payload(N as u64))?;
        Ok((*prefix, self.cast(items)?))
    }

    /// The payload is `count` group heads and the hashes they announce.
    pub(super) fn keys(&self) -> Result<Keys<'a>, MessageError> {
        let (keys, bytes) = self.leading_keys()?;
        self.exactly(bytes as u64)?;
        Ok(keys)
    }

    /// The payload is keys, `arg32` run heads, and the tokens and texts they announce.
    pub(super) fn described_keys(&self) -> Result<(Keys<'a>, Runs<'a>), MessageError> {
        let (keys, keys_bytes) = self.leading_keys()?;
        let heads_bytes = self.header.arg32 as usize * size_of::<RunHead>();
        let behind = self.payload.get(keys_bytes..).unwrap_or_default();
        let (heads, _) = behind
            .split_at_checked(heads_bytes)
            .ok_or(self.wrong_payload((keys_bytes + heads_bytes) as u64))?;
        let heads: &[RunHead] = self.cast(heads)?;
        let rest_bytes = Runs::measure(self.op, heads, &keys)?;
        let payload = self.exactly(rest_bytes.saturating_add((keys_bytes + heads_bytes) as u64))?;
        // Not larger than the payload, which was just measured.
        let tokens: u64 = heads.iter().map(RunHead::token_count).sum();
        let tokens_bytes = usize::try_from(tokens).unwrap_or(0) * size_of::<u32>();
        let (tokens, texts) = payload[keys_bytes + heads_bytes..].split_at(tokens_bytes);
        let runs = Runs::packed(heads, self.cast(tokens)?, texts);
        Ok((keys, runs.ok_or(MessageError::NotUtf8 { op: self.op })?))
    }

    /// The payload begins with `count` group heads and the hashes they announce, so many bytes.
    fn leading_keys(&self) -> Result<(Keys<'a>, usize), MessageError> {
        let groups_max = u32::try_from(NamespaceGeometry::GROUPS_MAX).unwrap_or(u32::MAX);
        self.at_most("groups", groups_max)?;
        let heads_bytes = self.header.count as usize * size_of::<GroupHead>();
        let (heads, _) = self
            .payload
            .split_at_checked(heads_bytes)
            .ok_or(self.wrong_payload(heads_bytes as u64))?;
        let heads: &[GroupHead] = self.cast(heads)?;
        // At most 64 counts of 32 bits: the sum cannot overflow.
        let hash_count: u64 = heads.iter().map(|head| u64::from(head.hash_count)).sum();
        let bytes = heads_bytes as u64 + hash_count * size_of::<BlockHash>() as u64;
        let end = usize::try_from(bytes)
            .ok()
            .filter(|&end| end <= self.payload.len());
        let end = end.ok_or(self.wrong_payload(bytes))?;
        Ok((
            Keys::packed(heads, self.cast(&self.payload[heads_bytes..end])?),
            end,
        ))
    }

    pub(super) fn text(&self) -> Result<&'a str, MessageError> {
        self.utf8(self.exactly(self.header.count.into())?)
    }

    pub(super) fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, MessageError> {
        str::from_utf8(bytes).map_err(|_| MessageError::NotUtf8 { op: self.op })
    }

    fn wrong_payload(&self, expected: u64) -> MessageError {
        MessageError::Payload {
            op: self.op,
            expected,
            actual: self.payload.len(),
        }
    }

    /// A slice that is not aligned, which happens only to those who decode from a buffer of their own, is refused
    /// like one of a wrong length.
    fn cast<T: FromBytes + Immutable + KnownLayout>(&self, bytes: &'a [u8]) -> Result<&'a [T], MessageError> {
        <[T]>::ref_from_bytes(bytes).map_err(|_| self.wrong_payload(bytes.len() as u64))
    }
}
