//! Namespaces, as far as announcing needs them.

use hashbrown::HashMap;
use kvstore_types::NamespaceId;

use super::order::Order;
use crate::feed::NamespaceShape;

/// Number of a tenant.
pub type TenantIndex = u16;

/// Namespaces without blocks that are remembered.
const EMPTY_MAX: usize = 4096;

/// One namespace of one tenant.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) tenant: TenantIndex,
    pub(crate) id: NamespaceId,
    /// How its groups look; none until somebody says.
    pub(crate) shape: Option<std::sync::Arc<NamespaceShape>>,
    /// Blocks that are known, announced or not.
    pub(crate) blocks: usize,
    /// What is announced, in an order in which every block comes after its parent.
    pub(crate) order: Order,
}

/// All namespaces.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    places: Vec<Namespace>,
    free: Vec<u32>,
    names: HashMap<(TenantIndex, NamespaceId), u32>,
    /// Without blocks, the one that was named first in front.
    empty: std::collections::VecDeque<u32>,
}

impl Namespaces {
    pub(crate) fn get(&self, index: u32) -> &Namespace {
        &self.places[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Namespace {
        &mut self.places[index as usize]
    }

    pub(crate) fn find(&self, tenant: TenantIndex, id: NamespaceId) -> Option<u32> {
        self.names.get(&(tenant, id)).copied()
    }

    /// Its index; it is made if it is not there. Beyond a bound, one that has no blocks and that nobody serves
    /// (`is_served`) is forgotten for it.
    pub(crate) fn intern(
        &mut self,
        tenant: TenantIndex,
        id: NamespaceId,
        is_served: impl Fn(TenantIndex, NamespaceId) -> bool,
    ) -> u32 {
        if let Some(index) = self.find(tenant, id) {
            return index;
        }
        self.forget_empty(is_served);
        let namespace = Namespace {
            tenant,
            id,
            shape: None,
            blocks: 0,
            order: Order::default(),
        };
        let index = if let Some(index) = self.free.pop() {
            self.places[index as usize] = namespace;
            index
        } else {
            self.places.push(namespace);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        };
        self.names.insert((tenant, id), index);
        self.empty.push_back(index);
        index
    }

    /// Looks once at each of those that may be forgotten, at most.
    fn forget_empty(&mut self, is_served: impl Fn(TenantIndex, NamespaceId) -> bool) {
        for _ in 0..self.empty.len().saturating_sub(EMPTY_MAX) {
            let Some(index) = self.empty.pop_front() else {
                return;
            };
            let namespace = &self.places[index as usize];
            let (tenant, id) = (namespace.tenant, namespace.id);
            if namespace.blocks > 0 || is_served(tenant, id) {
                self.empty.push_back(index);
                continue;
            }
            self.names.remove(&(tenant, id));
            self.free.push(index);
        }
    }

    /// Those that are known now.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.names.values().map(|index| self.get(*index))
    }
}
