//! Orders and events, in the words of either side.

use kvstore_engine::{RemoteDirection, RemoteEvent, RemoteOrder, RemoteOutcome};
use kvstore_remote::{Direction, FaultKind, Order, Outcome, Presence, RemoteEvent as Heard};
use kvstore_types::{DescriptorBytes, SlotRef};

/// The engine's order in the words of the remote room: slots become places in memory. `header_bytes`: what a slot begins
/// with that is not the block's.
pub(super) fn translate(order: RemoteOrder, header_bytes: u64) -> Order {
    let place = |slot: SlotRef| slot.byte_offset() + header_bytes;
    match order {
        RemoteOrder::KeepNamespace { descriptor, geometry } => Order::KeepNamespace { descriptor, geometry },
        RemoteOrder::ForgetNamespace { namespace } => Order::ForgetNamespace { namespace },
        RemoteOrder::Store {
            operation,
            slot,
            key,
            descriptor,
        } => Order::Store {
            operation,
            key,
            descriptor: descriptor.map_or_else(Vec::new, |descriptor| descriptor.as_bytes().to_vec()),
            offset: place(slot),
        },
        RemoteOrder::Fetch {
            operation,
            slot,
            key,
            class,
        } => Order::Fetch {
            operation,
            key,
            offset: place(slot),
            class,
        },
        RemoteOrder::SetClass { operation, class } => Order::SetClass { operation, class },
        RemoteOrder::Exists {
            operation,
            keys,
            until_missing,
        } => Order::Exists {
            operation,
            keys,
            until_missing,
        },
    }
}

/// Tells the engine, through `step`, what happened.
pub(crate) fn hear(event: Heard, step: &mut dyn FnMut(RemoteEvent<'_>)) {
    match event {
        Heard::Taken { operation } => step(RemoteEvent::Taken { operation }),
        Heard::Done { operation, outcome } => step(RemoteEvent::Stored {
            operation,
            outcome: outcome_of(outcome),
        }),
        Heard::Fetched {
            operation,
            outcome,
            descriptor,
        } => step(RemoteEvent::Fetched {
            operation,
            outcome: outcome_of(outcome),
            descriptor: DescriptorBytes::kept(&descriptor),
        }),
        Heard::Existence { operation, presence } => {
            let presence: Vec<bool> = presence
                .iter()
                .map(|&presence| presence == Presence::Present)
                .collect();
            step(RemoteEvent::Existence {
                operation,
                presence: &presence,
            });
        }
        Heard::Service {
            direction, available, ..
        } => step(RemoteEvent::Service {
            direction: match direction {
                Direction::Read => RemoteDirection::Read,
                Direction::Write => RemoteDirection::Write,
            },
            is_available: available,
        }),
    }
}

fn outcome_of(outcome: Outcome) -> RemoteOutcome {
    match outcome {
        Outcome::Done => RemoteOutcome::Done,
        Outcome::AlreadyPresent => RemoteOutcome::AlreadyPresent,
        Outcome::Missing => RemoteOutcome::Missing,
        Outcome::Corrupt(_) => RemoteOutcome::Corrupt,
        Outcome::Unavailable(FaultKind::NoSpace) => RemoteOutcome::NoSpace,
        // What is in the way of a name is still there when the block is tried again, as after an outage.
        Outcome::Unavailable(FaultKind::NameTaken) | Outcome::Refused(_) => RemoteOutcome::Refused,
        Outcome::Unavailable(_) => RemoteOutcome::Unavailable,
        Outcome::TimedOut => RemoteOutcome::TimedOut,
    }
}
