//! What a session asks of the daemon. Sending never blocks; what a bug in the caller could make the daemon cut the
//! session off for is refused here, with a text that names it.

use connector_shm::{BeginError, DESCRIBED_MINOR, EVENTS_MINOR, GroupKeys, Keys, Request, Role, Runs};
use kvstore_types::{DescriptorRun, GroupSpan, SlotRef, Tag};

use super::Session;
use crate::ClientError;
use crate::guest::random_bytes;

impl Session {
    /// How long a prefix is cached? Answered by [`Completion::Lookup`](super::Completion::Lookup), and what it found is
    /// held under `tag` until it is committed or released.
    pub fn lookup(&mut self, tag: u64, groups: &[GroupKeys<'_>], tokens_max: u64) -> Result<(), ClientError> {
        self.want_scheduler("look up")?;
        self.check_groups(groups)?;
        let keys = Keys::new(groups);
        self.send(&Request::Lookup {
            tag: Tag(tag),
            tokens_max,
            keys,
        })
    }

    /// Gives up what a look-up holds.
    pub fn release_lookup(&mut self, tag: u64) -> Result<(), ClientError> {
        self.want_scheduler("release a look-up")?;
        self.send(&Request::LookupRelease { tag: Tag(tag) })
    }

    /// Turns holds into a lease. Answered by [`Completion::Load`](super::Completion::Load) under the lease's tag.
    pub fn commit_load(&mut self, tag: u64, lease: u64, spans: &[GroupSpan]) -> Result<(), ClientError> {
        self.want_scheduler("commit a load")?;
        let group_count = self.options().groups.len();
        for (index, span) in spans.iter().enumerate() {
            check_group(&format!("span {index}: group"), span.group, group_count)?;
        }
        self.send(&Request::LoadCommit {
            tag: Tag(tag),
            lease: Tag(lease),
            spans,
        })
    }

    /// Ends a lease: its slots are not touched any more.
    pub fn release_lease(&mut self, lease: u64) -> Result<(), ClientError> {
        self.want_scheduler("release a lease")?;
        self.send(&Request::LeaseRelease { lease: Tag(lease) })
    }

    /// Asks for slots to fill. Answered by [`Completion::Reserve`](super::Completion::Reserve).
    pub fn reserve(&mut self, tag: u64, groups: &[GroupKeys<'_>]) -> Result<(), ClientError> {
        self.want_scheduler("reserve")?;
        self.check_groups(groups)?;
        let keys = Keys::new(groups);
        self.send(&Request::Reserve { tag: Tag(tag), keys })
    }

    /// The same, and says what the blocks are about: runs that cover all keys in order. To a daemon that is too old for
    /// them, or through a ring that has no room for them, the keys go alone.
    pub fn reserve_described(
        &mut self,
        tag: u64,
        groups: &[GroupKeys<'_>],
        runs: &[DescriptorRun<'_>],
    ) -> Result<(), ClientError> {
        self.want_scheduler("reserve")?;
        self.check_groups(groups)?;
        let (keys, runs) = (Keys::new(groups), Runs::new(runs));
        check_runs(&keys, &runs)?;
        let tag = Tag(tag);
        let link = self.link()?;
        if link.daemon_minor >= DESCRIBED_MINOR && runs.iter().any(|run| run.is_described()) {
            match link.end.send(&Request::ReserveDescribed { tag, keys, runs }) {
                Err(BeginError::Full { .. } | BeginError::TooLarge { .. }) => {}
                sent => return self.after_sending(sent),
            }
        }
        self.send(&Request::Reserve { tag, keys })
    }

    /// This worker's part of these slots is final. Answered by [`Completion::Seal`](super::Completion::Seal).
    pub fn seal(&mut self, tag: u64, slots: &[SlotRef]) -> Result<(), ClientError> {
        if !matches!(self.role(), Role::Worker(_)) {
            return Err(ClientError::Unsupported("sealing, except by a worker,"));
        }
        check_slots(slots)?;
        self.send(&Request::Seal { tag: Tag(tag), slots })
    }

    /// Gives reserved slots back. Answered by [`Completion::Abort`](super::Completion::Abort).
    pub fn abort(&mut self, tag: u64, slots: &[SlotRef]) -> Result<(), ClientError> {
        if self.role() == Role::Observer {
            return Err(ClientError::Unsupported("aborting by an observer"));
        }
        check_slots(slots)?;
        self.send(&Request::Abort { tag: Tag(tag), slots })
    }

    /// Moves the engine to a namespace nobody has used. Answered by [`Completion::Reset`](super::Completion::Reset).
    pub fn reset(&mut self, tag: u64) -> Result<(), ClientError> {
        self.want_scheduler("reset")?;
        // Kept before anything can fail: no attachment may find what was stored before this call.
        self.remember_reset();
        let nonce = random_bytes().map_err(|source| ClientError::Io {
            what: "draw random bytes",
            source,
        })?;
        self.send(&Request::Reset { tag: Tag(tag), nonce })
    }

    /// Asks for the tenant's counters. Answered by [`Completion::Counters`](super::Completion::Counters).
    pub fn request_counters(&mut self, tag: u64) -> Result<(), ClientError> {
        self.send(&Request::Counters { tag: Tag(tag) })
    }

    /// Asks for block events, and for `credit` messages of them more. They come as
    /// [`Completion::Events`](super::Completion::Events). A new attachment has to be asked anew.
    pub fn request_events(&mut self, credit: u32) -> Result<(), ClientError> {
        self.want_scheduler("hear events")?;
        if credit == 0 {
            return Err(ClientError::range("credit", "at least 1", 0));
        }
        if self.link()?.daemon_minor < EVENTS_MINOR {
            return Err(ClientError::Unsupported("block events, by this daemon,"));
        }
        self.send(&Request::Events { credit })
    }

    pub(super) fn send(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        let sent = self.link()?.end.send(request);
        self.after_sending(sent)
    }

    /// Sends what another message follows at once: that one wakes the daemon.
    pub(super) fn send_quietly(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        match self.link()?.end.send(request) {
            Ok(()) => Ok(()),
            failed => self.after_sending(failed),
        }
    }

    fn after_sending(&mut self, sent: Result<(), BeginError>) -> Result<(), ClientError> {
        if let Err(error) = sent {
            return Err(match error {
                BeginError::Full { needed, .. } => {
                    // A daemon that is gone makes no room: tell that instead.
                    self.check_liveness()?;
                    ClientError::QueueFull {
                        queue: "the request ring",
                        wanted: needed,
                        unit: "bytes",
                    }
                }
                BeginError::TooLarge { needed, capacity } => ClientError::TooLarge {
                    what: "a message",
                    actual: needed,
                    max: capacity,
                    unit: "bytes",
                },
                BeginError::Peer(error) => self.give_up(ClientError::PeerMisbehaved(error.to_string())),
            });
        }
        let rung = self.link()?.end.notify();
        self.after_ringing(rung)?;
        self.check_liveness()
    }

    fn want_scheduler(&self, operation: &'static str) -> Result<(), ClientError> {
        if self.role() == Role::Scheduler {
            return Ok(());
        }
        Err(ClientError::Unsupported(match operation {
            "look up" => "a look-up, except by a scheduler,",
            "reserve" => "reserving, except by a scheduler,",
            "reset" => "a reset, except by a scheduler,",
            "hear events" => "block events, except for a scheduler,",
            _ => "loads and releases, except by a scheduler,",
        }))
    }

    fn check_groups(&self, groups: &[GroupKeys<'_>]) -> Result<(), ClientError> {
        let group_count = self.options().groups.len();
        let mut seen = 0_u64;
        for (index, keys) in groups.iter().enumerate() {
            check_group(&format_args!("groups[{index}].group"), keys.group, group_count)?;
            let bit = 1_u64 << (keys.group % 64);
            if seen & bit != 0 {
                return Err(ClientError::BadArgument(format!(
                    "group {} is named twice",
                    keys.group
                )));
            }
            seen |= bit;
        }
        Ok(())
    }
}

fn check_group(what: &dyn std::fmt::Display, group: u32, count: usize) -> Result<(), ClientError> {
    if usize::try_from(group).is_ok_and(|group| group < count) {
        return Ok(());
    }
    Err(ClientError::range(
        &what.to_string(),
        format_args!("below {count}"),
        group,
    ))
}

fn check_runs(keys: &Keys<'_>, runs: &Runs<'_>) -> Result<(), ClientError> {
    for (index, run) in runs.iter().enumerate() {
        if run.blocks == 0 {
            return Err(ClientError::range(
                &format!("runs[{index}].blocks"),
                "at least 1",
                0,
            ));
        }
        let tokens = u64::from(run.blocks) * u64::from(run.tokens_per_block);
        if run.tokens.len() as u64 != tokens {
            let what = format!("runs[{index}].tokens");
            return Err(ClientError::range(&what, tokens, run.tokens.len()));
        }
        let is_empty = run.parent.is_none() && run.lora_name.is_none() && run.extra_keys.is_empty();
        if !run.is_described() && !is_empty {
            let what = format!("runs[{index}].tokens_per_block");
            return Err(ClientError::range(
                &what,
                "at least 1 in a run that says anything",
                0,
            ));
        }
    }
    if !runs.cover(keys) {
        return Err(ClientError::BadArgument(
            "runs: together they have to have as many blocks as there are keys, and none keys of two groups"
                .to_owned(),
        ));
    }
    Ok(())
}

fn check_slots(slots: &[SlotRef]) -> Result<(), ClientError> {
    match slots.iter().position(|slot| slot.page == 0) {
        Some(index) => Err(ClientError::BadArgument(format!(
            "slots[{index}] is no slot but a grant without one"
        ))),
        None => Ok(()),
    }
}
