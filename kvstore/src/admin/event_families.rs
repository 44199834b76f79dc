//! The metrics of what routers and watchers are told of blocks. They are the daemon's own: all tenants speak through one
//! announcer. Where nobody keeps events there are the families and no numbers.

use kvstore_events::EventCounters;

use super::exposition::{Kind, Writer};

/// One family: its numbers, told apart by one label or none.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    label: &'static str,
    numbers: fn(&EventCounters) -> Numbers,
}

type Numbers = Vec<(Option<&'static str>, u64)>;

fn one(number: u64) -> Numbers {
    vec![(None, number)]
}

const FAMILIES: [Family; 16] = [
    Family {
        name: "kvtier_event_blocks",
        kind: Kind::Gauge,
        help: "Blocks that are known, those of them that are announced (described, with all before them), and those that would be \
               if there were a name for them.",
        label: "state",
        numbers: |it| {
            vec![
                (Some("known"), it.blocks),
                (Some("announced"), it.blocks_announced),
                (Some("unnamed"), it.blocks_unnamed),
            ]
        },
    },
    Family {
        name: "kvtier_event_routers",
        kind: Kind::Gauge,
        help: "Routers that are connected.",
        label: "",
        numbers: |it| one(it.peers),
    },
    Family {
        name: "kvtier_event_router_connections",
        kind: Kind::Counter,
        help: "Connections of routers.",
        label: "",
        numbers: |it| one(it.connections),
    },
    Family {
        name: "kvtier_event_announcements",
        kind: Kind::Counter,
        help: "Times everything was announced to a router from the start.",
        label: "",
        numbers: |it| one(it.announcements),
    },
    Family {
        name: "kvtier_event_messages",
        kind: Kind::Counter,
        help: "Messages sent to routers.",
        label: "",
        numbers: |it| one(it.messages),
    },
    Family {
        name: "kvtier_event_sent_bytes",
        kind: Kind::Counter,
        help: "Bytes of them.",
        label: "",
        numbers: |it| one(it.bytes),
    },
    Family {
        name: "kvtier_event_told_blocks",
        kind: Kind::Counter,
        help: "Blocks told to routers, once for each topic and medium.",
        label: "change",
        numbers: |it| {
            vec![
                (Some("stored"), it.blocks_stored),
                (Some("removed"), it.blocks_removed),
            ]
        },
    },
    Family {
        name: "kvtier_event_left_out_blocks",
        kind: Kind::Counter,
        help: "Blocks not told, because what was said of them does not fit their namespace.",
        label: "",
        numbers: |it| one(it.blocks_left_out),
    },
    Family {
        name: "kvtier_event_undescribed_blocks",
        kind: Kind::Gauge,
        help: "Blocks that cannot be announced, because nobody said what they are about.",
        label: "",
        numbers: |it| one(it.book.blocks_without_descriptor),
    },
    Family {
        name: "kvtier_event_feed_overflows",
        kind: Kind::Counter,
        help: "Times an engine thread said more than could be taken in; a snapshot followed.",
        label: "",
        numbers: |it| one(it.feed_overflows),
    },
    Family {
        name: "kvtier_event_snapshots",
        kind: Kind::Counter,
        help: "Snapshots that were asked for.",
        label: "",
        numbers: |it| one(it.snapshots),
    },
    Family {
        name: "kvtier_event_forgotten_removals",
        kind: Kind::Counter,
        help: "Removals that were no longer kept for a router that is away.",
        label: "",
        numbers: |it| one(it.book.removals_forgotten),
    },
    Family {
        name: "kvtier_event_replays",
        kind: Kind::Counter,
        help: "Requests of routers to replay.",
        label: "",
        numbers: |it| one(it.replays),
    },
    Family {
        name: "kvtier_event_relays",
        kind: Kind::Gauge,
        help: "Engines that relay events.",
        label: "",
        numbers: |it| one(it.relays),
    },
    Family {
        name: "kvtier_event_watchers",
        kind: Kind::Gauge,
        help: "Watchers over the admin API.",
        label: "",
        numbers: |it| one(it.watchers),
    },
    Family {
        name: "kvtier_event_lagged_watchers",
        kind: Kind::Counter,
        help: "Watchers that were ended because they read too slowly.",
        label: "",
        numbers: |it| one(it.watchers_lagged),
    },
];

pub(super) fn write(writer: &mut Writer, counters: Option<&EventCounters>) {
    for family in &FAMILIES {
        writer.family(family.name, family.kind, family.help);
        for (value, number) in counters.map(family.numbers).unwrap_or_default() {
            let label = value.map(|value| (family.label, value));
            writer.number(label.as_slice(), number);
        }
    }
}
