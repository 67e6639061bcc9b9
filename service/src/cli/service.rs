//! A service as its author describes it: a name, a topology, routes, perhaps a load for the demo.

use std::{fmt, process::ExitCode, sync::Arc};

use axum::Router;
use holdfast_stream::topology::{Topology, TopologyError};

use super::{Failure, Invocation, Scenario, args, describe, generate, query, reset, serve};
use crate::{
    config::{DomainSetting, DomainSettings},
    grpc::DomainServices,
    query::Queries,
};

type BuildTopology = dyn Fn(&DomainSettings) -> Result<Topology, TopologyError> + Send + Sync;
type BuildRoutes = dyn Fn(Queries) -> Routes + Send + Sync;

/// A function that builds a topology: without arguments, or from settings of its own.
pub trait IntoTopology<M>: Send + Sync + 'static {
    /// Builds it.
    fn build(&self, settings: &DomainSettings) -> Result<Topology, TopologyError>;
}

impl<F> IntoTopology<()> for F
where
    F: Fn() -> Result<Topology, TopologyError> + Send + Sync + 'static,
{
    fn build(&self, _settings: &DomainSettings) -> Result<Topology, TopologyError> {
        self()
    }
}

impl<F> IntoTopology<DomainSettings> for F
where
    F: Fn(&DomainSettings) -> Result<Topology, TopologyError> + Send + Sync + 'static,
{
    fn build(&self, settings: &DomainSettings) -> Result<Topology, TopologyError> {
        self(settings)
    }
}

/// What an application answers beside the generic API.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// REST routes. They must not repeat a path of the generic API, nor have a fallback.
    pub rest: Router,
    /// gRPC services and what describes them.
    pub grpc: DomainServices,
}

impl Routes {
    /// REST routes alone; a plain [`Router`] turns into this by itself.
    pub fn new(rest: Router) -> Self {
        Self { rest, grpc: DomainServices::default() }
    }

    /// Adds a gRPC service, and the encoded `FileDescriptorSet` that describes it for reflection. Health tells of it by its name.
    #[must_use]
    pub fn grpc<S>(mut self, service: S, descriptors: &'static [u8]) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.grpc.routes = Some(self.grpc.routes.unwrap_or_default().add_service(service));
        self.grpc.names.push(S::NAME);
        self.grpc.descriptors.push(descriptors);
        self
    }
}

impl From<Router> for Routes {
    fn from(rest: Router) -> Self {
        Self::new(rest)
    }
}

/// A service: what [`run`](super::run) makes of a topology and routes, with more to choose.
#[derive(Clone)]
pub struct Service {
    name: String,
    version: String,
    topology: Arc<BuildTopology>,
    routes: Arc<BuildRoutes>,
    scenario: Option<Arc<dyn Scenario>>,
    default_command: Option<&'static str>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

impl Service {
    /// A service of this topology, called `holdfast` and without routes of its own.
    pub fn new<M>(topology: impl IntoTopology<M>) -> Self {
        Self {
            name: "holdfast".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            topology: Arc::new(move |settings: &DomainSettings| topology.build(settings)),
            routes: Arc::new(|_| Routes::default()),
            scenario: None,
            default_command: None,
        }
    }

    /// Its name: the default of `application_id`, and `service.name` of traces.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its version, which `--version` and routes tell.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Routes of its own beside the generic ones.
    #[must_use]
    pub fn routes<R: Into<Routes>>(mut self, routes: impl Fn(Queries) -> R + Send + Sync + 'static) -> Self {
        self.routes = Arc::new(move |queries| routes(queries).into());
        self
    }

    /// The load of `demo` and `generate`.
    #[must_use]
    pub fn scenario(mut self, scenario: impl Scenario) -> Self {
        self.scenario = Some(Arc::new(scenario));
        self
    }

    /// The command that an empty command line means; without it, an empty command line prints the help.
    #[must_use]
    pub fn default_command(mut self, command: &'static str) -> Self {
        self.default_command = Some(command);
        self
    }

    /// Reads the command line, does what it says, and answers the exit status.
    pub fn run(self) -> ExitCode {
        let mut arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
        if let (Some(command), true) = (self.default_command, arguments.len() <= 1) {
            arguments.resize(1, self.service_name().into());
            arguments.push(command.into());
        }
        let environment = std::env::vars().collect();
        match self.execute(arguments, environment) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                use std::io::Write;
                // Standard error may be closed; there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "{}: {}", self.name, failure.message);
                ExitCode::from(failure.status)
            }
        }
    }

    fn execute(
        &self,
        arguments: Vec<std::ffi::OsString>,
        environment: std::collections::BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let declared = self.declared_settings()?;
        let Some(invocation) = args::parse(self, declared, arguments, environment)? else { return Ok(()) };
        match invocation.command.as_str() {
            "serve" => serve::serve(self, &invocation),
            "demo" => serve::demo(self, &invocation),
            "generate" => generate::generate(self, &invocation),
            "query" => query::query(&invocation),
            "describe" => describe::describe(self, &invocation),
            "reset" => reset::reset(self, &invocation),
            "check-config" => serve::check_config(self, &invocation),
            "completions" => args::completions(self, &invocation),
            other => Err(Failure::new(format!("there is no command {other}"))),
        }
    }

    /// The settings that the topology asks for, found by building it once with defaults.
    pub(crate) fn declared_settings(&self) -> Result<Vec<DomainSetting>, Failure> {
        let settings = DomainSettings::default();
        self.topology(&settings)?;
        if let Some(scenario) = &self.scenario {
            scenario.topic(&settings);
        }
        Ok(settings.declared())
    }

    pub(crate) fn topology(&self, settings: &DomainSettings) -> Result<Topology, Failure> {
        (self.topology)(settings).map_err(|error| Failure::new(format!("the topology cannot be built: {error}")))
    }

    pub(crate) fn make_routes(&self) -> Arc<BuildRoutes> {
        Arc::clone(&self.routes)
    }

    pub(crate) fn service_name(&self) -> &str {
        &self.name
    }

    pub(crate) fn service_version(&self) -> &str {
        &self.version
    }

    /// The load of this service, or an error that says how to give it one.
    pub(crate) fn load_scenario(&self) -> Result<&Arc<dyn Scenario>, Failure> {
        self.scenario.as_ref().ok_or_else(|| {
            Failure::new(format!("{} has no load to generate: give it one with Service::scenario", self.name))
        })
    }
}

/// Whether this invocation names a configuration of its own for a command.
impl Invocation {
    /// The value of a flag of the command itself.
    pub(crate) fn text(&self, flag: &str) -> Option<&str> {
        self.matches.get_one::<String>(flag).map(String::as_str)
    }

    /// Whether a switch of the command itself is on.
    pub(crate) fn switch(&self, flag: &str) -> bool {
        self.matches.try_get_one::<bool>(flag).ok().flatten().copied().unwrap_or(false)
    }
}
