//! What the inventory must come to, computed from the records that were sent. Shares no code with the service.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;

/// The inventory after some records.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Stock by sku, by store.
    pub stores: BTreeMap<String, BTreeMap<String, i64>>,
    /// Stock over all stores, by sku.
    pub items: BTreeMap<String, i64>,
    /// Records that changed both.
    pub accepted: u64,
    /// Values of the records that the domain refuses, in the order sent.
    pub refused: Vec<Vec<u8>>,
    histories: HashMap<String, History>,
}

/// Every state that a store's row went through, as a digest, with the number of records after which it held.
#[derive(Clone, Debug, Default)]
struct History {
    records: u64,
    digest: u64,
    states: HashMap<u64, Vec<u64>>,
}

impl Model {
    /// Takes in one record of the input topic; answers whether the domain accepts it.
    pub fn apply(&mut self, value: &[u8]) -> bool {
        let Some((store, sku, change)) = transaction(value) else {
            self.refused.push(value.to_vec());
            return false;
        };
        self.accepted += 1;
        *self.items.entry(sku.clone()).or_default() += change;
        let stock = self.stores.entry(store.clone()).or_default();
        let before = stock.get(&sku).copied();
        let after = before.unwrap_or(0) + change;
        stock.insert(sku.clone(), after);
        let history = self.histories.entry(store).or_default();
        history.records += 1;
        // The digest of a map is the xor of its entries': it changes with one entry in constant time.
        if let Some(before) = before {
            history.digest ^= entry_digest(&sku, before);
        }
        history.digest ^= entry_digest(&sku, after);
        history.states.entry(history.digest).or_default().push(history.records);
        true
    }

    /// Checks a series of a store's outputs: each must be a state that the row really went through, in that order.
    /// One record counted twice, or one lost and counted later, makes a state that never was.
    pub fn check_outputs<'a>(
        &self,
        store: &str,
        outputs: impl IntoIterator<Item = &'a BTreeMap<String, i64>>,
    ) -> Result<(), String> {
        let history = self.histories.get(store).ok_or_else(|| format!("outputs for {store}, which got no record"))?;
        let mut at = 0;
        for (index, stock) in outputs.into_iter().enumerate() {
            let digest = stock.iter().fold(0, |digest, (sku, quantity)| digest ^ entry_digest(sku, *quantity));
            let next = history.states.get(&digest).and_then(|states| states.iter().find(|records| **records > at));
            at = *next.ok_or_else(|| {
                format!("output {index} of {store} is no state that it had after record {at}: {stock:?}")
            })?;
        }
        Ok(())
    }
}

/// Store, sku and signed quantity of an item transaction; `None` for what the domain refuses.
fn transaction(value: &[u8]) -> Option<(String, String, i64)> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let text = |key: &str| value[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let quantity = i64::from(i32::try_from(value["quantity"].as_i64()?).ok()?);
    let change = match value["type"].as_str()? {
        "RESTOCK" => quantity,
        "SALE" => -quantity,
        _ => return None,
    };
    Some((text("storeName")?, text("sku")?, change))
}

fn entry_digest(sku: &str, quantity: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sku, quantity).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::transaction;

    fn map(entries: &[(&str, i64)]) -> BTreeMap<String, i64> {
        entries.iter().map(|(sku, quantity)| ((*sku).to_owned(), *quantity)).collect()
    }

    #[test]
    fn counts_and_refuses() {
        let mut model = Model::default();
        assert!(model.apply(&transaction("Store_1", "Item_1", "RESTOCK", 5)));
        assert!(model.apply(&transaction("Store_1", "Item_1", "SALE", 7)));
        for refused in [
            transaction("", "Item_1", "SALE", 1),
            transaction("Store_1", "", "SALE", 1),
            transaction("Store_1", "Item_1", "GIFT", 1),
            b"{".to_vec(),
            br#"{"storeName":"Store_1"}"#.to_vec(),
        ] {
            assert!(!model.apply(&refused), "{}", String::from_utf8_lossy(&refused));
        }
        assert_eq!(model.stores["Store_1"], map(&[("Item_1", -2)]));
        assert_eq!(model.items["Item_1"], -2);
        assert_eq!((model.accepted, model.refused.len()), (2, 5));
    }

    #[test]
    fn outputs_must_be_states_in_order() {
        let mut model = Model::default();
        for quantity in [5_i64, 2, -7, 5] {
            model.apply(&transaction("S", "I", if quantity < 0 { "SALE" } else { "RESTOCK" }, quantity.abs()));
        }
        let states: Vec<_> = [5, 7, 0, 5].map(|quantity| map(&[("I", quantity)])).to_vec();
        assert_eq!(model.check_outputs("S", &states), Ok(()));
        assert_eq!(model.check_outputs("S", [&states[1], &states[3]]), Ok(()));
        assert!(model.check_outputs("S", [&states[3], &states[1], &states[3], &states[3]]).is_err());
        assert!(model.check_outputs("S", [&map(&[("I", 10)])]).is_err());
        assert!(model.check_outputs("T", [&states[0]]).is_err());
    }
}
