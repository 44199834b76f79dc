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

/// Reads `count` numbers back, if they could not have been packed otherwise.
pub(super) fn unpack(packed: &[u8], count: usize, width: u8) -> Result<Vec<u32>, &'static str> {
    let mut tokens = Vec::with_capacity(count);
    let mask = (1_u64 << width) - 1;
    let (mut pending, mut bits) = (0_u64, 0_u32);
    let mut bytes = packed.iter();
    for _ in 0..count {
        while bits < u32::from(width) {
            let byte = bytes.next().ok_or("it ends in the middle of the tokens")?;
            pending |= u64::from(*byte) << bits;
            bits += 8;
        }
        tokens.push((pending & mask & 0xffff_ffff) as u32);
        pending >>= width;
        bits -= u32::from(width);
    }
    if pending != 0 || bytes.next().is_some() {
        return Err("there is something behind the last token");
    }
    if self::width(&tokens) != width {
        return Err("the tokens are wider than they need to be");
    }
    Ok(tokens)
}
