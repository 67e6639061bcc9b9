//! A gRPC client of one instance: the generic queries and the inventory's typed ones.

use std::{collections::BTreeMap, time::Duration};

use holdfast_proto::{
    holdfast::v1::{
        BatchGetRequest, BatchGetResult, GetRequest, GetResponse, Key, ListStoresRequest, Row, ScanRequest, Store, key,
        query_service_client::QueryServiceClient,
    },
    inventory::v1::{GetItemRequest, GetStoreRequest, inventory_service_client::InventoryServiceClient},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::block_on;

const LIMIT: Duration = Duration::from_secs(20);

/// Calls to one instance's public listener.
#[derive(Clone, Debug)]
pub struct Grpc {
    queries: QueryServiceClient<Channel>,
    inventory: InventoryServiceClient<Channel>,
}

impl Grpc {
    /// Connects to `host:port`.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(LIMIT);
        let channel = block_on(endpoint.connect()).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
        Self { queries: QueryServiceClient::new(channel.clone()), inventory: InventoryServiceClient::new(channel) }
    }

    /// The generic client, for calls that this one does not wrap.
    pub fn queries(&self) -> QueryServiceClient<Channel> {
        self.queries.clone()
    }

    /// A store's stock by sku, through the typed service.
    pub fn store_stock(&self, store: &str) -> Result<BTreeMap<String, i64>, Status> {
        let request = GetStoreRequest { store_name: store.to_owned() };
        let answer = block_on(self.inventory.clone().get_store(request))?.into_inner();
        let row = answer.store.expect("a store");
        assert_eq!(row.store_name, store, "the row of another store");
        Ok(row.stock.into_iter().collect())
    }

    /// An item's stock over all stores, through the typed service.
    pub fn item_stock(&self, item: &str) -> Result<i64, Status> {
        let request = GetItemRequest { item_id: item.to_owned() };
        let answer = block_on(self.inventory.clone().get_item(request))?.into_inner();
        let row = answer.item.expect("an item");
        assert_eq!(row.item_id, item, "the row of another item");
        Ok(row.current_stock)
    }

    /// One row of any store.
    pub fn get(&self, store: &str, key: &str) -> Result<GetResponse, Status> {
        let request = GetRequest { store: store.to_owned(), key: Some(text_key(key)), options: None };
        Ok(block_on(self.queries().get(request))?.into_inner())
    }

    /// Several rows of any store.
    pub fn batch(&self, store: &str, keys: &[&str]) -> Result<Vec<BatchGetResult>, Status> {
        let keys = keys.iter().map(|key| text_key(key)).collect();
        let request = BatchGetRequest { store: store.to_owned(), keys, options: None };
        Ok(block_on(self.queries().batch_get(request))?.into_inner().results)
    }

    /// All rows of a store, in key order.
    pub fn scan(&self, store: &str) -> Result<Vec<Row>, Status> {
        let request = ScanRequest { store: store.to_owned(), ..ScanRequest::default() };
        block_on(async {
            let mut rows = Vec::new();
            let mut pages = self.queries().scan(request).await?.into_inner();
            while let Some(page) = pages.message().await? {
                rows.extend(page.rows);
            }
            Ok(rows)
        })
    }

    /// The stores that can be queried.
    pub fn stores(&self) -> Result<Vec<Store>, Status> {
        Ok(block_on(self.queries().list_stores(ListStoresRequest {}))?.into_inner().stores)
    }
}

/// A key in its text form.
pub fn text_key(text: &str) -> Key {
    Key { form: Some(key::Form::Text(text.to_owned())) }
}
