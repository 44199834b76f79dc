//! Where traces go, and what the environment adds to that.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP as protobuf over HTTP.
    Http,
}

impl Protocol {
    /// The name that OpenTelemetry has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// Where traces go. What is none is taken from OpenTelemetry's variables, and then from its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSpec {
    /// The collector's address.
    pub endpoint: Option<String>,
    /// How spans travel.
    pub protocol: Option<Protocol>,
    /// Headers that go with each request, `name: value` in each line: they may be secrets.
    pub headers: Option<Content>,
    /// The certificates (PEM) that a collector's are checked against; none: the system's.
    pub ca: Option<Content>,
    /// How long sending one batch may take.
    pub timeout: Option<Duration>,
    /// As whom the daemon is shown.
    pub service_name: Option<String>,
    /// What else is said of it.
    pub resource: Vec<(String, String)>,
    /// Which run of it.
    pub instance: String,
    /// Its version.
    pub version: &'static str,
    /// Most spans that wait.
    pub queue_spans: usize,
}

/// What a file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// Where it is, for people.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Content {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Why traces cannot be sent as they should.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value, of a key or a variable, makes no sense.
    #[error("{name}: {text}")]
    Value {
        /// The key or variable.
        name: &'static str,
        /// What is wrong with it.
        text: String,
    },
    /// The exporter cannot be made of it.
    #[error("no exporter can be made: {0}")]
    Exporter(String),
    /// The system refused.
    #[error("could not start the thread that sends traces")]
    System(#[from] std::io::Error),
}

/// What holds when the environment has been asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settled {
    pub(crate) endpoint: String,
    pub(crate) protocol: Protocol,
    pub(crate) timeout: Duration,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) service_name: Option<String>,
}

const TIMEOUT: Duration = Duration::from_secs(10);
const HTTP_PATH: &str = "v1/traces";

impl TraceSpec {
    /// Whether OpenTelemetry is switched off for this process as a whole.
    pub(crate) fn is_disabled(variable: &dyn Fn(&str) -> Option<String>) -> bool {
        variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Completes it from the environment.
    pub(crate) fn settle(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Settled, StartError> {
        let of_either = |names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| variable(name).map(|value| (name, value)))
        };
        let protocol = match self.protocol {
            Some(protocol) => protocol,
            None => of_either([
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "OTEL_EXPORTER_OTLP_PROTOCOL",
            ])
            .map_or(Ok(Protocol::Grpc), |(name, value)| protocol_of(name, &value))?,
        };
        let timeout = match self.timeout {
            Some(timeout) => timeout,
            None => of_either(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"])
                .map_or(Ok(TIMEOUT), |(name, value)| milliseconds_of(name, &value))?,
        };
        let is_named = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|value| value.contains("service.name="));
        let named = || (!is_named).then(|| "kvtier".to_owned());
        Ok(Settled {
            endpoint: self.endpoint_of(protocol, variable),
            protocol,
            timeout,
            headers: self.headers()?,
            service_name: self.service_name.clone().or_else(named),
        })
    }

    fn endpoint_of(&self, protocol: Protocol, variable: &dyn Fn(&str) -> Option<String>) -> String {
        let is_http = protocol == Protocol::Http;
        let base = |endpoint: String| {
            let base = endpoint.trim_end_matches('/');
            if is_http {
                format!("{base}/{HTTP_PATH}")
            } else {
                endpoint
            }
        };
        if let Some(endpoint) = &self.endpoint {
            return if has_path(endpoint) {
                endpoint.clone()
            } else {
                base(endpoint.clone())
            };
        }
        // What is said of traces alone is the whole address, what is said of all signals is where it begins.
        if let Some(endpoint) = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            return endpoint;
        }
        let default = if is_http {
            "http://localhost:4318"
        } else {
            "http://localhost:4317"
        };
        base(variable("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_else(|| default.to_owned()))
    }

    fn headers(&self) -> Result<Vec<(String, String)>, StartError> {
        let wrong = |text: String| StartError::Value {
            name: "tracing.headers-file",
            text,
        };
        let Some(Content { path, bytes }) = &self.headers else {
            return Ok(Vec::new());
        };
        let text = str::from_utf8(bytes).map_err(|_| wrong(format!("{} is no UTF-8", path.display())))?;
        let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
        let headers = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let split = |(line, number): (&str, u32)| match line.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            // The line itself may be a secret.
            None => Err(wrong(format!(
                "want \"name: value\" in line {number} of {}",
                path.display()
            ))),
        };
        headers.map(split).collect()
    }
}

/// Whether an address says more than a host.
fn has_path(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    host.split_once('/').is_some_and(|(_, path)| !path.is_empty())
}

fn protocol_of(name: &'static str, value: &str) -> Result<Protocol, StartError> {
    [Protocol::Grpc, Protocol::Http]
        .into_iter()
        .find(|protocol| protocol.name() == value)
        .ok_or_else(|| StartError::Value {
            name,
            text: format!("want \"grpc\" or \"http/protobuf\", got {value:?}"),
        })
}

fn milliseconds_of(name: &'static str, value: &str) -> Result<Duration, StartError> {
    match value.trim().parse() {
        Ok(number @ 1..=3_600_000) => Ok(Duration::from_millis(number)),
        _ => Err(StartError::Value {
            name,
            text: format!("want milliseconds from 1 to 3600000, got {value:?}"),
        }),
    }
}

#[cfg(test)]
mod tests;
