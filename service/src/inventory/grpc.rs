//! `inventory.v1.InventoryService`: look-ups with messages of the domain.

use holdfast_proto::inventory::v1::{
    GetItemRequest, GetItemResponse, GetStoreRequest, GetStoreResponse, ItemStock as ItemStockMessage, ServedBy,
    StoreInventory as StoreInventoryMessage,
    inventory_service_server::{InventoryService, InventoryServiceServer},
};
use tonic::{Request, Response, Status};

use super::{
    ITEM_STOCK, STORE_INVENTORY,
    types::{ItemStock, StoreInventory},
};
use crate::{
    grpc::{not_found, options_from},
    query::{Answer, Queries, Served, StoreQueries},
};

/// The service over the application's stores.
pub(super) fn service(queries: Queries) -> InventoryServiceServer<Inventory> {
    let stores = queries.typed(STORE_INVENTORY);
    let items = queries.typed(ITEM_STOCK);
    InventoryServiceServer::new(Inventory { queries, stores, items })
}

#[derive(Clone, Debug)]
pub(super) struct Inventory {
    queries: Queries,
    stores: StoreQueries<String, StoreInventory>,
    items: StoreQueries<String, ItemStock>,
}

#[tonic::async_trait]
impl InventoryService for Inventory {
    async fn get_store(&self, request: Request<GetStoreRequest>) -> Result<Response<GetStoreResponse>, Status> {
        let options = options_from(&self.queries, request.metadata(), None)?;
        let name = request.into_inner().store_name;
        let Answer { value, served } = self.stores.get(&name, &options).await?;
        let StoreInventory { stock, store_name } = value.ok_or_else(|| not_found(STORE_INVENTORY, &name, &served))?;
        let store = StoreInventoryMessage { store_name, stock: stock.into_iter().collect() };
        Ok(Response::new(GetStoreResponse { store: Some(store), served: Some(served_by(&served)) }))
    }

    async fn get_item(&self, request: Request<GetItemRequest>) -> Result<Response<GetItemResponse>, Status> {
        let options = options_from(&self.queries, request.metadata(), None)?;
        let id = request.into_inner().item_id;
        let Answer { value, served } = self.items.get(&id, &options).await?;
        let ItemStock { item_id, current_stock } = value.ok_or_else(|| not_found(ITEM_STOCK, &id, &served))?;
        let item = ItemStockMessage { item_id, current_stock };
        Ok(Response::new(GetItemResponse { item: Some(item), served: Some(served_by(&served)) }))
    }
}

fn served_by(served: &Served) -> ServedBy {
    ServedBy {
        host: served.by.host.clone(),
        port: served.by.port.into(),
        role: served.role.as_str().to_owned(),
        partition: served.partition,
        staleness_ms: served.staleness.map(|staleness| u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)),
    }
}
