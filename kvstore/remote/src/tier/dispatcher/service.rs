//! Whether the store is in service, in each direction, and what people hear of it.

use std::time::Instant;

use super::super::orders::Ordered;
use super::super::shared::Message;
use super::Dispatcher;
use crate::backend::Fault;
use crate::state::{Breaker, BreakerPolicy, Change, Notices};
use crate::{Direction, FaultKind, Outcome, RemoteEvent};

/// One direction of the store.
pub(super) struct Service {
    direction: Direction,
    breaker: Breaker,
    notices: Notices,
    /// Whether people were told that it is out of service.
    was_told: bool,
    /// Why it is.
    kind: FaultKind,
}

impl Service {
    pub(super) fn new(direction: Direction, policy: BreakerPolicy, now: Instant) -> Self {
        Self {
            direction,
            breaker: Breaker::new(policy, now),
            notices: Notices::default(),
            was_told: true,
            kind: FaultKind::OutOfService,
        }
    }

    pub(super) fn is_in_service(&self) -> bool {
        self.breaker.is_closed()
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.breaker.probe_at()
    }
}

impl Dispatcher {
    /// Sends probes that are due. A mount that hangs holds its probe, and no second one is sent.
    pub(super) fn probe(&mut self, now: Instant) {
        if self.closing.is_some() {
            return;
        }
        for service in &mut self.services {
            if service.breaker.begin_probe(now) {
                let (shared, direction) = (self.shared.clone(), service.direction);
                tokio::spawn(async move {
                    let result = shared.backend.probe(direction).await;
                    shared.tell(Message::Probed(direction, result));
                });
            }
        }
    }

    /// An attempt was answered.
    pub(super) fn on_attempt(&mut self, now: Instant, direction: Direction, result: Result<(), Fault>) {
        let service = &mut self.services[direction as usize];
        let Err(fault) = result else {
            service.breaker.succeeded();
            return;
        };
        self.shared.counters.lock().faults[fault.kind as usize] += 1;
        let (tier, way) = (&self.shared.spec.name, direction.name());
        let say = service.notices.should_say(now, fault.kind);
        let change = service.breaker.failed(now, fault.kind, fault.retry_after);
        let Some(Change::Opened(kind)) = change else {
            if let Some(unsaid) = say {
                tracing::warn!(
                    tier,
                    direction = way,
                    kind = fault.kind.name(),
                    fault = fault.text,
                    unsaid,
                    "the remote store failed"
                );
            }
            return;
        };
        service.kind = kind;
        // An outage that follows a told one of the same kind within minutes is the same to people.
        let unsaid = service.notices.should_say(now, FaultKind::OutOfService).or(say);
        service.was_told = unsaid.is_some();
        if unsaid.is_some() {
            tracing::warn!(
                tier,
                direction = way,
                kind = kind.name(),
                fault = fault.text,
                "the remote store is out of service: everything is a miss until it answers again"
            );
        }
        self.shared.counters.lock().outages[direction as usize] += 1;
        self.events.push(RemoteEvent::Service {
            direction,
            available: false,
            reason: fault.to_string(),
        });
        let is_affected = |order: &Ordered| order.lane.direction() == direction;
        self.give_all_up(now, is_affected, Outcome::Unavailable(kind));
    }

    /// A probe was answered.
    pub(super) fn on_probed(&mut self, now: Instant, direction: Direction, result: &Result<(), Fault>) {
        let (tier, way) = (&self.shared.spec.name, direction.name());
        let service = &mut self.services[direction as usize];
        let answer = result
            .as_ref()
            .map(|&()| ())
            .map_err(|fault| (fault.kind, fault.retry_after));
        let change = service.breaker.probed(now, answer);
        if let Err(fault) = result {
            self.shared.counters.lock().probes_failed[direction as usize] += 1;
            if fault.kind != service.kind && service.notices.should_say(now, fault.kind).is_some() {
                tracing::warn!(
                    tier,
                    direction = way,
                    kind = fault.kind.name(),
                    fault = fault.text,
                    "the remote store does not answer"
                );
            }
            service.kind = fault.kind;
        }
        let Some(Change::Closed(outage)) = change else {
            return;
        };
        if service.was_told {
            let outage_s = outage.map(|outage| outage.as_secs_f64());
            tracing::info!(tier, direction = way, outage_s, "the remote store is in service");
        }
        self.events.push(RemoteEvent::Service {
            direction,
            available: true,
            reason: "it answers".to_owned(),
        });
    }
}
