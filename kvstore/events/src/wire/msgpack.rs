//! Writes MessagePack, always in the shortest form.

/// Appends what is written.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    pub(super) fn nil(&mut self) {
        self.bytes.push(0xc0);
    }

    pub(super) fn uint(&mut self, value: u64) {
        let bytes = &mut *self.bytes;
        if let Ok(value) = u8::try_from(value) {
            if value >= 0x80 {
                bytes.push(0xcc);
            }
            bytes.push(value);
        } else if let Ok(value) = u16::try_from(value) {
            bytes.push(0xcd);
            bytes.extend_from_slice(&value.to_be_bytes());
        } else if let Ok(value) = u32::try_from(value) {
            bytes.push(0xce);
            bytes.extend_from_slice(&value.to_be_bytes());
        } else {
            bytes.push(0xcf);
            bytes.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Numbers, one after the other.
    pub(super) fn uints(&mut self, values: impl ExactSizeIterator<Item = u32>) {
        // Five bytes is the most that one takes.
        self.bytes.reserve(values.len() * 5);
        for value in values {
            self.uint(u64::from(value));
        }
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bytes.push(0xcb);
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.short(text.len(), 32, 0xa0, |out, count| {
            out.counted(count, [0xd9, 0xda, 0xdb]);
        });
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn binary(&mut self, data: &[u8]) {
        self.counted(data.len(), [0xc4, 0xc5, 0xc6]);
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn array(&mut self, count: usize) {
        self.short(count, 16, 0x90, |out, count| out.wide(count, [0xdc, 0xdd]));
    }

    pub(super) fn map(&mut self, count: usize) {
        self.short(count, 16, 0x80, |out, count| out.wide(count, [0xde, 0xdf]));
    }

    /// A value that is MessagePack already.
    pub(super) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// A count that is part of the first byte if it is below `limit`.
    fn short(&mut self, count: usize, limit: u8, kind: u8, long: impl FnOnce(&mut Self, usize)) {
        match u8::try_from(count) {
            Ok(count) if count < limit => self.bytes.push(kind | count),
            _ => long(self, count),
        }
    }

    fn counted(&mut self, count: usize, [one, two, four]: [u8; 3]) {
        if let Ok(count) = u8::try_from(count) {
            self.bytes.extend_from_slice(&[one, count]);
        } else {
            self.wide(count, [two, four]);
        }
    }

    fn wide(&mut self, count: usize, [two, four]: [u8; 2]) {
        if let Ok(count) = u16::try_from(count) {
            self.bytes.push(two);
            self.bytes.extend_from_slice(&count.to_be_bytes());
        } else {
            // What is written is far below 4 GiB: batches are bounded.
            self.bytes.push(four);
            self.bytes
                .extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}
