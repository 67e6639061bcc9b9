//! One question to one replica: another instance, or the copy here, which is then asked as the others are: for what it has
//! itself, and for as long as the read has time.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::{InstanceInfo, Role};

use crate::query::{
    Answer, Cluster, Outcome, Queries, ReadOptions, RowRead, ScanPart, ScanQuestion, StoreInfo,
    batch::together,
    consistency::{Verdict, judge},
    forward::Forwarded,
};

impl Queries {
    /// Whether the copy here may answer as soon as it has come to the position that is asked for.
    pub(super) fn catches_up(&self, store: &StoreInfo, partition: i32, options: &ReadOptions) -> bool {
        let follows = || self.inner.view.copy(&store.name, partition).filter(|copy| copy.role() == Role::Standby);
        options.min_position.is_some()
            && follows().is_some_and(|copy| judge(options.consistency, &self.state(&copy)) == Verdict::Answer)
    }

    /// One row.
    pub(super) fn get_of<'a>(
        &'a self,
        cluster: &Cluster,
        replica: &'a InstanceInfo,
        store: &'a Arc<StoreInfo>,
        key: &'a [u8],
        options: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>> {
        if cluster.is_self(replica) {
            Box::pin(async move { self.get_in(store, key, &options).await })
        } else {
            self.inner.forward.get(replica, store, key, options)
        }
    }

    /// Several rows, one outcome each.
    pub(in crate::query) fn batch_of<'a>(
        &'a self,
        cluster: &Cluster,
        replica: &'a InstanceInfo,
        store: &'a StoreInfo,
        keys: Vec<Bytes>,
        options: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>> {
        if cluster.is_self(replica) {
            let keys = keys.into_iter().map(Ok).collect();
            Box::pin(async move { together(self.batch_get(&store.name, keys, &options).await?) })
        } else {
            self.inner.forward.batch(replica, store, keys, options)
        }
    }

    /// The first rows of some partitions.
    pub(in crate::query) fn scan_of<'a>(
        &'a self,
        cluster: &Cluster,
        replica: &'a InstanceInfo,
        store: &'a StoreInfo,
        question: &'a ScanQuestion,
        options: ReadOptions,
    ) -> Forwarded<'a, ScanPart> {
        if cluster.is_self(replica) {
            Box::pin(async move { self.scan_here(&store.name, question, &options).await })
        } else {
            self.inner.forward.scan(replica, store, question, options)
        }
    }
}
