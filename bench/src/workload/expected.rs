//! What the generated data must lead to, and the comparison with what a program holds.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::{Topology, Workload, WorkloadFlags, record};
use crate::figures::Figures;

/// Stores that are compared sku by sku; the others by their total.
const SAMPLED_STORES: i32 = 64;

/// The right content of every table.
#[derive(Debug)]
pub(crate) struct Expected {
    by_key: Vec<Option<i64>>,
    by_sku: Vec<Option<i64>>,
    sampled: HashMap<i32, BTreeMap<String, i64>>,
}

impl Expected {
    pub(crate) fn new(topology: Topology, flags: &WorkloadFlags) -> Self {
        let slots = |count: i32| vec![None; usize::try_from(count).unwrap_or(0)];
        let (mut by_key, mut by_sku) =
            (slots(flags.keys), slots(if topology == Topology::Both { flags.skus } else { 0 }));
        let mut sampled: HashMap<i32, BTreeMap<String, i64>> = HashMap::new();
        for drawn in Workload::new(topology, flags) {
            let change = if topology == Topology::Count { 1 } else { drawn.change() };
            add(&mut by_key, drawn.key, change);
            if topology == Topology::Both {
                add(&mut by_sku, drawn.sku, change);
                if drawn.key < SAMPLED_STORES {
                    *sampled.entry(drawn.key).or_default().entry(record::sku(drawn.sku)).or_default() += change;
                }
            }
        }
        Self { by_key, by_sku, sampled }
    }

    /// Compares the tables with `figures` of each: `entries`, `sum` and `wrong` as the peer prints them. Whether all is right.
    pub(crate) fn check(&self, tables: &[Tally<'_>], figures: &mut Figures) -> bool {
        let mut right = true;
        for tally in tables {
            right &= tally.report(figures);
        }
        figures.set("correct", right);
        right
    }

    /// A tally of the store `Counts`.
    pub(crate) fn counts(&self) -> Tally<'_> {
        Tally::new("counts", &self.by_key)
    }

    /// A tally of `StoreInventoryStock`.
    pub(crate) fn stores(&self) -> Tally<'_> {
        Tally { sampled: Some(&self.sampled), ..Tally::new("stores", &self.by_key) }
    }

    /// A tally of `ItemStock`.
    pub(crate) fn items(&self) -> Tally<'_> {
        Tally::new("items", &self.by_sku)
    }

    /// Every key that some record has, with its count.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (String, i64)> + '_ {
        (0_i32..).zip(&self.by_key).filter_map(|(key, count)| Some((record::key(key), (*count)?)))
    }

    /// Every sku that some record has, with its stock.
    pub(crate) fn skus(&self) -> impl Iterator<Item = (String, i64)> + '_ {
        (0_i32..).zip(&self.by_sku).filter_map(|(sku, stock)| Some((record::sku(sku), (*stock)?)))
    }
}

fn add(slots: &mut [Option<i64>], index: i32, change: i64) {
    if let Some(slot) = usize::try_from(index).ok().and_then(|index| slots.get_mut(index)) {
        *slot = Some(slot.unwrap_or(0) + change);
    }
}

/// The rows of one table as they are read, against what they must be.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    what: &'static str,
    expected: &'a [Option<i64>],
    sampled: Option<&'a HashMap<i32, BTreeMap<String, i64>>>,
    entries: u64,
    sum: i64,
    wrong: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreRow {
    stock: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemRow {
    current_stock: i64,
}

impl<'a> Tally<'a> {
    fn new(what: &'static str, expected: &'a [Option<i64>]) -> Self {
        Self { what, expected, sampled: None, entries: 0, sum: 0, wrong: 0 }
    }

    /// Counts a row as it is stored: a big-endian count, or the inventory's JSON.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) {
        let number = record::number(key);
        let read = match self.what {
            "counts" => value.try_into().ok().map(i64::from_be_bytes),
            "stores" => serde_json::from_slice::<StoreRow>(value).ok().map(|row| {
                if let Some(sampled) =
                    number.and_then(|number| i32::try_from(number).ok()).filter(|n| *n < SAMPLED_STORES)
                    && self.sampled.and_then(|all| all.get(&sampled)) != Some(&row.stock)
                {
                    self.wrong += 1;
                }
                row.stock.values().sum()
            }),
            _ => serde_json::from_slice::<ItemRow>(value).ok().map(|row| row.current_stock),
        };
        self.entries += 1;
        let expected = number.and_then(|number| self.expected.get(number).copied().flatten());
        match read {
            Some(value) => {
                self.sum += value;
                self.wrong += u64::from(expected != Some(value));
            }
            None => self.wrong += 1,
        }
    }

    fn report(&self, figures: &mut Figures) -> bool {
        let entries = self.expected.iter().flatten().count() as u64;
        let sum: i64 = self.expected.iter().flatten().sum();
        let what = self.what;
        figures.set(format!("{what}_entries"), format!("{} of {entries}", self.entries));
        figures.set(format!("{what}_sum"), format!("{} of {sum}", self.sum));
        figures.set(format!("{what}_wrong"), self.wrong);
        self.wrong == 0 && self.entries == entries && self.sum == sum
    }
}
