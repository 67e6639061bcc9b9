//! The inventory by hand: stock per store, and through a repartition topic stock per sku.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use holdfast_types::partition_for;
use rdkafka::{Message as _, message::BorrowedMessage};
use serde::{Deserialize, Serialize};

use super::ingest::{Job, Output, Table, Topics, changelog};
use crate::{broker::TopicName, error::Result};

/// The tables, named as the service names them.
pub(super) const STORES: &str = "StoreInventoryStock";
pub(super) const ITEMS: &str = "ItemStock";

/// The topic that a table's changes are sent to.
pub(super) fn output(topics: &Topics, table: &str) -> String {
    format!("{}-{table}-output", topics.application_id)
}

/// A changed row, encoded: key and value.
type SealedRow = (Box<[u8]>, Vec<u8>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    sku: &'a str,
    quantity: i64,
    #[serde(rename = "type")]
    kind: &'a str,
}

impl Item<'_> {
    fn change(&self) -> i64 {
        if self.kind == "SALE" { -self.quantity } else { self.quantity }
    }
}

#[derive(Default)]
struct Row<V> {
    value: V,
    partition: i32,
    changed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreJson<'a> {
    stock: &'a BTreeMap<Box<str>, i64>,
    store_name: &'a str,
}

#[derive(Serialize)]
struct ItemJson<'a> {
    #[serde(rename = "itemID")]
    item_id: &'a str,
    #[serde(rename = "currentStock")]
    current_stock: i64,
}

/// A table of typed rows with the list of those that changed.
struct Rows<V> {
    changelog: String,
    output: String,
    rows: HashMap<String, Row<V>>,
    changed: Vec<String>,
}

impl<V: Default> Rows<V> {
    fn new(topics: &Topics, table: &str) -> Self {
        Self {
            changelog: changelog(topics, table),
            output: output(topics, table),
            rows: HashMap::new(),
            changed: Vec::new(),
        }
    }

    fn update(&mut self, key: &str, partition: i32, change: impl FnOnce(&mut V)) {
        let row = self.rows.entry_ref(key).or_default();
        change(&mut row.value);
        if !row.changed {
            (row.changed, row.partition) = (true, partition);
            self.changed.push(key.into());
        }
    }

    fn seal(&mut self, to: &mut Output, json: impl Fn(&str, &V) -> Result<Vec<u8>>) -> Result<Vec<SealedRow>> {
        let mut sealed = Vec::with_capacity(self.changed.len());
        for key in self.changed.drain(..) {
            let Some(row) = self.rows.get_mut(&key) else { continue };
            row.changed = false;
            let value = json(&key, &row.value)?;
            to.send(&self.changelog, row.partition, key.as_bytes(), &value)?;
            to.send(&self.output, 0, key.as_bytes(), &value)?;
            sealed.push((key.into_bytes().into_boxed_slice(), value));
        }
        Ok(sealed)
    }

    fn all(&self, json: impl Fn(&str, &V) -> Result<Vec<u8>>) -> Vec<(Box<[u8]>, Vec<u8>)> {
        let encoded =
            self.rows.iter().filter_map(|(key, row)| Some((key.as_bytes().into(), json(key, &row.value).ok()?)));
        encoded.collect()
    }
}

fn store_json(store_name: &str, stock: &BTreeMap<Box<str>, i64>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&StoreJson { stock, store_name })?)
}

fn item_json(item_id: &str, current_stock: &i64) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&ItemJson { item_id, current_stock: *current_stock })?)
}

/// Both tables of one thread's partitions.
pub(super) struct Inventory {
    input: TopicName,
    repartition: TopicName,
    partitions: i32,
    stores: Rows<BTreeMap<Box<str>, i64>>,
    items: Rows<i64>,
}

impl Inventory {
    pub(super) fn new(topics: &Topics) -> Self {
        Self {
            input: TopicName::clone(&topics.input),
            repartition: topics.repartition.clone().unwrap_or_else(|| TopicName::from("")),
            partitions: topics.partitions,
            stores: Rows::new(topics, STORES),
            items: Rows::new(topics, ITEMS),
        }
    }
}

impl Job for Inventory {
    fn process(&mut self, message: &BorrowedMessage<'_>, to: &mut Output) -> Result<()> {
        let value = message.payload().unwrap_or_default();
        let item: Item<'_> = serde_json::from_slice(value)?;
        if message.topic() != &*self.input {
            self.items.update(item.sku, message.partition(), |stock| *stock += item.change());
            return Ok(());
        }
        let store = String::from_utf8_lossy(message.key().unwrap_or_default());
        self.stores.update(&store, message.partition(), |stock| match stock.get_mut(item.sku) {
            Some(stock) => *stock += item.change(),
            None => drop(stock.insert(item.sku.into(), item.change())),
        });
        let sku = item.sku.as_bytes();
        to.send(&self.repartition, partition_for(sku, self.partitions), sku, value)
    }

    fn seal(&mut self, to: &mut Output) -> Result<Vec<Table>> {
        Ok(vec![(STORES, self.stores.seal(to, store_json)?), (ITEMS, self.items.seal(to, item_json)?)])
    }

    fn all(&self) -> Vec<Table> {
        vec![(STORES, self.stores.all(store_json)), (ITEMS, self.items.all(item_json))]
    }
}
