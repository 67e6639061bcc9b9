//! The seam for questions whose key another instance owns.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use holdfast_types::InstanceInfo;

use super::{Answer, QueryError, ReadOptions, RowRead, StoreInfo};

/// A question on its way to a peer.
pub type Forwarded<'a> = Pin<Box<dyn Future<Output = Result<Answer<RowRead>, QueryError>> + Send + 'a>>;

/// Asks a peer. What is forwarded is marked, and the peer never forwards it again.
pub trait Forward: Send + Sync + fmt::Debug {
    /// One key of `store` in `partition`, which `target` holds.
    fn get<'a>(
        &'a self,
        target: &'a InstanceInfo,
        store: &'a Arc<StoreInfo>,
        partition: i32,
        key: &'a [u8],
        options: &'a ReadOptions,
    ) -> Forwarded<'a>;
}

/// Asks nobody: what is not here is answered with the owner's address.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotForwarded;

impl Forward for NotForwarded {
    fn get<'a>(
        &'a self,
        target: &'a InstanceInfo,
        store: &'a Arc<StoreInfo>,
        partition: i32,
        _key: &'a [u8],
        _options: &'a ReadOptions,
    ) -> Forwarded<'a> {
        Box::pin(async move {
            Err(QueryError::OwnerUnreachable {
                store: store.name.clone(),
                partition,
                owner: target.endpoint.clone(),
                problem: "this version does not forward; ask the owner (routing=redirect names it)".to_owned(),
            })
        })
    }
}
