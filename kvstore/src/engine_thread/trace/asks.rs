//! Look-ups, what is promoted for them, and the loads that follow.

use std::collections::HashMap;

use kvstore_engine::LookupOutcome;
use kvstore_nvme::OrderTimes;
use kvstore_trace::{Kind, Value, unix_ns};
use kvstore_types::{OperationId, SessionId, Tag};

use super::pen::{Close, Context, Open, Pen};
use super::{Transfers, microseconds};
use crate::engine_thread::session::Session;

type Name = (SessionId, Tag);

/// What is followed. As many look-ups and loads as sessions may have alive, and as many reads as may be under way.
#[derive(Debug, Default)]
pub(super) struct Asks {
    lookups: HashMap<Name, Ask>,
    /// Look-ups that were answered with a hit, for the loads that may follow.
    hits: HashMap<Name, Context>,
    loads: HashMap<Name, Load>,
    promotions: HashMap<u64, Promotion>,
    last_promotion: u64,
    reads: HashMap<OperationId, (u64, u64)>,
    questions: HashMap<OperationId, Name>,
    /// The look-up that the event under way is about.
    pub(super) current: Option<Name>,
}

/// How a look-up begins.
pub(super) struct Begun {
    pub(super) context: Context,
    /// When the client said that it comes.
    pub(super) sent_ns: u64,
    pub(super) blocks: u64,
    pub(super) tokens_max: u64,
}

/// How it is answered.
pub(super) struct Answer {
    pub(super) hit_tokens: u64,
    pub(super) hit_blocks: u64,
    pub(super) arrived: [u64; 2],
    pub(super) outcome: LookupOutcome,
}

#[derive(Debug)]
struct Ask {
    open: Open,
    context: Context,
    queued_us: u64,
    blocks: u64,
    tokens_max: u64,
    has_waited: bool,
    is_released: bool,
    promotions: [Option<u64>; 2],
}

#[derive(Debug)]
struct Promotion {
    open: Open,
    tier: usize,
    transfers: Transfers,
    /// Its look-up may order more.
    is_growing: bool,
}

#[derive(Debug)]
struct Load {
    open: Open,
    blocks: u64,
    bytes: u64,
    lost: u32,
}

impl Asks {
    pub(super) fn begin(&mut self, name: Name, begun: &Begun, pen: &mut Pen) {
        let open = pen.open(begun.context);
        let queued_ns = open.start_ns.saturating_sub(begun.sent_ns);
        self.lookups.insert(
            name,
            Ask {
                open,
                context: begun.context,
                queued_us: microseconds(std::time::Duration::from_nanos(queued_ns)),
                blocks: begun.blocks,
                tokens_max: begun.tokens_max,
                has_waited: false,
                is_released: false,
                promotions: [None; 2],
            },
        );
        self.current = Some(name);
    }

    /// The answer to a question to the remote tier is the next event.
    pub(super) fn go_on(&mut self, operation: OperationId) {
        if !self.questions.is_empty() {
            self.current = self.questions.remove(&operation);
        }
    }

    /// The remote tier is asked.
    pub(super) fn ask(&mut self, operation: OperationId) {
        if let Some(name) = self.current {
            self.questions.insert(operation, name);
        }
    }

    /// A read was ordered.
    pub(super) fn order(&mut self, tier: usize, operation: OperationId, bytes: u64, pen: &mut Pen) {
        let Some(ask) = self.current.and_then(|name| self.lookups.get_mut(&name)) else {
            return;
        };
        let id = *ask.promotions[tier].get_or_insert_with(|| {
            self.last_promotion += 1;
            let promotion = Promotion {
                open: pen.open(ask.open.context()),
                tier,
                transfers: Transfers::default(),
                is_growing: true,
            };
            self.promotions.insert(self.last_promotion, promotion);
            self.last_promotion
        });
        if let Some(promotion) = self.promotions.get_mut(&id) {
            promotion.transfers.order();
            self.reads.insert(operation, (id, bytes));
        }
    }

    /// An order has ended. False: it is none of these.
    pub(super) fn done(
        &mut self,
        operation: OperationId,
        is_good: bool,
        times: OrderTimes,
        pen: &mut Pen,
    ) -> bool {
        if self.reads.is_empty() {
            return false;
        }
        let Some((id, bytes)) = self.reads.remove(&operation) else {
            return false;
        };
        if let Some(promotion) = self.promotions.get_mut(&id) {
            promotion.transfers.end(is_good, bytes, times);
        }
        self.settle(id, pen);
        true
    }

    pub(super) fn pend(&mut self, name: Name) {
        if let Some(ask) = self.lookups.get_mut(&name) {
            ask.has_waited = true;
        }
    }

    /// A look-up, or what it holds, is given up.
    pub(super) fn release(&mut self, name: Name) {
        self.hits.remove(&name);
        if let Some(ask) = self.lookups.get_mut(&name) {
            ask.is_released = true;
        }
    }

    pub(super) fn answer(&mut self, name: Name, answer: &Answer, session: Option<&Session>, pen: &mut Pen) {
        let Some(ask) = self.lookups.remove(&name) else {
            return;
        };
        if answer.hit_tokens > 0 && !ask.is_released {
            self.hits.insert(name, ask.context);
        }
        let outcome = match answer.outcome {
            _ if ask.is_released => "released",
            LookupOutcome::NotReady => "not_ready",
            LookupOutcome::QuotaExceeded => "over_quota",
            LookupOutcome::Complete if answer.hit_tokens > 0 => "hit",
            LookupOutcome::Complete => "miss",
        };
        let [nvme, remote] = answer.arrived;
        let host = answer.hit_blocks.saturating_sub(nvme + remote);
        let mut attributes = pen.attributes(session);
        attributes.extend([
            ("kvtier.lookup.outcome", Value::Name(outcome)),
            ("kvtier.lookup.blocks", Value::Number(ask.blocks)),
            ("kvtier.lookup.tokens_max", Value::Number(ask.tokens_max)),
            ("kvtier.hit.tokens", Value::Number(answer.hit_tokens)),
            ("kvtier.hit.blocks.host", Value::Number(host)),
            ("kvtier.hit.blocks.nvme", Value::Number(nvme)),
            ("kvtier.hit.blocks.remote", Value::Number(remote)),
            ("kvtier.ring_wait_us", Value::Number(ask.queued_us)),
            (
                "kvtier.lookup.waited",
                Value::Name(if ask.has_waited { "yes" } else { "no" }),
            ),
        ]);
        self.close(&ask, attributes, None, pen);
    }

    fn close(
        &mut self,
        ask: &Ask,
        attributes: Vec<(&'static str, Value)>,
        error: Option<&'static str>,
        pen: &mut Pen,
    ) {
        for id in ask.promotions.into_iter().flatten() {
            if let Some(promotion) = self.promotions.get_mut(&id) {
                promotion.is_growing = false;
            }
            self.settle(id, pen);
        }
        pen.close(
            ask.open,
            Close {
                name: "kvtier.lookup",
                kind: Kind::Server,
                end_ns: unix_ns(),
                attributes,
                error,
            },
        );
    }

    /// Tells of a promotion when the last of its reads has ended and no more can follow.
    fn settle(&mut self, id: u64, pen: &mut Pen) {
        let is_over = self
            .promotions
            .get(&id)
            .is_some_and(|promotion| !promotion.is_growing && promotion.transfers.under_way == 0);
        if is_over && let Some(promotion) = self.promotions.remove(&id) {
            let transfers = promotion.transfers;
            pen.close(
                promotion.open,
                Close {
                    name: "kvtier.promote",
                    kind: Kind::Internal,
                    end_ns: transfers.last_ns,
                    attributes: transfers.attributes(promotion.tier),
                    error: transfers.error(),
                },
            );
        }
    }

    /// Holds are to become a lease; `what` counts its blocks and bytes.
    pub(super) fn commit(
        &mut self,
        name: Name,
        lease: Tag,
        what: impl FnOnce() -> (u64, u64),
        pen: &mut Pen,
    ) {
        if self.hits.is_empty() {
            return;
        }
        let Some(context) = self.hits.remove(&name) else {
            return;
        };
        let (blocks, bytes) = what();
        let load = Load {
            open: pen.open(context),
            blocks,
            bytes,
            lost: 0,
        };
        self.loads.insert((name.0, lease), load);
    }

    /// So much of a load is leased, and so much was lost.
    pub(super) fn grant(&mut self, lease: Name, leased: u32, lost: u32, pen: &mut Pen) {
        if let Some(load) = self.loads.get_mut(&lease) {
            load.lost = lost;
            if leased == 0 {
                self.end_load(lease, Some("blocks_lost"), pen);
            }
        }
    }

    pub(super) fn end_load(&mut self, lease: Name, error: Option<&'static str>, pen: &mut Pen) {
        if self.loads.is_empty() {
            return;
        }
        if let Some(load) = self.loads.remove(&lease) {
            close_load(&load, error, pen);
        }
    }

    /// A session is over, and all of its look-ups and loads.
    pub(super) fn forget(&mut self, session: SessionId, pen: &mut Pen) {
        self.hits.retain(|name, _| name.0 != session);
        self.questions.retain(|_, name| name.0 != session);
        let lookups: Vec<(Name, Ask)> = self.lookups.extract_if(|name, _| name.0 == session).collect();
        for (_, ask) in lookups {
            let attributes = pen.attributes(None);
            self.close(&ask, attributes, Some("session_ended"), pen);
        }
        let loads = self.loads.extract_if(|name, _| name.0 == session);
        for (_, load) in loads {
            close_load(&load, Some("session_ended"), pen);
        }
    }
}

fn close_load(load: &Load, error: Option<&'static str>, pen: &mut Pen) {
    let mut attributes = pen.attributes(None);
    attributes.extend([
        ("kvtier.blocks", Value::Number(load.blocks)),
        ("kvtier.blocks.lost", Value::Number(load.lost.into())),
        ("kvtier.bytes", Value::Number(load.bytes)),
    ]);
    pen.close(
        load.open,
        Close {
            name: "kvtier.load",
            kind: Kind::Internal,
            end_ns: unix_ns(),
            attributes,
            error,
        },
    );
}
