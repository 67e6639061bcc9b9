//! The hand-written restore: the last value per key in memory, then sorted files that RocksDB takes in whole.

use std::{path::PathBuf, thread, time::Instant};

use clap::Args;
use hashbrown::HashMap;
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    topic_partition_list::Offset,
};
use rocksdb::{Options, SstFileWriter};

use super::{count::TABLE, rows::Rows};
use crate::{
    broker::{Broker, client},
    error::{Error, Result},
    figures::Figures,
    usage::Usage,
    workload::{Expected, Topology, WorkloadFlags},
};

/// `holdfast-bench floor-restore`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreFlags {
    /// Brokers
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// The application whose changelog of the store Counts is restored
    #[arg(long)]
    pub(crate) application_id: String,
    /// Directory of the rows; must not exist
    #[arg(long)]
    pub(crate) state_dir: PathBuf,
    /// Threads, each with its share of the partitions
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: i32,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}

/// Restores the changelog of `Counts`.
pub(crate) fn run(flags: &RestoreFlags) -> Result<Figures> {
    let started = Instant::now();
    let broker = Broker::new(&flags.bootstrap)?;
    let topic = format!("{}-{TABLE}-changelog", flags.application_id);
    let ends = broker.ends(&topic)?;
    let rows = Rows::open(&flags.state_dir, &[TABLE])?;
    let restored = thread::scope(|scope| {
        let workers: Vec<_> = (0..flags.threads)
            .map(|index| {
                let (topic, ends) = (&topic, &ends);
                scope.spawn(move || restore(flags, topic, ends, index))
            })
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join().map_err(|_| Error::other("a thread panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    })?;
    let mut records = 0;
    for (count, file) in restored {
        records += count;
        rows.ingest(TABLE, &file.into_iter().collect::<Vec<_>>())?;
    }
    let seconds = started.elapsed().as_secs_f64();

    let mut figures = Figures::new();
    figures.set("restored_records", records);
    figures.number("start_to_running_s", seconds);
    figures.number("records_per_s", records as f64 / seconds);
    figures.number("cpu_s", Usage::own().cpu_s()?);
    figures.number("peak_rss_mib", Usage::own().peak_rss_mib()?);
    let expected = Expected::new(Topology::Count, &flags.workload);
    let mut tally = expected.counts();
    rows.each(TABLE, |key, value| tally.row(key, value))?;
    expected.check(&[tally], &mut figures);
    Ok(figures)
}

/// Reads one thread's partitions to their ends: the records read, and the file that holds what they lead to.
fn restore(flags: &RestoreFlags, topic: &str, ends: &[i64], index: i32) -> Result<(u64, Option<PathBuf>)> {
    let consumer: BaseConsumer = client(&flags.bootstrap)
        .set("group.id", &flags.application_id)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for (partition, end) in (0..).zip(ends) {
        if partition % flags.threads == index && *end > 0 {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
            left += 1;
        }
    }
    consumer.assign(&list)?;
    let mut latest: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    let mut records = 0;
    while left > 0 {
        let Some(message) = consumer.poll(std::time::Duration::from_millis(100)) else {
            // Behind the last record there may be markers of transactions, which only the position passes.
            left = unfinished(&consumer, ends)?;
            continue;
        };
        let message = message?;
        records += 1;
        let value = message.payload().map(<[u8]>::to_vec);
        match latest.entry_ref(message.key().unwrap_or_default()) {
            hashbrown::hash_map::EntryRef::Occupied(mut slot) => drop(slot.insert(value)),
            hashbrown::hash_map::EntryRef::Vacant(slot) => drop(slot.insert(value)),
        }
        let end = usize::try_from(message.partition()).ok().and_then(|partition| ends.get(partition));
        if end == Some(&(message.offset() + 1)) {
            left -= 1;
        }
    }
    let mut sorted: Vec<_> = latest.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    if sorted.is_empty() {
        return Ok((records, None));
    }
    sorted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let options = Options::default();
    let path = flags.state_dir.join(format!("restored-{index}.sst"));
    let mut writer = SstFileWriter::create(&options);
    writer.open(&path)?;
    for (key, value) in &sorted {
        writer.put(key, value)?;
    }
    writer.finish()?;
    Ok((records, Some(path)))
}

fn unfinished(consumer: &BaseConsumer, ends: &[i64]) -> Result<usize> {
    let positions = consumer.position()?;
    let elements = positions.elements();
    let behind = elements.iter().filter(|element| {
        let end =
            usize::try_from(element.partition()).ok().and_then(|partition| ends.get(partition)).copied().unwrap_or(0);
        !matches!(element.offset(), Offset::Offset(offset) if offset >= end)
    });
    Ok(behind.count())
}
