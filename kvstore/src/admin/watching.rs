//! `kvtier.v1.Watch`: block events for whoever asks.
//!
//! ```text
//!   the model of what is where ─▶ Watch, at its own pace ─▶ task ─▶ a few messages ─▶ HTTP/2's window ─▶ watcher
//! ```
//!
//! A watcher that reads slowly holds up nothing but its own task: the model keeps recent changes for everybody, and who falls
//! behind them ends. It hears that as its last message, behind what waits for it already; its task and its place are free by
//! then, whether it ever reads again or not.

use std::collections::VecDeque;
use std::sync::Arc;

use kvstore_events::{Lagged, ResumeError, TIERS, TierSet, WatchEvent, WatchFilter, WatchSource};
use kvstore_types::{BlockKey, DescriptorBytes, Tier};
use kvtier_proto::v1;
use kvtier_proto::v1::events_response::Event;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::adapters::Chain;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, change, ending, names};

/// Watchers at one time.
pub(super) const WATCHERS: usize = 16;
/// Events that are fetched at a time.
const BATCH: usize = 256;
/// Messages that wait for a watcher beside what HTTP/2 lets through.
const MESSAGES: usize = 64;

type Message = Result<v1::EventsResponse, Status>;

/// The service.
#[derive(Debug)]
pub(super) struct Watching {
    shared: Arc<Shared>,
}

impl Watching {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    fn filter(&self, request: &v1::EventsRequest) -> Result<WatchFilter, Status> {
        let mut filter = WatchFilter::default();
        if !request.tenant.is_empty() {
            let tenant = self.shared.one(&request.tenant)?;
            let mut tenants = self.shared.tenants().iter();
            let place = tenants.position(|other| other.name == tenant.name);
            filter.tenant = place.and_then(|place| place.try_into().ok());
        }
        if !request.namespace.is_empty() {
            filter.namespace = Some(names::namespace(&request.namespace)?);
        }
        if let Some(tier) = change::tier(request.tier)? {
            filter.tiers = TierSet::of(tier);
        }
        Ok(filter)
    }
}

#[tonic::async_trait]
impl v1::watch_server::Watch for Watching {
    type EventsStream = Chain<ReceiverStream<Message>, ReceiverStream<Message>>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let Some(source) = self.shared.events.get() else {
            return Err(Status::failed_precondition(
                "the daemon keeps no record of events; set events.watch = \"on\" in its configuration, or announce blocks to \
                 routers (events.connect, events.bind), and start it again",
            ));
        };
        let filter = self.filter(&request)?;
        let resume = resume_from(source, &request)?;
        let place = Arc::clone(&self.shared.watchers)
            .try_acquire_owned()
            .map_err(|_| {
                Status::resource_exhausted(format!(
                    "there are {WATCHERS} watchers already; try again when one has ended"
                ))
            })?;
        let watch = source
            .subscribe(filter, resume)
            .map_err(|error| refusal(&error))?;
        let (sender, receiver) = mpsc::channel(MESSAGES);
        let (last_word, end) = mpsc::channel(1);
        let tenants = self.shared.tenants().iter().map(|tenant| tenant.name.clone());
        let teller = Teller {
            epoch: source.epoch().to_string(),
            tenants: tenants.collect(),
            // A watch that resumes has had its snapshot.
            is_complete: resume.is_some(),
            begins_after: resume,
            copies: 0,
            sender,
        };
        let mut ended = self.shared.ended.clone();
        ended.mark_unchanged();
        let is_snapshot_only = request.snapshot_only;
        tokio::spawn(async move {
            let end = teller.run(watch, is_snapshot_only, ended).await;
            drop(place);
            if let Err(status) = end {
                // Who has gone away does not hear why.
                let _ = last_word.try_send(Err(status));
            }
        });
        let stream = ReceiverStream::new(receiver).chain(ReceiverStream::new(end));
        Ok(Response::new(stream))
    }
}

/// The last change that was heard; none: begin with a snapshot.
fn resume_from(source: &WatchSource, request: &v1::EventsRequest) -> Result<Option<u64>, Status> {
    let Some(position) = &request.resume_after else {
        return Ok(request.no_snapshot.then(|| source.sequence()));
    };
    let epoch = source.epoch().to_string();
    if position.boot_epoch != epoch {
        return Err(Status::out_of_range(format!(
            "resume_after: the position is from another start of the daemon (boot epoch {}, now {epoch}): begin anew without a \
             position",
            position.boot_epoch.chars().take(32).collect::<String>()
        )));
    }
    Ok(Some(position.sequence))
}

fn refusal(error: &ResumeError) -> Status {
    match error {
        ResumeError::Lagged(lagged) => Status::out_of_range(format!(
            "resume_after: change {} is no longer kept, the oldest that is has number {}: begin anew without a position",
            lagged.wanted, lagged.oldest
        )),
        ResumeError::Unknown { given, last } => Status::out_of_range(format!(
            "resume_after: want at most {last}, which is the last change there was, got {given}"
        )),
    }
}

fn too_slow(lagged: Lagged) -> Status {
    Status::resource_exhausted(format!(
        "the watcher reads more slowly than changes come: change {} is no longer kept, the oldest that is has number {}. Begin \
         anew without a position, and read faster or watch fewer blocks (namespace, tier)",
        lagged.wanted, lagged.oldest
    ))
}

/// What tells one watcher.
struct Teller {
    epoch: String,
    tenants: Vec<String>,
    is_complete: bool,
    /// The change behind which it begins, if there is no snapshot.
    begins_after: Option<u64>,
    copies: u64,
    sender: mpsc::Sender<Message>,
}

impl Teller {
    /// Tells until the watcher has gone or has heard all it wanted, or for the reason that is returned.
    async fn run(
        mut self,
        mut watch: kvstore_events::Watch,
        is_snapshot_only: bool,
        mut ended: watch::Receiver<bool>,
    ) -> Result<(), Status> {
        let begin = match self.begins_after {
            None => Event::SnapshotBegin(v1::SnapshotBegin {}),
            Some(_) => Event::Following(v1::Following {}),
        };
        let begin = v1::EventsResponse {
            tenant: String::new(),
            ..self.message(0, self.begins_after, begin)
        };
        if !self.send(begin, &mut watch, &mut ended).await? {
            return Ok(());
        }
        let mut events = VecDeque::new();
        loop {
            let more = tokio::select! {
                more = watch.next(BATCH, &mut events) => more,
                () = self.sender.closed() => return Ok(()),
                () = is_over(&mut ended) => return Err(ending()),
            };
            while let Some(event) = events.pop_front() {
                let is_last_of_change = sequence(&event) != events.front().and_then(sequence);
                for message in self.messages(&event, is_last_of_change) {
                    if !self.send(message, &mut watch, &mut ended).await? {
                        return Ok(());
                    }
                }
                if is_snapshot_only && self.is_complete {
                    return Ok(());
                }
            }
            more.map_err(too_slow)?;
        }
    }

    /// Hands a message over; `false`: nobody is there. Whoever takes none while changes go by ends like one that takes
    /// them too slowly.
    async fn send(
        &self,
        message: v1::EventsResponse,
        watch: &mut kvstore_events::Watch,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<bool, Status> {
        tokio::select! {
            biased;
            sent = self.sender.send(Ok(message)) => Ok(sent.is_ok()),
            lagged = watch.lagged() => Err(too_slow(lagged)),
            () = is_over(ended) => Err(ending()),
        }
    }

    fn message(&self, tenant: usize, sequence: Option<u64>, event: Event) -> v1::EventsResponse {
        v1::EventsResponse {
            position: sequence.map(|sequence| v1::Position {
                boot_epoch: self.epoch.clone(),
                sequence,
            }),
            tenant: self.tenants.get(tenant).cloned().unwrap_or_default(),
            event: Some(event),
        }
    }

    fn messages(&mut self, event: &WatchEvent, is_last_of_change: bool) -> Vec<v1::EventsResponse> {
        let position = |sequence: u64| (is_last_of_change && self.is_complete).then_some(sequence);
        match event {
            WatchEvent::Present {
                tenant,
                key,
                tiers,
                descriptor,
            } => {
                let there = TIERS.iter().filter(|tier| tiers.contains(**tier));
                let told: Vec<_> = there
                    .map(|tier| {
                        let event = stored(key, *tier, descriptor.as_ref());
                        self.message(usize::from(*tenant), None, event)
                    })
                    .collect();
                self.copies += told.len() as u64;
                told
            }
            WatchEvent::SnapshotComplete { sequence } => {
                self.is_complete = true;
                let event = Event::SnapshotEnd(v1::SnapshotEnd { copies: self.copies });
                let mut message = self.message(0, Some(*sequence), event);
                message.tenant.clear();
                vec![message]
            }
            WatchEvent::Stored {
                sequence,
                tenant,
                key,
                tier,
                descriptor,
            } => {
                let event = stored(key, *tier, descriptor.as_ref());
                vec![self.message(usize::from(*tenant), position(*sequence), event)]
            }
            WatchEvent::Removed {
                sequence,
                tenant,
                key,
                tier,
            } => {
                let event = Event::Removed(v1::Removed {
                    block: Some(block(key)),
                    tier: tier_of(*tier).into(),
                });
                vec![self.message(usize::from(*tenant), position(*sequence), event)]
            }
        }
    }
}

/// Resolves when the daemon ends.
async fn is_over(ended: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = ended.wait_for(|ended| *ended).await;
}

/// The change that an event is part of.
fn sequence(event: &WatchEvent) -> Option<u64> {
    match event {
        WatchEvent::Stored { sequence, .. } | WatchEvent::Removed { sequence, .. } => Some(*sequence),
        WatchEvent::Present { .. } | WatchEvent::SnapshotComplete { .. } => None,
    }
}

fn block(key: &BlockKey) -> v1::BlockName {
    v1::BlockName {
        namespace: key.namespace.to_string(),
        group: u32::from(key.group.0),
        hash: key.hash.to_string(),
    }
}

const fn tier_of(tier: Tier) -> v1::Tier {
    match tier {
        Tier::Host => v1::Tier::Host,
        Tier::Nvme => v1::Tier::Nvme,
        Tier::Remote => v1::Tier::Remote,
    }
}

fn stored(key: &BlockKey, tier: Tier, descriptor: Option<&DescriptorBytes>) -> Event {
    // A descriptor of a later version says nothing here.
    let about = descriptor.and_then(|descriptor| descriptor.decode().ok());
    let parent = about.as_ref().and_then(|about| about.parent);
    Event::Stored(v1::Stored {
        block: Some(block(key)),
        tier: tier_of(tier).into(),
        parent_hash: parent.map(|hash| hash.to_string()).unwrap_or_default(),
        token_ids: about
            .as_ref()
            .map(|about| about.tokens.to_vec())
            .unwrap_or_default(),
        lora_name: about
            .and_then(|about| about.lora_name)
            .unwrap_or_default()
            .to_owned(),
    })
}
