//! Joins the engine threads with the room that sends traces.

use std::path::Path;

use kvstore_engine::{Admission, RemoteAdmission};
use kvstore_remote::read_small_file;
use kvstore_trace::{Content, Exporter, StartError, TraceSpec};
use kvstore_types::BootEpoch;

use crate::config::{Config, RemoteKind, TraceExporter};
use crate::engine_thread::Listeners;
use crate::engine_thread::trace::Tracer;
use crate::engine_thread::voice::Voice;

/// Most bytes of a file with headers or certificates.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Starts the exporter if traces are wanted.
pub(crate) fn start(config: &Config, boot_epoch: BootEpoch) -> Result<Option<Exporter>, StartError> {
    let tracing = &config.tracing;
    match tracing.exporter {
        TraceExporter::None => Ok(None),
        TraceExporter::Otlp => Exporter::start(&TraceSpec {
            endpoint: tracing.endpoint.clone(),
            protocol: tracing.protocol,
            headers: content("tracing.headers-file", tracing.headers_file.as_deref())?,
            ca: content("tracing.ca-file", tracing.ca_file.as_deref())?,
            timeout: tracing.timeout,
            service_name: tracing.service_name.clone(),
            resource: tracing.resource.clone(),
            instance: boot_epoch.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            queue_spans: tracing.queue_spans,
        }),
    }
}

/// What a key's file holds, if there is one.
fn content(name: &'static str, path: Option<&Path>) -> Result<Option<Content>, StartError> {
    let read = |path: &Path| {
        let wrong = |text| StartError::Value {
            name,
            text: format!("{} could not be read: {text}", path.display()),
        };
        let bytes = read_small_file(path, FILE_BYTES_MAX).map_err(wrong)?;
        Ok(Content {
            path: path.to_owned(),
            bytes,
        })
    };
    path.map(read).transpose()
}

/// Sends what is left and ends the exporter, if there is one.
pub(crate) fn stop(exporter: Option<Exporter>) {
    if let Some(exporter) = exporter {
        exporter.stop();
    }
}

/// Who listens to the thread of each tenant, in their order: those who follow requests join those who tell of blocks.
pub(crate) fn listeners(
    config: &Config,
    voices: Vec<Option<Voice>>,
    exporter: Option<&Exporter>,
) -> Vec<Listeners> {
    let has_nvme = !config.nvme.directories.is_empty();
    let has_remote = config.remote.kind != RemoteKind::None;
    let soon = [
        has_nvme && config.nvme.admission == Admission::All,
        has_remote && config.remote.admission == RemoteAdmission::Everything,
    ];
    let has_lower = has_nvme || has_remote;
    let joined = voices
        .into_iter()
        .zip(&config.tenants)
        .map(|(voice, tenant)| Listeners {
            voice,
            tracer: exporter.map(|exporter| Tracer::new(&tenant.name, exporter.recorder(), soon, has_lower)),
        });
    joined.collect()
}

/// Which requests clients are to follow of their own accord, as an attachment tells it: those whose trace id is below this.
pub(crate) fn below(config: &Config, exporter: Option<&Exporter>) -> Option<u64> {
    exporter.map(|_| part_of_all(config.tracing.sample_ratio))
}

fn part_of_all(sample_ratio: f64) -> u64 {
    const ALL: u64 = 1 << 63;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the ratio is from 0 to 1, and a part in 2^53 does not matter"
    )]
    let below = (sample_ratio * ALL as f64) as u64;
    below.min(ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_part_of_all_trace_ids() {
        assert_eq!(part_of_all(0.0), 0);
        assert_eq!(part_of_all(0.5), 1 << 62);
        assert_eq!(part_of_all(1.0), 1 << 63);
    }
}
