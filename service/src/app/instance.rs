//! An instance: processing and serving in one, from start to drain.

use std::{num::NonZero, sync::Arc, time::Instant};

use axum::Router;
use holdfast_discovery::peers;
use holdfast_types::{Endpoint, SystemClock};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    AppError, bounds,
    descriptors::ConnectionBounds,
    peer,
    processing::Processing,
    server::{Front, Server, bind},
    workers::Workers,
};
use crate::{
    admin::{health::Health, report::Report},
    cli::{Routes, Service},
    config::{Secret, Settings},
    grpc,
    peer::{self as between, Exchange, Parts, PeerClient, Reporter, Token},
    query::{Forward, Queries, StoreView, admission::Admission, describe::TopologyPictures},
    rest::{self, Api, ApiParts},
    telemetry::{
        logs::{self, LogGuard},
        metrics::Metrics,
    },
};

/// An instance that runs.
#[derive(Debug)]
pub struct Instance {
    settings: Settings,
    public: Endpoint,
    queries: Queries,
    health: Arc<Health>,
    reporter: Arc<Reporter>,
    processing: Arc<Processing>,
    fatal: watch::Receiver<Option<Arc<str>>>,
    drain_asked: Arc<Notify>,
    public_server: Option<Server>,
    peer_server: Option<Server>,
    upkeep: JoinHandle<()>,
    /// The group's own: no query, however slow, keeps a heartbeat waiting.
    group_runtime: Option<Runtime>,
    logs: Option<LogGuard>,
}

impl Instance {
    /// Sets logs and metrics up, opens listeners and state, and starts processing. It answers at once, and is ready when it
    /// has joined and caught up; a broker that is away is waited for.
    pub async fn start(service: &Service, settings: Settings) -> Result<Self, AppError> {
        let topology = service.topology(&settings.domain).map_err(|failure| AppError::Topology(failure.to_string()))?;
        let logs = logs::install(&bounds::log_settings(&settings, service.service_name()))?;
        let metrics = Metrics::install()?;
        holdfast_stream::engine::describe_metrics();
        holdfast_discovery::metrics::describe();
        let description = topology.describe();
        let pictures = TopologyPictures {
            text: description.to_string(),
            mermaid: description.mermaid(),
            dot: description.dot(),
            json: serde_json::to_value(&description).unwrap_or_default(),
        };

        // Before anything asks how many descriptors there are.
        let connections = ConnectionBounds::of_process();
        // Listeners first: port 0 has a number then, which others are told.
        let public_listener = bind("listen", &settings.listen.public).await?;
        let peer_listener = bind("peer_listen", &settings.listen.peer).await?;
        let public = settings.listen.advertise.at(port(&public_listener)?);
        let peer = settings.listen.peer_advertise.at(port(&peer_listener)?);
        let processing = Processing::open(&settings, topology, public.clone(), peer.clone())?;

        let view: Arc<dyn StoreView> = Arc::clone(&processing) as Arc<dyn StoreView>;
        let token = Token::new(settings.peer_token.as_ref().map(Secret::reveal))?;
        let client = PeerClient::new(token.clone(), Arc::clone(&view), settings.requests.hedge_after);
        let queries = Queries::with(
            Arc::clone(&view),
            Arc::clone(&client) as Arc<dyn Forward>,
            Arc::new(SystemClock),
            bounds::query_limits(&settings.requests),
            pictures,
        );
        let health = Health::new(queries.clone(), settings.ready_when);
        let report = Report::new(Arc::clone(&view), Arc::clone(&health));
        let budget = Arc::clone(processing.budget());
        let metrics = metrics.reading(move || report.record()).reading(move || budget.record_metrics());
        let exchange = Exchange::new();
        processing.tell(exchange.inbox());
        let reporter = Reporter::new(settings.application_id.clone(), processing.instance().clone(), queries.clone());
        let admission = Admission::new(settings.requests.max_concurrent_requests);
        let api = Api::new(ApiParts {
            queries: queries.clone(),
            health: Arc::clone(&health),
            metrics: metrics.clone(),
            admission: Arc::clone(&admission),
            limits: bounds::rest_limits(&settings.requests),
        });
        let Routes { rest: domain, grpc: domain_services } = service.make_routes()(queries.clone());
        let grpc = grpc::router(
            queries.clone(),
            Arc::clone(&health),
            admission,
            bounds::grpc_limits(&settings.requests),
            domain_services,
        )?;
        let rest = merge_routes(api.clone(), domain)?;
        let drain_asked = Arc::new(Notify::new());
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = Workers::start(connections.workers(processors))?;
        let public_server = {
            let front = Front { rest, grpc: Some(grpc), closing: CancellationToken::new() };
            Server::start(public_listener, front, connections.public, Arc::clone(&workers))?
        };
        // What comes from peers is bounded by itself: requests that wait for a peer must not keep the peer's from being
        // answered.
        let between = Admission::new(settings.requests.max_concurrent_requests);
        let closing = CancellationToken::new();
        let (told, closed) = (exchange.inbox(), closing.clone());
        let service = between::router(queries.clone(), token.clone(), between, Arc::clone(&reporter), told, closed);
        let peer_front =
            Front { rest: peer::router(api, token, Arc::clone(&drain_asked)), grpc: Some(service), closing };
        let peer_server = Server::start(peer_listener, peer_front, connections.peer, workers)?;

        let group_runtime = Builder::new_multi_thread().worker_threads(1).thread_name("group").enable_all().build()?;
        let me = processing.instance().process_id;
        let peers = peers::Settings { me, peer_timeout: settings.peer_timeout, exactly_once: processing.fences() };
        let parts = Parts { settings: peers, client, reporter: Arc::clone(&reporter), view };
        exchange.start(group_runtime.handle(), parts);
        let fatal = processing.fatal();
        processing.start(group_runtime.handle().clone())?;
        health.set_started();
        info!(%public, %peer, application_id = settings.application_id, "the instance is up and joins its group");
        let upkeep = tokio::spawn(metrics.keep_up());
        Ok(Self {
            settings,
            public,
            queries,
            health,
            reporter,
            processing,
            fatal,
            drain_asked,
            public_server: Some(public_server),
            peer_server: Some(peer_server),
            upkeep,
            group_runtime: Some(group_runtime),
            logs: Some(logs),
        })
    }

    /// Queries over its stores.
    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    /// The public listener, as others are told.
    pub fn public_endpoint(&self) -> &Endpoint {
        &self.public
    }

    /// Why processing ended for good, if it did.
    pub fn fatal(&self) -> Option<Arc<str>> {
        self.fatal.borrow().clone()
    }

    /// Waits until an operator asks for a drain (`Ok`), or processing ends for good (`Err`).
    pub async fn ended(&self) -> Result<(), AppError> {
        let mut fatal = self.fatal.clone();
        tokio::select! {
            () = self.drain_asked.notified() => Ok(()),
            reason = fatal.wait_for(Option::is_some) => {
                let reason = reason.ok().and_then(|reason| reason.clone()).unwrap_or_default();
                Err(AppError::Fatal(reason))
            }
        }
    }

    /// Turns unready, lets open requests finish, commits, releases every task and leaves the group, within the drain's time.
    pub async fn shutdown(mut self) -> Result<(), AppError> {
        info!("draining");
        self.health.set_draining();
        self.reporter.set_leaving();
        tokio::time::sleep(self.settings.drain_delay).await;
        let until = Instant::now() + self.settings.drain_timeout;
        let left = |share: u32| until.saturating_duration_since(Instant::now()) / share;
        // Half of the time for requests: a client that never ends its request must not cost the last commit.
        if let Some(server) = self.public_server.take()
            && !server.drain(left(2)).await
        {
            warn!("some requests were still open and were cut");
        }
        let processing = Arc::clone(&self.processing);
        let deadline = left(1);
        let clean = tokio::task::spawn_blocking(move || processing.shutdown(deadline)).await.unwrap_or(false);
        // The last to go: operators can look as long as there is something to see.
        if let Some(server) = self.peer_server.take() {
            server.drain(left(1)).await;
        }
        match (clean, self.processing.has_joined()) {
            (true, true) => info!("drained: everything is committed, the group is left"),
            (true, false) => info!("stopped before it had joined its group: there was nothing to commit"),
            // What was left undone is told already.
            (false, _) => {}
        }
        if let Some(logs) = self.logs.take() {
            // Whatever is left of traces; it may wait for the collector.
            let _ = tokio::task::spawn_blocking(move || logs.shutdown()).await;
        }
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.upkeep.abort();
        if let Some(runtime) = self.group_runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn port(listener: &TcpListener) -> Result<u16, AppError> {
    Ok(listener.local_addr()?.port())
}

/// axum panics when two routers have the same path; an author of routes wants a message.
fn merge_routes(api: Api, domain: Router) -> Result<Router, AppError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rest::router(api, domain))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        AppError::Routes(text.unwrap_or("two routes overlap").to_owned())
    })
}
