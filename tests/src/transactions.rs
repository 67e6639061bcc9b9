//! Transactions that are open, seen from outside.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::{
    instance::Instance,
    inventory::{ITEMS, STORES},
    kafka::{Kafka, Names},
    tasks, wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// What a process that stands still had asked for before has arrived by then.
const ON_ITS_WAY: Duration = Duration::from_millis(150);

/// Partitions, and how far readers of committed and of all records get in them.
struct Open {
    committed: BaseConsumer,
    all: BaseConsumer,
    partitions: Vec<(String, i32)>,
}

impl Open {
    /// The changelogs of the tasks that an instance processes: nobody else writes them.
    fn of(kafka: &Kafka, names: &Names, instance: &mut Instance) -> Self {
        let consumer = |level| kafka.client().set("isolation.level", level).create::<BaseConsumer>().unwrap();
        let changelog = |task: &tasks::Task| {
            let (subtopology, partition) = task.id.split_once('_').unwrap();
            let store = if subtopology == "0" { STORES } else { ITEMS };
            (names.changelog(store), partition.parse().unwrap())
        };
        let tasks = tasks::of(&instance.rest());
        let partitions = tasks.iter().filter(|task| task.assigned == "active").map(changelog).collect();
        Self { committed: consumer("read_committed"), all: consumer("read_uncommitted"), partitions }
    }

    /// Whether a transaction is open in one of them.
    fn any(&self) -> bool {
        let end = |consumer: &BaseConsumer, topic: &str, partition| {
            consumer.fetch_watermarks(topic, partition, LIMIT).unwrap().1
        };
        let open = |(topic, partition): &(String, i32)| {
            end(&self.committed, topic, *partition) < end(&self.all, topic, *partition)
        };
        self.partitions.iter().any(open)
    }
}

/// Kills an instance of the inventory in the middle of a transaction: it is made to stand still until one is open.
#[track_caller]
pub fn kill_within(kafka: &Kafka, names: &Names, instance: &mut Instance) {
    let open = Open::of(kafka, names, instance);
    wait::until("a transaction to be open", LIMIT, || {
        instance.pause();
        let closed = wait::try_until(ON_ITS_WAY, || if open.any() { Err(()) } else { Ok(()) });
        if closed.is_err() {
            return Ok(());
        }
        instance.resume();
        Err("none")
    });
    instance.kill();
}
