//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Figure {
    /// Look-ups of whole prefixes, all hits.
    Lookup,
    /// Puts and gets of host memory, beside plain copy loops.
    Host,
    /// What the connector costs vLLM's scheduler thread.
    Connector,
    /// CPU of a daemon with attached, idle engines.
    Idle,
    /// Daemon memory beyond the region, per resident block.
    Footprint,
    /// What announcing blocks to a router costs.
    Events,
    /// What following requests costs.
    Traces,
    /// Write back and promotion through one NVMe device, beside fio.
    Nvme,
    /// How soon an NVMe directory can be used after a restart.
    Restart,
    /// Promotions while blocks are written back.
    Mixed,
    /// Copies between a GPU's memory and slots, beside plain copies and beside kernels.
    Device,
    /// A remote tier beside plain files, and what one that stalls costs.
    Remote,
    /// Everything, in this order.
    All,
}

impl Figure {
    /// Whether it is measured with a daemon and the library.
    pub(crate) fn needs_installation(self) -> bool {
        !matches!(self, Self::Nvme | Self::Restart | Self::Mixed)
    }
}

/// Measures kvtier. A table for people on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "kvtier-bench", version)]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    pub(crate) figure: Figure,
    /// Print one JSON object a line instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Rounds of each figure; a figure is their median.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(5..=1000))]
    pub(crate) rounds: u32,
    /// Use the daemon at this socket instead of starting one. Idle and footprint are then skipped: they need a
    /// daemon that serves nobody else.
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// The kvtierd to start. Default: beside this program, else on the PATH.
    #[arg(long)]
    pub(crate) daemon: Option<PathBuf>,
    /// The libkvtier.so that the clients load. Default: $KVTIER_LIBRARY, else beside this program.
    #[arg(long, env = "KVTIER_LIBRARY")]
    pub(crate) library: Option<PathBuf>,
    /// The Python with vLLM in it, for the connector's figures. Default: the virtual environment that the Makefile
    /// makes.
    #[arg(long, env = "KVTIER_PYTHON")]
    pub(crate) python: Option<PathBuf>,
    /// Lengths of the prefixes that are looked up, in blocks.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    pub(crate) blocks: Vec<u64>,
    /// Numbers of resident blocks to look up among.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000, 5_000_000])]
    pub(crate) resident: Vec<u64>,
    /// Block sizes of puts and gets, in bytes; multiples of 16 KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [65_536, 524_288, 2_097_152, 8_388_608])]
    pub(crate) block_bytes: Vec<u64>,
    /// Numbers of client processes that put and get at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    pub(crate) clients: Vec<u32>,
    /// Rounds of puts and gets: more, because their reference is the best of several loops.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=1000))]
    pub(crate) host_rounds: u32,
    /// Bytes that one client puts and gets in one round, in MiB.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(8..=65_536))]
    pub(crate) batch_mib: u64,
    /// Keys of the connector's prompt.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) keys: u64,
    /// Engines that are attached while the daemon idles.
    #[arg(long, default_value_t = 4)]
    pub(crate) engines: u32,
    /// Seconds of each round of idling.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) idle_seconds: u64,
    /// Blocks stored per second, and so announced; of the traces' figure, too.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub(crate) events_rate: u64,
    /// Seconds of each round of storing; of the traces' figure, too.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) events_seconds: u64,
    /// Blocks that are announced from the start.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) announce_blocks: u64,
    /// Blocks a second that they are announced at.
    #[arg(long, value_delimiter = ',', default_values_t = [50_000, 1_000_000])]
    pub(crate) announce_rate: Vec<u64>,
    /// Where the NVMe figures make their files; on the file system to measure. Default: the temporary directory.
    #[arg(long)]
    pub(crate) nvme_directory: Option<PathBuf>,
    /// Bytes of one pass over an NVMe device, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=65_536))]
    pub(crate) nvme_mib: u64,
    /// Payloads of the blocks on NVMe, in bytes; multiples of 4 KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [131_072, 524_288, 2_097_152])]
    pub(crate) nvme_block_bytes: Vec<u64>,
    /// Transfers at the device at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    pub(crate) nvme_depth: Vec<u32>,
    /// How a device reads and writes.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [NvmeIo::IoUring, NvmeIo::Threads])]
    pub(crate) nvme_io: Vec<NvmeIo>,
    /// Pages of the memory that blocks on NVMe are read into and written from, and fio's as well.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [NvmeMemory::Small])]
    pub(crate) nvme_memory: Vec<NvmeMemory>,
    /// Numbers of blocks, of 4 KiB each, that are found at a restart.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    pub(crate) restart_blocks: Vec<u64>,
    /// Where the remote figures make their files; on the file system to measure. Default: the temporary directory.
    #[arg(long)]
    pub(crate) remote_directory: Option<PathBuf>,
    /// Bytes of one pass over the remote tier, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=65_536))]
    pub(crate) remote_mib: u64,
    /// Payloads of the blocks there, in bytes; multiples of 4 KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [131_072, 2_097_152])]
    pub(crate) remote_block_bytes: Vec<u64>,
    /// The S3 server that stalls. Default: `examples/s3_server` beside this program.
    #[arg(long)]
    pub(crate) remote_s3_server: Option<PathBuf>,
    /// The CUDA device of the device figures, as CUDA counts.
    #[arg(long, default_value_t = 0)]
    pub(crate) cuda_device: u32,
    /// Bytes of one pass over the device, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(32..=16_384))]
    pub(crate) device_mib: u64,
    /// Milliseconds for which kernels run in each round.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub(crate) device_compute_ms: u64,
    /// Run the device figures on the stand-in for a CUDA driver, to see that they run. What it prints are no figures.
    #[arg(long)]
    pub(crate) stand_in: bool,
}

/// A value of `nvme.io`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum NvmeIo {
    /// io_uring.
    IoUring,
    /// A pool of threads.
    Threads,
}

/// As `host.huge-pages` makes the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NvmeMemory {
    /// Shared memory in pages of 4 KiB.
    Small,
    /// Shared memory in pages of 2 MiB, which the machine must have set aside (`vm.nr_hugepages`).
    Huge,
}

impl Arguments {
    /// The figures to measure, in order.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        match self.figure {
            Figure::All => {
                vec![
                    Figure::Lookup,
                    Figure::Host,
                    Figure::Connector,
                    Figure::Idle,
                    Figure::Footprint,
                    Figure::Events,
                    Figure::Traces,
                    Figure::Nvme,
                    Figure::Restart,
                    Figure::Mixed,
                    Figure::Device,
                    Figure::Remote,
                ]
            }
            one => vec![one],
        }
    }
}
