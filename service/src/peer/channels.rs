//! Connections to peers: HTTP/2, opened when first used, kept while the peer is a member, opened again after a failure.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use holdfast_types::{Endpoint, InstanceInfo, ProcessId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use super::gather::Gather;

/// Longest time for a connection to be opened: an address that swallows packets must not hold what waits for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Idle time after which a connection is pinged, and time for the answer: one that a firewall dropped is noticed.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// The connections to one peer.
#[derive(Debug)]
pub(super) struct Link {
    /// Its public listener, shared by all answers that come from it.
    pub(super) endpoint: Arc<Endpoint>,
    peer_endpoint: Endpoint,
    /// For questions.
    pub(super) questions: Channel,
    /// The look-ups on their way.
    pub(super) gather: Gather,
    /// For reports: large answers do not hold them up. Opened by who sends them, on its runtime.
    reports: OnceLock<Channel>,
}

impl Link {
    /// The connection for reports. What carries it runs on the runtime of the first caller.
    pub(super) fn reports(&self) -> Result<Channel, AddressError> {
        match self.reports.get() {
            Some(channel) => Ok(channel.clone()),
            None => {
                let channel = open(&self.peer_endpoint)?;
                Ok(self.reports.get_or_init(|| channel).clone())
            }
        }
    }
}

/// The connections of an instance.
#[derive(Debug)]
pub(super) struct Channels {
    /// Carries questions, whoever opens the connection: the group's runtime has one thread, and other things to do.
    runtime: Handle,
    links: ArcSwap<HashMap<ProcessId, Arc<Link>>>,
    changing: Mutex<()>,
}

/// The address of a peer is not one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("its address {0} is not one that can be asked")]
pub(super) struct AddressError(Endpoint);

impl Channels {
    /// No connections; those for questions will be carried by `runtime`.
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, links: ArcSwap::default(), changing: Mutex::default() }
    }

    /// The connections to a peer. Nothing is opened here.
    pub(super) fn to(&self, peer: &InstanceInfo) -> Result<Arc<Link>, AddressError> {
        let fits = |link: &&Arc<Link>| link.peer_endpoint == peer.peer_endpoint && *link.endpoint == peer.endpoint;
        if let Some(link) = self.links.load().get(&peer.process_id).filter(fits) {
            return Ok(Arc::clone(link));
        }
        let _changing = self.changing.lock();
        if let Some(link) = self.links.load().get(&peer.process_id).filter(fits) {
            return Ok(Arc::clone(link));
        }
        let questions = {
            let _runtime = self.runtime.enter();
            open(&peer.peer_endpoint)?
        };
        let link = Arc::new(Link {
            endpoint: Arc::new(peer.endpoint.clone()),
            peer_endpoint: peer.peer_endpoint.clone(),
            questions,
            gather: Gather::default(),
            reports: OnceLock::new(),
        });
        let mut links = HashMap::clone(&self.links.load());
        links.insert(peer.process_id, Arc::clone(&link));
        self.links.store(Arc::new(links));
        Ok(link)
    }

    /// Closes the connections to all but the members.
    pub(super) fn retain(&self, members: impl Fn(ProcessId) -> bool) {
        let _changing = self.changing.lock();
        let mut links = HashMap::clone(&self.links.load());
        links.retain(|id, _| members(*id));
        self.links.store(Arc::new(links));
    }
}

fn open(endpoint: &Endpoint) -> Result<Channel, AddressError> {
    let address =
        TonicEndpoint::from_shared(format!("http://{endpoint}")).map_err(|_| AddressError(endpoint.clone()))?;
    let address = address
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    Ok(address.connect_lazy())
}
