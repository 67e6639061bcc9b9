//! `holdfast.v1.PeerService`: answers from the copies here, and takes reports in.

use std::sync::Arc;

use axum::Router;
use holdfast_proto::holdfast::v1::{
    self as pb,
    peer_service_server::{PeerService, PeerServiceServer},
};
use metrics::Counter;
use tonic::{Request, Response, Status, service::Routes};

use super::{convert, exchange::Inbox, report::Reporter, token::Token};
use crate::{
    query::{Outcome, Queries, QueryError, admission::Admission},
    telemetry::names,
};

/// Bytes of a question: a batch of large keys.
const MAX_QUESTION_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The service over the router.
#[derive(Clone)]
struct PeerApi {
    queries: Queries,
    token: Token,
    admission: Arc<Admission>,
    reporter: Arc<Reporter>,
    inbox: Inbox,
    came: Came,
}

/// The service as an axum router.
pub(crate) fn router(
    queries: Queries,
    token: Token,
    admission: Arc<Admission>,
    reporter: Arc<Reporter>,
    inbox: Inbox,
) -> Router {
    let api = PeerApi { queries, token, admission, reporter, inbox, came: Came::new() };
    let service = PeerServiceServer::new(api)
        .max_decoding_message_size(MAX_QUESTION_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    Routes::new(service).prepare().into_axum_router()
}

impl PeerApi {
    fn generation(&self) -> i32 {
        self.queries.view().cluster().generation
    }

    async fn row(&self, request: pb::PeerGetRequest) -> Outcome {
        let _permit = self.admission.enter()?;
        let options = convert::options_from(request.options)?;
        self.queries.get(&request.store, &request.key, &options).await
    }

    async fn rows(&self, request: pb::PeerBatchGetRequest) -> Result<Vec<Outcome>, QueryError> {
        let _permit = self.admission.enter()?;
        let options = convert::options_from(request.options)?;
        let keys = request.keys.into_iter().map(Ok).collect();
        self.queries.batch_get(&request.store, keys, &options).await
    }
}

/// Questions that came, by kind.
#[derive(Clone)]
struct Came {
    get: Counter,
    batch: Counter,
    scan: Counter,
}

impl Came {
    fn new() -> Self {
        let kind = |kind: &'static str| metrics::counter!(names::PEER_QUESTIONS, "kind" => kind);
        Self { get: kind("get"), batch: kind("batch"), scan: kind("scan") }
    }
}

#[tonic::async_trait]
impl PeerService for PeerApi {
    async fn get(&self, request: Request<pb::PeerGetRequest>) -> Result<Response<pb::PeerGetResponse>, Status> {
        self.token.check(request.metadata())?;
        self.came.get.increment(1);
        let outcome = Some(convert::outcome_to(self.row(request.into_inner()).await));
        Ok(Response::new(pb::PeerGetResponse { generation: self.generation(), outcome }))
    }

    async fn batch_get(
        &self,
        request: Request<pb::PeerBatchGetRequest>,
    ) -> Result<Response<pb::PeerBatchGetResponse>, Status> {
        self.token.check(request.metadata())?;
        self.came.batch.increment(1);
        let request = request.into_inner();
        let keys = request.keys.len();
        let outcomes = self.rows(request).await.unwrap_or_else(|error| vec![Err(error); keys]);
        Ok(Response::new(convert::outcomes_to(self.generation(), outcomes)))
    }

    async fn scan(&self, request: Request<pb::PeerScanRequest>) -> Result<Response<pb::PeerScanResponse>, Status> {
        self.token.check(request.metadata())?;
        self.came.scan.increment(1);
        let request = request.into_inner();
        let scan = async {
            let _permit = self.admission.enter()?;
            let question = convert::scan_from(&request);
            let options = convert::options_from(request.options)?;
            self.queries.scan_here(&request.store, &question, &options).await
        };
        let part = scan.await;
        Ok(Response::new(convert::part_to(self.generation(), part)))
    }

    async fn exchange(&self, request: Request<pb::PeerReport>) -> Result<Response<pb::PeerReport>, Status> {
        self.token.check(request.metadata())?;
        let application = self.reporter.application_id();
        let Some(report) = convert::report_from(request.into_inner(), application) else {
            return Err(Status::failed_precondition(format!(
                "this is an instance of the application {application}: expected a report of one of that application"
            )));
        };
        self.inbox.heard(report);
        Ok(Response::new(self.reporter.message()))
    }
}
