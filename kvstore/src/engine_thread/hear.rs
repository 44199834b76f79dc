//! What the lower tiers say.

use std::time::Instant;

use kvstore_engine::{Event, NvmeEvent};
use kvstore_nvme::DeviceEvent;
use kvstore_types::DeviceIndex;

use super::core::{Core, Next};
use crate::nvme::{self, Heard};
use crate::remote;

impl Core {
    /// Takes in what a device says.
    pub(super) fn hear(&mut self, device: DeviceIndex, events: Vec<DeviceEvent>, now: Instant) -> Next {
        let mut next = Next::Command;
        let mut found = std::mem::take(&mut self.found);
        for event in events {
            self.devices.tell(&self.tenant, device, &event);
            if let (Some(voice), DeviceEvent::Namespace { descriptor, geometry }) = (&mut self.voice, &event)
            {
                voice.namespace(descriptor.id(), Some(descriptor), &geometry.groups);
            }
            if let (Some(tracer), DeviceEvent::Done { times, .. }) = (&mut self.tracer, &event) {
                tracer.took(*times);
            }
            let mut step = |event: NvmeEvent<'_>| self.step(Event::Nvme { device, event }, now);
            if nvme::hear(event, &mut found, &mut step) == Heard::Much {
                next = Next::Round;
            }
        }
        self.found = found;
        next
    }

    /// Takes in what the remote tier says. Clients have waited if it was much.
    pub(super) fn hear_remote(&mut self, events: Vec<kvstore_remote::RemoteEvent>, now: Instant) -> Next {
        for event in events {
            self.remote.note(&event);
            remote::hear(event, &mut |event| self.step(Event::Remote(event), now));
        }
        Next::Round
    }
}
