//! One client's session.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connector_shm::{
    Attachment, ClientEnd, Completion, DoorbellError, MessageBuffer, Request, Role, hung_up,
};
use kvstore_types::{BootEpoch, NamespaceId, SlotRef, Tag};

use super::attach::{Attacher, is_passing};
use super::guardian::Guardian;
use super::view::{GroupWindow, View};
use super::{Reattach, SessionOptions};
use crate::ClientError;
use crate::copier::SlotWindow;

/// How often the socket is looked at while polling: a daemon's death is noticed this late at most.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(5);

/// Tag of a reset that is repeated by the session itself; its answer is not given out.
const RESET_AGAIN: u64 = u64::MAX;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Not attached.
    Lost,
    /// Attached; other ranks of the engine are missing.
    Waiting,
    /// Attached, and the namespace is known.
    Ready,
    /// The daemon shuts down: loads are served, nothing is reserved.
    Draining,
}

/// A session at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Where it stands.
    pub state: SessionState,
    /// Groups of the namespace; 0 until it is known.
    pub group_count: usize,
    /// Grows by one at each attachment; 0: never attached.
    pub attachment: u64,
    /// The daemon's boot, as of the last attachment.
    pub boot_epoch: BootEpoch,
    /// The namespace, once known.
    pub namespace: Option<NamespaceId>,
    /// Bytes of the region as of the last attachment; 0: never attached.
    pub region_bytes: u64,
}

/// A session with the daemon. Used by one thread at a time; may move between threads.
///
/// Dropping a session hangs up: what it reserved and leased stays out of use until the process is dead. Say
/// [`close`](Self::close) to give it back at once.
#[derive(Debug)]
pub struct Session {
    attacher: Arc<Attacher>,
    link: Option<Link>,
    /// The last attachment's. After a loss it still knows the layouts, but not the region.
    view: Option<View>,
    attachments: u64,
    lost_because: String,
    /// The engine left its namespace: each new attachment is told so before anything else.
    was_reset: bool,
    /// With [`Reattach::Background`].
    guardian: Option<Guardian>,
    /// What `poll` gave out last: stays untouched until the next `poll`.
    delivered: MessageBuffer,
    /// Where messages are copied to.
    incoming: MessageBuffer,
    /// `incoming` holds an answer that `poll` has not given out yet.
    pending: bool,
    /// The state that the caller knows of.
    pub(super) told: SessionState,
    liveness_checked: Instant,
}

/// Sessions may move between threads: C programs are told so.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<Session>();
};

/// What is shared with a living daemon.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Arc<UnixStream>,
    pub(super) end: ClientEnd,
    /// What the daemon understands beside what every daemon does.
    pub(super) daemon_minor: u16,
    /// Whether the daemon records traces, and of what.
    pub(super) traces_below: Option<u64>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The guardian may hold the socket a moment longer; the daemon shall see the hang-up now.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Session {
    /// Attaches, or says why not. With [`Reattach::Background`] a daemon that is not there is no failure: the session
    /// begins lost and keeps trying.
    pub fn open(options: SessionOptions) -> Result<Self, ClientError> {
        let attacher = Arc::new(Attacher::new(options)?);
        let guardian = match attacher.options().reattach {
            Reattach::Never => None,
            Reattach::Background => Some(Guardian::new(Arc::clone(&attacher))?),
        };
        let mut session = Self {
            attacher,
            link: None,
            view: None,
            attachments: 0,
            lost_because: "it was never there".to_owned(),
            was_reset: false,
            guardian,
            delivered: MessageBuffer::new(),
            incoming: MessageBuffer::new(),
            pending: false,
            told: SessionState::Lost,
            liveness_checked: Instant::now(),
        };
        match session.attacher.attach() {
            Ok(attachment) => session.adopt(attachment),
            Err(error) if is_passing(&error) && session.guardian.is_some() => {
                session.lose(error.to_string());
            }
            Err(error) => return Err(error),
        }
        session.told = session.state();
        if let Some(guardian) = &session.guardian {
            guardian.start()?;
        }
        Ok(session)
    }

    /// Says good-bye: promises that no copy of this session is under way, so that the daemon can give its slots to
    /// others at once. Never blocks. If the request ring is full the daemon only sees the hang-up.
    pub fn close(mut self) {
        if let Some(link) = &mut self.link {
            // The session is over in either case; a daemon that is gone needs no good-bye.
            let _ = link.end.send(&Request::Close);
            let _ = link.end.notify();
        }
    }

    /// What the session was opened with.
    pub fn options(&self) -> &SessionOptions {
        self.attacher.options()
    }

    /// Where the session stands now. Reads memory only, unless a reattachment is finished: then this call, and no
    /// other, adopts it.
    pub fn info(&mut self) -> SessionInfo {
        let found = self.look();
        self.told = found.state;
        found
    }

    /// The same for ourselves.
    pub(super) fn look(&mut self) -> SessionInfo {
        if self.guardian.as_ref().is_some_and(Guardian::is_away) {
            self.follow_guardian();
        }
        if self.link.is_some() {
            // A loss that is found here is part of the answer.
            let _ = self.pump();
        }
        let view = self.view.as_ref();
        SessionInfo {
            state: self.state(),
            group_count: view.map_or(0, View::group_count),
            attachment: self.attachments,
            boot_epoch: view.map_or(BootEpoch([0; 16]), |view| view.boot_epoch),
            namespace: view.and_then(|view| view.namespace),
            region_bytes: view.map_or(0, View::region_bytes),
        }
    }

    /// The next answer, if one has come. It stays valid until the next call. [`Completion::NamespaceReady`] and
    /// [`Completion::Draining`] never appear: they show in [`info`](Self::info).
    pub fn poll(&mut self) -> Result<Option<Completion<'_>>, ClientError> {
        self.pump()?;
        if !self.pending {
            self.check_liveness()?;
            return Ok(None);
        }
        self.pending = false;
        std::mem::swap(&mut self.delivered, &mut self.incoming);
        let completion = Completion::decode(self.delivered.message());
        completion
            .map(Some)
            .map_err(|error| ClientError::PeerMisbehaved(error.to_string()))
    }

    /// This session's part of a group's slots. Known once the session is ready, and after a loss still.
    pub fn group_layout(&self, group: u32) -> Result<GroupWindow, ClientError> {
        self.view()?.layout(group)
    }

    /// This worker's part of the slots of a group, for a copier. Belongs to the attachment as it is now.
    pub fn copy_window(&self, group: u32) -> Result<SlotWindow, ClientError> {
        match self.role() {
            Role::Worker(_) => self.view()?.window(group, self.role()),
            Role::Scheduler | Role::Observer => Err(ClientError::Unsupported("copying, except by a worker,")),
        }
    }

    /// Where a slot lies: this rank's part of it, or the whole slot in a scheduler's session. Void as soon as a call
    /// has said that the session is lost.
    pub fn slot_address(&self, slot: SlotRef, group: u32) -> Result<(*mut u8, u64), ClientError> {
        self.view()?.address(slot, group, self.role())
    }

    pub(super) fn role(&self) -> Role {
        self.options().role
    }

    fn state(&self) -> SessionState {
        match (&self.link, &self.view) {
            (Some(_), Some(View { draining: true, .. })) => SessionState::Draining,
            (
                Some(_),
                Some(View {
                    namespace: Some(_), ..
                }),
            ) => SessionState::Ready,
            (Some(_), _) => SessionState::Waiting,
            (None, _) => SessionState::Lost,
        }
    }

    fn view(&self) -> Result<&View, ClientError> {
        self.view.as_ref().ok_or_else(|| self.lost())
    }

    pub(super) fn link(&mut self) -> Result<&mut Link, ClientError> {
        match &mut self.link {
            Some(link) => Ok(link),
            None => Err(lost(&self.lost_because, self.guardian.as_ref())),
        }
    }

    pub(super) fn link_now(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    pub(super) fn lost(&self) -> ClientError {
        lost(&self.lost_because, self.guardian.as_ref())
    }

    pub(super) fn guardian(&self) -> Option<&Guardian> {
        self.guardian.as_ref()
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending
    }

    /// Copies messages out of the ring until one is an answer; takes in what the daemon says unasked.
    pub(super) fn pump(&mut self) -> Result<(), ClientError> {
        let mut popped = false;
        while !self.pending {
            match self.pump_one() {
                Ok(false) => break,
                Ok(true) => popped = true,
                Err(error) => return Err(self.give_up(error)),
            }
        }
        if popped {
            let rung = self.link()?.end.notify();
            return self.after_ringing(rung);
        }
        Ok(())
    }

    /// Whether there was a message.
    fn pump_one(&mut self) -> Result<bool, ClientError> {
        let misbehaved = |error: &dyn std::error::Error| ClientError::PeerMisbehaved(error.to_string());
        let Self {
            link, incoming, view, ..
        } = self;
        let (Some(link), Some(view)) = (link, view) else {
            return Err(self.lost());
        };
        let message = link.end.completions().pop_into(incoming);
        let Some(message) = message.map_err(|error| misbehaved(&error))? else {
            return Ok(false);
        };
        let completion = Completion::decode(message).map_err(|error| misbehaved(&error))?;
        let is_repeated = matches!(
            completion,
            Completion::Reset {
                tag: Tag(RESET_AGAIN),
                ..
            }
        );
        let unasked = view.absorb(&completion, self.attacher.options().groups.len())? || is_repeated;
        self.pending = !unasked;
        Ok(true)
    }

    /// Looks at the socket if that was not done lately.
    pub(super) fn check_liveness(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        if now.duration_since(self.liveness_checked) < LIVENESS_INTERVAL {
            return Ok(());
        }
        self.liveness_checked = now;
        let link = self.link()?;
        match hung_up(link.socket.as_fd()) {
            Ok(false) => Ok(()),
            Ok(true) => Err(self.lose("it closed the connection".to_owned())),
            Err(error) => Err(self.lose(format!("its connection failed: {error}"))),
        }
    }

    /// The end of a ring of the doorbell: a daemon that closed it is gone.
    pub(super) fn after_ringing(&mut self, rung: Result<(), DoorbellError>) -> Result<(), ClientError> {
        rung.map_err(|error| self.lose(error.to_string()))
    }

    /// Loses the session over something the daemon did; the error is what the caller hears.
    pub(super) fn give_up(&mut self, error: ClientError) -> ClientError {
        if self.link.is_some() {
            self.lose(error.to_string());
        }
        error
    }

    /// Ends the attachment: what was under way is void, and the region is given back.
    pub(super) fn lose(&mut self, because: String) -> ClientError {
        self.link = None;
        self.pending = false;
        self.lost_because = because;
        if let Some(view) = &self.view {
            view.region.release();
        }
        if let Some(guardian) = &self.guardian {
            guardian.seek();
        }
        self.lost()
    }

    /// The guardian has seen the daemon go, and perhaps another come.
    fn follow_guardian(&mut self) {
        if self.link.is_some() {
            self.lose("it closed the connection".to_owned());
        }
        if let Some(attachment) = self.guardian.as_ref().and_then(Guardian::take) {
            self.adopt(attachment);
        }
    }

    /// As if the daemon had said so.
    #[cfg(test)]
    pub(super) fn pretend_daemon_minor(&mut self, minor: u16) {
        if let Some(link) = &mut self.link {
            link.daemon_minor = minor;
        }
    }

    pub(super) fn remember_reset(&mut self) {
        self.was_reset = true;
    }

    fn adopt(&mut self, attachment: Attachment) {
        let Attachment {
            socket,
            end,
            region,
            boot_epoch,
            daemon_minor,
            traces_below,
            ..
        } = attachment;
        let (view, socket) = (View::new(region, boot_epoch), Arc::new(socket));
        if let Some(guardian) = &self.guardian {
            guardian.watch(Arc::clone(&socket), Arc::clone(&view.region));
        }
        self.view = Some(view);
        self.link = Some(Link {
            socket,
            end,
            daemon_minor,
            traces_below,
        });
        self.attachments += 1;
        self.pending = false;
        self.liveness_checked = Instant::now();
        if self.was_reset && self.reset(RESET_AGAIN).is_err() {
            self.lose("it could not be told of an earlier reset".to_owned());
        }
    }
}

fn lost(because: &str, guardian: Option<&Guardian>) -> ClientError {
    match guardian.and_then(Guardian::failure) {
        Some(failure) => ClientError::Lost(format!("{because}; attaching again: {failure}")),
        None => ClientError::Lost(because.to_owned()),
    }
}
