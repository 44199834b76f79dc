//! `kvtier events`.

use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use kvtier_proto::v1;
use kvtier_proto::v1::events_response::Event;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use super::Answer;
use super::arguments::EventsOptions;
use super::client::{Client, Trouble, message};
use super::lookup::{shown_key, whole_namespace};
use super::table::printable;
use crate::exit::Exit;
use crate::terminal;

/// Lines are written together if more of them come within this time, and at this size in any case.
const GATHER: Duration = Duration::from_millis(5);
const GATHER_BYTES: usize = 64 << 10;

/// A tier of which events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WatchedTier {
    /// Memory shared with the engines.
    Host,
    /// Segments on NVMe.
    Nvme,
    /// What nodes share.
    Remote,
}

impl From<WatchedTier> for v1::Tier {
    fn from(name: WatchedTier) -> Self {
        match name {
            WatchedTier::Host => Self::Host,
            WatchedTier::Nvme => Self::Nvme,
            WatchedTier::Remote => Self::Remote,
        }
    }
}

pub(super) async fn show(client: &mut Client, options: &EventsOptions) -> Result<Answer, Trouble> {
    let namespace = match &options.namespace {
        Some(digits) => whole_namespace(client, &options.tenant, digits).await?,
        None => String::new(),
    };
    let tier = options.tier.map_or(v1::Tier::Unspecified, v1::Tier::from);
    let request = v1::EventsRequest {
        tenant: options.tenant.clone(),
        namespace,
        tier: tier.into(),
        resume_after: options
            .since
            .clone()
            .map(|(boot_epoch, sequence)| v1::Position { boot_epoch, sequence }),
        no_snapshot: options.new,
        snapshot_only: !options.follow && !options.new && options.since.is_none(),
    };
    // It may be watched for days; only that it begins has a deadline.
    let begins = tokio::time::timeout(client.timeout(), client.watch.events(request));
    let answer = begins
        .await
        .map_err(|_| Trouble::Call(Status::deadline_exceeded("")))?;
    let mut events = message(answer)?;
    let code = follow(&mut events, options.daemon.json).await?;
    Ok(Answer {
        text: String::new(),
        code,
    })
}

/// Prints until the stream ends, nobody reads any more, or a person has seen enough.
async fn follow(events: &mut Streaming<v1::EventsResponse>, is_json: bool) -> Result<u8, Trouble> {
    let mut text = String::new();
    let mut last = String::new();
    let enough = tokio::signal::ctrl_c();
    tokio::pin!(enough);
    loop {
        let next = if text.is_empty() {
            tokio::select! {
                next = events.message() => Some(next),
                Ok(()) = &mut enough => return Ok(farewell(&last, is_json)),
            }
        } else {
            // What takes no time belongs to the same piece of text.
            tokio::time::timeout(GATHER, events.message()).await.ok()
        };
        let Some(next) = next else {
            if let Some(code) = print(&mut text) {
                return Ok(code);
            }
            continue;
        };
        match next {
            Ok(Some(event)) => {
                if event.position.is_some() {
                    last = position(&event);
                }
                let line = if is_json {
                    json_line(&event).to_string()
                } else {
                    line(&event)
                };
                let _ = writeln!(text, "{line}");
                if text.len() >= GATHER_BYTES
                    && let Some(code) = print(&mut text)
                {
                    return Ok(code);
                }
            }
            end => {
                if let Some(code) = print(&mut text) {
                    return Ok(code);
                }
                return end.map(|_| 0).map_err(|status| Trouble::Call(ended(status)));
            }
        }
    }
}

/// A stream that breaks off without a word of the daemon's: it has ended, or is not to be reached any more.
fn ended(status: Status) -> Status {
    let has_said_why = std::error::Error::source(&status).is_none();
    if has_said_why {
        return status;
    }
    Status::unavailable("the daemon has ended, or cannot be reached any more")
}

/// Where another call goes on; of JSON each object says it. What to exit with.
fn farewell(last: &str, is_json: bool) -> u8 {
    let mut text = format!("\n# Go on with --since {last}\n");
    if is_json || last.is_empty() {
        text.clear();
    }
    print(&mut text).unwrap_or(Exit::Done.code())
}

/// Writes what is there; what to exit with if nobody reads it any more.
fn print(text: &mut String) -> Option<u8> {
    let written = terminal::write(text);
    text.clear();
    match written {
        Ok(()) => None,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Some(Exit::Done.code()),
        Err(error) => {
            terminal::complain(&format!("could not write to standard output: {error}"));
            Some(Exit::System.code())
        }
    }
}

fn position(event: &v1::EventsResponse) -> String {
    let position = event.position.as_ref();
    position.map_or_else(String::new, |position| {
        format!("{}:{}", position.boot_epoch, position.sequence)
    })
}

fn line(event: &v1::EventsResponse) -> String {
    let name = |block: Option<&v1::BlockName>| block.map(shown_key).unwrap_or_default();
    let position = position(event);
    let (what, rest) = match &event.event {
        Some(Event::SnapshotBegin(_)) => return "# what is there:".to_owned(),
        Some(Event::Following(_)) => {
            return format!("# from here on what changes. Go on with --since {position}");
        }
        Some(Event::SnapshotEnd(end)) => {
            return format!(
                "# that was all, {} copies. Go on with --since {position}",
                end.copies
            );
        }
        Some(Event::Stored(stored)) => {
            let mut text = format!("{:<6}  {}", stored.tier().name(), name(stored.block.as_ref()));
            if !stored.token_ids.is_empty() {
                let _ = write!(text, "  {} tokens", stored.token_ids.len());
            }
            if !stored.lora_name.is_empty() {
                let _ = write!(text, "  lora {}", printable(&stored.lora_name));
            }
            ("stored", text)
        }
        Some(Event::Removed(removed)) => (
            "removed",
            format!("{:<6}  {}", removed.tier().name(), name(removed.block.as_ref())),
        ),
        None => ("unknown", "this command is older than the daemon".to_owned()),
    };
    let number = position.split_once(':').map_or("", |(_, number)| number);
    format!("{number:>10}  {:<12}  {what:<7}  {rest}", event.tenant)
}

/// One object: `event` says which, the rest are the fields of the message.
fn json_line(event: &v1::EventsResponse) -> Value {
    let (name, fields) = match &event.event {
        Some(Event::SnapshotBegin(begin)) => ("snapshot_begin", json!(begin)),
        Some(Event::SnapshotEnd(end)) => ("snapshot_end", json!(end)),
        Some(Event::Following(following)) => ("following", json!(following)),
        Some(Event::Stored(stored)) => ("stored", json!(stored)),
        Some(Event::Removed(removed)) => ("removed", json!(removed)),
        None => ("unknown", json!({})),
    };
    let mut object = json!({ "event": name, "tenant": event.tenant, "position": event.position });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_for_people_and_an_object_for_machines() {
        let event = v1::EventsResponse {
            position: Some(v1::Position {
                boot_epoch: "ab".to_owned(),
                sequence: 7,
            }),
            tenant: "blue".to_owned(),
            event: Some(Event::Removed(v1::Removed {
                block: Some(v1::BlockName {
                    namespace: "0123456789abcdef".to_owned(),
                    group: 1,
                    hash: "ff".to_owned(),
                }),
                tier: v1::Tier::Nvme.into(),
            })),
        };
        assert_eq!(
            line(&event),
            "         7  blue          removed  nvme    0123456789ab/1/ff"
        );
        let object = json_line(&event);
        assert_eq!(object["event"], "removed");
        assert_eq!(
            (&object["tier"], &object["position"]["sequence"]),
            (&"nvme".into(), &7.into())
        );
        assert_eq!(object["block"]["hash"], "ff");
    }
}
