//! Reservations that say what their blocks are about.

use kvstore_types::DescriptorRun;

use super::*;

const RUN: DescriptorRun<'_> = DescriptorRun {
    blocks: 1,
    tokens_per_block: 3,
    parent: Some(BlockHash([0xcc; 32])),
    tokens: &[11, 12, 13],
    lora_name: Some("sq"),
    extra_keys: &[0xc0],
};

#[test]
fn a_described_reserve_is_golden_bytes() {
    let hashes = [BlockHash([0xaa; 32]), BlockHash([0xbb; 32])];
    let groups = [GroupKeys {
        group: 2,
        hashes: &hashes,
    }];
    let runs = [RUN, DescriptorRun::undescribed(1)];
    let request = Request::ReserveDescribed {
        tag: Tag(4),
        keys: Keys::new(&groups),
        runs: Runs::new(&runs),
    };
    let mut expected = words(&[232, 11, 4, 0, 1, 2, 0, 0, 2, 2]);
    expected.extend([[0xaa; 32], [0xbb; 32]].concat());
    expected.extend(words(&[1, 3, 2, 1, 3, 0]));
    expected.extend([0xcc; 32]);
    expected.extend(words(&[1, 0, 0, 0, 0, 0]));
    expected.extend([0; 32]);
    expected.extend(words(&[11, 12, 13]));
    expected.extend([b's', b'q', 0xc0, 0]);
    let bytes = wire(|producer| request.encode(producer));
    assert_eq!(bytes, expected);
    aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(request)));
}

/// A reservation of two keys of group 0 and one of group 1, with these runs and what is behind them.
fn message(runs: &[[u32; 14]], rest: &[u32]) -> Vec<u8> {
    let count = u32::try_from(runs.len()).unwrap();
    let mut numbers = vec![0, 11, 4, 0, 2, count, 0, 0, 0, 2, 1, 1];
    numbers.extend([0xaa; 24]);
    numbers.extend(runs.iter().flatten());
    numbers.extend(rest);
    numbers[0] = u32::try_from(numbers.len() * 4).unwrap();
    words(&numbers)
}

#[test]
fn what_is_wrong_with_runs_is_named() {
    let run = |blocks, tokens, lora, extra, flags, zero, parent: u32| {
        let mut head = [0; 14];
        head[..7].copy_from_slice(&[blocks, tokens, lora, extra, flags, zero, parent]);
        head
    };
    let plain = |blocks| run(blocks, 0, 0, 0, 0, 0, 0);
    let cover = "the number of blocks in runs is";
    let cases: [(Vec<u8>, &str); 12] = [
        (message(&[], &[]), cover),
        (message(&[plain(2)], &[]), cover),
        (message(&[plain(3)], &[]), cover),
        (message(&[plain(2), plain(1), plain(1)], &[]), cover),
        (
            message(&[plain(0), plain(2), plain(1)], &[]),
            "the length of a run is 0, want 1 or more",
        ),
        (
            message(&[run(2, 0, 0, 0, 4, 0, 0), plain(1)], &[]),
            "the flags of a run is 4, want 0 to 3",
        ),
        (
            message(&[run(2, 0, 0, 0, 0, 5, 0), plain(1)], &[]),
            "the padding of a run is 5",
        ),
        (
            message(&[run(2, 1, 2, 0, 0, 0, 0), plain(1)], &[]),
            "a LoRA name that is not there is 2",
        ),
        (
            message(&[run(2, 1, 0, 0, 0, 0, 7), plain(1)], &[]),
            "a parent that is not there is 7",
        ),
        (
            message(&[run(2, 0, 0, 1, 0, 0, 0), plain(1)], &[]),
            "the number of tokens a block of a described run is 0",
        ),
        (
            message(&[run(2, u32::MAX, 0, 0, 0, 0, 0), plain(1)], &[]),
            "bytes of payload follow from its counts",
        ),
        (
            message(
                &[run(2, 0, 0, 0, 0, 0, 0), run(1, 1, 2, 2, 2, 0, 0)],
                &[5, 0xffff],
            ),
            "is not UTF-8",
        ),
    ];
    for (bytes, expected) in cases {
        let error = aligned(&bytes, |bytes| Request::decode(bytes).unwrap_err().to_string());
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

proptest! {
    #[test]
    fn runs_come_out_as_they_went_in(
        parts in prop::collection::vec((
            1_u32..6, 0_u32..5, any::<Option<[u8; 32]>>(), any::<Option<String>>(), any::<Vec<u8>>(),
        ), 0..6),
        tokens in prop::collection::vec(any::<u32>(), 30..31),
        cut in any::<prop::sample::Index>(),
    ) {
        let runs: Vec<_> = parts.iter().map(|(blocks, tokens_per_block, parent, name, extra)| {
            if *tokens_per_block == 0 {
                return DescriptorRun::undescribed(*blocks);
            }
            DescriptorRun {
                blocks: *blocks,
                tokens_per_block: *tokens_per_block,
                parent: parent.map(BlockHash),
                tokens: &tokens[..(blocks * tokens_per_block) as usize],
                lora_name: name.as_deref(),
                extra_keys: extra,
            }
        }).collect();
        let hashes = vec![BlockHash([7; 32]); runs.iter().map(|run| run.blocks as usize).sum()];
        // Two groups that part between two runs.
        let first: u32 = runs.iter().take(cut.index(runs.len() + 1)).map(|run| run.blocks).sum();
        let (one, two) = hashes.split_at(first as usize);
        let groups = [GroupKeys { group: 0, hashes: one }, GroupKeys { group: 5, hashes: two }];
        let (keys, runs) = (Keys::new(&groups), Runs::new(&runs));
        prop_assert!(runs.cover(&keys));
        round_trip(Request::ReserveDescribed { tag: Tag(8), keys, runs });
    }
}
