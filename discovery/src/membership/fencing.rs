//! InitProducerId for other processes' transactional ids: aborts what they left open, and shuts them out.

use std::{collections::HashMap, time::Duration};

use holdfast_types::GroupError;
use kafka_protocol::{
    messages::{InitProducerIdRequest, ProducerId, TransactionalId},
    protocol::StrBytes,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::wire::{
    address::BrokerAddress,
    cluster::{Cluster, Coordinated},
    connection::Connection,
    error::{WireError, code},
};

/// Written with the id and replaced by the next real owner's; a producer of ours uses the same.
const TRANSACTION_TIMEOUT_MS: i32 = 10_000;

pub(super) const NEWEST_INIT: i16 = 5;

/// Waits between attempts while the abort of an open transaction is under way: it takes some 10 ms.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Fences each id. A broker without transactions has nothing to fence, which is no error.
pub(crate) async fn fence(
    cluster: &Cluster,
    transactional_ids: &[String],
    deadline: Duration,
) -> Result<(), GroupError> {
    let mut connections = HashMap::new();
    let until = Instant::now() + deadline;
    for id in transactional_ids {
        match timeout_at(until, fence_one(cluster, &mut connections, id)).await {
            Ok(Ok(())) => tracing::debug!(transactional_id = id, "fenced"),
            Ok(Err(error)) if error.is_unsupported() => {
                tracing::debug!(%error, "this broker has no transactions: nothing to fence");
                return Ok(());
            }
            Ok(Err(error)) => return Err(GroupError::Refused(format!("fencing of transactional id {id}: {error}"))),
            Err(_) => return Err(GroupError::TimedOut(deadline)),
        }
    }
    Ok(())
}

/// Tries until the id is fenced; gives up only where trying again does not help.
async fn fence_one(
    cluster: &Cluster,
    connections: &mut HashMap<BrokerAddress, Connection>,
    id: &str,
) -> Result<(), WireError> {
    let (mut wait, longest) = BACKOFF;
    loop {
        match attempt(cluster, connections, id).await {
            Err(error) if is_passing(&error) => {
                tracing::debug!(transactional_id = id, %error, "the transaction coordinator is away or busy");
            }
            outcome => return outcome,
        }
        sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Whether the transaction coordinator may say something else soon.
pub(super) fn is_passing(error: &WireError) -> bool {
    match error {
        WireError::Refused { code, .. } => *code == code::CONCURRENT_TRANSACTIONS || code::is_coordinator_away(*code),
        WireError::Broken { .. } | WireError::Connect { .. } | WireError::TimedOut { .. } => true,
        _ => false,
    }
}

/// InitProducerId for a transactional id: fences whoever used it, and aborts what is open.
pub(super) fn init_request(id: &str) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_string(id.to_owned()))))
        .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}

async fn attempt(
    cluster: &Cluster,
    connections: &mut HashMap<BrokerAddress, Connection>,
    id: &str,
) -> Result<(), WireError> {
    let address = cluster.find_coordinator(id, Coordinated::Transaction).await?;
    // Taken out: a connection that fails is not used again.
    let mut connection = match connections.remove(&address) {
        Some(connection) => connection,
        None => cluster.connector().open(&address).await?,
    };
    let version = connection.require::<InitProducerIdRequest>(NEWEST_INIT)?;
    let after = cluster.connector().socket().request_timeout;
    let answer = connection.call(&init_request(id), version, after).await?;
    let peer = connection.peer().to_owned();
    connections.insert(address, connection);
    match answer.error_code {
        code::NONE => Ok(()),
        code => Err(WireError::Refused { peer, request: "InitProducerId", code }),
    }
}
