//! `holdfast.v1.QueryService`.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_proto::holdfast::v1::{self as pb, query_service_server::QueryService};
use holdfast_stream::engine::EngineState;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::convert;
use crate::query::{Queries, QueryError, ReadOptions, ScanRequest};

/// Bytes of keys and values in one message of a scan: each row goes out as bytes and as JSON, and clients take 4 MiB
/// unless told otherwise.
const SCAN_MESSAGE_BYTES: usize = 1024 * 1024;

/// The service over the router.
#[derive(Clone, Debug)]
pub(super) struct QueryApi {
    queries: Queries,
}

impl QueryApi {
    pub(super) fn new(queries: Queries) -> Self {
        Self { queries }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl QueryService for QueryApi {
    async fn list_stores(
        &self,
        _request: Request<pb::ListStoresRequest>,
    ) -> Result<Response<pb::ListStoresResponse>, Status> {
        let stores = self.queries.describe_stores().into_iter().map(convert::store).collect();
        Ok(Response::new(pb::ListStoresResponse { stores }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let queries = &self.queries;
        let store = queries.store(&request.store)?;
        let options = convert::options_from(queries, &metadata, request.options)?;
        let key = convert::key(queries, &store, request.key)?;
        let answer = queries.get_in(&store, &key, &options).await?;
        let Some(row) = answer.value else {
            let text = queries.key_text(&store, &key)?;
            return Err(convert::not_found(&store.name, &text, &answer.served));
        };
        let row = convert::row(queries, &store, &key, row)?;
        Ok(Response::new(pb::GetResponse { row: Some(row), served: Some(convert::served_by(&answer.served)) }))
    }

    async fn batch_get(&self, request: Request<pb::BatchGetRequest>) -> Result<Response<pb::BatchGetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let queries = &self.queries;
        let store = queries.store(&request.store)?;
        let options = convert::options_from(queries, &metadata, request.options)?;
        let key = |key| Ok(Bytes::from(convert::key(queries, &store, Some(key))?));
        let keys: Vec<Result<_, QueryError>> = request.keys.into_iter().map(key).collect();
        let bytes: Vec<_> = keys.iter().map(|key| key.as_ref().ok().cloned()).collect();
        let outcomes = queries.batch_get(&store.name, keys, &options).await?;
        let mut results = Vec::with_capacity(outcomes.len());
        for (key, outcome) in bytes.into_iter().zip(outcomes) {
            let (outcome, served) = match outcome {
                Err(error) => (Err(error), None),
                Ok(answer) => {
                    let served = Some(convert::served_by(&answer.served));
                    match (answer.value, key) {
                        (Some(row), Some(key)) => (convert::row(queries, &store, &key, row).map(Some), served),
                        _ => (Ok(None), served),
                    }
                }
            };
            let outcome = match outcome {
                Ok(Some(row)) => pb::batch_get_result::Outcome::Row(row),
                Ok(None) => pb::batch_get_result::Outcome::Failure(pb::Failure {
                    code: holdfast_proto::error::Code::NotFound.as_str().to_owned(),
                    message: format!("store {} has no row for this key", store.name),
                    ..pb::Failure::default()
                }),
                Err(error) => pb::batch_get_result::Outcome::Failure(convert::failure(&error)),
            };
            results.push(pb::BatchGetResult { outcome: Some(outcome), served });
        }
        Ok(Response::new(pb::BatchGetResponse { results }))
    }

    type ScanStream = Answers<pb::ScanResponse>;

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let queries = self.queries.clone();
        let store = queries.store(&request.store)?;
        let options = convert::options_from(&queries, &metadata, request.options)?;
        let key = |key: Option<pb::Key>| key.map(|key| convert::key(&queries, &store, Some(key))).transpose();
        let scan = ScanRequest {
            from: key(request.from)?,
            to: key(request.to)?,
            prefix: key(request.prefix)?,
            reverse: request.reverse,
            limit: None,
            max_bytes: Some(SCAN_MESSAGE_BYTES),
            cursor: Some(request.cursor).filter(|cursor| !cursor.is_empty()),
        };
        let total = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let pages = Pages {
            left: if total == 0 { usize::MAX } else { total },
            // A limit that the caller set holds for the whole stream; the default is meant for one read.
            ends: options.timeout.map(|timeout| Instant::now() + timeout),
            store: store.name.to_string(),
            queries,
            scan,
            options,
        };
        // The first page comes with the answer's head, so that a wrong request is a plain error; one more is read ahead.
        let (first, pages) = pages.next().await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut next = Ok((first, pages));
            loop {
                match next {
                    Ok((page, rest)) => {
                        if sender.send(Ok(page)).await.is_err() {
                            return;
                        }
                        let Some(rest) = rest else { return };
                        next = rest.next().await;
                    }
                    Err(error) => {
                        // Whether anybody still listens makes no difference now.
                        let _ = sender.send(Err(Status::from(error))).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_windows(
        &self,
        request: Request<pb::FetchWindowsRequest>,
    ) -> Result<Response<pb::FetchWindowsResponse>, Status> {
        self.queries.store(&request.get_ref().store)?;
        let text = "windows are not served by this version; stores hold one row per key";
        Err(QueryError::Unimplemented(text).into())
    }

    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.queries.store(&request.get_ref().store)?;
        let text = "watching a key is not served by this version; ask again with min_position";
        Err(QueryError::Unimplemented(text).into())
    }

    async fn explain_route(
        &self,
        request: Request<pb::ExplainRouteRequest>,
    ) -> Result<Response<pb::ExplainRouteResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let options = convert::options_from(&self.queries, &metadata, request.options)?;
        let store = self.queries.store(&request.store)?;
        let key = convert::key(&self.queries, &store, request.key)?;
        Ok(Response::new(convert::route(self.queries.explain_route(&store.name, &key, &options)?)))
    }

    async fn describe_topology(
        &self,
        _request: Request<pb::DescribeTopologyRequest>,
    ) -> Result<Response<pb::DescribeTopologyResponse>, Status> {
        let pictures = self.queries.topology();
        Ok(Response::new(pb::DescribeTopologyResponse {
            text: pictures.text.clone(),
            mermaid: pictures.mermaid.clone(),
            dot: pictures.dot.clone(),
            json: pictures.json.to_string(),
        }))
    }

    async fn describe_instances(
        &self,
        _request: Request<pb::DescribeInstancesRequest>,
    ) -> Result<Response<pb::DescribeInstancesResponse>, Status> {
        let described = self.queries.describe_instances();
        Ok(Response::new(pb::DescribeInstancesResponse {
            generation: described.generation,
            instances: described.instances.into_iter().map(convert::instance).collect(),
        }))
    }

    async fn describe_tasks(
        &self,
        _request: Request<pb::DescribeTasksRequest>,
    ) -> Result<Response<pb::DescribeTasksResponse>, Status> {
        let described = self.queries.describe_tasks();
        let state = match described.state {
            EngineState::Joining => "joining",
            EngineState::Restoring => "restoring",
            EngineState::Running => "running",
            EngineState::Waiting(_) => "waiting",
            EngineState::Halted(_) => "halted",
            EngineState::Stopping => "stopping",
            EngineState::Failed(_) => "failed",
        };
        Ok(Response::new(pb::DescribeTasksResponse {
            instance: described.instance,
            state: state.to_owned(),
            generation: described.generation,
            tasks: described.tasks.iter().map(convert::task).collect(),
            others: described.others.into_iter().map(convert::member_tasks).collect(),
        }))
    }
}

/// What is left of a scan.
struct Pages {
    queries: Queries,
    store: String,
    scan: ScanRequest,
    options: ReadOptions,
    left: usize,
    ends: Option<Instant>,
}

impl Pages {
    /// The next page, and what is left behind it.
    async fn next(mut self) -> Result<(pb::ScanResponse, Option<Self>), QueryError> {
        if let Some(ends) = self.ends {
            let timeout = self.options.timeout.unwrap_or_default();
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QueryError::Deadline { timeout });
            }
            self.options.timeout = Some(left.max(Duration::from_millis(1)));
        }
        let store = self.queries.store(&self.store)?;
        self.scan.limit = Some(self.left.min(self.queries.limits().max_scan_rows));
        let page = self.queries.scan(&self.store, &self.scan, &self.options).await?;
        self.left = self.left.saturating_sub(page.rows.len());
        let mut rows = Vec::with_capacity(page.rows.len());
        for (key, row) in page.rows {
            rows.push(convert::row(&self.queries, &store, &key, row)?);
        }
        let message = pb::ScanResponse {
            rows,
            cursor: page.cursor.clone().unwrap_or_default(),
            served: page.served.iter().map(convert::served_by).collect(),
        };
        let more = page.cursor.is_some() && self.left > 0;
        self.scan.cursor = page.cursor;
        Ok((message, more.then_some(self)))
    }
}
