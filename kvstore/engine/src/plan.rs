//! How long a hit is, over all groups of a namespace. Pure: presence is asked for, nothing is changed.
//!
//! A hit of `n` tokens, `n` a multiple of every group's tokens per block, needs
//! - of a full-attention group all blocks that cover `[0, n)`,
//! - of a sliding-window group those that cover `[max(0, n − (window − 1)), n)`,
//!
//! and is not longer than the keys that the look-up names for any group: of what has no name nothing is known.
//!
//! Each group can only shorten what the others leave, so asking them in turn until none does finds the longest hit.
//! Each block is asked for once at most: a full group remembers how far it reaches, a sliding-window group the run
//! of blocks it has seen, which only ever grows downwards.

use std::ops::Range;

use kvstore_types::AttentionKind;

/// One group of a look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupWant {
    /// What it needs.
    pub(crate) kind: AttentionKind,
    /// Tokens of one block.
    pub(crate) tokens_per_block: u64,
    /// Blocks that the look-up names.
    pub(crate) blocks: u64,
}

/// Says which blocks are there.
pub(crate) trait Presence {
    /// The end of the run of present blocks that begins at 0, at most `end`.
    fn run_end(&mut self, group: usize, end: u64) -> u64;

    /// The start of the run of present blocks that ends before `end`, not below `start`.
    fn run_start(&mut self, group: usize, start: u64, end: u64) -> u64;
}

/// The blocks of a group that a hit of `hit` tokens needs.
pub(crate) fn needed(kind: AttentionKind, tokens_per_block: u64, hit: u64) -> Range<u64> {
    let first = match kind {
        AttentionKind::Full => 0,
        AttentionKind::SlidingWindow { window_tokens } => {
            hit.saturating_sub(u64::from(window_tokens.max(1)) - 1)
        }
    };
    let end = hit.div_ceil(tokens_per_block);
    if first == hit {
        end..end
    } else {
        first / tokens_per_block..end
    }
}

/// The longest hit of at most `tokens_max` tokens.
pub(crate) fn longest_hit(groups: &[GroupWant], tokens_max: u64, presence: &mut impl Presence) -> u64 {
    // Where block sizes have no common multiple within reach there is no hit but the empty one.
    let Some(step) = groups
        .iter()
        .try_fold(1, |step, group| common_multiple(step, group.tokens_per_block))
    else {
        return 0;
    };
    let align = |tokens: u64| tokens - tokens % step;
    let named = groups
        .iter()
        .map(|group| group.blocks.saturating_mul(group.tokens_per_block));
    let mut hit = align(named.fold(tokens_max, u64::min));
    for (index, group) in groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.kind == AttentionKind::Full)
    {
        let end = hit / group.tokens_per_block;
        hit = hit.min(align(presence.run_end(index, end) * group.tokens_per_block));
    }
    let mut runs: Vec<Option<Range<u64>>> = vec![None; groups.len()];
    loop {
        let before = hit;
        for (index, group) in groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.kind != AttentionKind::Full)
        {
            hit = shorten(index, *group, hit, &mut runs[index], align, presence);
        }
        if hit == before {
            return hit;
        }
    }
}

/// The longest hit up to `hit` whose window of this group is present.
fn shorten(
    index: usize,
    group: GroupWant,
    mut hit: u64,
    run: &mut Option<Range<u64>>,
    align: impl Fn(u64) -> u64,
    presence: &mut impl Presence,
) -> u64 {
    loop {
        let needed = needed(group.kind, group.tokens_per_block, hit);
        if needed.is_empty() {
            return hit;
        }
        // Blocks from `seen.start` up to the end of this window are known to be there.
        let mut seen = run
            .take()
            .filter(|run| run.contains(&needed.end.saturating_sub(1)));
        let seen = seen.get_or_insert(needed.end..needed.end);
        if seen.start > needed.start {
            seen.start = presence.run_start(index, needed.start, seen.start);
        }
        *run = Some(seen.clone());
        if seen.start <= needed.start {
            return hit;
        }
        // The block before the run is missing: no window may contain it, so the hit ends at it or before.
        hit = align((seen.start - 1) * group.tokens_per_block);
    }
}

fn common_multiple(a: u64, b: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Present {
        blocks: Vec<Vec<bool>>,
        asked: usize,
    }

    impl Presence for Present {
        fn run_end(&mut self, group: usize, end: u64) -> u64 {
            (0..end)
                .find(|&block| !self.is_present(group, block))
                .unwrap_or(end)
        }

        fn run_start(&mut self, group: usize, start: u64, end: u64) -> u64 {
            (start..end)
                .rev()
                .find(|&block| !self.is_present(group, block))
                .map_or(start, |missing| missing + 1)
        }
    }

    impl Present {
        fn is_present(&mut self, group: usize, block: u64) -> bool {
            self.asked += 1;
            self.blocks[group][usize::try_from(block).unwrap()]
        }
    }

    /// The definition, tried for every length from the longest down.
    fn brute_force(groups: &[GroupWant], tokens_max: u64, present: &[Vec<bool>]) -> u64 {
        let fits = |hit: u64| {
            groups.iter().zip(present).all(|(group, present)| {
                let first = match group.kind {
                    AttentionKind::Full => 0,
                    AttentionKind::SlidingWindow { window_tokens } => {
                        hit.saturating_sub(u64::from(window_tokens) - 1)
                    }
                };
                hit.is_multiple_of(group.tokens_per_block)
                    && hit <= present.len() as u64 * group.tokens_per_block
                    && (first..hit).all(|token| {
                        let block = usize::try_from(token / group.tokens_per_block).unwrap();
                        present.get(block).copied().unwrap_or(false)
                    })
            })
        };
        (0..=tokens_max).rev().find(|&hit| fits(hit)).unwrap()
    }

    fn group() -> impl Strategy<Value = (GroupWant, Vec<bool>)> {
        let kind = prop_oneof![
            Just(AttentionKind::Full),
            (1_u32..30).prop_map(|window_tokens| AttentionKind::SlidingWindow { window_tokens }),
        ];
        let present = proptest::collection::vec(prop::bool::weighted(0.85), 0..40);
        (kind, 1_u64..7, present).prop_map(|(kind, tokens_per_block, present)| {
            let want = GroupWant {
                kind,
                tokens_per_block,
                blocks: present.len() as u64,
            };
            (want, present)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn the_plan_is_the_longest_hit_by_definition(
            groups in proptest::collection::vec(group(), 1..5), tokens_max in 0_u64..130
        ) {
            let (wants, blocks): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
            let mut present = Present { blocks, asked: 0 };
            let hit = longest_hit(&wants, tokens_max, &mut present);
            prop_assert_eq!(hit, brute_force(&wants, tokens_max, &present.blocks));
            prop_assert!(present.asked <= present.blocks.iter().map(Vec::len).sum::<usize>() + 2 * wants.len());
        }
    }

    #[test]
    fn a_window_of_one_token_needs_no_blocks() {
        assert_eq!(
            needed(AttentionKind::SlidingWindow { window_tokens: 1 }, 16, 64),
            4..4
        );
        assert_eq!(
            needed(AttentionKind::SlidingWindow { window_tokens: 2 }, 16, 64),
            3..4
        );
        assert_eq!(
            needed(AttentionKind::SlidingWindow { window_tokens: 18 }, 16, 64),
            2..4
        );
        assert_eq!(needed(AttentionKind::Full, 16, 64), 0..4);
    }

    #[test]
    fn a_hit_is_not_longer_than_the_keys_named_whatever_the_window() {
        let want = |window_tokens, blocks| GroupWant {
            kind: AttentionKind::SlidingWindow { window_tokens },
            tokens_per_block: 16,
            blocks,
        };
        let mut nothing = Present::default();
        assert_eq!(longest_hit(&[want(1, 0)], u64::MAX, &mut nothing), 0);
        assert_eq!(longest_hit(&[want(1, 3)], u64::MAX, &mut nothing), 48);
        assert_eq!(longest_hit(&[want(1, 3), want(1, 2)], 1000, &mut nothing), 32);
        assert_eq!(longest_hit(&[want(1, 3)], 20, &mut nothing), 16);
    }

    #[test]
    fn block_sizes_without_a_common_multiple_are_a_miss() {
        let want = |tokens_per_block| GroupWant {
            kind: AttentionKind::Full,
            tokens_per_block,
            blocks: 0,
        };
        let groups = [4_294_967_291, 4_294_967_279, 4_294_967_231].map(want);
        assert_eq!(longest_hit(&groups, u64::MAX, &mut Present::default()), 0);
    }
}
