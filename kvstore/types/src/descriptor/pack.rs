//! Numbers of equal width in bits, the first one in the lowest bits of the first byte.

/// Bits of the largest token; 0 only if there is none.
pub(super) fn width(tokens: &[u32]) -> u8 {
    // The largest has as many bits as all of them together: no comparison depends on the one before it.
    let all = tokens.iter().fold(0, |all, &token| all | token);
    let bits = (u32::BITS - all.leading_zeros()).max(u32::from(!tokens.is_empty()));
    u8::try_from(bits).unwrap_or(u8::MAX)
}

/// Bytes that `count` numbers of `width` bits take.
pub(super) fn packed_bytes(count: usize, width: u8) -> usize {
    (count * usize::from(width)).div_ceil(8)
}

/// Appends the numbers.
pub(super) fn pack(tokens: &[u32], width: u8, bytes: &mut Vec<u8>) {
    let (mut pending, mut bits) = (0_u64, 0_u32);
    for &token in tokens {
        pending |= u64::from(token) << bits;
        bits += u32::from(width);
        while bits >= 8 {
            bytes.push((pending & 0xff) as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        bytes.push((pending & 0xff) as u8);
    }
}

/// Tokens as they were packed, read where they lie.
#[derive(Clone, Copy, Debug)]
pub struct PackedTokens<'a> {
    packed: &'a [u8],
    count: usize,
    width: u8,
}

impl<'a> PackedTokens<'a> {
    /// `count` numbers of `width` bits, if they could not have been packed otherwise. `packed` has the bytes that they take.
    pub(super) fn checked(packed: &'a [u8], count: usize, width: u8) -> Result<Self, &'static str> {
        let tokens = Self { packed, count, width };
        let used = count * usize::from(width);
        let rest = packed.last().filter(|_| !used.is_multiple_of(8));
        if rest.is_some_and(|last| last >> (used % 8) != 0) {
            return Err("there is something behind the last token");
        }
        // One of them has the uppermost bit, but for zeros, which have one bit for want of less.
        let needed = match width {
            0 => count == 0,
            1 => count > 0,
            _ => (1..=count).any(|end| tokens.bit(end * usize::from(width) - 1)),
        };
        if !needed {
            return Err("the tokens are wider than they need to be");
        }
        Ok(tokens)
    }

    fn bit(&self, place: usize) -> bool {
        self.packed
            .get(place / 8)
            .is_some_and(|byte| byte >> (place % 8) & 1 != 0)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (packed, width) = (self.packed, usize::from(self.width));
        let mask = (1_u64 << width) - 1;
        (0..self.count).map(move |index| {
            let bit = index * width;
            // At most 32 bits from the eighth one on: within eight bytes.
            let word = word_at(packed, bit / 8) >> (bit % 8);
            (word & mask & 0xffff_ffff) as u32
        })
    }
}

/// Eight bytes from `start` on as a number; what lies behind the end is zero.
fn word_at(bytes: &[u8], start: usize) -> u64 {
    // Near the end, the last eight ones without those before `start`.
    let near = start.min(bytes.len().saturating_sub(8));
    let rest = bytes.get(near..).unwrap_or_default();
    let word = rest.first_chunk().copied().unwrap_or_else(|| {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        word
    });
    let skipped = u32::try_from(8 * (start - near)).unwrap_or(u32::MAX);
    u64::from_le_bytes(word).checked_shr(skipped).unwrap_or(0)
}
