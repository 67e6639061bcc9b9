//! The example domain, which a user replaces: stock per store and per item, kept up to date by item transactions.
//!
//! `types` are the messages and the arithmetic, `topology` says how records become rows, `routes` how rows are asked for,
//! `load` what the demo sends.

mod grpc;
pub mod load;
mod rest;
pub mod types;

use std::sync::Arc;

use holdfast_stream::prelude::*;

use crate::{Routes, config::DomainSettings, query::Queries};
use types::{ItemStock, ItemTransaction, StoreInventory, StoreKey};

/// Store of [`StoreInventory`] rows, by store name.
pub const STORE_INVENTORY: &str = "StoreInventoryStock";
/// Store of [`ItemStock`] rows, by sku.
pub const ITEM_STOCK: &str = "ItemStock";

/// From item transactions to two tables: stock by store, and stock by sku over all stores.
pub fn topology(settings: &DomainSettings) -> Result<Topology, TopologyError> {
    let store_output = settings.text("store_output_topic", "store.inventory", "Topic that stock by store goes to");
    let item_output = settings.text("item_output_topic", "item.inventory", "Topic that stock by sku goes to");

    let builder = TopologyBuilder::new();
    let items = builder
        .stream(&items_topic(settings), Consumed::with(StoreKey, Json::<ItemTransaction>::default()))
        // Before the ways part: what is refused here reaches neither table.
        .try_filter(|store, item| item.check(store).map(|()| true));

    items
        .group_by_key()
        .aggregate(StoreInventory::new, StoreInventory::apply, Materialized::named(STORE_INVENTORY))
        .to_stream()
        .to(&store_output);

    items
        .group_by(|_store, item| item.sku.clone())
        .aggregate(ItemStock::new, ItemStock::apply, Materialized::named(ITEM_STOCK))
        .to_stream()
        .to(&item_output);

    builder.build()
}

/// The topic of item transactions.
pub fn items_topic(settings: &DomainSettings) -> Arc<str> {
    settings.text("items_topic", "items", "Topic of item transactions, keyed by store name")
}

/// The typed ways to ask, beside the generic ones: REST under `/api/v1`, and `inventory.v1.InventoryService`.
pub fn routes(queries: Queries) -> Routes {
    Routes::new(rest::routes(queries.clone()))
        .grpc(grpc::service(queries), holdfast_proto::inventory::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests;
