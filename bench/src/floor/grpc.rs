//! Bare tonic over RocksDB: what a gRPC look-up costs at least.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use holdfast_proto::holdfast::v1::{self as proto, key::Form, query_service_server};
use tonic::{Request, Response, Status};

use super::rows::{ITEMS, Rows, ServeFlags, served};
use crate::error::Result;

struct Served {
    rows: Arc<Rows>,
    address: String,
}

/// Serves `holdfast.v1.QueryService/Get`, until the process is ended.
pub(crate) async fn run(flags: &ServeFlags) -> Result<()> {
    let service = Served { rows: served(flags)?, address: flags.listen.to_string() };
    let service = query_service_server::QueryServiceServer::from_arc(Arc::new(service));
    tonic::transport::Server::builder().add_service(service).serve(flags.listen).await?;
    Ok(())
}

type Messages<M> = Pin<Box<dyn Stream<Item = std::result::Result<M, Status>> + Send>>;
type Answer<M> = std::result::Result<Response<M>, Status>;

fn not_here<M>() -> Answer<M> {
    Err(Status::unimplemented("the floor answers Get only"))
}

#[tonic::async_trait]
impl query_service_server::QueryService for Served {
    type ScanStream = Messages<proto::ScanResponse>;
    type WatchStream = Messages<proto::WatchResponse>;

    async fn get(&self, request: Request<proto::GetRequest>) -> Answer<proto::GetResponse> {
        let Some(Form::Text(key)) = request.into_inner().key.and_then(|key| key.form) else {
            return Err(Status::invalid_argument("expected a key as text"));
        };
        let internal = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let table = self.rows.table(ITEMS).map_err(|error| internal(&error))?;
        let found = self.rows.get(&table, key.as_bytes()).map_err(|error| internal(&error))?;
        let Some(value) = found else { return Err(Status::not_found("no such key")) };
        let row = proto::Row {
            key_encoded: key.clone().into_bytes().into(),
            key,
            value_json: String::from_utf8_lossy(&value).into_owned(),
            value_encoded: value.to_vec().into(),
            timestamp_ms: 0,
            offset: 0,
        };
        let served = proto::Served { served_by: self.address.clone(), ..proto::Served::default() };
        Ok(Response::new(proto::GetResponse { row: Some(row), served: Some(served) }))
    }

    async fn list_stores(&self, _: Request<proto::ListStoresRequest>) -> Answer<proto::ListStoresResponse> {
        not_here()
    }

    async fn batch_get(&self, _: Request<proto::BatchGetRequest>) -> Answer<proto::BatchGetResponse> {
        not_here()
    }

    async fn scan(&self, _: Request<proto::ScanRequest>) -> Answer<Self::ScanStream> {
        not_here()
    }

    async fn fetch_windows(&self, _: Request<proto::FetchWindowsRequest>) -> Answer<proto::FetchWindowsResponse> {
        not_here()
    }

    async fn watch(&self, _: Request<proto::WatchRequest>) -> Answer<Self::WatchStream> {
        not_here()
    }

    async fn explain_route(&self, _: Request<proto::ExplainRouteRequest>) -> Answer<proto::ExplainRouteResponse> {
        not_here()
    }

    async fn describe_topology(
        &self,
        _: Request<proto::DescribeTopologyRequest>,
    ) -> Answer<proto::DescribeTopologyResponse> {
        not_here()
    }

    async fn describe_instances(
        &self,
        _: Request<proto::DescribeInstancesRequest>,
    ) -> Answer<proto::DescribeInstancesResponse> {
        not_here()
    }

    async fn describe_tasks(&self, _: Request<proto::DescribeTasksRequest>) -> Answer<proto::DescribeTasksResponse> {
        not_here()
    }
}
