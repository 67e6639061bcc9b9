//! The inventory held against the model: rows over REST, outputs, changelogs, dead letters.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    consumer,
    instance::{Instance, StateFate},
    kafka::{Kafka, Names},
    model::Model,
    rest::{self, Rest},
    wait,
};

/// The store of the first aggregate.
pub const STORES: &str = "StoreInventoryStock";
/// The store of the second one.
pub const ITEMS: &str = "ItemStock";

/// Rows on a page of a scan: small, so that cursors are used.
const PAGE: usize = 100;
/// Characters of differences that a failed test shows.
const SHOWN: usize = 2_000;

/// Both tables as one sees them from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Stock by sku, by store.
    pub stores: BTreeMap<String, BTreeMap<String, i64>>,
    /// Stock by sku.
    pub items: BTreeMap<String, i64>,
}

impl Tables {
    /// What the model says.
    pub fn of_model(model: &Model) -> Self {
        Self { stores: model.stores.clone(), items: model.items.clone() }
    }

    /// All rows over REST, by scans; every key once.
    #[track_caller]
    pub fn of_rest(rest: &Rest) -> Self {
        let mut tables = Self::default();
        for (key, value) in rest.scan(STORES, PAGE) {
            assert_eq!(value["storeName"], key.as_str(), "a row under another key");
            assert!(tables.stores.insert(key.clone(), rest::stock(&value)).is_none(), "{key} twice in a scan");
        }
        for (key, value) in rest.scan(ITEMS, PAGE) {
            assert!(tables.items.insert(key.clone(), item_stock(&value)).is_none(), "{key} twice in a scan");
        }
        tables
    }

    /// The last committed value of each key in two topics: outputs, or changelogs.
    #[track_caller]
    pub fn of_topics(kafka: &Kafka, stores: &str, items: &str) -> Self {
        let last = |topic| consumer::last_by_key(&consumer::read_committed(kafka, topic)).into_iter();
        let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).expect("JSON");
        Self {
            stores: last(stores).map(|(key, value)| (key, rest::stock(&json(value)))).collect(),
            items: last(items).map(|(key, value)| (key, item_stock(&json(value)))).collect(),
        }
    }

    /// The sum of all quantities, by store and by item.
    pub fn totals(&self) -> (i64, i64) {
        (self.stores.values().flat_map(BTreeMap::values).sum(), self.items.values().sum())
    }

    /// The first few differences, for people; `None` when there is none.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        let mut lines = differences("store", &self.stores, &expected.stores);
        lines.extend(differences("item", &self.items, &expected.items));
        if lines.is_empty() {
            return None;
        }
        // A row of a test's may be of any size.
        let shown: String = lines.iter().take(5).cloned().collect::<Vec<_>>().join("; ").chars().take(SHOWN).collect();
        Some(format!(
            "{} differences, totals {:?} instead of {:?}: {shown}",
            lines.len(),
            self.totals(),
            expected.totals()
        ))
    }
}

fn differences<V: PartialEq + std::fmt::Debug>(
    kind: &str,
    seen: &BTreeMap<String, V>,
    expected: &BTreeMap<String, V>,
) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = seen.keys().chain(expected.keys()).collect();
    keys.into_iter()
        .filter(|key| seen.get(*key) != expected.get(*key))
        .map(|key| format!("{kind} {key}: {:?} instead of {:?}", seen.get(key), expected.get(key)))
        .collect()
}

fn item_stock(value: &Value) -> i64 {
    value["currentStock"].as_i64().unwrap_or_else(|| panic!("no currentStock in {value}"))
}

/// How many records of the input the group has committed.
#[track_caller]
pub fn committed(kafka: &Kafka, names: &Names) -> i64 {
    consumer::committed_offsets(kafka, &names.application_id, &names.items).values().sum()
}

/// Waits until the rows are the model's.
#[track_caller]
pub fn wait_rows(rest: &Rest, model: &Model, limit: Duration) {
    let expected = Tables::of_model(model);
    wait::until("the rows to be the model's", limit, || {
        Tables::of_rest(rest).difference(&expected).map_or(Ok(()), Err)
    });
}

/// Waits until the rows are the model's, then holds everything else against it: each row singly, outputs, changelogs,
/// dead letters. What is checked here holds exactly: nothing lost, nothing counted twice.
#[track_caller]
pub fn check_exactly(kafka: &Kafka, names: &Names, rest: &Rest, model: &Model, limit: Duration) {
    wait_rows(rest, model, limit);
    let expected = Tables::of_model(model);
    let keys: Vec<String> = expected.stores.keys().cloned().collect();
    for keys in keys.chunks(PAGE) {
        for ((_, value), key) in rest.batch(STORES, keys).iter().zip(keys) {
            assert_eq!(value.as_ref().map(rest::stock).as_ref(), expected.stores.get(key), "{key} in a batch");
        }
    }
    for (what, stores, items) in [
        ("outputs", names.store_output.clone(), names.item_output.clone()),
        ("changelogs", names.changelog(STORES), names.changelog(ITEMS)),
    ] {
        if let Some(difference) = Tables::of_topics(kafka, &stores, &items).difference(&expected) {
            panic!("the {what}: {difference}");
        }
    }
    check_store_outputs(kafka, names, model);
    let mut letters: Vec<_> = consumer::read_committed(kafka, &names.dead_letters())
        .into_iter()
        .map(|r| r.value.unwrap_or_default())
        .collect();
    let mut refused = model.refused.clone();
    letters.sort();
    refused.sort();
    assert!(letters == refused, "{} dead letters for {} refused records", letters.len(), refused.len());
}

/// [`check_exactly`], and that a clean stop and a start over the same state change nothing.
#[track_caller]
pub fn check_exactly_over_restart(
    kafka: &Kafka,
    names: &Names,
    instance: &mut Instance,
    model: &Model,
    limit: Duration,
) {
    check_exactly(kafka, names, &instance.rest(), model, limit);
    let status = instance.terminate();
    assert!(status.success(), "ended with {status}\n{}", instance.log());
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    check_exactly(kafka, names, &instance.rest(), model, limit);
}

/// Waits until the group has committed all input, then holds every row against a model of restocks only: none may miss a
/// record; some may have counted what was on its way at a fault twice.
#[track_caller]
pub fn check_at_least(kafka: &Kafka, names: &Names, rest: &Rest, model: &Model, limit: Duration) {
    consumer::wait_committed(kafka, &names.application_id, &names.items, limit);
    let expected = Tables::of_model(model);
    let missing = |seen: &Tables| {
        let mut missing = Vec::new();
        for (store, stock) in &expected.stores {
            for (sku, quantity) in stock {
                let seen = seen.stores.get(store).and_then(|stock| stock.get(sku)).copied().unwrap_or(0);
                if seen < *quantity {
                    missing.push(format!("{store} {sku}: {seen} of {quantity}"));
                }
            }
        }
        for (sku, quantity) in &expected.items {
            let seen = seen.items.get(sku).copied().unwrap_or(0);
            if seen < *quantity {
                missing.push(format!("{sku}: {seen} of {quantity}"));
            }
        }
        missing
    };
    // The second aggregate is a repartition topic behind.
    wait::until("every record to be counted", limit, || match missing(&Tables::of_rest(rest)) {
        missing if missing.is_empty() => Ok(()),
        missing => {
            Err(format!("{} rows miss records: {:?}", missing.len(), missing.iter().take(5).collect::<Vec<_>>()))
        }
    });
    let seen = Tables::of_rest(rest);
    let keys = |tables: &Tables| {
        (tables.stores.keys().cloned().collect::<Vec<_>>(), tables.items.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(keys(&seen), keys(&expected), "rows of other keys");
}

/// [`check_at_least`] for restocks of 1, and that no more counted twice than was processed and not committed at the faults:
/// `at_risk` records. Answers how many did, by store and by item.
#[track_caller]
pub fn check_twice_at_most(
    kafka: &Kafka,
    names: &Names,
    rest: &Rest,
    model: &Model,
    at_risk: i64,
    limit: Duration,
) -> (i64, i64) {
    check_at_least(kafka, names, rest, model, limit);
    consumer::wait_committed(kafka, &names.application_id, &names.repartition(kafka), limit);
    // Rows may be read a moment after their offsets are committed.
    let seen = wait::until("the rows to stand still", limit, || {
        let tables = Tables::of_rest(rest);
        if tables == Tables::of_rest(rest) { Ok(tables) } else { Err("they move") }
    });
    let sent = i64::try_from(model.accepted).unwrap();
    let (by_store, by_item) = (seen.totals().0 - sent, seen.totals().1 - sent);
    assert!(by_store <= at_risk, "{by_store} counted twice, {at_risk} were uncommitted");
    // What is read again is sent on again: the second step may double what the first did, and its own interval.
    assert!(by_item <= 2 * at_risk, "{by_item} counted twice, {at_risk} were uncommitted");
    (by_store, by_item)
}

/// Every committed output of every store is a state that its row went through, in that order.
#[track_caller]
pub fn check_store_outputs(kafka: &Kafka, names: &Names, model: &Model) {
    let mut outputs: BTreeMap<String, Vec<BTreeMap<String, i64>>> = BTreeMap::new();
    for record in consumer::read_committed(kafka, &names.store_output) {
        outputs.entry(record.key_text()).or_default().push(rest::stock(&record.json()));
    }
    for (store, outputs) in &outputs {
        model.check_outputs(store, outputs).unwrap_or_else(|problem| panic!("{problem}"));
    }
}
