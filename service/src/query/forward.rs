//! The seam to the other instances: what is known of them, and the questions that they are asked. What is asked there is
//! marked: it is answered from the copies there, and never forwarded again.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_discovery::peers::PeersView;
use holdfast_store::{Row, ScanRange};
use holdfast_types::{InstanceInfo, ProcessId};

use super::{Answer, Outcome, QueryError, ReadOptions, RowRead, Served, StoreInfo};

/// A question on its way to a peer.
pub type Forwarded<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueryError>> + Send + 'a>>;

/// Some partitions' rows, merged in key order.
#[derive(Clone, Debug, Default)]
pub struct ScanPart {
    /// The rows.
    pub rows: Vec<(Bytes, Row)>,
    /// Whether rows follow the last one.
    pub more: bool,
    /// What was read, per partition.
    pub served: Vec<Served>,
}

/// What a peer is asked to scan.
#[derive(Clone, Debug)]
pub struct ScanQuestion {
    /// The partitions; all of them, or none.
    pub partitions: Vec<i32>,
    /// The keys, and the direction.
    pub range: ScanRange,
    /// Most rows.
    pub limit: usize,
    /// Most bytes of keys and values; one row is always let through.
    pub max_bytes: usize,
}

/// Asks peers. `options` carry the time that is left; whoever asks gives up after it.
pub trait Forward: Send + Sync + fmt::Debug {
    /// What is known of the other members.
    fn peers(&self) -> Arc<PeersView>;

    /// One row.
    fn get<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        key: &'a [u8],
        options: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>>;

    /// Several rows, one outcome each.
    fn batch<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        keys: Vec<Bytes>,
        options: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>>;

    /// The first rows of some partitions.
    fn scan<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        question: &'a ScanQuestion,
        options: ReadOptions,
    ) -> Forwarded<'a, ScanPart>;

    /// A peer did not answer in time: others are asked first until it does.
    fn found_slow(&self, peer: ProcessId);

    /// When another replica is asked besides, although nothing speaks against the first one.
    fn hedge_after(&self) -> Option<Duration>;
}

/// Asks nobody: what is not here is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotForwarded;

impl NotForwarded {
    fn refuse<'a, T: Send + 'a>(peer: &InstanceInfo, store: &StoreInfo) -> Forwarded<'a, T> {
        let error = QueryError::OwnerUnreachable {
            store: store.name.clone(),
            partition: None,
            owner: peer.endpoint.clone(),
            problem: "this instance asks no other".to_owned(),
        };
        Box::pin(std::future::ready(Err(error)))
    }
}

impl Forward for NotForwarded {
    fn peers(&self) -> Arc<PeersView> {
        Arc::default()
    }

    fn get<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        _: &'a [u8],
        _: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>> {
        Self::refuse(peer, store)
    }

    fn batch<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        _: Vec<Bytes>,
        _: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>> {
        Self::refuse(peer, store)
    }

    fn scan<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        _: &'a ScanQuestion,
        _: ReadOptions,
    ) -> Forwarded<'a, ScanPart> {
        Self::refuse(peer, store)
    }

    fn found_slow(&self, _: ProcessId) {}

    fn hedge_after(&self) -> Option<Duration> {
        None
    }
}
