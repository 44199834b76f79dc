//! What has been announced, on file: if this daemon is killed, the next one takes back what is gone (`LEDGER.md`).
//!
//! Always
//! - A block and a name are in the ledger before any router is told of them: [`Ledger::note`] takes the model's journal after each
//!   slice of changes, while the model is still locked.
//! - They leave it only when everybody has been told that they are gone, and that has arrived.
//! - What cannot be written is not waited for. Without a ledger everything goes on as if there had never been one.

mod file;
mod format;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use kvstore_types::{NamespaceId, Tier};
use tracing::{info, warn};

use self::file::Draft;
use self::format::{Batch, BlockNote, Contents};
use crate::book::{Book, INHERITED, Inheritance, Record, TOPIC_PREFIX, TenantIndex, Topic};
use crate::feed::NamespaceShape;

/// Bytes of a batch when everything is written anew.
const CHUNK_BYTES: usize = 256 << 10;
/// Most names that are kept after they are gone.
const NAMES_GONE_MAX: usize = 1024;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_mins(1);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerLimits {
    /// Most blocks that are announced and written when everything is written anew; those that are not on NVMe first.
    pub(crate) blocks: usize,
    /// Records beyond as many as were written then before everything is written anew again, at least.
    pub(crate) history: usize,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self {
            blocks: 1 << 19,
            history: 1 << 17,
        }
    }
}

/// How a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Told,
    /// It is gone since this version of the topics, and may still have to be taken back somewhere.
    Gone(u64),
}

/// What a namespace was written down as.
#[derive(Debug)]
struct Space {
    number: u32,
    shape: Option<Arc<NamespaceShape>>,
}

/// The ledger of a running daemon.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    media: [String; 3],
    limits: LedgerLimits,
    /// None after a failure.
    file: Option<File>,
    failed_at: Option<Instant>,
    batch: Batch,
    topics_version: u64,
    names: BTreeMap<Topic, Name>,
    spaces: HashMap<(TenantIndex, NamespaceId), Space>,
    /// What was inherited is in it as well.
    has_inheritance: bool,
    /// Records in the file, and how many there were when it was written anew.
    records: usize,
    records_anew: usize,
}

impl Ledger {
    /// Begins a new one, with what an earlier daemon has left ([`inherited`]), which the model takes over.
    pub(crate) fn open(
        path: &Path,
        media: &[String; 3],
        limits: LedgerLimits,
        inheritance: Option<Inheritance>,
        book: &mut Book,
    ) -> Self {
        if let Some(inheritance) = inheritance {
            book.inherit(inheritance);
        }
        let mut ledger = Self {
            path: path.to_owned(),
            media: media.clone(),
            limits,
            file: None,
            failed_at: None,
            batch: Batch::new(),
            topics_version: 0,
            names: BTreeMap::new(),
            spaces: HashMap::new(),
            has_inheritance: false,
            records: 0,
            records_anew: 0,
        };
        ledger.write_anew(book);
        ledger
    }

    /// Writes down what has changed. Nobody may be told of it before.
    pub(crate) fn note(&mut self, book: &mut Book) {
        if book.is_over() {
            // What is in it now is what may not have been taken back at the end.
            book.keep_journal(false);
            return;
        }
        if self.file.is_none() {
            if self.failed_at.is_none_or(|at| at.elapsed() >= RETRY) {
                self.write_anew(book);
            }
            return;
        }
        let is_settled = self.has_inheritance && book.inheritance().is_none();
        let is_long = self.records > self.records_anew.max(self.limits.history) + self.records_anew;
        if is_settled || is_long {
            return self.write_anew(book);
        }
        self.note_names(book);
        self.note_blocks(book);
        if self.batch.records == 0 {
            return;
        }
        self.records += self.batch.records;
        let batch = self.batch.seal(book.announcements().head(), book.arrived_to());
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(batch));
        self.batch.clear();
        if let Err(cause) = written {
            self.failed(&cause, book);
        }
    }

    /// The end: what everybody has been told is gone is not remembered.
    pub(crate) fn finish(mut self, book: &mut Book) {
        if !book.is_over() || book.withdrawn_to() < book.topics_version() {
            return;
        }
        if book.inheritance().is_some() {
            return self.write_anew(book);
        }
        if let Err(cause) = file::discard(&self.path) {
            warn!(path = %self.path.display(), %cause, "could not remove the ledger of what was announced");
        }
    }

    fn note_names(&mut self, book: &Book) {
        if self.topics_version != book.topics_version() {
            self.topics_version = book.topics_version();
            for topic in book.topics().iter().filter(|topic| is_ours(topic)) {
                if self.names.insert(topic.clone(), Name::Told).is_none() {
                    let number = self.number(book, topic.tenant, topic.namespace);
                    self.batch.name(number, topic, true);
                }
            }
            for (topic, name) in &mut self.names {
                if *name == Name::Told && !book.topics().contains(topic) {
                    *name = Name::Gone(self.topics_version);
                }
            }
            self.forget_names();
        }
        let withdrawn_to = book.withdrawn_to();
        let is_over = |name: &Name| matches!(name, Name::Gone(version) if *version <= withdrawn_to);
        if self.names.values().any(is_over) {
            for (topic, _) in self.names.extract_if(.., |_, name| is_over(name)) {
                if let Some(space) = self.spaces.get(&(topic.tenant, topic.namespace)) {
                    self.batch.name(space.number, &topic, false);
                }
            }
        }
    }

    /// A router that is away for good would have every name kept that is gone since: those that went first are not remembered.
    fn forget_names(&mut self) {
        let gone = |name: &Name| matches!(name, Name::Gone(_)).then_some(*name);
        let mut versions: Vec<_> = self.names.values().filter_map(gone).collect();
        if versions.len() <= NAMES_GONE_MAX {
            return;
        }
        versions.sort_unstable();
        let last = versions[versions.len() - NAMES_GONE_MAX - 1];
        for (topic, _) in self
            .names
            .extract_if(.., |_, name| *name != Name::Told && *name <= last)
        {
            if let Some(space) = self.spaces.get(&(topic.tenant, topic.namespace)) {
                self.batch.name(space.number, &topic, false);
            }
        }
    }

    fn note_blocks(&mut self, book: &mut Book) {
        let mut last = None;
        for entry in book.journal() {
            let place = (entry.tenant, entry.key.namespace);
            let number = match last {
                Some((known, number)) if known == place => number,
                _ => self.number(book, entry.tenant, entry.key.namespace),
            };
            last = Some((place, number));
            let note = if entry.is_announced {
                BlockNote::Came
            } else {
                BlockNote::Went
            };
            self.batch.block(note, number, entry.key.group, &entry.key.hash);
        }
        book.clear_journal();
    }

    /// The number of a namespace, which is written down if it is new or looks otherwise now.
    fn number(&mut self, book: &Book, tenant: TenantIndex, id: NamespaceId) -> u32 {
        let shape = book
            .namespace(tenant, id)
            .and_then(|namespace| namespace.shape.as_ref());
        let is_known = |space: &&Space| match (&space.shape, shape) {
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        if let Some(space) = self.spaces.get(&(tenant, id)).filter(is_known) {
            return space.number;
        }
        let next = u32::try_from(self.spaces.len()).unwrap_or(u32::MAX);
        let space = self.spaces.entry((tenant, id)).or_insert(Space {
            number: next,
            shape: None,
        });
        space.shape = shape.cloned();
        self.batch.space(space.number, tenant, id, shape.map(Arc::as_ref));
        space.number
    }

    /// Writes everything that there is to remember into a new file, and says so if that fails.
    fn write_anew(&mut self, book: &mut Book) {
        self.file = None;
        self.batch.clear();
        match self.try_to_write_anew(book) {
            Ok(file) => {
                if self.failed_at.take().is_some() {
                    info!(path = %self.path.display(), "the ledger of what is announced is kept again");
                }
                self.file = Some(file);
                book.keep_journal(true);
            }
            Err(cause) => self.failed(&cause, book),
        }
    }

    fn try_to_write_anew(&mut self, book: &Book) -> io::Result<File> {
        let mut draft = Draft::begin(&self.path)?;
        draft.write(&format::header())?;
        self.spaces.clear();
        self.records = 0;
        self.batch.media(&self.media.clone());
        for (topic, _) in std::mem::take(&mut self.names) {
            // It may be told or gone by now: found out below, and not forgotten meanwhile.
            let number = self.number(book, topic.tenant, topic.namespace);
            self.batch.name(number, &topic, true);
            self.names.insert(topic, Name::Told);
        }
        self.topics_version = u64::MAX;
        self.note_names(book);
        if !book.is_over() {
            self.put_blocks(book, &mut draft)?;
            self.put_owed(book, &mut draft)?;
        }
        if let Some(inheritance) = book.inheritance() {
            self.put_inheritance(inheritance, &mut draft)?;
        }
        self.has_inheritance = book.inheritance().is_some();
        self.put(&mut draft, 0)?;
        self.records_anew = self.records;
        draft.finish()
    }

    /// Blocks that are announced: first those that are lost with the daemon's memory.
    fn put_blocks(&mut self, book: &Book, draft: &mut Draft) -> io::Result<()> {
        let is_on_nvme = |record: &&Record| record.tiers.contains(Tier::Nvme);
        let announced = || book.places().iter().filter(|record| record.stamp != 0);
        let first = announced().filter(|record| !is_on_nvme(record));
        let then = announced().filter(is_on_nvme);
        for record in first.chain(then).take(self.limits.blocks) {
            let (tenant, key) = book.key_of(record);
            let number = self.number(book, tenant, key.namespace);
            self.batch.block(BlockNote::Came, number, key.group, &key.hash);
            self.put(draft, CHUNK_BYTES)?;
        }
        Ok(())
    }

    /// Blocks that are gone, which may not have arrived everywhere.
    fn put_owed(&mut self, book: &Book, draft: &mut Draft) -> io::Result<()> {
        let among = book.arrived_to()..book.announcements().head();
        let (owed, _) = book.removals(among, usize::MAX);
        for debt in owed.iter().filter(|debt| debt.is_gone) {
            let key = &debt.key;
            let number = self.number(book, debt.tenant, key.namespace);
            self.batch.block(BlockNote::Owed, number, key.group, &key.hash);
            self.put(draft, CHUNK_BYTES)?;
        }
        Ok(())
    }

    fn put_inheritance(&mut self, inheritance: &Inheritance, draft: &mut Draft) -> io::Result<()> {
        for (id, space) in inheritance.spaces() {
            let number = u32::try_from(self.spaces.len()).unwrap_or(u32::MAX);
            let shape = space.shape.clone();
            self.batch.space(number, INHERITED, id, shape.as_deref());
            self.spaces.insert((INHERITED, id), Space { number, shape });
            for topic in inheritance.names().iter().filter(|topic| topic.namespace == id) {
                self.batch.name(number, topic, true);
            }
            for (group, hash) in &space.blocks {
                self.batch.block(BlockNote::Owed, number, *group, hash);
                self.put(draft, CHUNK_BYTES)?;
            }
        }
        Ok(())
    }

    /// Puts the batch into the draft if it has so many bytes.
    fn put(&mut self, draft: &mut Draft, bytes_min: usize) -> io::Result<()> {
        if self.batch.len() < bytes_min {
            return Ok(());
        }
        self.records += self.batch.records;
        let result = draft.write(self.batch.seal(0, 0));
        self.batch.clear();
        result
    }

    fn failed(&mut self, cause: &io::Error, book: &mut Book) {
        self.file = None;
        // What is in the model is written down as soon as that is possible.
        book.keep_journal(false);
        if self.failed_at.replace(Instant::now()).is_none() {
            warn!(
                path = %self.path.display(),
                %cause,
                "what is announced cannot be written down; if this daemon is killed, routers that listen go on to believe in \
                 what it had in memory (tried again every minute)"
            );
        }
    }
}

/// Whether routers hear of it as this daemon's: what a relay was told its connector takes back, and under a pool's name there is
/// what the store has, which outlives the daemon and is other nodes' as well.
fn is_ours(topic: &Topic) -> bool {
    topic.name.starts_with(TOPIC_PREFIX) && !topic.is_partial
}

/// What an earlier daemon has left, as far as it can be read.
pub(crate) fn inherited(path: &Path, media: &[String; 3]) -> Option<Inheritance> {
    let lost = |cause: &dyn std::fmt::Display| {
        warn!(
            path = %path.display(),
            %cause,
            "what an earlier daemon had announced cannot be read; routers that listened to it may believe in blocks that are gone"
        );
    };
    let bytes = match file::read(path) {
        Ok(bytes) => bytes?,
        Err(cause) => {
            lost(&cause);
            return None;
        }
    };
    match format::read(&bytes, media) {
        Ok(Contents {
            inheritance,
            torn_bytes,
        }) => {
            if inheritance.blocks() == 0 {
                if torn_bytes > 0 {
                    lost(&"it is damaged from its beginning on");
                }
                return None;
            }
            info!(
                names = inheritance.names().len(),
                blocks = inheritance.blocks(),
                torn_bytes,
                "an earlier daemon did not take back what it had announced"
            );
            Some(inheritance)
        }
        Err(cause) => {
            lost(&cause);
            None
        }
    }
}

#[cfg(test)]
mod tests;
