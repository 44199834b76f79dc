//! What a daemon that was killed leaves, and what becomes of it when it is damaged.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, GroupIndex, NamespaceId, SessionId, Tier,
};
use tempfile::TempDir;

use super::format::{self, HEADER_BYTES, Unusable};
use super::*;
use crate::book::{BookLimits, Identity};
use crate::feed::{FeedItem, GroupShape};

const SPACE: NamespaceId = NamespaceId([7; 16]);
const TOPIC: &str = "kv@10.0.0.1:80@m";

fn media() -> [String; 3] {
    ["cpu", "storage", "storage"].map(str::to_owned)
}

fn key(number: u32) -> BlockKey {
    let mut hash = [9; 32];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    BlockKey {
        namespace: SPACE,
        group: GroupIndex(0),
        hash: BlockHash(hash),
    }
}

fn stored(number: u32, tier: Tier) -> FeedItem {
    let descriptor = BlockDescriptor {
        parent: None,
        tokens: vec![number; 4].into(),
        lora_name: None,
        extra_keys: &[],
    };
    FeedItem::Stored {
        key: key(number),
        tier,
        descriptor: Some(descriptor.encode().unwrap()),
    }
}

fn removed(number: u32) -> FeedItem {
    FeedItem::Removed {
        key: key(number),
        tier: Tier::Host,
    }
}

fn attached(session: u64, pod: &str) -> FeedItem {
    FeedItem::PodAttached {
        session: SessionId(session),
        namespace: SPACE,
        pod: pod.into(),
        model: "m".into(),
    }
}

fn shape(kind: AttentionKind) -> FeedItem {
    FeedItem::Namespace(Arc::new(NamespaceShape {
        namespace: SPACE,
        model: None,
        groups: vec![GroupShape {
            kind,
            tokens_per_block: 4,
        }],
    }))
}

/// A daemon's model and its ledger.
struct Node {
    book: Book,
    ledger: Ledger,
}

fn open(path: &Path, limits: LedgerLimits, book: &mut Book) -> Ledger {
    Ledger::open(path, &media(), limits, inherited(path, &media()), book)
}

impl Node {
    fn start(path: &Path, limits: LedgerLimits) -> Self {
        let mut book = Book::new(BookLimits::default(), vec![Identity::Pods]);
        let ledger = open(path, limits, &mut book);
        Self { book, ledger }
    }

    fn say(&mut self, items: impl IntoIterator<Item = FeedItem>) {
        for item in items {
            self.book.apply(0, item);
        }
        self.ledger.note(&mut self.book);
    }

    fn inherited(&self) -> BTreeSet<u32> {
        let spaces = self.book.inheritance().into_iter().flat_map(Inheritance::spaces);
        let blocks = spaces.flat_map(|(_, space)| &space.blocks);
        blocks.map(|(_, hash)| number(hash)).collect()
    }

    fn names(&self) -> Vec<String> {
        let names = self.book.inheritance().into_iter().flat_map(Inheritance::names);
        names.map(|topic| topic.name.to_string()).collect()
    }
}

fn number(hash: &BlockHash) -> u32 {
    u32::from_be_bytes(hash.0[..4].try_into().unwrap())
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kvtier.sock.announced");
    (directory, path)
}

fn start(path: &Path) -> Node {
    Node::start(path, LedgerLimits::default())
}

/// A ledger of several batches, and what is announced according to each of its beginnings.
fn several_batches(path: &Path) -> (Vec<u8>, Vec<(usize, BTreeSet<u32>)>) {
    let mut node = start(path);
    let length = || usize::try_from(path.metadata().unwrap().len()).unwrap();
    let mut beginnings = vec![(length(), BTreeSet::new())];
    let window = AttentionKind::SlidingWindow { window_tokens: 64 };
    node.say([shape(window), attached(1, "10.0.0.1:80")]);
    for round in 0..4 {
        node.say((0..3).map(|block| stored(round * 3 + block, Tier::Host)));
        beginnings.push((length(), (0..=round * 3 + 2).collect()));
    }
    (std::fs::read(path).unwrap(), beginnings)
}

#[test]
fn what_was_announced_is_inherited_under_its_names() {
    let (_directory, path) = place();
    let mut node = start(&path);
    let window = AttentionKind::SlidingWindow { window_tokens: 64 };
    node.say([
        shape(window),
        attached(1, "10.0.0.1:80"),
        attached(2, "10.0.0.2:80"),
    ]);
    node.say((0..100).map(|number| stored(number, Tier::Host)));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let next = start(&path);
    assert_eq!(next.inherited(), (0..100).collect());
    assert_eq!(next.names(), [TOPIC, "kv@10.0.0.2:80@m"]);
    let space = next.book.inheritance().unwrap().space(SPACE).unwrap();
    assert_eq!(space.shape.as_ref().unwrap().groups[0].kind, window);
    assert_eq!(next.book.counters().removals_forgotten, 0);
}

/// The daemon may be killed again before everybody has been told.
#[test]
fn what_was_inherited_is_inherited_again_with_what_came_since() {
    let (_directory, path) = place();
    let mut node = start(&path);
    node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
    let mut next = start(&path);
    next.say([attached(1, "10.0.0.2:80"), stored(2, Tier::Host)]);
    let last = start(&path);
    assert_eq!(last.inherited(), [1, 2].into());
    assert_eq!(last.names(), [TOPIC, "kv@10.0.0.2:80@m"]);
}

#[test]
fn what_everybody_was_told_is_not_inherited_again() {
    let (_directory, path) = place();
    let mut node = start(&path);
    node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
    let mut next = start(&path);
    assert!(
        !next.book.settle_inheritance(0, false),
        "it was not time to tell it"
    );
    next.book.inheritance_due();
    assert!(!next.book.settle_inheritance(1, false), "nobody has been told");
    assert!(next.book.settle_inheritance(0, false));
    next.say([stored(2, Tier::Host)]);
    assert!(start(&path).inherited().is_empty());
}

#[test]
fn what_is_gone_is_inherited_until_it_has_arrived_everywhere() {
    let (_directory, path) = place();
    let mut book = Book::new(
        BookLimits {
            changes: 4,
            debts: 100,
        },
        vec![Identity::Pods],
    );
    let ledger = open(&path, LedgerLimits::default(), &mut book);
    let mut node = Node { book, ledger };
    let reader = node.book.reader_came();
    node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host), removed(1)]);
    node.say((2..20).map(|number| stored(number, Tier::Host)));
    let copy = path.with_extension("copy");
    std::fs::copy(&path, &copy).unwrap();
    assert!(start(&copy).inherited().contains(&1), "the router has not heard");
    let head = node.book.announcements().head();
    node.book.reader_at(reader, head, 0..0, true);
    node.say((20..30).map(|number| stored(number, Tier::Host)));
    assert_eq!(start(&path).inherited(), (2..30).collect());
}

#[test]
fn a_name_is_inherited_until_everything_has_been_taken_back_under_it() {
    let (_directory, path) = place();
    let mut node = start(&path);
    node.say([
        attached(1, "10.0.0.1:80"),
        attached(2, "10.0.0.2:80"),
        stored(1, Tier::Host),
    ]);
    let reader = node.book.reader_came();
    let head = node.book.announcements().head();
    let version = node.book.topics_version();
    node.book.reader_at(reader, head, 0..0, true);
    node.book.reader_withdrew(reader, version);
    let session = SessionId(2);
    node.say([FeedItem::PodDetached { session }]);
    let copy = path.with_extension("copy");
    std::fs::copy(&path, &copy).unwrap();
    assert_eq!(start(&copy).names().len(), 2, "the router still believes in it");
    node.book.reader_withdrew(reader, version + 1);
    node.say([stored(2, Tier::Host)]);
    assert_eq!(start(&path).names(), [TOPIC]);
}

#[test]
fn a_torn_ledger_is_read_as_far_as_it_is_whole() {
    let (_directory, path) = place();
    let (bytes, beginnings) = several_batches(&path);
    for length in 0..bytes.len() {
        let contents = format::read(&bytes[..length], &media());
        if length < HEADER_BYTES {
            assert_eq!(contents.unwrap_err(), Unusable::NotALedger);
            continue;
        }
        let inheritance = contents.unwrap().inheritance;
        let whole = beginnings.iter().rfind(|(end, _)| *end <= length);
        let expected = whole.map_or_else(BTreeSet::new, |(_, blocks)| blocks.clone());
        let blocks = inheritance.spaces().flat_map(|(_, space)| &space.blocks);
        assert_eq!(
            blocks.map(|(_, hash)| number(hash)).collect::<BTreeSet<_>>(),
            expected
        );
    }
}

#[test]
fn no_changed_byte_makes_a_ledger_say_what_was_never_announced() {
    let (_directory, path) = place();
    let (bytes, beginnings) = several_batches(&path);
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let contents = match format::read(&damaged, &media()) {
                Err(_) if at < HEADER_BYTES => continue,
                contents => contents.unwrap(),
            };
            assert!(at >= HEADER_BYTES, "a change of the header was not noticed");
            assert!(contents.torn_bytes > 0, "a change at {at} was not noticed");
            let whole = beginnings.iter().rfind(|(end, _)| *end <= at);
            let expected = whole.map_or_else(BTreeSet::new, |(_, blocks)| blocks.clone());
            let blocks = contents.inheritance.spaces().flat_map(|(_, space)| &space.blocks);
            assert_eq!(
                blocks.map(|(_, hash)| number(hash)).collect::<BTreeSet<_>>(),
                expected
            );
        }
    }
}

#[test]
fn a_ledger_does_not_grow_without_end() {
    let (_directory, path) = place();
    let limits = LedgerLimits {
        blocks: 1000,
        history: 500,
    };
    // The changes that may not have arrived are kept as well: as many as the model has.
    let few = BookLimits {
        changes: 100,
        debts: 0,
    };
    let mut book = Book::new(few, vec![Identity::Pods]);
    let ledger = open(&path, limits, &mut book);
    let mut node = Node { book, ledger };
    let mut longest = 0;
    node.say([attached(1, "10.0.0.1:80")]);
    for round in 0..400 {
        node.say((0..50).map(|number| stored(round * 50 + number, Tier::Host)));
        if round >= 4 {
            node.say((0..50).map(|number| removed((round - 4) * 50 + number)));
        }
        longest = longest.max(path.metadata().unwrap().len());
    }
    // Twice what is live (200 blocks and 100 that may not have arrived), what was added meanwhile, and history.
    assert!(longest < 38 * (2 * 300 + 500 + 100 + 20), "{longest} bytes");
    let next = start(&path);
    assert!(next.inherited().is_superset(&(396 * 50..400 * 50).collect()));
    assert!(next.inherited().len() <= 400);
}

#[test]
fn beyond_the_bound_what_is_on_nvme_is_left_out_first() {
    let (_directory, path) = place();
    let limits = LedgerLimits {
        blocks: 10,
        history: 1,
    };
    let mut node = Node::start(&path, limits);
    node.say([attached(1, "10.0.0.1:80")]);
    node.say((0..50).map(|number| stored(number, Tier::Nvme)));
    node.say((50..58).map(|number| stored(number, Tier::Host)));
    // It is time to write everything anew.
    node.ledger.records_anew = 0;
    node.say([stored(58, Tier::Nvme)]);
    let inherited = start(&path).inherited();
    assert_eq!(inherited.len(), 10);
    assert!(inherited.is_superset(&(50..58).collect()), "{inherited:?}");
}

#[test]
fn what_is_no_ledger_of_ours_is_not_believed_and_replaced() {
    let (directory, path) = place();
    let other = directory.path().join("other");
    let good = {
        let mut node = start(&other);
        node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
        std::fs::read(&other).unwrap()
    };
    let private = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(&good);
    assert_eq!(start(&path).inherited(), [1].into(), "the ground of what follows");
    let of_version_2 = [&good[..8], &[2], &good[9..]].concat();
    let spoil: [&dyn Fn(); 5] = [
        &|| private(b"precious"),
        &|| private(b""),
        &|| private(&of_version_2),
        &|| {
            private(&good);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        },
        &|| {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(&other, &path).unwrap();
        },
    ];
    for spoil in spoil {
        spoil();
        let mut node = start(&path);
        assert!(node.inherited().is_empty());
        node.say([attached(1, "10.0.0.1:80"), stored(5, Tier::Host)]);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(start(&path).inherited(), [5].into());
    }
    assert_eq!(
        std::fs::read(&other).unwrap(),
        good,
        "what a link leads to is left alone"
    );
}

#[test]
fn a_ledger_of_other_media_is_not_believed() {
    let (_directory, path) = place();
    start(&path).say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
    let bytes = std::fs::read(&path).unwrap();
    let upper = media().map(|name| name.to_uppercase());
    assert_eq!(format::read(&bytes, &upper).unwrap().inheritance.blocks(), 1);
    let renamed = ["dram", "storage", "storage"].map(str::to_owned);
    assert_eq!(format::read(&bytes, &renamed).unwrap_err(), Unusable::Media);
}

#[test]
fn a_ledger_that_cannot_be_written_is_gone_on_without_and_tried_again() {
    let (directory, _) = place();
    let path = directory.path().join("not there/ledger");
    let mut node = start(&path);
    node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
    assert!(!path.exists());
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    node.say([stored(2, Tier::Host)]);
    assert!(!path.exists(), "not at once");
    node.ledger.failed_at = None;
    node.say([stored(3, Tier::Host)]);
    assert_eq!(start(&path).inherited(), (1..=3).collect());
    // A full file system, as far as a ledger sees it.
    let mut node = start(&path);
    node.ledger.file = Some(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    node.say([stored(4, Tier::Host)]);
    assert!(node.ledger.file.is_none());
    node.ledger.failed_at = None;
    node.say([attached(1, "10.0.0.1:80"), stored(5, Tier::Host)]);
    assert_eq!(start(&path).inherited(), (1..=5).collect());
}

#[test]
fn a_good_end_leaves_a_ledger_only_if_something_is_not_taken_back() {
    let (_directory, path) = place();
    for is_heard in [false, true] {
        let mut node = start(&path);
        node.book.inheritance_due();
        node.book.settle_inheritance(0, false);
        node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
        let reader = node.book.reader_came();
        let version = node.book.topics_version();
        node.book.reader_withdrew(reader, version);
        node.book.withdraw_topics();
        if is_heard {
            let version = node.book.topics_version();
            node.book.reader_withdrew(reader, version);
        }
        node.ledger.finish(&mut node.book);
        assert_eq!(path.exists(), !is_heard);
    }
}

#[test]
fn what_a_pool_has_is_not_taken_back_by_one_node() {
    let (_directory, path) = place();
    let identities = vec![Identity::Pods, Identity::Pool("p".to_owned())];
    let mut book = Book::new(BookLimits::default(), identities);
    let ledger = open(&path, LedgerLimits::default(), &mut book);
    let mut node = Node { book, ledger };
    node.say([attached(1, "10.0.0.1:80"), stored(1, Tier::Remote)]);
    let has_pool = node.book.topics().iter().any(|topic| topic.is_partial);
    assert!(has_pool, "it is announced under it");
    assert_eq!(start(&path).names(), [TOPIC]);
}

#[test]
fn a_ledger_of_long_ago_is_not_told() {
    let (_directory, path) = place();
    start(&path).say([attached(1, "10.0.0.1:80"), stored(1, Tier::Host)]);
    let hours_ago = |hours| SystemTime::now() - Duration::from_hours(hours);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(hours_ago(23)).unwrap();
    assert!(inherited(&path, &media()).is_some());
    file.set_modified(hours_ago(25)).unwrap();
    assert!(inherited(&path, &media()).is_none());
    // A clock that was wrong then.
    file.set_modified(SystemTime::now() + Duration::from_hours(48))
        .unwrap();
    assert!(inherited(&path, &media()).is_some());
}

#[test]
fn names_that_are_gone_are_remembered_within_bounds() {
    let (_directory, path) = place();
    let mut node = start(&path);
    // Away for good: nothing is ever taken back at it.
    let reader = node.book.reader_came();
    node.book.reader_withdrew(reader, 0);
    node.say([attached(0, "10.0.0.1:80"), stored(1, Tier::Host)]);
    let count = u64::try_from(NAMES_GONE_MAX).unwrap() + 10;
    for session in 1..=count {
        node.say([attached(session, &format!("10.0.1.1:{session}"))]);
        node.say([FeedItem::PodDetached {
            session: SessionId(session),
        }]);
    }
    let names = start(&path).names();
    assert_eq!(names.len(), NAMES_GONE_MAX + 1);
    assert!(names.iter().any(|name| name == TOPIC));
    assert!(
        names.contains(&format!("kv@10.0.1.1:{count}@m")),
        "the last to go"
    );
    assert!(!names.contains(&"kv@10.0.1.1:1@m".to_owned()), "the first to go");
}

#[test]
fn a_draft_that_is_not_finished_leaves_nothing() {
    let (directory, path) = place();
    std::fs::write(&path, "old").unwrap();
    let mut draft = Draft::begin(&path).unwrap();
    draft.write(b"new").unwrap();
    drop(draft);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    let mut draft = Draft::begin(&path).unwrap();
    draft.write(b"new").unwrap();
    draft.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}
