//! Writes wait until their namespace is kept.
//!
//! A block is acknowledged when its bytes are on the device, but it can be used after a restart only if its namespace is
//! known then. Two threads see to the two, so the writes of a namespace that is being kept stay here until it is.
//!
//! ```text
//!            KeepNamespace             kept
//!   (open) ────────────────▶ Keeping ───────▶ (open)
//!                             │   ▲
//!                      failed ▼   │ next write: kept again
//!                            Failed ────────▶ (open)
//!                                 DropNamespace
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvstore_types::{IoOutcome, NamespaceDescriptor, NamespaceGeometry, NamespaceId};

use crate::directory::SegmentFile;
use crate::io::IoHandle;
use crate::maintenance::{FileTable, MaintenanceOrder};
use crate::{DeviceEvent, EventSink, Order, OrderTimes};

/// The writes of one device that wait.
pub(crate) struct Gate {
    sink: EventSink,
    asked: Mutex<HashMap<NamespaceId, Asked>>,
}

/// A namespace that is not known to be kept.
struct Asked {
    descriptor: NamespaceDescriptor,
    geometry: NamespaceGeometry,
    is_under_way: bool,
    writes: Vec<Order>,
}

/// What can go on.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// For the maintenance thread, in order.
    pub(crate) maintenance: Vec<MaintenanceOrder>,
    /// For the I/O thread, in order.
    pub(crate) transfers: Vec<Order>,
}

impl Gate {
    /// A gate that is open. `sink` hears of writes whose namespace could not be kept.
    pub(crate) fn new(sink: EventSink) -> Self {
        Self {
            sink,
            asked: Mutex::default(),
        }
    }

    /// Takes orders in; those that need not wait go on.
    pub(crate) fn pass(&self, orders: Vec<Order>) -> Passed {
        let mut passed = Passed::default();
        let mut asked = self.lock();
        for order in orders {
            if let Order::KeepNamespace { descriptor, geometry } = &order {
                let asked = asked.entry(descriptor.id()).or_insert_with(|| Asked {
                    descriptor: descriptor.clone(),
                    geometry: geometry.clone(),
                    is_under_way: false,
                    writes: Vec::new(),
                });
                asked.is_under_way = true;
            }
            if let Order::DropNamespace { namespace } = &order {
                // Nothing of it is under way, so nothing waits: at most it could not be kept before.
                asked.remove(namespace);
            }
            match MaintenanceOrder::take(order) {
                Ok(order) => passed.maintenance.push(order),
                Err(order) => {
                    let namespace = match &order {
                        Order::Write { key, .. } => asked.get_mut(&key.namespace),
                        _ => None,
                    };
                    match namespace {
                        Some(namespace) => passed.maintenance.extend(namespace.hold(order)),
                        None => passed.transfers.push(order),
                    }
                }
            }
        }
        passed
    }

    /// A namespace is kept, or could not be. The writes that may go on.
    pub(crate) fn kept(&self, id: NamespaceId, outcome: IoOutcome) -> Vec<Order> {
        let mut asked = self.lock();
        if outcome == IoOutcome::Done {
            return asked.remove(&id).map(|asked| asked.writes).unwrap_or_default();
        }
        let failed = asked.get_mut(&id).map(|asked| {
            asked.is_under_way = false;
            std::mem::take(&mut asked.writes)
        });
        drop(asked);
        self.answer(failed.unwrap_or_default(), outcome);
        Vec::new()
    }

    /// Answers all that waits as failed: the device is closed.
    pub(crate) fn close(&self) {
        let asked = std::mem::take(&mut *self.lock());
        let writes = asked.into_values().flat_map(|asked| asked.writes).collect();
        self.answer(writes, IoOutcome::Failed);
    }

    fn answer(&self, writes: Vec<Order>, outcome: IoOutcome) {
        let answer = |order| match order {
            Order::Write { operation, .. } => Some(DeviceEvent::Done {
                operation,
                outcome,
                times: OrderTimes::default(),
            }),
            _ => None,
        };
        let events: Vec<_> = writes.into_iter().filter_map(answer).collect();
        if !events.is_empty() {
            (self.sink)(events);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespaceId, Asked>> {
        // Every change above is whole before the lock is given up.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("namespaces", &self.lock().len())
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// Keeps a write back; the order to try again, if the last try failed.
    fn hold(&mut self, write: Order) -> Option<MaintenanceOrder> {
        self.writes.push(write);
        if std::mem::replace(&mut self.is_under_way, true) {
            return None;
        }
        Some(MaintenanceOrder::KeepNamespace {
            descriptor: self.descriptor.clone(),
            geometry: self.geometry.clone(),
        })
    }
}

/// What the maintenance thread tells the I/O thread, and the gate before it.
pub(crate) struct GatedFiles {
    /// The gate.
    pub(crate) gate: Arc<Gate>,
    /// The I/O thread.
    pub(crate) io: IoHandle,
}

impl FileTable for GatedFiles {
    fn add(&self, index: u32, file: Arc<SegmentFile>) {
        self.io.add(index, file);
    }

    fn remove(&self, index: u32) {
        self.io.remove(index);
    }

    fn kept(&self, namespace: NamespaceId, outcome: IoOutcome) {
        self.io.submit(self.gate.kept(namespace, outcome));
    }
}

#[cfg(test)]
mod tests {
    use kvstore_types::{
        AttentionKind, BlockHash, BlockKey, Extent, Field, GroupGeometry, GroupIndex, OperationId,
        SegmentGeneration, SegmentRef,
    };

    use super::*;

    type Heard = Arc<Mutex<Vec<(u64, IoOutcome)>>>;

    fn gate() -> (Gate, Heard) {
        let heard = Heard::default();
        let ear = Arc::clone(&heard);
        let sink: EventSink = Arc::new(move |events: Vec<DeviceEvent>| {
            for event in events {
                let DeviceEvent::Done {
                    operation, outcome, ..
                } = event
                else {
                    panic!("{event:?}")
                };
                ear.lock().unwrap().push((operation.0, outcome));
            }
        });
        (Gate::new(sink), heard)
    }

    fn keep(model: u8) -> (Order, NamespaceId) {
        let field = Field {
            tag: "model.id".to_owned(),
            value: vec![model],
        };
        let descriptor = NamespaceDescriptor::new(vec![field]).unwrap();
        let group = GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: 4096,
        };
        let geometry = NamespaceGeometry::compose(&[&[group]]).unwrap();
        let id = descriptor.id();
        (Order::KeepNamespace { descriptor, geometry }, id)
    }

    fn write(operation: u64, namespace: NamespaceId) -> Order {
        let segment = SegmentRef {
            index: 0,
            generation: SegmentGeneration(1),
        };
        Order::Write {
            operation: OperationId(operation),
            extent: Extent {
                segment,
                page: 1,
                pages: 2,
            },
            offset: 0,
            key: BlockKey {
                namespace,
                group: GroupIndex(0),
                hash: BlockHash([1; 32]),
            },
            descriptor: Vec::new(),
        }
    }

    fn operations(orders: &[Order]) -> Vec<u64> {
        let operation = |order: &Order| match order {
            Order::Write { operation, .. } => operation.0,
            other => panic!("{other:?}"),
        };
        orders.iter().map(operation).collect()
    }

    #[test]
    fn writes_of_a_namespace_wait_until_it_is_kept_and_others_do_not() {
        let (gate, heard) = gate();
        let ((keep, id), (_, other)) = (keep(1), keep(2));
        let passed = gate.pass(vec![keep, write(1, id), write(2, other), write(3, id)]);
        assert_eq!(
            (passed.maintenance.len(), operations(&passed.transfers)),
            (1, vec![2])
        );
        assert_eq!(operations(&gate.kept(id, IoOutcome::Done)), [1, 3]);
        assert_eq!(operations(&gate.pass(vec![write(4, id)]).transfers), [4]);
        assert_eq!(*heard.lock().unwrap(), []);
    }

    #[test]
    fn writes_fail_with_their_namespace_and_the_next_one_tries_again() {
        let (gate, heard) = gate();
        let (keep, id) = keep(1);
        gate.pass(vec![keep, write(1, id)]);
        assert!(gate.kept(id, IoOutcome::NoSpace).is_empty());
        assert_eq!(*heard.lock().unwrap(), [(1, IoOutcome::NoSpace)]);
        let passed = gate.pass(vec![write(2, id), write(3, id)]);
        assert_eq!((passed.maintenance.len(), passed.transfers.len()), (1, 0));
        assert_eq!(operations(&gate.kept(id, IoOutcome::Done)), [2, 3]);
    }

    #[test]
    fn a_namespace_that_could_not_be_kept_and_is_dropped_is_forgotten() {
        let (gate, _) = gate();
        let (keep_order, id) = keep(1);
        gate.pass(vec![keep_order, write(1, id)]);
        assert!(gate.kept(id, IoOutcome::NoSpace).is_empty());
        let passed = gate.pass(vec![Order::DropNamespace { namespace: id }]);
        assert!(matches!(
            passed.maintenance[..],
            [MaintenanceOrder::DropNamespace { .. }]
        ));
        assert!(gate.lock().is_empty());
        let passed = gate.pass(vec![keep(1).0, write(2, id)]);
        assert_eq!((passed.maintenance.len(), passed.transfers.len()), (1, 0));
        assert_eq!(operations(&gate.kept(id, IoOutcome::Done)), [2]);
    }

    #[test]
    fn what_waits_when_the_device_is_closed_is_answered() {
        let (gate, heard) = gate();
        let (keep, id) = keep(1);
        gate.pass(vec![keep, write(1, id)]);
        gate.close();
        assert_eq!(*heard.lock().unwrap(), [(1, IoOutcome::Failed)]);
        assert!(gate.kept(id, IoOutcome::Done).is_empty());
    }
}
