//! Connections to peers: HTTP/2, opened when first used, kept while the peer is a member, opened again after a failure.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use holdfast_proto::holdfast::v1::{self as pb, peer_service_client::PeerServiceClient};
use holdfast_types::{Endpoint, InstanceInfo, ProcessId};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tonic::{
    Status,
    transport::{Channel, Endpoint as TonicEndpoint},
};

use super::{gather::Gather, line::Line, token::Token};

/// Bytes of an answer that is taken: a page of a scan, a batch, or one large row.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Longest time for a connection to be opened: an address that swallows packets must not hold what waits for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Idle time after which a connection is pinged, and time for the answer: one that a firewall dropped is noticed.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// The connections of one runtime to one peer. Each thread that serves has its own: what it asks for comes back to it.
#[derive(Debug)]
pub(super) struct Link {
    /// Its public listener, shared by all answers that come from it.
    pub(super) endpoint: Arc<Endpoint>,
    peer_endpoint: Endpoint,
    questions: OnceLock<Channel>,
    /// Large answers do not hold reports up.
    reports: OnceLock<Channel>,
    /// The look-ups on their way.
    pub(super) gather: Gather,
    line: Line,
}

impl Link {
    /// Asks on the connection for questions.
    pub(super) fn questions(&self) -> Result<PeerServiceClient<Channel>, Status> {
        self.opened(&self.questions)
    }

    /// Asks on the connection for reports.
    pub(super) fn reports(&self) -> Result<PeerServiceClient<Channel>, Status> {
        self.opened(&self.reports)
    }

    /// Puts look-ups. A status means that they were not answered, and may be put again.
    pub(super) async fn look_up(
        &self,
        token: &Token,
        question: pb::PeerBatchGetRequest,
    ) -> Result<pb::PeerBatchGetResponse, Status> {
        self.line.ask(|| self.questions(), token, question).await
    }

    /// What carries a connection runs on the runtime that opens it.
    fn opened(&self, channel: &OnceLock<Channel>) -> Result<PeerServiceClient<Channel>, Status> {
        let channel = match channel.get() {
            Some(channel) => channel.clone(),
            None => {
                let opened = open(&self.peer_endpoint)?;
                channel.get_or_init(|| opened).clone()
            }
        };
        Ok(PeerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

/// By peer and runtime.
type Links = HashMap<(ProcessId, Option<Id>), Arc<Link>>;

/// The connections of an instance.
#[derive(Debug, Default)]
pub(super) struct Channels {
    links: ArcSwap<Links>,
    changing: Mutex<()>,
}

impl Channels {
    /// The connections of the runtime that this is called on to a peer. Nothing is opened here.
    pub(super) fn to(&self, peer: &InstanceInfo) -> Arc<Link> {
        let of = (peer.process_id, Handle::try_current().ok().map(|runtime| runtime.id()));
        let fits = |link: &&Arc<Link>| link.peer_endpoint == peer.peer_endpoint && *link.endpoint == peer.endpoint;
        if let Some(link) = self.links.load().get(&of).filter(fits) {
            return Arc::clone(link);
        }
        let _changing = self.changing.lock();
        if let Some(link) = self.links.load().get(&of).filter(fits) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link {
            endpoint: Arc::new(peer.endpoint.clone()),
            peer_endpoint: peer.peer_endpoint.clone(),
            questions: OnceLock::new(),
            reports: OnceLock::new(),
            gather: Gather::default(),
            line: Line::default(),
        });
        let mut links = HashMap::clone(&self.links.load());
        links.insert(of, Arc::clone(&link));
        self.links.store(Arc::new(links));
        link
    }

    /// Closes the connections to all but the members.
    pub(super) fn retain(&self, members: impl Fn(ProcessId) -> bool) {
        let _changing = self.changing.lock();
        let mut links = HashMap::clone(&self.links.load());
        links.retain(|(process, _), _| members(*process));
        self.links.store(Arc::new(links));
    }
}

fn open(endpoint: &Endpoint) -> Result<Channel, Status> {
    let address = TonicEndpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|_| Status::unavailable(format!("its address {endpoint} is not one that can be asked")))?;
    let address = address
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    Ok(address.connect_lazy())
}
