//! Rounds over the sessions, and what commands do.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use connector_shm::{Completion, MessageBuffer, Request};
use kvstore_engine::{Effect, Effects, Engine, Event, Histogram, SessionEnd};
use kvstore_types::{ProcessId, SessionId, Tag};
use rustix::event::epoll;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::apply::{Joined, Scratch, apply, relay};
use super::command::{Attach, Command, CommandReceiver};
use super::counters::{About, pods, render};
use super::drops::Drops;
use super::request::{Todo, answer_bytes_max, group_room, matters_afterwards, todo};
use super::session::{Fault, Session};
use super::sleep::{COMMAND_BELL, watch};
use super::spin::Spin;
use super::trace;
use super::trace::Tracer;
use super::voice::{Voice, credit_relay};
use super::{Listeners, Tiers};
use crate::nvme::{self, Devices};
use crate::remote::RemoteTier;

/// Sessions in the order in which they came.
pub(super) type Sessions = BTreeMap<SessionId, Session>;

/// Requests of one session in one round.
const REQUESTS_PER_ROUND: usize = 64;
/// Bytes of one session's requests in one round, so that long look-ups do not hold up the others for long.
const BYTES_PER_ROUND: usize = 1 << 20;

/// Commands in one round; a batch of blocks that a device has found ends it sooner.
const COMMANDS_PER_ROUND: usize = 256;

/// Bells that are answered after one sleep; the others are heard at the next.
const BELLS_MAX: usize = 64;

/// What follows a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another command.
    Command,
    /// A round: clients have waited.
    Round,
    /// The end of the thread.
    End,
}

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) tenant: String,
    pub(super) sessions: Sessions,
    pub(super) epoll: OwnedFd,
    pub(super) engine: Engine,
    pub(super) devices: Devices,
    pub(super) remote: RemoteTier,
    /// Tells the announcer; none: nobody listens.
    pub(super) voice: Option<Voice>,
    /// Follows requests; none: no traces are recorded.
    pub(super) tracer: Option<Tracer>,
    pub(super) found: nvme::Scratch,
    pub(super) effects: Effects,
    scratch: Scratch,
    buffer: MessageBuffer,
    pub(super) faults: Vec<(SessionId, Fault)>,
    order: Vec<SessionId>,
    drops: Drops,
    pub(super) draining: bool,
    pub(super) quiet: Vec<oneshot::Sender<()>>,
    pub(super) lookups: Histogram,
    pub(super) region_bytes: u64,
    since: Instant,
}

impl Core {
    pub(super) fn new(
        tenant: String,
        region_bytes: u64,
        engine: Engine,
        Tiers { devices, remote }: Tiers,
        Listeners { voice, tracer }: Listeners,
        commands: &CommandReceiver,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, commands.bell(), COMMAND_BELL)?;
        Ok(Self {
            tenant,
            sessions: Sessions::new(),
            epoll,
            engine,
            devices,
            remote,
            voice,
            tracer,
            found: nvme::Scratch::default(),
            effects: Effects::default(),
            scratch: Scratch::default(),
            buffer: MessageBuffer::new(),
            faults: Vec::new(),
            order: Vec::new(),
            drops: Drops::default(),
            draining: false,
            quiet: Vec::new(),
            lookups: Histogram::default(),
            region_bytes,
            since: Instant::now(),
        })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self, commands: &CommandReceiver) -> io::Result<()> {
        let mut spin = Spin::new();
        let mut bells = Vec::with_capacity(BELLS_MAX);
        loop {
            let now = Instant::now();
            let mut worked = false;
            for _ in 0..COMMANDS_PER_ROUND {
                let Some(command) = commands.next() else {
                    break;
                };
                worked = true;
                match self.obey(command, now) {
                    Next::Command => {}
                    Next::Round => break,
                    Next::End => return Ok(()),
                }
            }
            worked |= self.round(now, worked);
            if worked {
                self.drops.tell(&self.tenant, now, self.engine.counters());
                spin.worked();
            } else if spin.look_again(now) {
                std::hint::spin_loop();
            } else {
                spin.slept(self.sleep(commands, &mut bells)?);
            }
        }
    }

    fn obey(&mut self, command: Command, now: Instant) -> Next {
        let mut next = Next::Command;
        match command {
            Command::Attach(attach) => self.attach(*attach, now),
            Command::HungUp(session) => self.hung_up(session, now),
            Command::Misbehaved(session, what) => self.cut_off(session, &Fault::Other(what), now),
            Command::ProcessDied(process) => self.process_died(process, now),
            Command::Nvme { device, events } => next = self.hear(device, events, now),
            Command::Remote(events) => next = self.hear_remote(events, now),
            Command::Tune(tuning) => self.step(Event::NvmeTuned { tuning }, now),
            Command::TuneRemote(tuning) => self.remote.tune(tuning),
            Command::TuneHost {
                watermark_low,
                watermark_high,
            } => self.step(
                Event::HostTuned {
                    watermark_low,
                    watermark_high,
                },
                now,
            ),
            Command::Ask(ask) => next = self.answer(ask.inquiry, now),
            Command::Drain { quiet } => self.drain(quiet, now),
            Command::Busy { reply } => {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(self.engine.occupancy());
            }
            Command::SayAll(number) => {
                if let Some(voice) = &mut self.voice {
                    voice.say_all(number, now);
                }
            }
            Command::Relay { session, batch } => relay(&mut self.sessions, session, &batch, &mut self.faults),
            Command::Stop => {
                self.stop(now);
                return Next::End;
            }
        }
        self.settle(now);
        next
    }

    /// Serves each session once; says whether there was anything to do. `obeyed`: commands have been obeyed before it.
    fn round(&mut self, now: Instant, obeyed: bool) -> bool {
        let mut worked = obeyed;
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(self.sessions.keys());
        for &id in &order {
            worked |= self.serve(id, now) > 0;
        }
        self.order = order;
        if self.engine.has_work() || self.engine.wakes_at().is_some_and(|moment| moment <= now) {
            self.step(Event::Tick, now);
            worked = true;
        }
        if let Some(voice) = &mut self.voice {
            worked |= voice.go_on(&self.engine, now);
        }
        if worked {
            self.settle(now);
            self.devices.submit();
            self.remote.submit();
            self.notify_all();
            self.tell_quiet();
            if let Some(voice) = &mut self.voice {
                voice.flush();
            }
            if let Some(tracer) = &mut self.tracer {
                tracer.flush();
            }
        }
        worked
    }

    /// When there will be something to do, whoever says what.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let voice = self.voice.as_ref().and_then(Voice::wakes_at);
        self.engine.wakes_at().into_iter().chain(voice).min()
    }

    /// Serves some of a session's requests; returns the bytes they had.
    fn serve(&mut self, id: SessionId, now: Instant) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut bytes = 0;
        for _ in 0..REQUESTS_PER_ROUND {
            let Some(session) = self.sessions.get_mut(&id) else {
                break;
            };
            let request = session.flush().and_then(|flushed| {
                if flushed {
                    Ok(session.end.requests().pop_into(&mut buffer)?)
                } else {
                    Ok(None)
                }
            });
            let result = match request {
                Ok(Some(request)) => {
                    session.touched = true;
                    bytes += request.len();
                    self.handle(id, request, now)
                }
                Ok(None) => break,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = result {
                self.cut_off(id, &fault, now);
            }
            self.settle(now);
            if bytes >= BYTES_PER_ROUND {
                break;
            }
        }
        self.buffer = buffer;
        // Whoever waits for this answer should not wait for the rest of the round.
        self.notify(id);
        bytes
    }

    fn handle(&mut self, id: SessionId, bytes: &[u8], now: Instant) -> Result<(), Fault> {
        let request = Request::decode(bytes)?;
        if let Some(session) = self.sessions.get_mut(&id) {
            if session.is_leaving() && !matters_afterwards(&request) {
                return Ok(());
            }
            session.check_answer(answer_bytes_max(&request))?;
        }
        let (mut room, mut run_room) = (group_room(), Vec::new());
        match todo(id, &request, &mut room, &mut run_room) {
            Todo::Step(event) => self.step_timed(event, now),
            Todo::Counters(tag) => self.answer_counters(id, tag, now)?,
            Todo::Events(credit) => credit_relay(self.voice.as_mut(), self.sessions.get_mut(&id), credit)?,
            Todo::Trace(said) => trace::take(self.tracer.as_mut(), id, self.sessions.get(&id), &said),
            Todo::Close => self.end(id, SessionEnd::Closed, now),
            Todo::TooManyGroups => return Err(Fault::Other("it names more groups than there can be")),
        }
        Ok(())
    }

    /// A look-up's time is counted, unless it waits for a lower tier: the engine counts that.
    fn step_timed(&mut self, event: Event<'_>, now: Instant) {
        let began = matches!(event, Event::Lookup { .. }).then(Instant::now);
        self.step(event, now);
        let waits = || {
            self.effects.list.iter().any(|effect| {
                let Effect::Complete { completion, .. } = effect else {
                    return false;
                };
                matches!(completion, kvstore_engine::Completion::LookupPending { .. })
            })
        };
        if let Some(began) = began.filter(|_| !waits()) {
            self.lookups.record(began.elapsed());
        }
    }

    pub(super) fn step(&mut self, event: Event<'_>, now: Instant) {
        self.effects.clear();
        if let Some(tracer) = &mut self.tracer {
            tracer.before(&event);
        }
        self.engine.step(now, event, &mut self.effects);
        apply(
            &self.tenant,
            &self.effects,
            &mut self.sessions,
            &mut Joined {
                devices: &mut self.devices,
                remote: &mut self.remote,
            },
            &mut self.scratch,
            &mut self.faults,
        );
        if let Some(voice) = &mut self.voice {
            voice.hear(&self.effects, &self.engine, &self.sessions);
        }
        if let Some(tracer) = &mut self.tracer {
            tracer.hear(&self.effects, &self.sessions);
        }
    }

    /// Cuts off the sessions that a step found at fault, and those that this finds at fault in turn.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some((session, fault)) = self.faults.pop() {
            self.cut_off(session, &fault, now);
        }
    }

    fn answer_counters(&mut self, id: SessionId, tag: Tag, now: Instant) -> Result<(), Fault> {
        let engines = self.sessions.values();
        let pods = pods(engines.map(|session| (session.pod.as_str(), session.model.as_str())));
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        let mut about = About {
            tenant: &self.tenant,
            region_bytes: self.region_bytes,
            draining: self.draining,
            since: self.since,
            nvme: self.devices.show(&self.engine),
            remote: self.remote.show(),
            pods,
            events: self.voice.as_ref().map(Voice::count).unwrap_or_default(),
        };
        let (counters, occupancy) = (self.engine.counters(), self.engine.occupancy());
        let mut json = render(&about, now, counters, &occupancy);
        let bytes = Completion::Counters { tag, json: &json }.wire_bytes();
        if session.check_answer(bytes).is_err() {
            // Many devices or engines and the smallest of rings: the counters matter more.
            about.nvme = serde_json::Value::Null;
            about.remote = serde_json::Value::Null;
            about.pods = serde_json::Value::Null;
            about.events = serde_json::Value::Null;
            json = render(&about, now, counters, &occupancy);
        }
        session.send(&Completion::Counters { tag, json: &json })
    }

    fn attach(&mut self, attach: Attach, now: Instant) {
        let (id, process, profile) = (attach.session, attach.process, attach.profile.clone());
        self.sessions.insert(id, Session::new(attach, now));
        self.step(
            Event::SessionOpened {
                session: id,
                process,
                profile,
            },
            now,
        );
        if let Some(session) = self.sessions.get(&id)
            && let Err(error) = watch(&self.epoll, session.end.doorbell(), id.0)
        {
            warn!(tenant = self.tenant, session = id.0, %error, "could not watch the doorbell");
            self.end(id, SessionEnd::Closed, now);
        }
        self.notify_all();
    }

    /// The socket is closed. What the client gave back before that still counts, a good-bye above all.
    pub(super) fn hung_up(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.leave();
        // Somebody may still be writing, so the ring need not ever be empty.
        let mut left = session.end.requests().capacity();
        while left > 0 {
            let bytes = self.serve(id, now);
            if bytes == 0 {
                break;
            }
            left = left.saturating_sub(bytes);
        }
        self.end(id, SessionEnd::HungUp, now);
        self.settle(now);
    }

    fn process_died(&mut self, process: ProcessId, now: Instant) {
        let ids: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| session.process == process)
            .map(|session| session.id)
            .collect();
        for id in ids {
            self.hung_up(id, now);
        }
        self.step(Event::ProcessDied { process }, now);
        self.tell_quiet();
    }

    fn stop(&mut self, now: Instant) {
        while let Some((&id, _)) = self.sessions.first_key_value() {
            self.end(id, SessionEnd::HungUp, now);
        }
        self.drops.tell_now(&self.tenant, now, self.engine.counters());
        if let Some(voice) = &mut self.voice {
            voice.flush();
        }
        if let Some(tracer) = &mut self.tracer {
            tracer.stop();
        }
        // What the last rounds ordered is still carried out; the answers are nobody's business any more.
        self.devices.submit();
        self.remote.submit();
        self.remote.shutdown(&self.tenant);
        self.devices.shutdown();
    }

    /// Ends a session in good order, or after its client went away.
    fn end(&mut self, id: SessionId, how: SessionEnd, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.forget(&session);
        self.step(
            Event::SessionEnded {
                session: id,
                end: how,
            },
            now,
        );
        debug!(tenant = self.tenant, session = id.0, end = ?how, "session ended");
        session.finish(how);
    }

    /// Ends a session whose client is at fault.
    fn cut_off(&mut self, id: SessionId, fault: &Fault, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.forget(&session);
        warn!(tenant = self.tenant, session = id.0, process = session.process.0, reason = %fault, "client cut off");
        // The engine has ended the session already if it was the one to find fault.
        if !matches!(fault, Fault::Violation(_)) {
            self.step(
                Event::SessionEnded {
                    session: id,
                    end: SessionEnd::HungUp,
                },
                now,
            );
        }
        session.finish(SessionEnd::HungUp);
    }

    fn forget(&mut self, session: &Session) {
        if let Some(voice) = &mut self.voice {
            voice.session_ended(session.id);
        }
        // Not watched yet, or gone with its last descriptor: either way it is not watched now.
        let _ = epoll::delete(&self.epoll, session.end.doorbell());
    }

    fn notify(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            // A client that closed its end of the bell is found by the next sleep, which hears that, and is then
            // ended in good order: what it said before still counts.
            let _ = session.notify();
        }
    }

    pub(super) fn notify_all(&mut self) {
        for session in self.sessions.values_mut() {
            let _ = session.notify();
        }
    }
}
