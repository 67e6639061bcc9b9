//! The hand-written ingest: consume, hash map, and per commit interval one changelog record and one RocksDB row per
//! changed key, in a transaction.

use std::{
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    message::BorrowedMessage,
    producer::{BaseProducer, BaseRecord, Producer as _},
    topic_partition_list::Offset,
    types::RDKafkaErrorCode,
};

use super::{count::Count, inventory::Inventory, rows::Rows};
use crate::{
    broker::{Broker, TopicName, client},
    error::{Error, Result},
    figures::Figures,
    ours::Guarantee,
    usage::Usage,
    workload::{Expected, InputFlags, Topology, WorkloadFlags},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at what is not acknowledged yet.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Records between two looks at the clock.
const BATCH: usize = 4096;
/// What it says when its consumers are there, where it follows.
pub(crate) const FOLLOWS: &str = "follows the input";

/// When rows go to RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowsAt {
    /// With every commit.
    Commit,
    /// Once, at the end: what deferring and merging them can win at most.
    End,
}

/// `holdfast-bench floor-ingest`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IngestFlags {
    #[command(flatten)]
    pub(crate) input: InputFlags,
    /// Group, and prefix of the topics that it writes
    #[arg(long)]
    pub(crate) application_id: String,
    /// Directory of the rows; must not exist
    #[arg(long)]
    pub(crate) state_dir: PathBuf,
    /// Threads, each with its share of the partitions
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Exactly-once or at-least-once
    #[arg(long, value_enum, default_value = "exactly-once")]
    pub(crate) guarantee: Guarantee,
    /// Time between two commits
    #[arg(long, default_value_t = 100)]
    pub(crate) commit_interval_ms: u64,
    /// When rows go to RocksDB
    #[arg(long, value_enum, default_value = "commit")]
    pub(crate) rows: RowsAt,
    /// Begin at the input's end, and go on until the process is ended
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}

/// Where the records come from and go to.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    pub(super) input: TopicName,
    pub(super) repartition: Option<TopicName>,
    pub(super) partitions: i32,
    pub(super) application_id: String,
}

/// Rows to write: table, and key with value.
pub(super) type Table = (&'static str, Vec<(Box<[u8]>, Vec<u8>)>);

/// What is done with the records of one thread's partitions.
pub(super) trait Job: Send {
    /// Takes a record in.
    fn process(&mut self, message: &BorrowedMessage<'_>, output: &mut Output) -> Result<()>;
    /// Writes what has changed since the last call: changelogs and outputs to `output`, rows to the result.
    fn seal(&mut self, output: &mut Output) -> Result<Vec<Table>>;
    /// All rows, changed or not.
    fn all(&self) -> Vec<Table>;
}

/// A producer whose transaction begins with its first record.
pub(super) struct Output {
    producer: BaseProducer,
    transactional: bool,
    open: bool,
}

impl Output {
    pub(super) fn send(&mut self, topic: &str, partition: i32, key: &[u8], value: &[u8]) -> Result<()> {
        if self.transactional && !self.open {
            self.producer.begin_transaction()?;
            self.open = true;
        }
        let mut record = BaseRecord::to(topic).partition(partition).key(key).payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::ZERO);
                    thread::sleep(LOOK_EVERY);
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits for all acknowledgements: the crate's own flush waits in steps of 100 ms, and its poll spins below 1 ms.
    fn wait(&self) {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::ZERO);
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Counts over all threads.
struct Shared {
    records: u64,
    input: AtomicU64,
    repartitioned: AtomicU64,
    failed: AtomicBool,
    started: Barrier,
}

/// Runs it over a full topic.
pub(crate) async fn run(flags: &IngestFlags) -> Result<Figures> {
    let broker = Broker::new(&flags.input.bootstrap)?;
    let topics = prepare(&broker, flags).await?;
    let records = if flags.follow { u64::MAX } else { broker.records(&topics.input)?.unsigned_abs() };
    let tables: &[&str] = match flags.input.topology {
        Topology::Count => &[super::count::TABLE],
        Topology::Both => &[super::inventory::STORES, super::inventory::ITEMS],
    };
    let rows = Arc::new(Rows::open(&flags.state_dir, tables)?);
    let shared = Arc::new(Shared {
        records,
        input: AtomicU64::new(0),
        repartitioned: AtomicU64::new(if topics.repartition.is_some() { 0 } else { records }),
        failed: AtomicBool::new(false),
        started: Barrier::new(flags.threads + 1),
    });
    let threads: Vec<_> = (0..flags.threads)
        .map(|index| {
            let (flags, topics) = (flags.clone(), topics.clone());
            let (rows, shared) = (Arc::clone(&rows), Arc::clone(&shared));
            thread::spawn(move || {
                let outcome = work(index, &flags, &topics, &rows, &shared);
                if outcome.is_err() {
                    shared.failed.store(true, Ordering::Release);
                }
                outcome
            })
        })
        .collect();
    shared.started.wait();
    if flags.follow {
        eprintln!("{FOLLOWS}");
    }
    let began = Instant::now();
    for handle in threads {
        handle.join().map_err(|_| Error::other("a thread panicked"))??;
    }
    let seconds = began.elapsed().as_secs_f64();

    let mut figures = Figures::new();
    let (cpu_s, rss) = (Usage::own().cpu_s()?, Usage::own().peak_rss_mib()?);
    figures.set("records", records);
    figures.number("committed_s", seconds);
    figures.number("records_per_s", records as f64 / seconds);
    figures.number("cpu_s", cpu_s);
    figures.number("cpu_us_per_record", cpu_s * 1e6 / records as f64);
    figures.number("peak_rss_mib", rss);
    let mut changelog_records = 0;
    for table in tables {
        changelog_records += broker.records(&changelog(&topics, table))?;
    }
    figures.set("changelog_records", changelog_records);
    check(flags, &rows, &mut figures)?;
    Ok(figures)
}

/// The changelog of a table.
pub(super) fn changelog(topics: &Topics, table: &str) -> String {
    format!("{}-{table}-changelog", topics.application_id)
}

async fn prepare(broker: &Broker, flags: &IngestFlags) -> Result<Topics> {
    let name = flags.input.topic();
    let partitions = broker.partitions(name)?;
    let mut topics =
        Topics { input: name.into(), repartition: None, partitions, application_id: flags.application_id.clone() };
    let compacted = [("cleanup.policy", "compact")];
    match flags.input.topology {
        Topology::Count => broker.create(&changelog(&topics, super::count::TABLE), partitions, &compacted).await?,
        Topology::Both => {
            let repartition = format!("{}-by-sku-repartition", flags.application_id);
            broker.create(&repartition, partitions, &[("retention.ms", "-1")]).await?;
            topics.repartition = Some(repartition.into());
            for table in [super::inventory::STORES, super::inventory::ITEMS] {
                broker.create(&changelog(&topics, table), partitions, &compacted).await?;
                broker.create(&super::inventory::output(&topics, table), 1, &compacted).await?;
            }
        }
    }
    Ok(topics)
}

fn work(index: usize, flags: &IngestFlags, topics: &Topics, rows: &Rows, shared: &Shared) -> Result<()> {
    let exactly_once = flags.guarantee == Guarantee::ExactlyOnce;
    let setup = || -> Result<_> {
        let consumer = consumer(flags, exactly_once)?;
        let mut list = TopicPartitionList::new();
        for partition in
            (0..topics.partitions).filter(|partition| partition.unsigned_abs() as usize % flags.threads == index)
        {
            for topic in [Some(&topics.input), topics.repartition.as_ref()].into_iter().flatten() {
                let begin = if flags.follow { Offset::End } else { Offset::Beginning };
                list.add_partition_offset(topic, partition, begin)?;
            }
        }
        consumer.assign(&list)?;
        let producer = producer(flags, index, exactly_once)?;
        Ok((consumer, producer))
    };
    let ready = setup();
    // Before any error, so that nobody waits for this thread for ever.
    shared.started.wait();
    let (consumer, producer) = ready?;
    let mut output = Output { producer, transactional: exactly_once, open: false };
    let mut job: Box<dyn Job> = match flags.input.topology {
        Topology::Count => Box::new(Count::new(topics)),
        Topology::Both => Box::new(Inventory::new(topics)),
    };
    let interval = Duration::from_millis(flags.commit_interval_ms);
    let mut next = vec![[None; 2]; usize::try_from(topics.partitions).unwrap_or(0)];
    let (mut last_commit, mut changed) = (Instant::now(), false);
    while !shared.failed.load(Ordering::Relaxed) {
        let mut taken = [0_u64; 2];
        for _ in 0..BATCH {
            let Some(message) = consumer.poll(Duration::ZERO) else { break };
            let message = message?;
            let source = usize::from(message.topic() != &*topics.input);
            taken[source] += 1;
            if let Some(next) = usize::try_from(message.partition()).ok().and_then(|index| next.get_mut(index)) {
                next[source] = Some(message.offset() + 1);
            }
            job.process(&message, &mut output)?;
        }
        let idle = taken == [0, 0];
        changed |= !idle;
        let input = shared.input.fetch_add(taken[0], Ordering::Relaxed) + taken[0];
        let repartitioned = shared.repartitioned.fetch_add(taken[1], Ordering::Relaxed) + taken[1];
        let done = input >= shared.records && repartitioned >= shared.records;
        if changed && (last_commit.elapsed() >= interval || done) {
            let tables = job.seal(&mut output)?;
            commit(&consumer, &mut output, topics, &mut next)?;
            if flags.rows == RowsAt::Commit {
                write(rows, tables)?;
            }
            (last_commit, changed) = (Instant::now(), false);
        }
        if done && !changed {
            break;
        }
        if idle {
            thread::sleep(LOOK_EVERY);
        }
    }
    if flags.rows == RowsAt::End {
        write(rows, job.all())?;
    }
    Ok(())
}

fn write(rows: &Rows, tables: Vec<Table>) -> Result<()> {
    tables.into_iter().try_for_each(|(table, mut changed)| rows.write(table, &mut changed))
}

fn commit(consumer: &BaseConsumer, output: &mut Output, topics: &Topics, next: &mut [[Option<i64>; 2]]) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for (partition, offsets) in (0..).zip(next.iter_mut()) {
        for (topic, offset) in [Some(&topics.input), topics.repartition.as_ref()].into_iter().zip(offsets) {
            if let (Some(topic), Some(offset)) = (topic, offset.take()) {
                list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            }
        }
    }
    output.wait();
    if !output.transactional {
        return Ok(consumer.commit(&list, CommitMode::Sync)?);
    }
    if !output.open {
        output.producer.begin_transaction()?;
    }
    let group = consumer.group_metadata().ok_or_else(|| Error::other("the consumer has no group"))?;
    output.producer.send_offsets_to_transaction(&list, &group, LIMIT)?;
    output.producer.commit_transaction(LIMIT)?;
    output.open = false;
    Ok(())
}

fn consumer(flags: &IngestFlags, exactly_once: bool) -> Result<BaseConsumer> {
    Ok(client(&flags.input.bootstrap)
        .set("group.id", &flags.application_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", if exactly_once { "read_committed" } else { "read_uncommitted" })
        // By default a full queue is looked at again after a second only.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "10")
        .create()?)
}

fn producer(flags: &IngestFlags, index: usize, exactly_once: bool) -> Result<BaseProducer> {
    let mut config = client(&flags.input.bootstrap);
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "1000000");
    if exactly_once {
        config.set("transactional.id", format!("{}-{index}", flags.application_id));
    }
    let producer: BaseProducer = config.create()?;
    if exactly_once {
        producer.init_transactions(LIMIT)?;
    }
    Ok(producer)
}

fn check(flags: &IngestFlags, rows: &Rows, figures: &mut Figures) -> Result<()> {
    let expected = Expected::new(flags.input.topology, &flags.workload);
    let tallies = match flags.input.topology {
        Topology::Count => vec![(super::count::TABLE, expected.counts())],
        Topology::Both => {
            vec![(super::inventory::STORES, expected.stores()), (super::inventory::ITEMS, expected.items())]
        }
    };
    let mut counted = Vec::new();
    for (table, mut tally) in tallies {
        rows.each(table, |key, value| tally.row(key, value))?;
        counted.push(tally);
    }
    expected.check(&counted, figures);
    Ok(())
}
