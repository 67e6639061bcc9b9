//! Callers of `holdfast.v1.QueryService/Get`, several on each connection.

use std::net::SocketAddr;

use holdfast_proto::holdfast::v1::{GetRequest, Key, key::Form, query_service_client::QueryServiceClient};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::Ask;
use crate::error::{Result, other};

/// The table that is asked.
const STORE: &str = "ItemStock";

/// One caller.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    client: QueryServiceClient<Channel>,
}

/// Callers spread over connections.
pub(super) async fn connect(address: SocketAddr, connections: usize, callers: usize) -> Result<Vec<Caller>> {
    let mut clients = Vec::new();
    for _ in 0..connections.clamp(1, callers.max(1)) {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(other)?.tcp_nodelay(true);
        clients.push(QueryServiceClient::new(endpoint.connect().await?));
    }
    Ok(clients.iter().cycle().take(callers).map(|client| Caller { client: client.clone() }).collect())
}

impl Ask for Caller {
    async fn ask(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        let request = GetRequest {
            store: STORE.to_owned(),
            key: Some(Key { form: Some(Form::Text(key.to_owned())) }),
            options: None,
        };
        match self.client.get(request).await {
            Ok(answer) => Ok(Some(answer.into_inner().row.map(|row| row.value_json.into_bytes()).unwrap_or_default())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }
}
