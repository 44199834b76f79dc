//! Who goes to the store next, and how many at a time.
//!
//! There is one lane for reads, one for writes, one for look-ups, so none can use up what another one needs. What is at the
//! store counts until the store is done with it, whoever has stopped waiting: a mount that hangs fills its lane and no more.

use std::collections::VecDeque;

use kvstore_types::{OperationId, ReadClass};

/// Bounds of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Most operations at the store at a time.
    pub under_way_max: usize,
    /// Most bytes in this room's own memory at a time. One operation may always go, however large.
    pub bytes_max: u64,
    /// Most operations that wait for their turn. More are refused.
    pub waiting_max: usize,
}

/// An operation in front of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) operation: OperationId,
    pub(crate) bytes: u64,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    limits: LaneLimits,
    demand: VecDeque<Waiting>,
    prefetch: VecDeque<Waiting>,
    under_way: usize,
    bytes: u64,
}

impl Lane {
    pub(crate) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            demand: VecDeque::new(),
            prefetch: VecDeque::new(),
            under_way: 0,
            bytes: 0,
        }
    }

    /// Puts an operation at the end; `false` if too many wait.
    #[must_use]
    pub(crate) fn push(&mut self, waiting: Waiting, class: ReadClass) -> bool {
        if self.waiting() >= self.limits.waiting_max {
            return false;
        }
        self.queue(class).push_back(waiting);
        true
    }

    /// From now on so many may be at the store at a time. Those that are more already stay.
    pub(crate) fn set_under_way_max(&mut self, under_way_max: usize) {
        self.limits.under_way_max = under_way_max;
    }

    /// The next one that may go. Its share is taken until [`give_back`](Self::give_back).
    pub(crate) fn next(&mut self) -> Option<Waiting> {
        let class = if self.demand.is_empty() {
            ReadClass::Prefetch
        } else {
            ReadClass::Demand
        };
        let first = *self.queue(class).front()?;
        let has_room = self.bytes == 0 || self.bytes.saturating_add(first.bytes) <= self.limits.bytes_max;
        if self.under_way >= self.limits.under_way_max || !has_room {
            return None;
        }
        self.queue(class).pop_front();
        self.under_way += 1;
        self.bytes += first.bytes;
        Some(first)
    }

    /// The store is done with an operation.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.under_way -= 1;
        self.bytes -= bytes;
    }

    /// Takes one that waits away; `false` if it does not wait in this class. Fast for those that have waited longest.
    pub(crate) fn remove(&mut self, operation: OperationId, class: ReadClass) -> bool {
        self.take(operation, class).is_some()
    }

    /// Moves one that waits to the end of another class.
    pub(crate) fn set_class(&mut self, operation: OperationId, from: ReadClass, to: ReadClass) {
        if from != to
            && let Some(waiting) = self.take(operation, from)
        {
            self.queue(to).push_back(waiting);
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.demand.len() + self.prefetch.len()
    }

    /// How many are at the store, and their bytes.
    pub(crate) fn under_way(&self) -> (usize, u64) {
        (self.under_way, self.bytes)
    }

    fn take(&mut self, operation: OperationId, class: ReadClass) -> Option<Waiting> {
        let queue = self.queue(class);
        let at = queue.iter().position(|waiting| waiting.operation == operation)?;
        queue.remove(at)
    }

    fn queue(&mut self, class: ReadClass) -> &mut VecDeque<Waiting> {
        match class {
            ReadClass::Demand => &mut self.demand,
            ReadClass::Prefetch => &mut self.prefetch,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(number: u64, bytes: u64) -> Waiting {
        Waiting {
            operation: OperationId(number),
            bytes,
        }
    }

    fn lane(under_way_max: usize, bytes_max: u64) -> Lane {
        Lane::new(LaneLimits {
            under_way_max,
            bytes_max,
            waiting_max: 4,
        })
    }

    fn next(lane: &mut Lane) -> Option<u64> {
        lane.next().map(|waiting| waiting.operation.0)
    }

    #[test]
    fn demand_goes_first_and_a_class_may_change_while_it_waits() {
        let mut lane = lane(10, 100);
        assert!(lane.push(waiting(1, 1), ReadClass::Prefetch));
        assert!(lane.push(waiting(2, 1), ReadClass::Prefetch));
        assert!(lane.push(waiting(3, 1), ReadClass::Demand));
        lane.set_class(OperationId(2), ReadClass::Prefetch, ReadClass::Demand);
        lane.set_class(OperationId(3), ReadClass::Demand, ReadClass::Demand);
        lane.set_class(OperationId(9), ReadClass::Prefetch, ReadClass::Demand);
        assert!(lane.push(waiting(4, 1), ReadClass::Prefetch));
        assert!(!lane.push(waiting(5, 1), ReadClass::Demand), "four wait");
        assert!(!lane.remove(OperationId(4), ReadClass::Demand));
        assert!(lane.remove(OperationId(4), ReadClass::Prefetch));
        assert!(!lane.remove(OperationId(4), ReadClass::Prefetch));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut lane)).collect();
        assert_eq!(order, [3, 2, 1]);
    }

    #[test]
    fn a_lane_that_is_narrowed_waits_until_there_are_fewer() {
        let mut lane = lane(3, 100);
        for number in 1..6 {
            let _ = lane.push(waiting(number, 1), ReadClass::Demand);
        }
        assert_eq!(
            [next(&mut lane), next(&mut lane), next(&mut lane)],
            [Some(1), Some(2), Some(3)]
        );
        lane.set_under_way_max(1);
        lane.give_back(1);
        lane.give_back(1);
        assert_eq!(next(&mut lane), None);
        lane.give_back(1);
        assert_eq!(next(&mut lane), Some(4));
        lane.set_under_way_max(2);
        assert_eq!(lane.under_way(), (1, 1));
    }

    #[test]
    fn one_larger_than_the_budget_goes_alone() {
        let mut lane = lane(10, 100);
        assert!(lane.push(waiting(1, 500), ReadClass::Demand));
        assert!(lane.push(waiting(2, 1), ReadClass::Demand));
        assert_eq!(next(&mut lane), Some(1));
        assert_eq!(next(&mut lane), None);
        lane.give_back(500);
        assert_eq!(next(&mut lane), Some(2));
    }

    proptest! {
        #[test]
        fn the_budget_is_never_exceeded_and_never_lost(steps in proptest::collection::vec((0_u8..3, 1_u64..60), 1..200)) {
            let mut lane = lane(3, 100);
            let mut under_way = Vec::new();
            for (number, (step, bytes)) in steps.into_iter().enumerate() {
                match step {
                    0 => { let _ = lane.push(waiting(number as u64, bytes), ReadClass::Prefetch); }
                    1 => under_way.extend(lane.next().map(|waiting| waiting.bytes)),
                    _ => if let Some(bytes) = under_way.pop() { lane.give_back(bytes) },
                }
                prop_assert!(under_way.len() <= 3);
                prop_assert!(under_way.len() <= 1 || under_way.iter().sum::<u64>() <= 100);
                prop_assert_eq!(lane.under_way(), (under_way.len(), under_way.iter().sum()));
            }
        }
    }
}
