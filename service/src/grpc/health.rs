//! `grpc.health.v1`: SERVING while the instance is ready, read off at every question.

use std::{pin::Pin, sync::Arc, time::Duration};

use holdfast_proto::holdfast::v1::query_service_server;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health as HealthApi,
};

use crate::admin::health::Health;

/// How often a watch looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct HealthService {
    health: Arc<Health>,
    services: Arc<[&'static str]>,
}

impl HealthService {
    /// The health of the process, of the query service, and of those of an application.
    pub(super) fn new(health: Arc<Health>, mut services: Vec<&'static str>) -> Self {
        services.insert(0, query_service_server::SERVICE_NAME);
        Self { health, services: services.into() }
    }

    /// Whether a service can be asked about; the empty name is the whole process.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn status(health: &Health) -> i32 {
    let serving = if health.ready().passes() { ServingStatus::Serving } else { ServingStatus::NotServing };
    serving.into()
}

#[tonic::async_trait]
impl HealthApi for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !self.knows(&service) {
            let known = self.services.join(", ");
            return Err(Status::not_found(format!("there is no service {service:?}; known: {known}")));
        }
        Ok(Response::new(HealthCheckResponse { status: status(&self.health) }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.into_inner().service);
        let health = Arc::clone(&self.health);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None;
            let mut tick = tokio::time::interval(LOOK_AGAIN);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = sender.closed() => return,
                }
                // As the protocol says: an unknown service is no error, it may come later.
                let now = if known { status(&health) } else { ServingStatus::ServiceUnknown.into() };
                if last != Some(now) {
                    last = Some(now);
                    if sender.send(Ok(HealthCheckResponse { status: now })).await.is_err() {
                        return;
                    }
                }
                // A watch has no end of its own, and would hold the drain up to its time limit.
                if health.is_draining() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
