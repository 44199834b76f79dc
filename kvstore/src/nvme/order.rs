//! The engine's orders in the words of the devices' room.

use kvstore_engine::NvmeOrder;
use kvstore_nvme::Order;

/// Slots become places in memory.
pub(super) fn translate(order: &NvmeOrder) -> Order {
    match *order {
        NvmeOrder::KeepNamespace {
            ref descriptor,
            ref geometry,
        } => Order::KeepNamespace {
            descriptor: descriptor.clone(),
            geometry: geometry.clone(),
        },
        NvmeOrder::DropNamespace { namespace } => Order::DropNamespace { namespace },
        NvmeOrder::CreateSegment { operation, index } => Order::CreateSegment { operation, index },
        NvmeOrder::DeleteSegment { operation, index } => Order::DeleteSegment { operation, index },
        NvmeOrder::OpenSegment { operation, segment } => Order::OpenSegment { operation, segment },
        NvmeOrder::Write {
            operation,
            extent,
            slot,
            key,
            ref descriptor,
        } => Order::Write {
            operation,
            extent,
            offset: slot.byte_offset(),
            key,
            descriptor: descriptor
                .as_ref()
                .map_or(Vec::new(), |descriptor| descriptor.as_bytes().to_vec()),
        },
        NvmeOrder::Read {
            operation,
            extent,
            slot,
            key,
            class,
        } => Order::Read {
            operation,
            extent,
            offset: slot.byte_offset(),
            key,
            class,
        },
        NvmeOrder::SetClass { operation, class } => Order::SetClass { operation, class },
        NvmeOrder::Move {
            operation,
            from,
            to,
            key,
        } => Order::Move {
            operation,
            from,
            to,
            key,
        },
        NvmeOrder::Verify {
            operation,
            extent,
            key,
        } => Order::Verify {
            operation,
            extent,
            key,
        },
        NvmeOrder::Forget { extent } => Order::Forget { extent },
        NvmeOrder::SegmentFull { segment } => Order::SegmentFull { segment },
    }
}
