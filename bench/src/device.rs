//! Copies between a GPU's memory and slots through libkvtier, beside one large copy of pinned memory by the driver itself, and
//! what kernels lose meanwhile.
//!
//! On the stand-in for a driver everything runs and nothing is a figure: rows say so and have no aim.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;
use crate::statistics::Samples;

/// Blocks, and the pieces that each consists of.
const SHAPES: [(u64, u64); 4] = [(524_288, 1), (2_097_152, 1), (8_388_608, 1), (2_097_152, 32)];
/// One block is timed alone in this shape, in this many rounds.
const ALONE: (u64, u64) = (2_097_152, 1);
const ALONE_ROUNDS: u32 = 51;
const WAYS: [(&str, &str); 3] = [
    ("store", "device_store_gbps"),
    ("load", "device_load_gbps"),
    ("both", "device_both_gbps"),
];
/// Pieces of this size and more should be as quick as one large copy.
const LARGE_PIECE_BYTES: u64 = 524_288;
const AIM_LARGE: f64 = 0.95;
const AIM_SMALL: f64 = 0.8;
const AIM_KERNELS: f64 = 0.97;

/// What is measured, and on what.
struct Bench<'a> {
    arguments: &'a Arguments,
    client: Client,
    block_bytes: u64,
    pieces: u64,
    count: u64,
    device: String,
    batched: bool,
    pin_s_per_gib: f64,
    // They end after the client.
    _daemon: Daemon,
    _scratch: Scratch,
}

/// Measures all shapes. Without a driver it says so once.
pub(crate) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    eprintln!("device: engines that are killed while a device writes");
    if let Err(error) = measure_deaths(arguments, installation, report) {
        report.skip("device_late_bytes", &Value::Null, &format!("{error:#}"));
    }
    for (block_bytes, pieces) in SHAPES {
        eprintln!("device: blocks of {block_bytes} bytes in {pieces} piece(s)");
        let params = json!({"block_bytes": block_bytes, "pieces": pieces});
        let measured = Bench::open(arguments, installation, (block_bytes, pieces))
            .and_then(|bench| bench.measure(report));
        if let Err(error) = measured {
            report.skip("device_store_gbps", &params, &format!("{error:#}"));
            if format!("{error:#}").contains("no CUDA driver") {
                break;
            }
        }
    }
}

/// Bytes that a device wrote after its process was proven dead.
fn measure_deaths(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let scratch = Scratch::make()?;
    let driver = driver_of(arguments, &scratch)?;
    let daemon = Daemon::given_or_started(
        arguments,
        installation,
        &scratch,
        &Shape::holding("death", 0, true),
    )?;
    let namespace = format!("bench-death-{}", std::process::id());
    let mut client = Client::attach(installation, &scratch, &daemon, &namespace, 65_536)?;
    let mut late = Samples::default();
    for _ in 0..arguments.rounds {
        let said = client.numbers(&format!("device_death {driver} {} 1", arguments.cuda_device))?;
        late.push(*said.first().context("the client said too little")? as f64);
    }
    let context = if arguments.stand_in {
        json!({"stand_in": "no figure"})
    } else {
        Value::Null
    };
    // The aim is about every round: one byte once is too much.
    let worst: Samples = std::iter::once(late.max()).collect();
    report.add(&Row {
        name: "device_late_bytes",
        unit: "bytes",
        params: json!({"deaths": late.count()}),
        context,
        samples: worst,
        reference: None,
        aim: (!arguments.stand_in).then_some(Aim::AtMost(0.0)),
    });
    Ok(())
}

/// The driver's path for a client; "-": the system's.
fn driver_of(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<String> {
    if arguments.stand_in {
        return Ok(scratch.cuda_stand_in()?.display().to_string());
    }
    Ok("-".to_owned())
}

impl<'a> Bench<'a> {
    fn open(
        arguments: &'a Arguments,
        installation: &Installation,
        (block_bytes, pieces): (u64, u64),
    ) -> anyhow::Result<Self> {
        let scratch = Scratch::make()?;
        let driver = driver_of(arguments, &scratch)?;
        let count = ((arguments.device_mib << 20) / block_bytes).max(2);
        let shape = Shape::holding("device", (count + count / 8 + 4) * block_bytes, true);
        let daemon = Daemon::given_or_started(arguments, installation, &scratch, &shape)?;
        let namespace = format!("bench-device-{block_bytes}-{pieces}-{}", std::process::id());
        let mut client = Client::attach(installation, &scratch, &daemon, &namespace, block_bytes)?;
        let number = arguments.cuda_device;
        let said = client.command(&format!(
            "device_begin {driver} {number} {block_bytes} {count} {pieces}"
        ))?;
        let number = |index: usize| -> anyhow::Result<f64> {
            let word = said.get(index).context("the client said too little")?;
            Ok(word.parse::<f64>()?)
        };
        let (pinned_bytes, pinning_us) = (number(0)?, number(1)?);
        client.command("device_check")?;
        Ok(Self {
            arguments,
            client,
            block_bytes,
            pieces,
            count,
            device: said.get(3..).unwrap_or_default().join(" "),
            batched: number(2)? > 0.0,
            pin_s_per_gib: pinning_us / 1e6 / (pinned_bytes / f64::from(1 << 30)),
            _daemon: daemon,
            _scratch: scratch,
        })
    }

    fn measure(mut self, report: &mut Report) -> anyhow::Result<()> {
        self.add(
            report,
            "device_pin_s_per_gib",
            "s",
            Value::Null,
            (std::iter::once(self.pin_s_per_gib).collect(), None, None),
        );
        for (way, name) in WAYS {
            self.measure_speed(report, way, name)?;
        }
        if (self.block_bytes, self.pieces) == ALONE {
            for (way, name) in [("store", "device_store_us"), ("load", "device_load_us")] {
                self.measure_alone(report, way, name)?;
            }
            for kernel in ["arithmetic", "memory"] {
                for way in ["store", "load", "both"] {
                    self.measure_kernels(report, kernel, way)?;
                }
            }
        }
        self.client.command("device_check")?;
        self.client.command("device_end")?;
        Ok(())
    }

    /// All blocks in one batch, beside one plain copy of as many bytes; they take turns in going first.
    fn measure_speed(&mut self, report: &mut Report, way: &str, name: &'static str) -> anyhow::Result<()> {
        let bytes = self.count * self.block_bytes;
        let (mut ours, mut plain) = (Samples::default(), Samples::default());
        for round in 0..=self.arguments.rounds {
            let mut pair = [0.0; 2];
            for turn in 0..2 {
                let which = usize::from((round + turn) % 2 == 1);
                let line = [
                    format!("device_copy {way} {}", self.count),
                    format!("device_plain {way} {bytes}"),
                ];
                pair[which] = bytes as f64 / self.ns(&line[which])?;
            }
            // The first round warms up.
            if round > 0 {
                ours.push(pair[0]);
                plain.push(pair[1]);
            }
        }
        let large = self.block_bytes / self.pieces >= LARGE_PIECE_BYTES;
        let aim = if large { AIM_LARGE } else { AIM_SMALL };
        // Both ways at once share what the bus and the memory have; there is no aim for that.
        let aim = (way != "both").then_some(Aim::RatioAtLeast(aim));
        self.add(report, name, "GB/s", Value::Null, (ours, Some(plain), aim));
        Ok(())
    }

    fn measure_alone(&mut self, report: &mut Report, way: &str, name: &'static str) -> anyhow::Result<()> {
        let (mut ours, mut plain) = (Samples::default(), Samples::default());
        for _ in 0..ALONE_ROUNDS {
            ours.push(self.ns(&format!("device_copy {way} 1"))? / 1e3);
            plain.push(self.ns(&format!("device_plain {way} {}", self.block_bytes))? / 1e3);
        }
        self.add(
            report,
            name,
            "µs",
            json!({"blocks": 1}),
            (ours, Some(plain), None),
        );
        Ok(())
    }

    /// Kernels a second while copies go on, beside without.
    fn measure_kernels(&mut self, report: &mut Report, kernel: &str, way: &str) -> anyhow::Result<()> {
        let ms = self.arguments.device_compute_ms;
        let (mut beside, mut alone, mut copied) =
            (Samples::default(), Samples::default(), Samples::default());
        for round in 0..=self.arguments.rounds {
            let line = format!("device_compute {ms} {kernel} {way}");
            let [kernels, ns, bytes] = self.three(&line)?;
            let [kernels_alone, ns_alone, _] = self.three(&format!("device_compute {ms} {kernel} none"))?;
            if round > 0 {
                beside.push(kernels / ns * 1e9);
                alone.push(kernels_alone / ns_alone * 1e9);
                copied.push(bytes / ns);
            }
        }
        let context =
            json!({"kernel": kernel, "way": way, "copied_gbps": (copied.median() * 10.0).round() / 10.0});
        let samples = (beside, Some(alone), Some(Aim::RatioAtLeast(AIM_KERNELS)));
        self.add(report, "device_kernels_per_s", "1/s", context, samples);
        Ok(())
    }

    fn ns(&mut self, line: &str) -> anyhow::Result<f64> {
        let said = self.client.numbers(line)?;
        Ok(*said.first().context("the client said too little")? as f64)
    }

    fn three(&mut self, line: &str) -> anyhow::Result<[f64; 3]> {
        let said = self.client.numbers(line)?;
        ensure!(said.len() == 3, "want three numbers, got {said:?}");
        Ok([said[0] as f64, said[1] as f64, said[2] as f64])
    }

    fn add(
        &self,
        report: &mut Report,
        name: &'static str,
        unit: &'static str,
        mut context: Value,
        (samples, plain, aim): (Samples, Option<Samples>, Option<Aim>),
    ) {
        if context.is_null() {
            context = json!({});
        }
        context["device"] = json!(self.device);
        context["batched"] = json!(self.batched);
        if self.arguments.stand_in {
            context["stand_in"] = json!("no figure");
        }
        let reference = plain.map(|samples| Reference {
            name: if unit == "1/s" {
                "kernels_alone"
            } else {
                "plain_copy"
            },
            variant: "driver".to_owned(),
            samples,
        });
        report.add(&Row {
            name,
            unit,
            params: json!({"block_bytes": self.block_bytes, "pieces": self.pieces}),
            context,
            samples,
            reference,
            aim: aim.filter(|_| !self.arguments.stand_in),
        });
    }
}
