//! Carrying out one order, in a task of its own.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvstore_types::{BlockKey, Corruption, OperationId};

use super::claim::Claim;
use super::namespaces::Namespace;
use super::orders::{Progress, Work};
use super::read::{Proven, prove};
use super::shared::{Ended, Message, Shared};
use crate::backend::{Fault, Hold, Mode, Written};
use crate::format::{BlockHeader, HEADER_BYTES, block_name};
use crate::{Direction, FaultKind, Outcome, Presence, Refusal};

/// What a task has.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) operation: OperationId,
    pub(super) namespace: Arc<Namespace>,
    pub(super) payload_bytes: u64,
    pub(super) deadline: Instant,
    pub(super) claim: Claim,
    /// Dropped when the store is done with it.
    pub(super) hold: Hold,
}

/// Answers in any case: also when the task panics.
struct Answer<'t> {
    task: &'t Task,
    ended: Option<Ended>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let failed = || Outcome::Unavailable(FaultKind::Server).into();
        let ended = self.ended.take().unwrap_or_else(failed);
        self.task.shared.tell(Message::Ended(self.task.operation, ended));
    }
}

/// A fault or a refusal ends an order like any other outcome.
type Ends<T> = Result<T, Outcome>;

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.kind)
    }
}

impl Task {
    /// Does it, and tells the dispatcher.
    pub(super) async fn carry_out(self, work: Work) {
        let mut answer = Answer {
            task: &self,
            ended: None,
        };
        let ended = match work {
            Work::Store {
                key,
                descriptor,
                offset,
                mode,
            } => self.store(key, &descriptor, offset, mode).await.into(),
            Work::Fetch { key, offset } => self.fetch(key, offset).await,
            Work::Exists {
                unknown,
                until_missing,
                progress,
            } => self.look_up(&unknown, until_missing, &progress).await.into(),
            Work::Delete { key } => self.delete(key).await.into(),
        };
        // Nothing is awaited between the copy into a slot and this.
        answer.ended = Some(ended);
    }

    async fn store(&self, key: BlockKey, descriptor: &[u8], offset: u64, mode: Mode) -> Outcome {
        let object = match self.take_object(key, descriptor, offset) {
            Ok(object) => object,
            Err(outcome) => return outcome,
        };
        let (shared, name) = (&self.shared, block_name(&key));
        if let Err(outcome) = self.keep_namespace().await {
            return outcome;
        }
        let written = shared
            .attempts(Direction::Write, self.deadline, || {
                shared.backend.put(&name, object.clone(), mode, self.hold.clone())
            })
            .await;
        match written {
            Ok(Written::New) => {
                if mode == Mode::Replace {
                    shared.counters.lock().replaced += 1;
                }
                Outcome::Done
            }
            Ok(Written::AlreadyPresent) => Outcome::AlreadyPresent,
            Err(fault) => fault.into(),
        }
    }

    async fn keep_namespace(&self) -> Ends<()> {
        let shared = &self.shared;
        let is_kept = match self.namespace.is_kept(Instant::now()) {
            Some(is_kept) => is_kept,
            None => {
                shared
                    .attempts(Direction::Write, self.deadline, || {
                        self.namespace.keep(&*shared.backend)
                    })
                    .await?
            }
        };
        if is_kept {
            Ok(())
        } else {
            Err(Outcome::Refused(Refusal::NamespaceDiffers))
        }
    }

    /// Copies a block out of its slot; from then on the slot may change.
    fn take_object(&self, key: BlockKey, descriptor: &[u8], offset: u64) -> Ends<Bytes> {
        let shared = &self.shared;
        let bytes = HEADER_BYTES + self.payload_bytes;
        let bytes = usize::try_from(bytes).map_err(|_| Outcome::Refused(Refusal::Malformed))?;
        let mut object = shared.buffers.take(bytes);
        if !self.claim.begin() {
            return Err(Outcome::TimedOut);
        }
        let checksum = object.fill(&*shared.spec.memory, offset);
        self.claim.end();
        shared.tell(Message::Taken(self.operation));
        let checksum = checksum.ok_or(Outcome::Refused(Refusal::Malformed))?;
        let header = BlockHeader {
            key,
            payload_bytes: self.payload_bytes,
            checksum,
        };
        if let Some(page) = object.header_mut() {
            header.encode(descriptor, page);
        }
        Ok(Bytes::from_owner(object))
    }

    async fn fetch(&self, key: BlockKey, offset: u64) -> Ended {
        let proven = match self.read_proven(&key).await {
            Ok(proven) => proven,
            Err(outcome) => return outcome.into(),
        };
        if !self.claim.begin() {
            return Outcome::TimedOut.into();
        }
        // Not ended: the answer, which comes at once, ends it.
        let mut at = offset;
        for piece in &proven.payload {
            if !self.shared.spec.memory.copy_in(at, piece) {
                return Outcome::Refused(Refusal::Malformed).into();
            }
            at += piece.len() as u64;
        }
        Ended {
            outcome: Outcome::Done,
            descriptor: proven.descriptor,
        }
    }

    async fn read_proven(&self, key: &BlockKey) -> Ends<Proven> {
        self.check_namespace().await?;
        if let Ok(proven) = self.read(key).await? {
            return Ok(proven);
        }
        // It may have been changed on its way, so it is read once more before it is called damaged.
        let again = self.read(key).await?;
        if again.is_ok() {
            self.shared.counters.lock().corrupt_in_flight += 1;
        }
        again.map_err(Outcome::Corrupt)
    }

    async fn check_namespace(&self) -> Ends<()> {
        let shared = &self.shared;
        // What is known already is no attempt: it says nothing about how the store is.
        let is_same = match self.namespace.may_be_read(shared.spec.existence.missing_for) {
            Some(is_same) => is_same,
            None => {
                shared
                    .attempts(Direction::Read, self.deadline, || {
                        self.namespace.check(&*shared.backend)
                    })
                    .await?
            }
        };
        if is_same {
            Ok(())
        } else {
            Err(Outcome::Refused(Refusal::NamespaceDiffers))
        }
    }

    async fn read(&self, key: &BlockKey) -> Ends<Result<Proven, Corruption>> {
        let (shared, bytes) = (&self.shared, HEADER_BYTES + self.payload_bytes);
        let body = shared
            .attempts(Direction::Read, self.deadline, || {
                shared.get_hedged(key, bytes, &self.hold)
            })
            .await?
            .ok_or(Outcome::Missing)?;
        Ok(prove(body, key, self.payload_bytes))
    }

    async fn look_up(
        &self,
        unknown: &[(usize, BlockKey)],
        until_missing: bool,
        progress: &Progress,
    ) -> Outcome {
        if let Err(outcome) = self.check_namespace().await {
            return outcome;
        }
        let shared = &self.shared;
        for batch in unknown.chunks(shared.spec.limits.lookup_batch.max(1)) {
            let names: Vec<String> = batch.iter().map(|(_, key)| block_name(key)).collect();
            let asked = shared
                .attempts(Direction::Read, self.deadline, || async {
                    let answers = shared.backend.exist(&names, self.hold.clone()).await;
                    answers.into_iter().collect::<Result<Vec<bool>, Fault>>()
                })
                .await;
            let found = match asked {
                Ok(found) => found,
                Err(fault) => return fault.into(),
            };
            let now = Instant::now();
            let (mut presence, mut existence) = (progress.lock(), shared.existence());
            for ((place, key), is_there) in batch.iter().zip(&found) {
                presence[*place] = if *is_there {
                    existence.set_present(now, *key);
                    Presence::Present
                } else {
                    existence.set_missing(now, *key);
                    Presence::Missing
                };
            }
            if until_missing && found.contains(&false) {
                break;
            }
        }
        Outcome::Done
    }

    async fn delete(&self, key: BlockKey) -> Outcome {
        let shared = &self.shared;
        let removed = shared
            .attempts(Direction::Write, self.deadline, || {
                shared.backend.delete(vec![block_name(&key)], self.hold.clone())
            })
            .await;
        match removed {
            Ok(0) => Outcome::Missing,
            Ok(_) => Outcome::Done,
            Err(fault) => fault.into(),
        }
    }
}
