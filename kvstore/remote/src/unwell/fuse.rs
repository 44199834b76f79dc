//! A file system of ours, in memory, that delays, hangs, fails and corrupts: for what real mounts do when they are unwell.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

/// What is done, and can be disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Looking for names, listing.
    Look,
    /// Reading bytes.
    Read,
    /// Everything that changes something.
    Write,
}

/// What is wrong with the mount.
#[derive(Default)]
struct Trouble {
    /// All calls wait.
    hangs: bool,
    delay: Duration,
    errors: Vec<(Call, Errno)>,
    /// Bits of read bytes that are turned.
    flip: Option<usize>,
    /// Most bytes of a file that are given back.
    short: Option<usize>,
    calls: u64,
}

struct Node {
    kind: FileType,
    data: Vec<u8>,
    children: BTreeMap<String, u64>,
    links: u32,
    modified: SystemTime,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    trouble: Trouble,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The mounted file system.
pub struct Fuse {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    /// Where it is mounted.
    pub place: TempDir,
}

impl std::fmt::Debug for Fuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fuse")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Fuse {
    /// Mounts it; `None`, and a word about it, where that is not possible.
    pub fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let shared = Arc::<Shared>::default();
        let mut state = shared.state.lock().unwrap();
        state.nodes.insert(ROOT, Node::new(FileType::Directory));
        state.next = ROOT;
        drop(state);
        let mut config = Config::default();
        config.n_threads = Some(1);
        match fuser::spawn_mount(Calls(shared.clone()), place.path(), &config) {
            Ok(session) => Some(Self {
                shared,
                session: Some(session),
                place,
            }),
            Err(error) => {
                println!("SKIPPED: no file system can be mounted here: {error}");
                None
            }
        }
    }

    /// Every call waits from now on, or none does any more.
    pub fn hang(&self, hangs: bool) {
        self.shared.state.lock().unwrap().trouble.hangs = hangs;
        self.shared.changed.notify_all();
    }

    /// Every call takes so long from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.lock().unwrap().trouble.delay = delay;
    }

    /// Such calls end with this error from now on.
    pub fn fail(&self, call: Call, errno: i32) {
        let mut state = self.shared.state.lock().unwrap();
        state.trouble.errors.push((call, Errno::from_i32(errno)));
    }

    /// A bit of this byte of each file is turned when it is read.
    pub fn flip(&self, at: usize) {
        self.shared.state.lock().unwrap().trouble.flip = Some(at);
    }

    /// No more bytes than these are given back of any file.
    pub fn shorten(&self, bytes: usize) {
        self.shared.state.lock().unwrap().trouble.short = Some(bytes);
    }

    /// All is well.
    pub fn calm(&self) {
        self.shared.state.lock().unwrap().trouble = Trouble::default();
        self.shared.changed.notify_all();
    }

    /// How many calls there were since the last trouble began.
    pub fn calls(&self) -> u64 {
        self.shared.state.lock().unwrap().trouble.calls
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.calm();
        // Whoever holds a directory of it open would keep it mounted.
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.place.path())
            .status();
        drop(self.session.take());
    }
}

impl Node {
    fn new(kind: FileType) -> Self {
        Self {
            kind,
            data: Vec::new(),
            children: BTreeMap::new(),
            links: 1,
            modified: SystemTime::now(),
        }
    }
}

impl State {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let node = self.nodes.get(&ino)?;
        Some(FileAttr {
            ino: INodeNo(ino),
            size: node.data.len() as u64,
            blocks: node.data.len().div_ceil(512) as u64,
            atime: node.modified,
            mtime: node.modified,
            ctime: node.modified,
            crtime: node.modified,
            kind: node.kind,
            perm: 0o770,
            nlink: node.links,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let parent = self.nodes.get(&parent)?;
        parent.children.get(name.to_str()?).copied()
    }

    fn add(&mut self, parent: u64, name: &OsStr, kind: FileType) -> Option<FileAttr> {
        self.next += 1;
        let ino = self.next;
        self.nodes.insert(ino, Node::new(kind));
        self.link(parent, name, ino);
        self.attr(ino)
    }

    fn link(&mut self, parent: u64, name: &OsStr, ino: u64) {
        let name = name.to_str().unwrap().to_owned();
        let parent = self.nodes.get_mut(&parent).unwrap();
        parent.children.insert(name, ino);
    }

    fn unlink(&mut self, parent: u64, name: &OsStr) -> bool {
        let parent = self.nodes.get_mut(&parent).unwrap();
        parent.children.remove(name.to_str().unwrap()).is_some()
    }
}

/// What the kernel calls.
struct Calls(Arc<Shared>);

impl Calls {
    /// The state, when it is the call's turn; or the error it has to end with.
    fn enter(&self, call: Call) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.0.state.lock().unwrap();
        state.trouble.calls += 1;
        while state.trouble.hangs {
            state = self.0.changed.wait(state).unwrap();
        }
        let delay = state.trouble.delay;
        if !delay.is_zero() {
            drop(state);
            std::thread::sleep(delay);
            state = self.0.state.lock().unwrap();
        }
        match state.trouble.errors.iter().find(|(failing, _)| *failing == call) {
            Some((_, errno)) => Err(*errno),
            None => Ok(state),
        }
    }
}

/// Ends a call with an error, or gives what it has.
macro_rules! entered {
    ($result:expr, $reply:expr) => {
        match $result {
            Ok(found) => found,
            Err(errno) => return $reply.error(errno),
        }
    };
}

impl Filesystem for Calls {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = entered!(self.enter(Call::Look), reply);
        match state.child(parent.0, name).and_then(|ino| state.attr(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let state = entered!(self.enter(Call::Look), reply);
        match state.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = entered!(self.enter(Call::Write), reply);
        let Some(node) = state.nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(size) = size {
            node.data.resize(usize::try_from(size).unwrap(), 0);
        }
        if let Some(TimeOrNow::SpecificTime(time)) = mtime {
            node.modified = time;
        }
        reply.attr(&TTL, &state.attr(ino.0).unwrap());
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut state = entered!(self.enter(Call::Write), reply);
        if state.child(parent.0, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        let attr = state.add(parent.0, name, FileType::Directory).unwrap();
        reply.entry(&TTL, &attr, Generation(0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut state = entered!(self.enter(Call::Write), reply);
        let attr = state.add(parent.0, name, FileType::RegularFile).unwrap();
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = entered!(self.enter(Call::Write), reply);
        // The node stays: somebody may have it open. It is a test.
        if state.unlink(parent.0, name) {
            reply.ok();
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = entered!(self.enter(Call::Write), reply);
        let Some(ino) = state.child(parent.0, name) else {
            return reply.error(Errno::ENOENT);
        };
        state.unlink(parent.0, name);
        state.link(to.0, new, ino);
        reply.ok();
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = entered!(self.enter(Call::Write), reply);
        if state.child(parent.0, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        state.link(parent.0, name, ino.0);
        reply.entry(&TTL, &state.attr(ino.0).unwrap(), Generation(0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = entered!(self.enter(Call::Read), reply);
        let Some(node) = state.nodes.get(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let length = state
            .trouble
            .short
            .map_or(node.data.len(), |short| short.min(node.data.len()));
        let start = usize::try_from(offset).unwrap().min(length);
        let end = (start + size as usize).min(length);
        let mut bytes = node.data[start..end].to_vec();
        if let Some(at) = state.trouble.flip
            && (start..end).contains(&at)
        {
            bytes[at - start] ^= 4;
        }
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = entered!(self.enter(Call::Write), reply);
        let Some(node) = state.nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let start = usize::try_from(offset).unwrap();
        let end = start + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[start..end].copy_from_slice(data);
        node.modified = SystemTime::now();
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        drop(entered!(self.enter(Call::Write), reply));
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = entered!(self.enter(Call::Look), reply);
        let Some(node) = state.nodes.get(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let from = usize::try_from(offset).unwrap();
        for (number, (name, child)) in node.children.iter().enumerate().skip(from) {
            let kind = state.nodes[child].kind;
            if reply.add(INodeNo(*child), number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
