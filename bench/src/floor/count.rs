//! Counting by hand: a slot per key, and the list of those that changed.

use hashbrown::{DefaultHashBuilder, HashTable};
use rdkafka::{Message as _, message::BorrowedMessage};
use std::hash::BuildHasher as _;

use super::ingest::{Job, Output, Table, Topics, changelog};
use crate::error::Result;

/// The table, named as the peer names it.
pub(super) const TABLE: &str = "Counts";

struct Slot {
    key: Box<[u8]>,
    count: i64,
    partition: i32,
    changed: bool,
}

/// The counts of one thread's partitions.
pub(super) struct Count {
    changelog: String,
    hasher: DefaultHashBuilder,
    index: HashTable<usize>,
    slots: Vec<Slot>,
    changed: Vec<usize>,
}

impl Count {
    pub(super) fn new(topics: &Topics) -> Self {
        Self {
            changelog: changelog(topics, TABLE),
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            slots: Vec::new(),
            changed: Vec::new(),
        }
    }
}

impl Job for Count {
    fn process(&mut self, message: &BorrowedMessage<'_>, _: &mut Output) -> Result<()> {
        let key = message.key().unwrap_or_default();
        let Self { hasher, index, slots, changed, .. } = self;
        let found = index.find(hasher.hash_one(key), |slot| *slots[*slot].key == *key).copied();
        let at = found.unwrap_or_else(|| {
            let at = slots.len();
            slots.push(Slot { key: key.into(), count: 0, partition: message.partition(), changed: false });
            index.insert_unique(hasher.hash_one(key), at, |slot| hasher.hash_one(&*slots[*slot].key));
            at
        });
        let slot = &mut slots[at];
        slot.count += 1;
        if !slot.changed {
            slot.changed = true;
            changed.push(at);
        }
        Ok(())
    }

    fn seal(&mut self, output: &mut Output) -> Result<Vec<Table>> {
        let mut rows = Vec::with_capacity(self.changed.len());
        for at in self.changed.drain(..) {
            let slot = &mut self.slots[at];
            slot.changed = false;
            let value = slot.count.to_be_bytes();
            output.send(&self.changelog, slot.partition, &slot.key, &value)?;
            rows.push((slot.key.clone(), value.to_vec()));
        }
        Ok(vec![(TABLE, rows)])
    }

    fn all(&self) -> Vec<Table> {
        vec![(TABLE, self.slots.iter().map(|slot| (slot.key.clone(), slot.count.to_be_bytes().to_vec())).collect())]
    }
}
