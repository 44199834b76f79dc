//! Blocks in the order in which they came to be announced.

use std::collections::VecDeque;

use super::record::NONE;

/// Places of blocks that have gone which are not worth tidying up.
const GONE_ROOM: usize = 4096;

/// Blocks by their stamps. A stamp is larger than all before it, so what comes is put at the end; what goes leaves its place
/// until there are more such places than blocks.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Each stamp with its record, or [`NONE`] where the block has gone. The first and the last have not.
    places: VecDeque<(u64, u32)>,
    /// Blocks.
    len: usize,
}

impl Order {
    /// Blocks.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a block at the end.
    pub(super) fn push(&mut self, stamp: u64, index: u32) {
        debug_assert!(self.places.back().is_none_or(|(last, _)| *last < stamp));
        self.places.push_back((stamp, index));
        self.len += 1;
    }

    /// Takes the block with this stamp out, if it is there.
    pub(super) fn remove(&mut self, stamp: u64) {
        let Ok(place) = self.places.binary_search_by_key(&stamp, |(stamp, _)| *stamp) else {
            return;
        };
        if std::mem::replace(&mut self.places[place].1, NONE) == NONE {
            return;
        }
        self.len -= 1;
        let has_gone = |(_, index): &mut (u64, u32)| *index == NONE;
        while self.places.pop_front_if(has_gone).is_some() {}
        while self.places.pop_back_if(has_gone).is_some() {}
        let (room, most) = (2 * self.len + GONE_ROOM, 4 * (self.len + GONE_ROOM));
        if self.places.len() > room || self.places.capacity() > most {
            self.places.retain(|(_, index)| *index != NONE);
            self.places.shrink_to(room);
        }
    }

    /// Blocks behind this stamp, each with its own.
    pub(crate) fn behind(&self, stamp: u64) -> impl Iterator<Item = (u64, u32)> {
        let start = self.places.partition_point(|(other, _)| *other <= stamp);
        self.places
            .range(start..)
            .copied()
            .filter(|(_, index)| *index != NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_there_is_in_order_whatever_goes() {
        let (mut order, mut model) = (Order::default(), BTreeMap::new());
        let mut random = 1_u64;
        for stamp in 1..=50_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = u32::try_from(stamp).unwrap();
            order.push(stamp, index);
            model.insert(stamp, index);
            // More come than go in the first half, fewer in the second.
            let goes = if stamp < 25_000 {
                random >> 62 == 0
            } else {
                random >> 62 != 0
            };
            for _ in 0..if goes { 2 } else { 0 } {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let gone = (random >> 32) % stamp + 1;
                order.remove(gone);
                model.remove(&gone);
            }
            assert_eq!(order.len(), model.len());
            assert!(order.places.len() <= 2 * order.len() + GONE_ROOM);
        }
        let behind = |stamp: u64| model.range(stamp + 1..).map(|(stamp, index)| (*stamp, *index));
        for stamp in [0, 1, 777, 25_000, 49_999, 50_000, 60_000] {
            assert!(order.behind(stamp).eq(behind(stamp)), "behind {stamp}");
        }
    }

    #[test]
    fn memory_is_given_back_when_much_has_gone() {
        let mut order = Order::default();
        for stamp in 1..=100_000 {
            order.push(stamp, 0);
        }
        for stamp in 2..100_000 {
            order.remove(stamp);
            order.remove(stamp);
        }
        assert!(order.behind(0).eq([(1, 0), (100_000, 0)]));
        assert!(order.places.capacity() <= 4 * GONE_ROOM);
        order.remove(100_000);
        order.remove(1);
        assert_eq!((order.len(), order.places.len()), (0, 0));
    }
}
