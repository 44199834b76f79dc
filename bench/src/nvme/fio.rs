//! The reference: fio on a file of the same size in the same directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::rig::Shape;
use crate::arguments::NvmeMemory;

/// What one run of fio found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) seconds: f64,
    pub(super) p99_us: f64,
    pub(super) cpu_seconds: f64,
}

/// A file for fio.
pub(super) struct Fio {
    file: PathBuf,
    block_bytes: u64,
    blocks: u32,
    depth: u32,
    memory: NvmeMemory,
}

impl Fio {
    /// Makes the file and writes all of it.
    pub(super) fn make(directory: &Path, shape: &Shape) -> anyhow::Result<Self> {
        let fio = Self {
            file: directory.join("fio.reference"),
            block_bytes: shape.block_bytes(),
            blocks: shape.blocks_per_segment,
            depth: shape.depth,
            memory: shape.memory,
        };
        fio.run("write")?;
        Ok(fio)
    }

    /// Goes over the whole file once: `write` in order, or `randread`.
    pub(super) fn run(&self, what: &str) -> anyhow::Result<Run> {
        let output = Command::new("fio")
            .args([
                "--name=reference",
                "--output-format=json",
                "--ioengine=io_uring",
                "--direct=1",
            ])
            .args([
                "--fixedbufs=1",
                "--registerfiles=1",
                "--overwrite=1",
                "--randrepeat=0",
                "--thread=1",
            ])
            .args([
                "--lat_percentiles=1",
                "--clat_percentiles=0",
                "--fallocate=none",
                "--invalidate=0",
            ])
            // Shared memory, as the region is: where its pages lie decides how many pieces a request has.
            .arg(match self.memory {
                NvmeMemory::Small => "--iomem=mmapshared",
                NvmeMemory::Huge => "--iomem=mmaphuge",
            })
            .arg(format!("--filename={}", self.file.display()))
            .arg(format!("--rw={what}"))
            .arg(format!("--bs={}", self.block_bytes))
            .arg(format!("--size={}", self.block_bytes * u64::from(self.blocks)))
            .arg(format!("--iodepth={}", self.depth))
            .output()
            .context("could not run fio; scripts/setup.sh installs it")?;
        if !output.status.success() {
            bail!("fio failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).context("fio's answer is not JSON")?;
        let job = &answer["jobs"][0];
        let side = &job[if what == "write" { "write" } else { "read" }];
        let number = |value: &Value, name| value.as_f64().with_context(|| format!("fio tells no {name}"));
        let bytes = number(&side["io_bytes"], "io_bytes")?;
        let expected = self.block_bytes as f64 * f64::from(self.blocks);
        ensure!(
            (bytes - expected).abs() < 1.0,
            "fio moved {bytes} bytes, want {expected}"
        );
        let bandwidth = number(&side["bw_bytes"], "bw_bytes")?;
        let percent = number(&job["usr_cpu"], "usr_cpu")? + number(&job["sys_cpu"], "sys_cpu")?;
        let runtime = number(&side["runtime"], "runtime")? / 1e3;
        Ok(Run {
            seconds: bytes / bandwidth,
            p99_us: number(&side["lat_ns"]["percentile"]["99.000000"], "percentile")? / 1e3,
            cpu_seconds: percent / 100.0 * runtime,
        })
    }
}
