//! What devices say, in the words of the engine.

use kvstore_engine::{FoundBlock, NvmeEvent};
use kvstore_nvme::DeviceEvent;

/// Memory that is used again for each batch of blocks.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    blocks: Vec<FoundBlock>,
}

/// How much work an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Little.
    Plain,
    /// So much that clients have waited.
    Much,
}

/// Tells the engine, through `step`, what happened.
pub(crate) fn hear(event: DeviceEvent, scratch: &mut Scratch, step: &mut dyn FnMut(NvmeEvent<'_>)) -> Heard {
    match event {
        DeviceEvent::SegmentUnusable { index } => step(NvmeEvent::SegmentUnusable { index }),
        DeviceEvent::SegmentFound { segment, tail } => step(NvmeEvent::SegmentFound { segment, tail }),
        DeviceEvent::Namespace { descriptor, geometry } => step(NvmeEvent::Namespace {
            descriptor: &descriptor,
            geometry: &geometry,
        }),
        DeviceEvent::Blocks { blocks, credit } => {
            scratch.blocks.clear();
            scratch.blocks.extend(blocks.into_iter().map(|block| FoundBlock {
                key: block.key,
                segment: block.extent.segment,
                page: block.extent.page,
                pages: block.extent.pages,
                descriptor: block.descriptor,
            }));
            step(NvmeEvent::Blocks {
                blocks: &scratch.blocks,
            });
            // Only now may the next ones come.
            drop(credit);
            return Heard::Much;
        }
        DeviceEvent::Loaded(_) => step(NvmeEvent::Loaded),
        DeviceEvent::Done {
            operation, outcome, ..
        } => step(NvmeEvent::Done { operation, outcome }),
        DeviceEvent::Lost { .. } => step(NvmeEvent::Lost),
    }
    Heard::Plain
}
