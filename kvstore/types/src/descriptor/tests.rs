//! One encoding for each descriptor, and nothing else is one.

use proptest::prelude::*;

use super::*;

fn plain(tokens: &[u32]) -> BlockDescriptor<'_> {
    BlockDescriptor {
        parent: None,
        tokens: tokens.into(),
        lora_name: None,
        extra_keys: &[],
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn encodings_are_golden_bytes() {
    let root = plain(&[1, 2, 3, 1000]);
    // Ten bits each, from the lowest up: 1, 2 << 10, 3 << 20, 1000 << 30.
    assert_eq!(hex(root.encode().unwrap().as_bytes()), "01000a0400000001083000fa");
    let full = BlockDescriptor {
        parent: Some(BlockHash([0xab; 32])),
        tokens: Cow::Borrowed(&[151_642, 0]),
        lora_name: Some("sql"),
        extra_keys: &[0x91, 0xc0],
    };
    let parent = "ab".repeat(32);
    assert_eq!(
        hex(full.encode().unwrap().as_bytes()),
        format!("01031202000300{parent}73716c5a5002000091c0")
    );
    assert_eq!(hex(plain(&[]).encode().unwrap().as_bytes()), "01000000000000");
}

#[test]
fn a_chunk_of_1024_tokens_of_a_large_vocabulary_fits() {
    let tokens: Vec<u32> = (0..1024).map(|index| 151_935 - index * 148).collect();
    let descriptor = BlockDescriptor {
        parent: Some(BlockHash([1; 32])),
        ..plain(&tokens)
    };
    assert_eq!(descriptor.encode().unwrap().as_bytes().len(), 7 + 32 + 2304);
}

#[test]
fn what_is_too_long_is_refused_with_its_length() {
    let fits = vec![u32::MAX; 958];
    assert_eq!(
        plain(&fits).encode().unwrap().as_bytes().len(),
        DescriptorBytes::BYTES_MAX - 1
    );
    let tokens = 959;
    let (actual, max) = (7 + tokens * 4, DescriptorBytes::BYTES_MAX);
    assert_eq!(
        plain(&vec![u32::MAX; tokens]).encode(),
        Err(BlockDescriptorError::TooLong { tokens, actual, max })
    );
}

#[test]
fn bad_bytes_are_refused_and_say_why() {
    for (bytes, reason) in [
        (&[][..], "malformed block descriptor: it ends too early"),
        (&[2], "block descriptor of version 2, want 1"),
        (
            &[1, 0, 0, 0, 0, 0],
            "malformed block descriptor: it ends too early",
        ),
        (
            &[1, 4, 0, 0, 0, 0, 0],
            "malformed block descriptor: an unknown flag is set",
        ),
        (
            &[1, 1, 0, 0, 0, 0, 0],
            "malformed block descriptor: it ends too early",
        ),
        (
            &[1, 2, 0, 0, 0, 1, 0],
            "malformed block descriptor: it ends too early",
        ),
        (
            &[1, 0, 0, 0, 0, 1, 0, b'a'],
            "malformed block descriptor: a LoRA name that the flags deny",
        ),
        (
            &[1, 2, 0, 0, 0, 1, 0, 0xff],
            "malformed block descriptor: the LoRA name is not UTF-8",
        ),
        (
            &[1, 0, 33, 1, 0, 0, 0],
            "malformed block descriptor: no such width of a token",
        ),
        (
            &[1, 0, 0, 1, 0, 0, 0],
            "malformed block descriptor: no such width of a token",
        ),
        (
            &[1, 0, 1, 0, 0, 0, 0],
            "malformed block descriptor: no such width of a token",
        ),
        (
            &[1, 0, 9, 1, 0, 0, 0, 1],
            "malformed block descriptor: it ends too early",
        ),
        (
            &[1, 0, 2, 1, 0, 0, 0, 1],
            "malformed block descriptor: the tokens are wider than they need to be",
        ),
        (
            &[1, 0, 2, 1, 0, 0, 0, 6],
            "malformed block descriptor: there is something behind the last token",
        ),
    ] {
        let error = BlockDescriptor::decode(bytes).unwrap_err();
        assert_eq!(error.to_string(), reason, "{bytes:?}");
    }
    let long = vec![1; DescriptorBytes::BYTES_MAX + 1];
    assert!(BlockDescriptor::decode(&long).is_err());
    assert_eq!(DescriptorBytes::kept(&long), None);
    assert_eq!(DescriptorBytes::kept(&[]), None);
}

#[test]
fn what_a_later_version_wrote_is_kept_and_not_understood() {
    let kept = DescriptorBytes::kept(&[9, 1, 2, 3]).unwrap();
    assert_eq!(kept.as_bytes(), [9, 1, 2, 3]);
    assert_eq!(kept.decode(), Err(BlockDescriptorError::Version { found: 9 }));
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(
        parent in proptest::option::of(any::<[u8; 32]>()),
        bits in 0_u32..=32,
        tokens in proptest::collection::vec(any::<u32>(), 0..300),
        name in proptest::option::of(".{0,20}"),
        extra in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let tokens: Vec<u32> = tokens.iter().map(|token| token.checked_shr(bits).unwrap_or(0)).collect();
        let descriptor = BlockDescriptor {
            parent: parent.map(BlockHash),
            tokens: tokens.into(),
            lora_name: name.as_deref(),
            extra_keys: &extra,
        };
        let encoded = descriptor.encode().unwrap();
        prop_assert_eq!(encoded.decode(), Ok(descriptor.clone()));
        // Nothing that is cut off is a descriptor, unless only opaque extra keys are missing.
        let shorter = BlockDescriptor::decode(&encoded.as_bytes()[..encoded.as_bytes().len() - 1]);
        prop_assert!(shorter.is_err() || !extra.is_empty());
    }

    #[test]
    fn what_is_a_descriptor_has_no_other_encoding(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        flags in 0_u8..4,
        width in 0_u8..34,
        tokens in 0_u8..20,
    ) {
        if let [version, has, bits, count, count_high, name, name_high, ..] = bytes.as_mut_slice() {
            (*version, *has, *bits, *count, *count_high) = (VERSION, flags, width, tokens, 0);
            (*name, *name_high) = (*name % 4, 0);
        }
        crate::fuzz::descriptor(&bytes);
    }
}
