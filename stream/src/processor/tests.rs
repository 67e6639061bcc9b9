//! A task's graph over several records and commits: what is sent, sealed, kept and taken back.

use std::sync::Arc;

use holdfast_store::{AppliedBatch, CheckpointDelta, MemoryBudget, RowChange, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_types::{ManualClock, TaskId};
use proptest::prelude::*;

use super::*;
use crate::{codec::ChangeCodec, prelude::*};

/// One task of a topology with its stores, committed when told.
struct Task {
    graph: TaskGraph,
    context: TaskContext,
    store: Arc<TaskStore>,
    topic: Arc<str>,
    offset: i64,
}

impl Task {
    fn new(topology: &Topology, subtopology: u32) -> Self {
        let part = &topology.subtopologies()[subtopology as usize];
        let task = TaskId::new(subtopology, 0);
        let stores = part.stores.iter().map(|&store| &topology.stores()[store]);
        let spec = TaskStoreSpec {
            task,
            fingerprint: part.fingerprint.clone(),
            stores: stores.map(|s| StoreSpec { name: s.name.clone(), kind: s.kind, changelog: None }).collect(),
        };
        let store = TaskStore::temporary(&MemoryBudget::new(64 << 20), &spec);
        Self {
            graph: TaskGraph::build(topology, subtopology, store.tables()).unwrap(),
            context: TaskContext::new(task, Arc::new(ManualClock::at(0))),
            store,
            topic: "in".into(),
            offset: 0,
        }
    }

    fn try_pipe(&mut self, key: &str, value: &[u8]) -> Result<(), ProcessingError> {
        let record = SourceRecord {
            key: Some(key.as_bytes()),
            value: Some(value),
            timestamp_ms: self.offset,
            offset: self.offset,
            partition: 0,
            topic: &self.topic,
            headers: &[],
        };
        self.offset += 1;
        self.graph.process(0, &record, &mut self.context)
    }

    fn pipe(&mut self, key: &str, value: &str) {
        self.try_pipe(key, value.as_bytes()).unwrap();
    }

    fn flush(&mut self) -> Vec<Output> {
        assert!(self.graph.flush(&mut self.context, None).unwrap());
        std::mem::take(&mut self.context.outputs)
    }

    fn seal(&mut self) -> Vec<Vec<SealedRow>> {
        let mut rows = Vec::new();
        self.graph.seal(&mut rows).unwrap();
        rows
    }

    fn apply(&mut self, sealed: Vec<Vec<SealedRow>>) {
        let change =
            |row: SealedRow| RowChange { key: row.key, value: row.value, timestamp_ms: row.timestamp_ms, offset: 0 };
        let rows = sealed.into_iter().map(|rows| rows.into_iter().map(change).collect()).collect();
        self.store.apply(AppliedBatch { rows, checkpoint: CheckpointDelta::default() }).unwrap();
        self.graph.committed();
    }

    fn commit(&mut self) -> Vec<Output> {
        let outputs = self.flush();
        let sealed = self.seal();
        self.apply(sealed);
        outputs
    }
}

fn counting() -> Topology {
    let builder = TopologyBuilder::new();
    builder
        .stream("in", Consumed::with(Utf8, Utf8))
        .group_by_key()
        .count(Materialized::named("counts"))
        .to_stream()
        .to("out");
    builder.build().unwrap()
}

fn counted(outputs: &[Output]) -> Vec<(String, i64)> {
    let read = |output: &Output| {
        let key = Utf8.decode(output.key.as_ref().unwrap()).unwrap();
        (key, I64.decode(output.value.as_ref().unwrap()).unwrap())
    };
    outputs.iter().map(read).collect()
}

#[test]
fn a_commit_sends_and_seals_the_last_value_of_each_changed_key() {
    let mut task = Task::new(&counting(), 0);
    for key in ["a", "b", "a", "a"] {
        task.pipe(key, "x");
    }
    assert!(task.context.mutated);
    assert_eq!(task.graph.dirty_rows(), 2);
    assert!(task.graph.dirty_bytes() > 0);
    assert_eq!(counted(&task.flush()), [("a".into(), 3), ("b".into(), 1)]);
    assert!(task.flush().is_empty(), "sent once");
    let sealed = task.seal();
    assert_eq!(
        sealed,
        [vec![
            SealedRow { key: "a".into(), value: Some(3_i64.to_be_bytes().to_vec().into()), timestamp_ms: 3 },
            SealedRow { key: "b".into(), value: Some(1_i64.to_be_bytes().to_vec().into()), timestamp_ms: 1 },
        ]]
    );
    assert_eq!((task.graph.dirty_rows(), task.graph.dirty_bytes()), (0, 0));
    assert_eq!(task.seal(), [vec![]], "sealed once");
    // Processing goes on while the seal travels.
    task.pipe("b", "x");
    task.apply(sealed);
    assert_eq!(counted(&task.commit()), [("b".into(), 2)]);
    assert_eq!(task.context.stream_time_ms, 4);
}

#[test]
fn evicted_rows_are_read_again() {
    let mut task = Task::new(&counting(), 0);
    task.pipe("a", "x");
    task.flush();
    let sealed = task.seal();
    task.graph.evict(0);
    assert!(task.graph.cached_bytes() > 0, "in flight: the store does not have it yet");
    task.pipe("a", "x");
    task.apply(sealed);
    task.graph.evict(0);
    assert!(task.graph.cached_bytes() > 0, "dirty again");
    task.commit();
    task.graph.evict(0);
    assert_eq!(task.graph.cached_bytes(), 0);
    task.pipe("a", "x");
    assert_eq!(counted(&task.commit()), [("a".into(), 3)]);
}

#[test]
fn a_regrouped_table_sends_what_was_sent_before_not_what_was_computed() {
    let builder = TopologyBuilder::new();
    builder
        .table("in", Consumed::with(Utf8, Utf8))
        .group_by(|key, value| (value.clone(), key.clone()))
        .count(Materialized::named("counts"));
    let mut task = Task::new(&builder.build().unwrap(), 0);
    let codec = ChangeCodec(String::codec());
    let changes = |task: &mut Task| -> Vec<String> {
        let read = |output: Output| {
            let change = codec.decode(&output.value.unwrap()).unwrap();
            let group = Utf8.decode(&output.key.unwrap()).unwrap();
            format!("{group}{}{}", change.old.map_or("", |_| "-"), change.new.map_or("", |_| "+"))
        };
        task.commit().into_iter().map(read).collect()
    };
    task.pipe("k", "eu");
    task.pipe("k", "us");
    assert_eq!(changes(&mut task), ["us+"], "eu was never sent: it must not be subtracted");
    task.pipe("k", "asia");
    task.pipe("k", "eu");
    assert_eq!(changes(&mut task), ["us-", "eu+"]);
    task.pipe("k", "us");
    task.pipe("k", "eu");
    assert_eq!(changes(&mut task), ["eu-+"], "there and back");
    // A row that comes and goes between two commits was never there.
    let record = |value: Option<&'static [u8]>| (Some(&b"new"[..]), value);
    for (key, value) in [record(Some(b"eu")), record(None)] {
        let topic: Arc<str> = "in".into();
        let record = SourceRecord { key, value, timestamp_ms: 0, offset: 0, partition: 0, topic: &topic, headers: &[] };
        task.graph.process(0, &record, &mut task.context).unwrap();
    }
    assert!(changes(&mut task).is_empty());
}

#[test]
fn an_error_tells_whether_something_had_changed() {
    let builder = TopologyBuilder::new();
    let lines = builder.stream("in", Consumed::with(Utf8, Utf8));
    lines.to("copy");
    let numbers = lines.try_map_values(|_, text| text.parse::<i64>());
    numbers.group_by_key().count(Materialized::named("before"));
    numbers.try_map_values(|_, n| if *n < 0 { Err("negative") } else { Ok(*n) }).to("after");
    let mut task = Task::new(&builder.build().unwrap(), 0);

    let error = task.try_pipe("a", b"x").unwrap_err();
    assert_eq!(error.kind(), crate::errors::ErrorKind::Processing);
    assert_eq!(error.node(), Some("KSTREAM-MAPVALUES-0000000002"));
    assert!(!task.context.mutated && task.context.outputs.is_empty(), "the copy is taken back");

    let error = task.try_pipe("a", b"-1").unwrap_err();
    assert_eq!(error.to_string(), "KSTREAM-MAPVALUES-0000000004 refused the record: negative");
    assert!(task.context.mutated, "it was counted");
    task.context.outputs.clear();

    let error = task.try_pipe("a", &[0xff]).unwrap_err();
    assert_eq!(error.kind(), crate::errors::ErrorKind::Deserialization);
    assert!(!task.context.mutated);
    task.pipe("a", "1");
    assert!(task.context.mutated);
    assert_eq!(task.context.outputs.len(), 2);
}

#[test]
fn a_table_below_a_table_is_flushed_after_it() {
    let builder = TopologyBuilder::new();
    let lines = builder.stream("in", Consumed::with(Utf8, Utf8));
    let counts = lines.group_by_key().count(Materialized::named("counts")).to_stream();
    // Keys stay, so the second table is in the same task; the other table feeds it too.
    let lengths = lines.map_values(|v| Some(v.len() as i64));
    let lengths = lengths.group_by_key().reduce(|a, b| *a.max(b), Materialized::named("lengths")).to_stream();
    let both = counts.merge(&lengths.map_values(|v| v.flatten()));
    both.group_by_key().count(Materialized::named("changes")).to_stream().to("out");
    let mut task = Task::new(&builder.build().unwrap(), 0);
    task.pipe("a", "xx");
    task.pipe("a", "x");
    // Both tables sent once, the third counted two changes and sent one.
    assert_eq!(counted(&task.commit()), [("a".into(), 2)]);
    task.pipe("a", "xxx");
    assert_eq!(counted(&task.commit()), [("a".into(), 4)]);
}

#[test]
fn a_corrupt_row_is_named() {
    let mut task = Task::new(&counting(), 0);
    task.apply(vec![vec![SealedRow { key: "a".into(), value: Some("not a count".into()), timestamp_ms: 0 }]]);
    let error = task.try_pipe("a", b"x").unwrap_err();
    assert!(error.to_string().starts_with("a row of the store counts cannot be read: "), "{error}");
    assert_eq!(error.kind(), crate::errors::ErrorKind::Store);
}

proptest! {
    /// Whatever is committed, flushed or evicted in between, counts follow the records, and what was sent last is the count.
    #[test]
    fn counts_follow_any_mix_of_commits_and_evictions(
        steps in proptest::collection::vec((0..12_u8, 0..10_u8), 0..200),
    ) {
        let mut task = Task::new(&counting(), 0);
        let mut model = std::collections::BTreeMap::<String, i64>::new();
        let mut sent = std::collections::BTreeMap::new();
        for (key, action) in steps {
            // Short keys lie in the row, long ones beside it.
            let key = if key < 6 { format!("k{key}") } else { format!("a-key-that-does-not-fit-into-its-row-{key}") };
            match action {
                0 => sent.extend(counted(&task.commit())),
                1 => task.graph.evict(0),
                2 => sent.extend(counted(&task.flush())),
                _ => {
                    task.pipe(&key, "x");
                    *model.entry(key).or_default() += 1;
                }
            }
        }
        sent.extend(counted(&task.commit()));
        prop_assert_eq!(&sent, &model);
        for (key, count) in &model {
            let row = task.store.table(0).get(key.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(I64.decode(&row.value).unwrap(), *count);
        }
        task.graph.evict(0);
        prop_assert_eq!(task.graph.cached_bytes(), 0);
    }
}
