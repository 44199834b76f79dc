//! What a check found.

use std::fmt;
use std::path::PathBuf;

/// What a check of one tenant's directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// The directory.
    pub directory: PathBuf,
    /// Whose it is.
    pub tenant: String,
    /// How many there are of each thing.
    pub counts: FsckCounts,
    /// What is wrong, a line for each thing, at most [`PROBLEMS_MAX`] of them. Empty: all is well.
    pub problems: Vec<String>,
    /// Problems that there is no line for.
    pub problems_more: u64,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// What was done about the problems.
    pub repairs: Vec<String>,
    /// What a second look after the repair still found wrong, at most [`PROBLEMS_MAX`] lines; none if there was no second
    /// look.
    pub remaining: Option<Vec<String>>,
}

/// Most lines about problems: a device that died has one for each of its blocks.
pub const PROBLEMS_MAX: usize = 100;

/// How many there are of each thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsckCounts {
    /// Segment files.
    pub segments: u64,
    /// Segments that were never used.
    pub segments_unused: u64,
    /// Segments whose header page, or whose file, cannot be used.
    pub segments_damaged: u64,
    /// Blocks whose header, and payload if it was looked at, is good.
    pub blocks_good: u64,
    /// Bytes of their payloads.
    pub payload_bytes_good: u64,
    /// Pages that begin like a header and are none.
    pub headers_damaged: u64,
    /// Blocks whose payload is not what their header says.
    pub payloads_damaged: u64,
    /// Bad blocks that the catalogue does not know either: writes that never ended. They do no harm.
    pub blocks_unfinished: u64,
    /// Good blocks of namespaces that nothing is known of. They cannot be used.
    pub blocks_nameless: u64,
    /// Entries of the catalogue.
    pub entries: u64,
    /// Entries where there is no such block.
    pub entries_without_block: u64,
    /// Good blocks without an entry: the catalogue is behind, or they were not wanted any more.
    pub blocks_without_entry: u64,
    /// Namespaces that are known.
    pub namespaces: u64,
    /// Namespace files that cannot be used.
    pub namespaces_damaged: u64,
    /// Half-made files.
    pub leftovers: u64,
    /// Files that are not ours.
    pub files_unknown: u64,
    /// Pages that could not be read.
    pub pages_unreadable: u64,
}

impl FsckCounts {
    /// Names and values, in the order in which they are shown.
    pub fn list(&self) -> [(&'static str, u64); 17] {
        [
            ("segments", self.segments),
            ("segments_unused", self.segments_unused),
            ("segments_damaged", self.segments_damaged),
            ("blocks_good", self.blocks_good),
            ("payload_bytes_good", self.payload_bytes_good),
            ("headers_damaged", self.headers_damaged),
            ("payloads_damaged", self.payloads_damaged),
            ("blocks_unfinished", self.blocks_unfinished),
            ("blocks_nameless", self.blocks_nameless),
            ("entries", self.entries),
            ("entries_without_block", self.entries_without_block),
            ("blocks_without_entry", self.blocks_without_entry),
            ("namespaces", self.namespaces),
            ("namespaces_damaged", self.namespaces_damaged),
            ("leftovers", self.leftovers),
            ("files_unknown", self.files_unknown),
            ("pages_unreadable", self.pages_unreadable),
        ]
    }
}

impl FsckReport {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether something was wrong and a repair has mended all of it.
    pub fn is_mended(&self) -> bool {
        self.remaining.as_ref().is_some_and(Vec::is_empty)
    }

    pub(super) fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        } else {
            self.problems_more += 1;
        }
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (tenant {:?})", self.directory.display(), self.tenant)?;
        for (name, value) in self.counts.list().into_iter().filter(|&(_, value)| value > 0) {
            writeln!(f, "  {name:<24} {value}")?;
        }
        let kinds = [
            ("problem", &self.problems),
            ("note", &self.notes),
            ("repaired", &self.repairs),
        ];
        for (kind, lines) in kinds {
            for line in lines {
                writeln!(f, "  {kind}: {line}")?;
            }
        }
        if self.problems_more > 0 {
            writeln!(f, "  and {} problems more", self.problems_more)?;
        }
        for line in self.remaining.iter().flatten() {
            writeln!(f, "  remains: {line}")?;
        }
        f.write_str(match (self.is_clean(), self.is_mended()) {
            (true, _) => "  clean",
            (false, true) => "  mended: a second look finds nothing more",
            (false, false) => "  not clean",
        })
    }
}
