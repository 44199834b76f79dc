//! Parents and children: what may be announced when, and the lists that say who follows whom.

use kvstore_types::BlockHash;

use super::record::{NONE, Ties};
use super::{Book, wire};
use crate::tiers::TierSet;

impl Book {
    /// Puts a block that has just been described among the children of its parent, or among those that wait for it.
    pub(super) fn tie(&mut self, index: u32, parent: Option<BlockHash>) {
        let Some(parent) = parent else {
            self.records.get_mut(index).ties = Ties::Root;
            return;
        };
        let record = self.records.get(index);
        let (namespace, group) = (record.namespace, record.group);
        match self.records.find(namespace, group, &parent) {
            Some(parent) => {
                let first = self.records.get(parent).first_child;
                self.link(index, first);
                self.records.get_mut(parent).first_child = index;
                let record = self.records.get_mut(index);
                record.parent = parent;
                record.ties = Ties::Child;
            }
            None => self.wait(index, (namespace, group, parent)),
        }
    }

    /// Makes the blocks that waited for this one its children.
    fn adopt(&mut self, index: u32) {
        if self.waiting.is_empty() {
            return;
        }
        let record = self.records.get(index);
        let Some(first) = self
            .waiting
            .remove(&(record.namespace, record.group, record.hash))
        else {
            return;
        };
        let mut child = first;
        let mut last = first;
        while child != NONE {
            let record = self.records.get_mut(child);
            record.parent = index;
            record.ties = Ties::Child;
            last = child;
            child = record.next;
        }
        let known = self.records.get(index).first_child;
        self.records.get_mut(last).next = known;
        if known != NONE {
            self.records.get_mut(known).prev = last;
        }
        self.records.get_mut(index).first_child = first;
    }

    /// Announces a block that may be, and all that follow it, parents first.
    pub(super) fn root(&mut self, index: u32) {
        self.adopt(index);
        let record = self.records.get(index);
        let may_be = match record.ties {
            Ties::Mute | Ties::Waiting => false,
            Ties::Root => true,
            Ties::Child => self.records.get(record.parent).stamp != 0,
        };
        if !may_be || record.stamp != 0 {
            return;
        }
        // Mostly a block is stored before what follows it, so it is the only one.
        let mut stack = Vec::new();
        let mut next = Some(index);
        while let Some(index) = next {
            self.stamp += 1;
            let record = self.records.get_mut(index);
            record.stamp = self.stamp;
            let (tiers, namespace, mut child) = (record.tiers, record.namespace, record.first_child);
            self.namespaces.get_mut(namespace).order.push(self.stamp, index);
            self.announce(index, TierSet::EMPTY, tiers);
            while child != NONE {
                stack.push(child);
                child = self.records.get(child).next;
            }
            next = stack.pop();
        }
    }

    /// Announces a block and all that follow it as removed.
    fn unroot(&mut self, index: u32) {
        if self.records.get(index).stamp == 0 {
            return;
        }
        let mut stack = Vec::new();
        let mut next = Some(index);
        while let Some(index) = next {
            let record = self.records.get(index);
            let (tiers, namespace, stamp) = (record.tiers, record.namespace, record.stamp);
            let mut child = record.first_child;
            self.announce(index, tiers, TierSet::EMPTY);
            self.namespaces.get_mut(namespace).order.remove(stamp);
            self.records.get_mut(index).stamp = 0;
            while child != NONE {
                stack.push(child);
                child = self.records.get(child).next;
            }
            next = stack.pop();
        }
    }

    /// Forgets a block that has left its last tier. What follows it waits for it.
    pub(super) fn forget(&mut self, index: u32) {
        self.unroot(index);
        let record = self.records.get(index);
        let (namespace, group, hash) = (record.namespace, record.group, record.hash);
        let first = record.first_child;
        if first != NONE {
            let mut child = first;
            while child != NONE {
                let record = self.records.get_mut(child);
                record.parent = NONE;
                record.ties = Ties::Waiting;
                child = record.next;
            }
            self.waiting.insert((namespace, group, hash), first);
        }
        self.untie(index);
        self.records.remove(index);
        self.namespaces.get_mut(namespace).blocks -= 1;
    }

    /// Takes a block out of the list it is in.
    fn untie(&mut self, index: u32) {
        let record = self.records.get(index);
        let (ties, prev, next, parent) = (record.ties, record.prev, record.next, record.parent);
        if !matches!(ties, Ties::Child | Ties::Waiting) {
            return;
        }
        if next != NONE {
            self.records.get_mut(next).prev = prev;
        }
        if prev != NONE {
            self.records.get_mut(prev).next = next;
        } else if ties == Ties::Child {
            self.records.get_mut(parent).first_child = next;
        } else if let Some(key) = self.waits_for(index) {
            if next == NONE {
                self.waiting.remove(&key);
            } else {
                self.waiting.insert(key, next);
            }
        }
    }

    fn waits_for(&self, index: u32) -> Option<(u32, u8, BlockHash)> {
        let record = self.records.get(index);
        let parent = wire::check(record.descriptor.as_ref()?).ok()??;
        Some((record.namespace, record.group, parent))
    }

    fn wait(&mut self, index: u32, key: (u32, u8, BlockHash)) {
        let first = self.waiting.insert(key, index).unwrap_or(NONE);
        self.link(index, first);
        self.records.get_mut(index).ties = Ties::Waiting;
    }

    /// Puts a block in front of a list.
    fn link(&mut self, index: u32, first: u32) {
        let record = self.records.get_mut(index);
        record.prev = NONE;
        record.next = first;
        if first != NONE {
            self.records.get_mut(first).prev = index;
        }
    }
}
