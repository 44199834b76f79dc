//! How RocksDB is set up: small, quiet, and with every file within a bound that follows from the catalogue's own.

use rocksdb::{
    BlockBasedOptions, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options, ReadOptions,
};
use tracing::{debug, warn};

const MIB: u64 = 1 << 20;

/// What follows from the bound on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// A memtable, and so a file of level 0. Everything else is a multiple of it.
    pub(super) memtable: u64,
}

impl Sizes {
    pub(super) fn of(bytes_max: u64) -> Self {
        Self {
            memtable: (bytes_max / 64).clamp(MIB / 4, 4 * MIB),
        }
    }

    /// Bytes that RocksDB may take on its own, behind our back, before they are counted again: the log of two memtables
    /// and the files they become, and the output of one compaction beside its input, which are level 0 and level 1.
    pub(super) const fn reserve(self) -> u64 {
        14 * self.memtable + 2 * MIB
    }
}

/// Options of the database.
pub(super) fn database(sizes: Sizes) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // What was written is in the log or in files of all families, never in the files of one alone.
    options.set_atomic_flush(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_total_wal_size(2 * sizes.memtable);
    // One flush and one compaction at a time; the threads are shared by all databases of the process.
    options.set_max_background_jobs(2);
    options.set_max_open_files(128);
    options.set_max_file_opening_threads(1);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_max_manifest_file_size(256 << 10);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Kept for the case that the logger is not asked.
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_info_logger(InfoLogger::new_callback_logger(
        LogLevel::Warn,
        |level, text| match level {
            LogLevel::Error | LogLevel::Fatal => warn!(text = text.trim(), "the catalogue's database"),
            _ => debug!(text = text.trim(), "the catalogue's database"),
        },
    ));
    options
}

/// Options of each column family.
pub(super) fn family(sizes: Sizes) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_block_cache(&rocksdb::Cache::new_lru_cache(1 << 20));
    let bytes = usize::try_from(sizes.memtable).unwrap_or(usize::MAX);
    let mut options = Options::default();
    options.set_write_buffer_size(bytes);
    options.set_max_write_buffer_number(2);
    // Keys are mostly appended, so files hardly overlap and levels cost little; levels, unlike one sorted run, never need
    // twice the room for a compaction.
    options.set_target_file_size_base(sizes.memtable);
    options.set_max_bytes_for_level_base(4 * sizes.memtable);
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_max_compaction_bytes(8 * sizes.memtable);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&table);
    options
}

/// How everything is read in order, once.
pub(super) fn scan() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(256 << 10);
    options
}
