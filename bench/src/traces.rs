//! `traces_*`: what it costs to follow requests.
//!
//! Three daemons do the same: one client stores blocks at a steady rate, another looks up prefixes. One daemon records no traces, one
//! those of a hundredth of all requests, one those of all, which is the default. Clients follow what they are asked to follow, as the
//! connector does: each look-up is a request, and so is each sequence that is stored. The daemons take turns, round by round.
//!
//! The collector is a thread of this process, of the lowest priority: it speaks OTLP over gRPC, counts spans and drops them. A real one
//! is in another container.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::ensure;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use serde_json::{Value, json};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::arguments::Arguments;
use crate::busy::{Busy, Load, Measured, PROBE_BLOCKS, take_turns};
use crate::daemon::{Shape, TracesShape};
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;

/// Values of `tracing.sample-ratio`: the default, and everything.
const RATIO_SOME: f64 = 0.01;
const RATIO_ALL: f64 = 1.0;
const AIM_RATIO: f64 = 1.1;

/// A collector that takes everything and keeps nothing.
struct Collector {
    address: SocketAddr,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    spans: AtomicU64,
    batches: AtomicU64,
}

struct Service(Arc<Heard>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.iter().flat_map(|resource| &resource.scope_spans);
        let spans = scopes.map(|scope| scope.spans.len() as u64).sum();
        self.0.spans.fetch_add(spans, Ordering::Relaxed);
        self.0.batches.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Opens it; it listens until this process ends.
    fn open() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let heard = Arc::<Heard>::default();
        let service = Service(Arc::clone(&heard));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || {
                // On Linux this is the calling thread's own niceness. Whoever may not lower it is measured as it is.
                let _ = rustix::process::setpriority_process(None, 19);
                // It interrupts nobody when something has come for it: it would on another machine.
                let _ = kvstore_threads::stand_back();
                let served = runtime.block_on(async {
                    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
                    tonic::transport::Server::builder()
                        .add_service(TraceServiceServer::new(service))
                        .serve_with_incoming(incoming)
                        .await
                        .map_err(anyhow::Error::from)
                });
                if let Err(error) = served {
                    eprintln!("traces: the collector ended: {error:#}");
                }
            })?;
        Ok(Self { address, heard })
    }

    /// What a daemon that sends to it is started with.
    fn shape(&self, shape: Shape, sample_ratio: f64) -> Shape {
        Shape {
            traces: Some(TracesShape {
                endpoint: format!("http://{}", self.address),
                sample_ratio,
            }),
            ..shape
        }
    }
}

/// Measures it.
pub(crate) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    let params = json!({"stores_per_second": arguments.events_rate, "blocks": PROBE_BLOCKS});
    if let Err(error) = measure(arguments, installation, report, &params) {
        report.skip("traces_lookup_p99_ratio", &params, &format!("{error:#}"));
    }
}

fn measure(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
    params: &Value,
) -> anyhow::Result<()> {
    ensure!(arguments.socket.is_none(), "needs daemons of its own");
    let scratch = Scratch::make()?;
    let load = Load {
        stores_per_second: arguments.events_rate,
        milliseconds: arguments.events_seconds * 1000,
        rounds: arguments.rounds,
    };
    eprintln!("traces: three daemons; none, some and all requests are followed");
    let shape = |name| Shape::holding(name, load.bytes(), false);
    let collectors = [Collector::open()?, Collector::open()?];
    let mut daemons = [
        Busy::start(installation, &scratch, &shape("off"))?,
        Busy::start(
            installation,
            &scratch,
            &collectors[0].shape(shape("some"), RATIO_SOME),
        )?,
        Busy::start(
            installation,
            &scratch,
            &collectors[1].shape(shape("all"), RATIO_ALL),
        )?,
    ];
    let [without, some, all] = take_turns(&mut daemons, load)?;
    for ((with, sample_ratio), collector) in [(some, RATIO_SOME), (all, RATIO_ALL)]
        .into_iter()
        .zip(&collectors)
    {
        let spans = collector.heard.spans.load(Ordering::Relaxed);
        ensure!(spans > 0, "the collector was told nothing of {sample_ratio}");
        let mut params = params.clone();
        params["sample_ratio"] = json!(sample_ratio);
        let context = json!({"spans": spans, "batches": collector.heard.batches.load(Ordering::Relaxed)});
        tell(report, (params, context), with, &without);
    }
    Ok(())
}

fn tell(report: &mut Report, (params, context): (Value, Value), with: Measured, without: &Measured) {
    let reference = |name, samples| {
        Some(Reference {
            name,
            variant: "no traces".to_owned(),
            samples,
        })
    };
    let ratios = with.p99_us.ratios(&without.p99_us);
    report.add(&Row {
        name: "traces_lookup_p99_us",
        unit: "µs",
        params: params.clone(),
        context,
        samples: with.p99_us,
        reference: reference("lookup_p99_us", without.p99_us.clone()),
        aim: None,
    });
    report.add(&Row {
        name: "traces_lookup_p99_ratio",
        unit: "×",
        params: params.clone(),
        context: Value::Null,
        samples: ratios,
        reference: None,
        aim: Some(Aim::AtMost(AIM_RATIO)),
    });
    report.add(&Row {
        name: "traces_cpu_percent",
        unit: "% of a core",
        params,
        context: Value::Null,
        samples: with.cpu_percent,
        reference: reference("cpu_percent", without.cpu_percent.clone()),
        aim: None,
    });
}
