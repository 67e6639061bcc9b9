//! The driver: one task per sub-topology, a queue of records, a commit after each.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast_store::{
    AppliedBatch, ChangelogSpec, CheckpointDelta, MemoryBudget, RowChange, ScanRange, StoreError, StoreSpec, Table,
    TaskStore, TaskStoreSpec,
};
use holdfast_types::{Clock, ManualClock, TaskId, TopicPartition};

use super::handles::{TestInputTopic, TestOutputTopic, TestStore};
use crate::{
    codec::{Codec, CodecError, HasCodec},
    errors::{DeadLetter, DeadLetterQueue, ErrorHandlers, ErrorPolicy, Failure, ProcessingError},
    kafka::limits::TopicLimits,
    processor::{DroppedRecords, Header, SealedRow, SourceRecord, TaskContext, TaskGraph},
    topology::{GraphError, Subtopology, Topology},
};

/// The application id that internal topics carry here.
const APPLICATION_ID: &str = "test";
const MEMORY_BYTES: u64 = 256 << 20;

/// What a driver answers when it cannot do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A record failed, and its policy is to stop.
    #[error(transparent)]
    Processing(#[from] ProcessingError),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be piped or read does not fit the codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The graph could not be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Nobody reads the topic.
    #[error("the topology does not read the topic {0}")]
    UnknownTopic(String),
    /// There is no such store.
    #[error("the topology has no store {0}")]
    UnknownStore(String),
}

/// Runs a topology record by record, without a broker.
#[derive(Clone)]
pub struct TopologyTestDriver(Rc<RefCell<Inner>>);

/// A record on a topic inside the driver.
#[derive(Clone, Debug)]
pub(super) struct RawRecord {
    pub(super) topic: Arc<str>,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) timestamp_ms: i64,
    pub(super) headers: Vec<Header>,
}

struct Task {
    graph: TaskGraph,
    context: TaskContext,
    store: Arc<TaskStore>,
    changelog_offset: i64,
}

struct Inner {
    topology: Topology,
    handlers: ErrorHandlers,
    dead_letter_queue: DeadLetterQueue,
    clock: ManualClock,
    tasks: Vec<Task>,
    /// Sub-topology and source that read a topic.
    routes: HashMap<Arc<str>, (usize, usize)>,
    queue: VecDeque<RawRecord>,
    offsets: HashMap<Arc<str>, i64>,
    outputs: BTreeMap<Arc<str>, VecDeque<RawRecord>>,
    dead_letters: VecDeque<DeadLetter>,
}

impl TopologyTestDriver {
    /// A driver of `topology` with the default error policies.
    pub fn new(topology: &Topology) -> Result<Self, DriverError> {
        Self::with_handlers(topology, ErrorHandlers::default())
    }

    /// A driver of `topology` with these error policies. A retry does not pause; dead letters are kept, see
    /// [`TopologyTestDriver::dead_letters`].
    pub fn with_handlers(topology: &Topology, handlers: ErrorHandlers) -> Result<Self, DriverError> {
        let clock = ManualClock::at(0);
        let mut tasks = Vec::new();
        let mut routes = HashMap::new();
        for (at, part) in topology.subtopologies().iter().enumerate() {
            tasks.push(Task::new(topology, part, &clock)?);
            for (source, topic) in part.sources.iter().enumerate() {
                routes.insert(topic.topic.resolve(APPLICATION_ID), (at, source));
            }
        }
        Ok(Self(Rc::new(RefCell::new(Inner {
            topology: topology.clone(),
            handlers,
            dead_letter_queue: DeadLetterQueue::new("dead-letters", TopicLimits::default()),
            clock,
            tasks,
            routes,
            queue: VecDeque::new(),
            offsets: HashMap::new(),
            outputs: BTreeMap::new(),
            dead_letters: VecDeque::new(),
        }))))
    }

    /// A topic to pipe records into.
    pub fn input_topic<K, V>(
        &self,
        topic: &str,
        key: impl Codec<Value = K>,
        value: impl Codec<Value = V>,
    ) -> TestInputTopic<K, V>
    where
        K: 'static,
        V: 'static,
    {
        TestInputTopic { driver: self.clone(), topic: topic.into(), key: Arc::new(key), value: Arc::new(value) }
    }

    /// A topic to read results from.
    pub fn output_topic<K, V>(
        &self,
        topic: &str,
        key: impl Codec<Value = K>,
        value: impl Codec<Value = V>,
    ) -> TestOutputTopic<K, V>
    where
        K: 'static,
        V: 'static,
    {
        TestOutputTopic { driver: self.clone(), topic: topic.into(), key: Arc::new(key), value: Arc::new(value) }
    }

    /// A store, read with the types' own codecs.
    pub fn store<K: HasCodec, V: HasCodec>(&self, name: &str) -> Result<TestStore<K, V>, DriverError> {
        Ok(TestStore { table: self.table(name)?, key: K::codec(), value: V::codec() })
    }

    /// A store, read with these codecs.
    pub fn store_with<K, V>(
        &self,
        name: &str,
        key: impl Codec<Value = K>,
        value: impl Codec<Value = V>,
    ) -> Result<TestStore<K, V>, DriverError>
    where
        K: 'static,
        V: 'static,
    {
        Ok(TestStore { table: self.table(name)?, key: Arc::new(key), value: Arc::new(value) })
    }

    /// All rows of a store as text and JSON, in the order of the keys' bytes: what clients are answered.
    pub fn rows(&self, name: &str) -> Result<Vec<(String, serde_json::Value)>, DriverError> {
        let table = self.table(name)?;
        let inner = self.0.borrow();
        let definition = inner.topology.store(name).and_then(|store| inner.topology.stores().get(store));
        let definition = definition.ok_or_else(|| DriverError::UnknownStore(name.to_owned()))?;
        let mut rows = Vec::new();
        for (key, row) in all_rows(&table)? {
            let mut json = Vec::new();
            definition.value.write_json(&row.value, &mut json)?;
            let json = serde_json::from_slice(&json)
                .map_err(|source| CodecError::Json { type_name: "serde_json::Value", source })?;
            rows.push((definition.key.to_text(&key)?, json));
        }
        Ok(rows)
    }

    /// Pipes bytes into `topic`.
    pub fn pipe_raw(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
    ) -> Result<(), DriverError> {
        self.pipe(RawRecord {
            topic: topic.into(),
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            timestamp_ms,
            headers: Vec::new(),
        })
    }

    pub(super) fn pipe(&self, record: RawRecord) -> Result<(), DriverError> {
        self.0.borrow_mut().pipe(record)
    }

    pub(super) fn next_output(&self, topic: &str) -> Option<RawRecord> {
        self.0.borrow_mut().outputs.get_mut(topic)?.pop_front()
    }

    /// Dead letters since they were last taken.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.0.borrow_mut().dead_letters.drain(..).collect()
    }

    /// Records that were skipped for a null key or value.
    pub fn dropped(&self) -> DroppedRecords {
        let mut all = DroppedRecords::default();
        for task in &self.0.borrow().tasks {
            all.null_key += task.context.dropped.null_key;
            all.null_value += task.context.dropped.null_value;
        }
        all
    }

    /// Wall-clock time, which is also the time stamp of records piped without one. Starts at 0.
    pub fn wall_clock_ms(&self) -> i64 {
        self.0.borrow().clock.now_ms()
    }

    /// Moves wall-clock time forward.
    pub fn advance_wall_clock(&self, by: Duration) {
        self.0.borrow().clock.advance(by);
    }

    fn table(&self, name: &str) -> Result<Arc<Table>, DriverError> {
        let inner = self.0.borrow();
        let unknown = || DriverError::UnknownStore(name.to_owned());
        let store = inner.topology.store(name).ok_or_else(unknown)?;
        let part = inner.topology.stores()[store].subtopology as usize;
        let at = inner.topology.subtopologies()[part].stores.iter().position(|&held| held == store);
        Ok(Arc::clone(inner.tasks[part].store.table(at.ok_or_else(unknown)?)))
    }
}

/// All rows of a table, in the order of the keys' bytes.
pub(super) fn all_rows(table: &Table) -> Result<Vec<(Bytes, holdfast_store::Row)>, StoreError> {
    let mut range = ScanRange::all();
    let mut rows = Vec::new();
    loop {
        let page = table.scan(&range, 10_000, usize::MAX)?;
        rows.extend(page.rows);
        match rows.last() {
            Some((last, _)) if page.more => range.from = std::ops::Bound::Excluded(last.to_vec()),
            _ => return Ok(rows),
        }
    }
}

impl Inner {
    fn pipe(&mut self, record: RawRecord) -> Result<(), DriverError> {
        if !self.routes.contains_key(&record.topic) {
            return Err(DriverError::UnknownTopic(record.topic.to_string()));
        }
        self.queue.push_back(record);
        while let Some(record) = self.queue.pop_front() {
            if let Err(error) = self.process(&record) {
                // What is left belongs to a record that failed.
                self.queue.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn process(&mut self, record: &RawRecord) -> Result<(), DriverError> {
        let Some(&(part, source)) = self.routes.get(&record.topic) else { return Ok(()) };
        let offset = self.offsets.entry(Arc::clone(&record.topic)).or_default();
        let source_record = SourceRecord {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            timestamp_ms: record.timestamp_ms,
            offset: *offset,
            partition: 0,
            topic: &record.topic,
            headers: &record.headers,
        };
        *offset += 1;
        let task = &mut self.tasks[part];
        let mut attempt = 1;
        let error = loop {
            match task.run(source, &source_record) {
                Ok(()) => break None,
                Err(error) => {
                    // A commit follows each record, so all that is uncommitted is of this one.
                    task.roll_back(&self.topology, part as u32)?;
                    match self.handlers.policy(error.kind()).after_attempt(attempt) {
                        Ok(_) => attempt += 1,
                        Err(ErrorPolicy::Continue) => return Ok(()),
                        Err(ErrorPolicy::DeadLetter) => break Some(error),
                        Err(_) => return Err(error.into()),
                    }
                }
            }
        };
        if let Some(error) = error {
            let letter = self.dead_letter_queue.record(&source_record, &Failure::of(&error), self.clock.now_ms());
            self.dead_letters.push_back(letter);
            return Ok(());
        }
        task.commit()?;
        for output in task.context.outputs.drain(..) {
            let topic = self.topology.subtopologies()[part].sinks[output.sink].topic.resolve(APPLICATION_ID);
            let record = RawRecord {
                topic: Arc::clone(&topic),
                key: output.key,
                value: output.value,
                timestamp_ms: output.timestamp_ms,
                headers: output.headers,
            };
            if self.routes.contains_key(&topic) {
                self.queue.push_back(record.clone());
            }
            self.outputs.entry(topic).or_default().push_back(record);
        }
        Ok(())
    }
}

impl Task {
    fn new(topology: &Topology, part: &Subtopology, clock: &ManualClock) -> Result<Self, DriverError> {
        let task = TaskId::new(part.id, 0);
        let stores = part
            .stores
            .iter()
            .map(|&store| {
                let store = &topology.stores()[store];
                let topic = store.changelog_topic().map(|topic| topic.resolve(APPLICATION_ID));
                StoreSpec {
                    name: store.name.clone(),
                    kind: store.kind,
                    changelog: topic
                        .map(|topic| ChangelogSpec { partition: TopicPartition::new(topic, 0), topic_id: None }),
                }
            })
            .collect();
        let spec = TaskStoreSpec { task, fingerprint: part.fingerprint.clone(), stores };
        let store = TaskStore::temporary(&MemoryBudget::new(MEMORY_BYTES), &spec);
        let graph = TaskGraph::build(topology, part.id, store.tables())?;
        let context = TaskContext::new(task, Arc::new(clock.clone()));
        Ok(Self { graph, context, store, changelog_offset: 0 })
    }

    fn run(&mut self, source: usize, record: &SourceRecord<'_>) -> Result<(), ProcessingError> {
        self.graph.process(source, record, &mut self.context)?;
        self.graph.flush(&mut self.context, None).map(|_| ())
    }

    fn roll_back(&mut self, topology: &Topology, part: u32) -> Result<(), GraphError> {
        self.graph = TaskGraph::build(topology, part, self.store.tables())?;
        self.context.outputs.clear();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), DriverError> {
        let mut sealed: Vec<Vec<SealedRow>> = Vec::new();
        self.graph.seal(&mut sealed)?;
        let mut offset = self.changelog_offset;
        let mut change = |row: SealedRow| {
            offset += 1;
            RowChange { key: row.key, value: row.value, timestamp_ms: row.timestamp_ms, offset: offset - 1 }
        };
        let rows = sealed.into_iter().map(|rows| rows.into_iter().map(&mut change).collect()).collect();
        self.changelog_offset = offset;
        self.store.apply(AppliedBatch { rows, checkpoint: CheckpointDelta::default() })?;
        self.graph.committed();
        Ok(())
    }
}
