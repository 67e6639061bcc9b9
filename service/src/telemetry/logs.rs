//! Logs (text on a terminal, JSON elsewhere) and, by setting, OpenTelemetry traces.

use std::io::{self, IsTerminal};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, Layer, filter::ParseError, layer::SubscriberExt};

/// The target of request spans. They are debug: off, and then free, unless the filter or a collector asks for them.
pub const REQUEST_TARGET: &str = "holdfast::request";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStyle {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

/// What to log and where traces go.
#[derive(Clone, Debug, Default)]
pub struct LogSettings {
    /// A level, or `target=level,…`.
    pub filter: String,
    /// How lines look.
    pub style: LogStyle,
    /// Collector that traces go to (OTLP over gRPC); `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// `service.name` of traces.
    pub service_name: String,
}

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is wrong.
    #[error("log: expected a level (info) or target=level,… (holdfast=debug,info), got {filter:?}: {source}")]
    Filter {
        /// As set.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// The collector's address is wrong.
    #[error("otlp_endpoint: expected a URL (http://127.0.0.1:4317), got {endpoint:?}: {source}")]
    Exporter {
        /// As set.
        endpoint: String,
        /// Why.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Something else logs in this process.
    #[error("logs are set up already: {0}")]
    Taken(String),
}

/// Flushes what is left of traces when the process ends.
#[derive(Debug, Default)]
pub struct LogGuard {
    traces: Option<SdkTracerProvider>,
}

impl LogGuard {
    /// Sends what is left. Blocks up to the exporter's time limit: not for an async thread.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Sets the process's logs up. Must run inside a tokio runtime when traces are on.
pub fn install(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|source| LogError::Filter { filter: settings.filter.clone(), source })?;
    let json = match settings.style {
        LogStyle::Auto => !io::stderr().is_terminal(),
        LogStyle::Text => false,
        LogStyle::Json => true,
    };
    // Standard output belongs to commands that print results; logs never mix with them.
    // A line that cannot be written is lost. The layer would tell so on standard error, which is where it could not be
    // written (a log file on a full disk), and a failure there is a panic of whichever thread had something to say.
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    let traces =
        settings.otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, &settings.service_name)).transpose()?;
    // A filter of a layer's own may take one event for another where an event's fields make events themselves
    // (tokio-rs/tracing#2704, as tansu does), so that there is one only where traces are wanted besides.
    let subscriber: Box<dyn Subscriber + Send + Sync> = match &traces {
        None => Box::new(tracing_subscriber::registry().with(lines).with(filter)),
        Some(provider) => {
            let wanted = EnvFilter::new(format!("off,{REQUEST_TARGET}=debug"));
            let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("holdfast")).with_filter(wanted);
            Box::new(tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans))
        }
    };
    // Without a bridge from the crate `log`, as `try_init` has it: a layer with a filter of its own loses the thread's next line
    // when a crate has asked there whether it may log (tokio-rs/tracing#2519), as rdkafka does all the time. What librdkafka has to
    // say comes by the clients' contexts.
    tracing::subscriber::set_global_default(subscriber).map_err(|error| LogError::Taken(error.to_string()))?;
    Ok(LogGuard { traces })
}

fn provider(endpoint: &str, service_name: &str) -> Result<SdkTracerProvider, LogError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| LogError::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder().with_service_name(service_name.to_owned()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
