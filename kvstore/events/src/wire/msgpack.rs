//! Writes MessagePack, always in the shortest form.

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each cast follows the comparison that makes it fit"
)]
impl Writer {
    pub(super) fn nil(&mut self) {
        self.bytes.push(0xc0);
    }

    pub(super) fn uint(&mut self, value: u64) {
        let bytes = &mut self.bytes;
        if value < 0x80 {
            bytes.push(value as u8);
        } else if value <= u64::from(u8::MAX) {
            bytes.extend_from_slice(&[0xcc, value as u8]);
        } else if value <= u64::from(u16::MAX) {
            bytes.push(0xcd);
            bytes.extend_from_slice(&(value as u16).to_be_bytes());
        } else if value <= u64::from(u32::MAX) {
            bytes.push(0xce);
            bytes.extend_from_slice(&(value as u32).to_be_bytes());
        } else {
            bytes.push(0xcf);
            bytes.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bytes.push(0xcb);
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        let count = text.len();
        if count < 32 {
            self.bytes.push(0xa0 | count as u8);
        } else {
            self.counted(count, [0xd9, 0xda, 0xdb]);
        }
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn binary(&mut self, data: &[u8]) {
        self.counted(data.len(), [0xc4, 0xc5, 0xc6]);
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn array(&mut self, count: usize) {
        if count < 16 {
            self.bytes.push(0x90 | count as u8);
        } else {
            self.wide(count, [0xdc, 0xdd]);
        }
    }

    pub(super) fn map(&mut self, count: usize) {
        if count < 16 {
            self.bytes.push(0x80 | count as u8);
        } else {
            self.wide(count, [0xde, 0xdf]);
        }
    }

    /// A value that is MessagePack already.
    pub(super) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
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
