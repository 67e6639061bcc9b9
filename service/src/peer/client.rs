//! Questions to peers, and what is known of them.

use std::{collections::HashSet, error::Error, io::ErrorKind, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_discovery::peers::{Condition, Failure, PeersView};
use holdfast_proto::holdfast::v1 as pb;
use holdfast_types::{InstanceInfo, ProcessId};
use parking_lot::Mutex;
use tonic::{Code, Response, Status};

use super::{
    channels::{Channels, Link},
    convert,
    gather::{self, Together},
    questions::{Kind, Questions},
    token::Token,
};
use crate::query::{
    Answer, Forward, Forwarded, Outcome, QueryError, ReadOptions, RowRead, ScanPart, ScanQuestion, StoreInfo,
    StoreView, together,
};

/// The client of all peers.
#[derive(Debug)]
pub(crate) struct PeerClient {
    token: Token,
    view: Arc<dyn StoreView>,
    channels: Channels,
    peers: ArcSwap<PeersView>,
    /// Peers that did not answer a question in time, until they are heard again.
    slow: Mutex<HashSet<ProcessId>>,
    hedge_after: Option<Duration>,
    questions: Questions,
}

impl PeerClient {
    /// A client that knows of nobody yet.
    pub(crate) fn new(token: Token, view: Arc<dyn StoreView>, hedge_after: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            token,
            view,
            channels: Channels::default(),
            peers: ArcSwap::default(),
            slow: Mutex::default(),
            hedge_after,
            questions: Questions::new(),
        })
    }

    /// What is known of the peers from now on.
    pub(super) fn publish(&self, view: PeersView) {
        let mut slow = self.slow.lock();
        slow.retain(|id| view.get(*id).is_some());
        self.store(view, &slow);
    }

    /// Closes the connections to those who are not members any more.
    pub(super) fn keep_only(&self, view: &PeersView) {
        self.channels.retain(|id| view.get(id).is_some());
    }

    /// A peer is heard: it is slow no more.
    pub(super) fn heard(&self, peer: ProcessId) {
        self.slow.lock().remove(&peer);
    }

    fn store(&self, mut view: PeersView, slow: &HashSet<ProcessId>) {
        slow.iter().for_each(|id| view.worsen(*id, Condition::Slow));
        self.peers.store(Arc::new(view));
    }

    /// Exchanges reports.
    pub(super) async fn exchange(
        &self,
        peer: &InstanceInfo,
        report: pb::PeerReport,
    ) -> Result<pb::PeerReport, Refused> {
        let mut client = self.channels.to(peer).reports().map_err(|_| Refused::Failed(Failure::Silent))?;
        match client.exchange(self.token.request(report)).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if is_broken(&status) => Err(Refused::Failed(failure(&status))),
            // It answers, only not this.
            Err(status) => Err(Refused::Answered(status)),
        }
    }

    /// Puts a question to a peer. Whoever asks gives up when its time is over.
    fn question<'a, T, F>(
        &'a self,
        kind: &'a Kind,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        timeout: Option<Duration>,
        call: impl FnOnce(Arc<Link>) -> F + Send + 'a,
    ) -> Forwarded<'a, T>
    where
        F: Future<Output = Result<(i32, Result<T, QueryError>), Status>> + Send + 'a,
        T: Send + 'a,
    {
        Box::pin(async move {
            let asked = kind.begin(timeout);
            let outcome = self.put(peer, store, call).await;
            asked.ended(&outcome);
            outcome
        })
    }

    async fn put<T, F>(
        &self,
        peer: &InstanceInfo,
        store: &StoreInfo,
        call: impl FnOnce(Arc<Link>) -> F,
    ) -> Result<T, QueryError>
    where
        F: Future<Output = Result<(i32, Result<T, QueryError>), Status>>,
    {
        let unreachable = |problem: String| QueryError::OwnerUnreachable {
            store: store.name.clone(),
            partition: None,
            owner: peer.endpoint.clone(),
            problem,
        };
        match call(self.channels.to(peer)).await {
            Ok((generation, outcome)) => {
                // Who is behind asks the coordinator now, rather than with its next heartbeat.
                if generation > self.view.cluster().generation {
                    self.view.request_confirmation();
                }
                outcome
            }
            Err(status) if status.code() == Code::Unauthenticated => {
                Err(unreachable("it has another peer_token; set the same one on all instances".to_owned()))
            }
            Err(status) => Err(unreachable(reason(&status))),
        }
    }
}

/// Why reports were not exchanged.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody answered.
    Failed(Failure),
    /// It answers, but not with a report.
    Answered(Status),
}

impl Forward for PeerClient {
    fn peers(&self) -> Arc<PeersView> {
        self.peers.load_full()
    }

    fn get<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        key: &'a [u8],
        options: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>> {
        self.question(&self.questions.get, peer, store, options.timeout, move |link| async move {
            if gather::may_share(&options) {
                match gather::look_up(&link, &self.token, store, key, &options).await {
                    Together::Answered(generation, outcome) => return Ok((generation, outcome)),
                    Together::Failed(status) => return Err(status),
                    Together::Alone => {}
                }
            }
            let request = pb::PeerGetRequest {
                store: store.name.to_string(),
                key: Bytes::copy_from_slice(key),
                options: Some(convert::options_to(&options)),
            };
            let answer = link.questions()?.get(self.token.request(request)).await.map(Response::into_inner)?;
            let outcome = answer.outcome.unwrap_or_default();
            Ok((answer.generation, convert::outcome_from(outcome, &link.endpoint)))
        })
    }

    fn batch<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        keys: Vec<Bytes>,
        options: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>> {
        self.question(&self.questions.batch, peer, store, options.timeout, move |link| async move {
            let options = Some(convert::options_to(&options));
            let request = pb::PeerBatchGetRequest { store: store.name.to_string(), keys, options };
            let answer = link.questions()?.batch_get(self.token.request(request)).await.map(Response::into_inner)?;
            let generation = answer.generation;
            Ok((generation, together(convert::outcomes_from(answer, &link.endpoint))))
        })
    }

    fn scan<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        question: &'a ScanQuestion,
        options: ReadOptions,
    ) -> Forwarded<'a, ScanPart> {
        self.question(&self.questions.scan, peer, store, options.timeout, move |link| async move {
            let request = convert::scan_to(&store.name, question, &options);
            let answer = link.questions()?.scan(self.token.request(request)).await.map(Response::into_inner)?;
            let generation = answer.generation;
            Ok((generation, convert::part_from(answer, &link.endpoint, &question.partitions)))
        })
    }

    fn found_slow(&self, peer: ProcessId) {
        let mut slow = self.slow.lock();
        if slow.insert(peer) {
            let view = PeersView::clone(&self.peers.load());
            self.store(view, &slow);
        }
    }

    fn hedge_after(&self) -> Option<Duration> {
        self.hedge_after
    }
}

/// Whether a status was made here because no answer came.
fn is_broken(status: &Status) -> bool {
    status.source().is_some() && !matches!(status.code(), Code::Unauthenticated | Code::Unimplemented)
}

/// Whether nobody listens, or nothing is heard.
fn failure(status: &Status) -> Failure {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::Silent,
                _ => Failure::Refused,
            };
        }
        cause = error.source();
    }
    // A connection that ended in between: the next attempt tells more.
    Failure::Refused
}

fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
