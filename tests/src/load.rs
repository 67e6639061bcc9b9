//! Records for the inventory: single ones, the lab's scenario, and an endless seeded stream with bad ones among them.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    kafka::{Kafka, Names},
    model::Model,
    producer::Producer,
};

/// An item transaction as the lab's producers write it.
pub fn transaction(store: &str, sku: &str, kind: &str, quantity: i64) -> Vec<u8> {
    json!({
        "id": 5,
        "storeName": store,
        "sku": sku,
        "quantity": quantity,
        "type": kind,
        "price": 44.12,
        "timestamp": "2020-10-13T16:15:30.790437",
    })
    .to_string()
    .into_bytes()
}

/// The lab's whole scenario, in order: store, sku, type, quantity.
pub const SCENARIO: [(&str, &str, &str, i64); 9] = [
    ("Store_1", "Item_1", "RESTOCK", 10),
    ("Store_1", "Item_2", "RESTOCK", 5),
    ("Store_1", "Item_3", "RESTOCK", 15),
    ("Store_2", "Item_1", "RESTOCK", 10),
    ("Store_1", "Item_2", "SALE", 5),
    ("Store_1", "Item_3", "SALE", 5),
    ("Store_3", "Item_1", "RESTOCK", 10),
    ("Store_4", "Item_1", "RESTOCK", 10),
    ("Store_5", "Item_1", "RESTOCK", 10),
];

/// What an endless stream is made of.
#[derive(Clone, Copy, Debug)]
pub struct LoadConfig {
    /// Number of stores, `Store_0` and on.
    pub stores: u32,
    /// Number of skus, `Item_0` and on.
    pub skus: u32,
    /// One record in this many is one that the domain refuses; 0 for none.
    pub bad_one_in: u32,
    /// Only `RESTOCK` of quantity 1: every row is a count of records.
    pub counting: bool,
}

/// An endless stream of records; the same seed gives the same records.
#[derive(Debug)]
pub struct Load {
    config: LoadConfig,
    rng: StdRng,
}

/// One record of the input topic.
#[derive(Clone, Debug)]
pub struct Item {
    /// The store's name.
    pub key: Vec<u8>,
    /// JSON, or what a broken producer sends.
    pub value: Vec<u8>,
}

impl Load {
    /// A stream.
    pub fn new(config: LoadConfig, seed: u64) -> Self {
        Self { config, rng: StdRng::seed_from_u64(seed) }
    }

    /// Writes the next records into the input topic, and counts them in the model; returns when all are acknowledged.
    #[track_caller]
    pub fn write(&mut self, kafka: &Kafka, names: &Names, records: u64, model: &mut Model) {
        let producer = Producer::new(kafka);
        for _ in 0..records {
            let item = self.next_item();
            model.apply(&item.value);
            producer.send(&names.items, Some(&item.key), Some(&item.value));
        }
        producer.flush();
    }

    /// The next record.
    pub fn next_item(&mut self) -> Item {
        let store = format!("Store_{}", self.rng.random_range(0..self.config.stores));
        let sku = format!("Item_{}", self.rng.random_range(0..self.config.skus));
        let bad = self.config.bad_one_in > 0 && self.rng.random_range(0..self.config.bad_one_in) == 0;
        let value = if bad {
            match self.rng.random_range(0..5) {
                0 => transaction("", &sku, "SALE", 1),
                1 => transaction(&store, "", "SALE", 1),
                2 => transaction(&store, &sku, "GIFT", 1),
                3 => br#"{"id": 5, "storeName": "Store_0", "#.to_vec(),
                _ => vec![0xff, 0x00, 0xfe],
            }
        } else if self.config.counting {
            transaction(&store, &sku, "RESTOCK", 1)
        } else {
            let kind = if self.rng.random_bool(0.5) { "RESTOCK" } else { "SALE" };
            transaction(&store, &sku, kind, self.rng.random_range(1..10))
        };
        Item { key: store.into_bytes(), value }
    }
}
