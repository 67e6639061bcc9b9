//! For how long tasks stood still, seen from outside: the longest time in which nothing that was committed came out of each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::cluster::wait;
use crate::{
    broker::{Broker, client},
    error::{Result, other},
};

const POLL: Duration = Duration::from_millis(20);

/// A task's output: one of the topics, and its partition there, which is the task's own where input and output have as many.
type Output = (String, i32);

#[derive(Clone, Copy, Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
}

/// A reader of outputs. Every partition has to get records all the while. Dropping it ends it.
pub(super) struct Pauses {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<Output, Option<Seen>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Pauses {
    /// Begins to read what is committed from now on, and waits until every partition has shown something.
    pub(super) fn start(broker: &Broker, topics: &[String]) -> Result<Self> {
        let consumer: BaseConsumer = client(broker.bootstrap())
            .set("group.id", "holdfast-bench-pauses")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()?;
        let (mut list, mut outputs) = (TopicPartitionList::new(), BTreeMap::new());
        for topic in topics {
            for partition in 0..broker.partitions(topic)? {
                list.add_partition_offset(topic, partition, Offset::End)?;
                outputs.insert((topic.clone(), partition), None);
            }
        }
        consumer.assign(&list)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(outputs)));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::Builder::new().name("pauses".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // What fails passes, or shows as a pause.
                if let Some(Ok(record)) = consumer.poll(POLL) {
                    note(&mut noted.lock(), (record.topic().to_owned(), record.partition()));
                }
            }
        });
        let pauses = Self { stop, seen, thread: Some(thread.map_err(other)?) };
        wait("every partition of the outputs to get a record", || {
            Ok(pauses.seen.lock().values().all(Option::is_some))
        })?;
        pauses.take();
        Ok(pauses)
    }

    /// The longest pause of each task since the last call, the one that lasts included.
    pub(super) fn take(&self) -> Vec<Duration> {
        let mut seen = self.seen.lock();
        let longest = seen.values_mut().flatten().map(|seen| {
            let longest = seen.longest.max(seen.last.elapsed());
            seen.longest = Duration::ZERO;
            longest
        });
        longest.collect()
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; what was not seen shows as a pause.
            let _ = thread.join();
        }
    }
}

fn note(seen: &mut BTreeMap<Output, Option<Seen>>, output: Output) {
    let now = Instant::now();
    let before = seen.get(&output).copied().flatten();
    let longest = before.map_or(Duration::ZERO, |before| before.longest.max(now - before.last));
    seen.insert(output, Some(Seen { last: now, longest }));
}
