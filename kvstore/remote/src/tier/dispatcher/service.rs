//! Whether the store is in service, in each direction, and what people hear of it.

use std::time::Instant;

use super::super::attempt::caught;
use super::super::orders::Ordered;
use super::super::shared::Message;
use super::Dispatcher;
use crate::backend::Fault;
use crate::state::{Breaker, BreakerPolicy, Change, Notices};
use crate::{Direction, FaultKind, Outage, Outcome, RemoteEvent};

/// One direction of the store.
pub(super) struct Service {
    direction: Direction,
    breaker: Breaker,
    notices: Notices,
    /// The first failure of the row that is going on.
    first: Option<Fault>,
    /// The outage that is going on.
    outage: Option<Outage>,
    /// What its last probe met.
    probed: Option<FaultKind>,
}

impl Service {
    pub(super) fn new(direction: Direction, policy: BreakerPolicy, now: Instant) -> Self {
        Self {
            direction,
            breaker: Breaker::new(policy, now),
            notices: Notices::default(),
            first: None,
            outage: None,
            probed: None,
        }
    }

    pub(super) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
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
                    // Without an answer no other one would be sent, ever.
                    let result = caught("a probe", shared.backend.probe(direction)).await;
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
            service.first = None;
            return;
        };
        self.shared.counters.lock().faults[fault.kind as usize] += 1;
        self.shared.counters.met(now, direction, &fault);
        let kind = fault.kind;
        let change = service.breaker.failed(now, kind, fault.retry_after);
        if let Some(Change::Opened(_)) = change {
            let first = service.first.take().filter(|_| !kind.is_certain());
            self.begin_outage(now, direction, first.unwrap_or(fault));
            let is_affected = |order: &Ordered| order.lane.direction() == direction;
            self.give_all_up(now, is_affected, Outcome::Unavailable(kind));
            return;
        }
        // What fails during an outage belongs to it.
        if service.outage.is_none()
            && let Some(unsaid) = service.notices.should_say(now, kind)
        {
            tracing::warn!(
                tier = self.shared.spec.name,
                direction = direction.name(),
                kind = kind.name(),
                fault = fault.text,
                unsaid,
                "the remote store failed"
            );
        }
        if service.breaker.is_closed() {
            service.first.get_or_insert(fault);
        }
    }

    /// Each outage is told once when it begins, and once when it ends.
    fn begin_outage(&mut self, now: Instant, direction: Direction, cause: Fault) {
        let (tier, way) = (&self.shared.spec.name, direction.name());
        let kind = cause.kind.name();
        if cause.kind == FaultKind::NoSpace {
            tracing::warn!(
                tier,
                direction = way,
                cause = kind,
                fault = cause.text,
                "the remote store has no room: nothing is stored until it has"
            );
        } else {
            tracing::warn!(
                tier,
                direction = way,
                cause = kind,
                fault = cause.text,
                "the remote store is out of service: everything is a miss until it answers again"
            );
        }
        self.shared.counters.lock().outages[direction as usize] += 1;
        self.events.push(RemoteEvent::Service {
            direction,
            available: false,
            reason: cause.to_string(),
        });
        let service = &mut self.services[direction as usize];
        service.probed = Some(cause.kind);
        service.outage = Some(Outage {
            cause: cause.kind,
            text: cause.text,
            since: now,
        });
    }

    /// A probe was answered.
    pub(super) fn on_probed(&mut self, now: Instant, direction: Direction, result: Result<(), Fault>) {
        let service = &mut self.services[direction as usize];
        let answer = result
            .as_ref()
            .map(|&()| ())
            .map_err(|fault| (fault.kind, fault.retry_after));
        let change = service.breaker.probed(now, answer);
        match result {
            Ok(()) if matches!(change, Some(Change::Closed(_))) => self.end_outage(now, direction),
            Ok(()) => {}
            Err(fault) => self.on_probe_failed(now, direction, fault),
        }
    }

    fn on_probe_failed(&mut self, now: Instant, direction: Direction, fault: Fault) {
        self.shared.counters.lock().probes_failed[direction as usize] += 1;
        self.shared.counters.met(now, direction, &fault);
        let service = &mut self.services[direction as usize];
        let Some(outage) = &mut service.outage else {
            // It has not been in service yet.
            return self.begin_outage(now, direction, fault);
        };
        // The answer to a HEAD has no body: it says 403, and not whether that is because of the keys.
        if (outage.cause, fault.kind) == (FaultKind::Denied, FaultKind::Credentials) {
            (outage.cause, outage.text) = (fault.kind, fault.text.clone());
        }
        let is_news = service.probed.replace(fault.kind) != Some(fault.kind);
        if is_news && service.notices.should_say(now, fault.kind).is_some() {
            tracing::info!(
                tier = self.shared.spec.name,
                direction = direction.name(),
                kind = fault.kind.name(),
                fault = fault.text,
                "the remote store does not answer yet, now for another reason"
            );
        }
    }

    fn end_outage(&mut self, now: Instant, direction: Direction) {
        let (tier, way) = (&self.shared.spec.name, direction.name());
        if let Some(outage) = self.services[direction as usize].outage.take() {
            let outage_s = now.saturating_duration_since(outage.since).as_secs_f64();
            let cause = outage.cause.name();
            tracing::info!(
                tier,
                direction = way,
                cause,
                outage_s,
                "the remote store is in service again"
            );
        } else {
            tracing::info!(tier, direction = way, "the remote store is in service");
        }
        self.events.push(RemoteEvent::Service {
            direction,
            available: true,
            reason: "it answers".to_owned(),
        });
    }
}
