//! `holdfast.v1.PeerService`: answers from the copies here, and takes reports in.

use std::{pin::Pin, sync::Arc};

use axum::Router;
use futures::StreamExt;
use holdfast_proto::holdfast::v1::{
    self as pb,
    peer_service_server::{PeerService, PeerServiceServer},
};
use metrics::Counter;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{convert, exchange::Inbox, report::Reporter, token::Token};
use crate::{
    query::{Outcome, Queries, QueryError, admission::Admission},
    telemetry::names,
};

/// Bytes of a question: a batch of large keys.
const MAX_QUESTION_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Questions of one stream that are looked at side by side.
const SIDE_BY_SIDE: usize = 16;

/// The service over the router.
#[derive(Clone)]
struct PeerApi {
    queries: Queries,
    token: Token,
    admission: Arc<Admission>,
    reporter: Arc<Reporter>,
    inbox: Inbox,
    came: Came,
    closing: CancellationToken,
}

/// The service as an axum router. Streams that have no end of their own end when it is `closing`.
pub(crate) fn router(
    queries: Queries,
    token: Token,
    admission: Arc<Admission>,
    reporter: Arc<Reporter>,
    inbox: Inbox,
    closing: CancellationToken,
) -> Router {
    let api = PeerApi { queries, token, admission, reporter, inbox, came: Came::new(), closing };
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

    async fn batch(&self, request: pb::PeerBatchGetRequest) -> pb::PeerBatchGetResponse {
        let keys = request.keys.len();
        let outcomes = self.rows(request).await.unwrap_or_else(|error| vec![Err(error); keys]);
        convert::outcomes_to(self.generation(), outcomes)
    }
}

/// Questions that came, by kind.
#[derive(Clone)]
struct Came {
    get: Counter,
    batch: Counter,
    look_up: Counter,
    scan: Counter,
}

impl Came {
    fn new() -> Self {
        let kind = |kind: &'static str| metrics::counter!(names::PEER_QUESTIONS, "kind" => kind);
        Self { get: kind("get"), batch: kind("batch"), look_up: kind("look_up"), scan: kind("scan") }
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
        Ok(Response::new(self.batch(request.into_inner()).await))
    }

    type LookUpStream = Pin<Box<dyn Stream<Item = Result<pb::PeerLookUpAnswer, Status>> + Send>>;

    async fn look_up(
        &self,
        request: Request<Streaming<pb::PeerLookUp>>,
    ) -> Result<Response<Self::LookUpStream>, Status> {
        self.token.check(request.metadata())?;
        let api = Arc::new(self.clone());
        let closing = self.closing.clone().cancelled_owned();
        let answers = request.into_inner().take_until(closing).map(move |asked| {
            let api = Arc::clone(&api);
            async move {
                let pb::PeerLookUp { id, question } = asked?;
                api.came.look_up.increment(1);
                Ok(pb::PeerLookUpAnswer { id, answer: Some(api.batch(question.unwrap_or_default()).await) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffer_unordered(SIDE_BY_SIDE))))
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
