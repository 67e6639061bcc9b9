//! The scenario's load: item transactions as a function of their parameters alone, and the tables that they lead to.

use std::collections::BTreeMap;

use super::{
    ITEM_STOCK, STORE_INVENTORY, items_topic,
    types::{InventoryError, ItemStock, ItemTransaction, StoreInventory, TransactionType},
};
use crate::{
    cli::{Expected, LoadPlan, LoadRecord, Sample, Scenario},
    config::DomainSettings,
};

/// Number of skus, `Item_1` and on; a store sells all of them.
const SKUS: u32 = 20;

/// The transactions of a plan, in order; its keys are stores, `Store_1` and on.
pub fn transactions(plan: &LoadPlan) -> Transactions {
    Transactions { plan: *plan, random: SplitMix64(plan.seed), next_id: 0 }
}

/// The scenario of `demo` and `generate`.
#[derive(Clone, Copy, Debug)]
pub struct StockMovements;

impl Scenario for StockMovements {
    fn topic(&self, settings: &DomainSettings) -> String {
        items_topic(settings).to_string()
    }

    fn records(&self, plan: &LoadPlan) -> Box<dyn Iterator<Item = LoadRecord> + Send> {
        Box::new(transactions(plan).filter_map(|item| {
            // Plain data always has a JSON form.
            let value = serde_json::to_vec(&item).ok()?;
            Some(LoadRecord { key: item.store_name.into_bytes(), value })
        }))
    }

    fn expected(&self, plan: &LoadPlan) -> Expected {
        let mut model = Model::default();
        for item in transactions(plan) {
            // A refused transaction changes nothing, here as there.
            let _ = model.count(&item.store_name, &item);
        }
        model.rows()
    }

    fn sample(&self) -> Sample {
        Sample {
            store: STORE_INVENTORY.to_owned(),
            key: "Store_1".to_owned(),
            path: Some("/api/v1/stores/inventory/Store_1".to_owned()),
            grpc: Some((
                "inventory.v1.InventoryService/GetStore".to_owned(),
                r#"{"store_name": "Store_1"}"#.to_owned(),
            )),
        }
    }
}

/// Iterator over the transactions of a plan.
#[derive(Clone, Debug)]
pub struct Transactions {
    plan: LoadPlan,
    random: SplitMix64,
    next_id: u64,
}

impl Iterator for Transactions {
    type Item = ItemTransaction;

    fn next(&mut self) -> Option<ItemTransaction> {
        let id = self.next_id;
        if self.plan.records.is_some_and(|records| id >= records) {
            return None;
        }
        self.next_id += 1;
        let store = 1 + self.random.below(self.plan.keys);
        let sku = 1 + self.random.below(SKUS);
        let quantity = 1 + self.random.below(10);
        let sale = self.random.below(10) < 4;
        let cents = self.random.below(10_000);
        Some(ItemTransaction {
            id: i64::try_from(id).unwrap_or(i64::MAX),
            store_name: format!("Store_{store}"),
            sku: format!("Item_{sku}"),
            quantity: i32::try_from(quantity).unwrap_or(i32::MAX),
            kind: if sale { TransactionType::Sale } else { TransactionType::Restock },
            // One in a hundred has no price, as real ones do.
            price: (cents >= 100).then(|| f64::from(cents) / 100.0),
            timestamp: Some(local_date_time(id)),
        })
    }
}

/// What the two tables must hold after some transactions: plain arithmetic, independent of the topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Rows of `StoreInventoryStock`.
    pub stores: BTreeMap<String, StoreInventory>,
    /// Rows of `ItemStock`.
    pub items: BTreeMap<String, ItemStock>,
}

impl Model {
    /// Counts a transaction as the service must: wholly, or not at all.
    pub fn count(&mut self, key: &str, item: &ItemTransaction) -> Result<(), InventoryError> {
        item.check(key)?;
        let change = item.change()?;
        let overflow = |stock| InventoryError::Overflow { sku: item.sku.clone(), stock, change };
        let of_item = self.items.get(&item.sku).map_or(0, |row| row.current_stock);
        let of_store = self.stores.get(key).and_then(|row| row.stock.get(&item.sku)).copied().unwrap_or(0);
        let item_stock = of_item.checked_add(change).ok_or_else(|| overflow(of_item))?;
        let store_stock = of_store.checked_add(change).ok_or_else(|| overflow(of_store))?;

        let row = self.stores.entry(key.to_owned()).or_default();
        key.clone_into(&mut row.store_name);
        row.stock.insert(item.sku.clone(), store_stock);
        self.items.insert(item.sku.clone(), ItemStock { item_id: item.sku.clone(), current_stock: item_stock });
        Ok(())
    }

    /// The rows of both tables as JSON, by store and key.
    pub fn rows(&self) -> Expected {
        fn json<T: serde::Serialize>(rows: &BTreeMap<String, T>) -> BTreeMap<String, serde_json::Value> {
            rows.iter().map(|(key, row)| (key.clone(), serde_json::json!(row))).collect()
        }
        BTreeMap::from([(STORE_INVENTORY.to_owned(), json(&self.stores)), (ITEM_STOCK.to_owned(), json(&self.items))])
    }
}

/// Steele's SplitMix64: a few lines, so that no library's next version changes the records.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (at least 1), by multiplying instead of dividing.
    fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound.max(1))) >> 64) as u32
    }
}

/// A local date and time without a zone, one millisecond later for each number, from the first of January 2026.
fn local_date_time(number: u64) -> String {
    const FIRST_DAY: u64 = 20_454; // days from 1970-01-01 to 2026-01-01
    const DAY_MS: u64 = 86_400_000;
    let (year, month, day) = civil_from_days(FIRST_DAY + number / DAY_MS);
    let ms = number % DAY_MS;
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    // The tenth of a millisecond keeps the length that Java's LocalDateTime gives: six digits.
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}100")
}

/// Howard Hinnant's algorithm for the proleptic Gregorian calendar, for days since 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(records: u64, keys: u32, seed: u64) -> LoadPlan {
        LoadPlan { records: Some(records), keys, seed }
    }

    #[test]
    fn the_same_plan_gives_the_same_transactions() {
        let first: Vec<_> = transactions(&plan(1_000, 100, 42)).collect();
        assert_eq!(first.len(), 1_000);
        assert_eq!(first, transactions(&plan(1_000, 100, 42)).collect::<Vec<_>>());
        assert_ne!(first, transactions(&plan(1_000, 100, 43)).collect::<Vec<_>>());
        // Held fast: scripts compare runs over versions.
        assert_eq!(
            serde_json::to_string(&first[0]).unwrap(),
            r#"{"id":0,"storeName":"Store_75","sku":"Item_4","quantity":3,"type":"SALE","price":3.8,"timestamp":"2026-01-01T00:00:00.000100"}"#
        );
    }

    #[test]
    fn a_prefix_does_not_depend_on_the_number_of_records() {
        let endless = LoadPlan { records: None, ..plan(0, 100, 42) };
        assert!(transactions(&endless).take(10).eq(transactions(&plan(10, 100, 42))));
    }

    #[test]
    fn every_transaction_can_be_counted_and_names_are_in_range() {
        let mut model = Model::default();
        for item in transactions(&plan(5_000, 7, 1)) {
            model.count(&item.store_name, &item).unwrap();
        }
        let stores: Vec<String> = (1..=7).map(|n| format!("Store_{n}")).collect();
        assert_eq!(model.stores.keys().cloned().collect::<Vec<_>>(), stores);
        assert_eq!(model.items.len(), 20);
        // The two tables are two sums over the same movements.
        for (sku, item) in &model.items {
            let over_stores: i64 = model.stores.values().map(|store| store.stock[sku]).sum();
            assert_eq!(over_stores, item.current_stock, "{sku}");
        }
        assert_eq!(StockMovements.expected(&plan(5_000, 7, 1)), model.rows());
    }

    #[test]
    fn time_stamps_are_dates() {
        assert_eq!(local_date_time(0), "2026-01-01T00:00:00.000100");
        assert_eq!(local_date_time(86_400_000 * 31 + 3_661_001), "2026-02-01T01:01:01.001100");
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
    }
}
