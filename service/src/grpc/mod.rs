//! gRPC: the query service, health and reflection, over the same router as REST.

mod convert;
mod health;
mod observe;
mod service;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use holdfast_proto::holdfast::v1::query_service_server::QueryServiceServer;
use tonic::service::Routes as TonicRoutes;
use tonic_health::pb::health_server::HealthServer;

pub use self::convert::{not_found, options_from, served_by};
pub(crate) use self::convert::{position, position_from, role};
use self::{health::HealthService, observe::Grpc, service::QueryApi};
use crate::{
    admin::health::Health,
    query::{Queries, admission::Admission},
    telemetry::observe::ObserveLayer,
};

/// Bounds of what gRPC itself reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request message.
    pub max_request_bytes: usize,
    /// Bytes of an answer message. A page of a scan stays far below; a single row may need it.
    pub max_response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_request_bytes: 1024 * 1024, max_response_bytes: 64 * 1024 * 1024 }
    }
}

/// The services of an application beside the generic ones.
#[derive(Clone, Debug, Default)]
pub struct DomainServices {
    /// Its services.
    pub routes: Option<TonicRoutes>,
    /// Their full names, for health.
    pub names: Vec<&'static str>,
    /// Encoded `FileDescriptorSet`s that describe them, for reflection.
    pub descriptors: Vec<&'static [u8]>,
}

/// The descriptors cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("reflection: expected encoded FileDescriptorSets, got one that cannot be read: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// All services as one axum router; requests that match none are UNIMPLEMENTED.
pub fn router(
    queries: Queries,
    health: Arc<Health>,
    admission: Arc<Admission>,
    limits: Limits,
    domain: DomainServices,
) -> Result<Router, ReflectionError> {
    let mut descriptors = vec![holdfast_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    for set in domain.descriptors {
        // Services of one set bring it once each.
        if !descriptors.contains(&set) {
            descriptors.push(set);
        }
    }
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        descriptors.iter().fold(builder, |builder, set| builder.register_encoded_file_descriptor_set(set))
    };
    let query = QueryServiceServer::new(QueryApi::new(queries))
        .max_decoding_message_size(limits.max_request_bytes)
        .max_encoding_message_size(limits.max_response_bytes);
    let health = HealthService::new(health, domain.names);
    let routes = domain
        .routes
        .unwrap_or_default()
        .add_service(query)
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let mut methods: Vec<String> = descriptors.iter().flat_map(|set| holdfast_proto::method_paths(set)).collect();
    for set in [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET] {
        methods.extend(holdfast_proto::method_paths(set));
    }
    Ok(routes.prepare().into_axum_router().layer(ObserveLayer::new(Grpc::new(methods), admission)))
}
