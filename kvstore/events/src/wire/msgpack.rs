//! Writes MessagePack, always in the shortest form.

/// The byte that goes before a number of so many bits, 0 for none, and the bytes that the number itself takes.
const FORMS: [(u8, u8); 33] = {
    let mut forms = [(0xce, 4); 33];
    let mut bits = 0;
    while bits <= 16 {
        forms[bits] = match bits {
            ..8 => (0, 1),
            8 => (0xcc, 1),
            _ => (0xcd, 2),
        };
        bits += 1;
    }
    forms
};

/// A number in its shortest form, and how many of the bytes that is.
fn short_form(value: u32) -> ([u8; 8], usize) {
    let (kind, width) = FORMS[(u32::BITS - value.leading_zeros()) as usize];
    let has_kind = u8::from(kind != 0);
    // The most significant byte that counts comes first.
    let digits = u64::from((value << (32 - 8 * width)).swap_bytes());
    let form = digits << (8 * has_kind) | u64::from(kind);
    (form.to_le_bytes(), usize::from(has_kind + width))
}

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
        if let Ok(value) = u32::try_from(value) {
            let (form, count) = short_form(value);
            self.bytes.extend_from_slice(&form[..count]);
        } else {
            self.bytes.push(0xcf);
            self.bytes.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Numbers, one after the other.
    pub(super) fn uints(&mut self, values: impl ExactSizeIterator<Item = u32>) {
        // Each is put down as eight bytes, of which as many count as it needs, five at most: that takes no decisions.
        let mut end = self.bytes.len();
        self.bytes.resize(end + values.len() * 5 + 3, 0);
        for value in values {
            let (form, count) = short_form(value);
            if let Some(place) = self.bytes[end..].first_chunk_mut() {
                *place = form;
            }
            end += count;
        }
        self.bytes.truncate(end);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_shortest_form_alone_and_in_a_row() {
        let forms: [(u64, &[u8]); 12] = [
            (0, &[0]),
            (0x7f, &[0x7f]),
            (0x80, &[0xcc, 0x80]),
            (0xff, &[0xcc, 0xff]),
            (0x100, &[0xcd, 1, 0]),
            (0x1234, &[0xcd, 0x12, 0x34]),
            (0xffff, &[0xcd, 0xff, 0xff]),
            (0x1_0000, &[0xce, 0, 1, 0, 0]),
            (0x1234_5678, &[0xce, 0x12, 0x34, 0x56, 0x78]),
            (0xffff_ffff, &[0xce, 0xff, 0xff, 0xff, 0xff]),
            (0x1_0000_0000, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
            (u64::MAX, &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255]),
        ];
        for (number, form) in forms {
            let mut bytes = vec![7];
            Writer::new(&mut bytes).uint(number);
            assert_eq!(bytes[1..], *form, "{number:#x}");
        }
        let small = forms[..10].iter();
        let numbers: Vec<u32> = small
            .clone()
            .map(|(number, _)| u32::try_from(*number).unwrap())
            .collect();
        let expected: Vec<u8> = small.flat_map(|(_, form)| form.iter().copied()).collect();
        let mut bytes = vec![7];
        Writer::new(&mut bytes).uints(numbers.iter().copied());
        assert_eq!(bytes[1..], *expected);
        Writer::new(&mut bytes).uints(std::iter::empty());
        assert_eq!(bytes[1..], *expected);
    }
}
