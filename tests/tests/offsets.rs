//! Offsets that an operator or retention moves under an application, and what `offset_reset` makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{check_exactly, wait_rows},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    process::code,
    producer::Producer,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 0, counting: false };
const RECORDS: u64 = 300;
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

/// Everything that was written, so that a model can count any part of it.
#[derive(Default)]
struct Written {
    values: Vec<Vec<u8>>,
}

impl Written {
    fn add(&mut self, kafka: &Kafka, names: &Names, records: u64) {
        let producer = Producer::new(kafka);
        let mut load = Load::new(LOAD, 100 + self.values.len() as u64);
        for _ in 0..records {
            let item = load.next_item();
            producer.send(&names.items, Some(&item.key), Some(&item.value));
            self.values.push(item.value);
        }
        producer.flush();
    }

    fn count(&self, model: &mut Model, range: std::ops::Range<usize>) {
        for value in &self.values[range] {
            model.apply(value);
        }
    }
}

/// An instance on an input of one partition, in which offsets are counts of records, after its first records.
fn started(kafka: &Kafka, names: &Names, guarantee: &str, offset_reset: &str) -> (Instance, Written, Model) {
    names.create_topics(kafka, 1);
    let config = InstanceConfig::new(kafka, names).set("processing_guarantee", guarantee);
    let mut instance = config.set("offset_reset", "earliest").start_ready();
    let (mut written, mut model) = (Written::default(), Model::default());
    written.add(kafka, names, RECORDS);
    written.count(&mut model, 0..RECORDS as usize);
    wait_rows(&instance.rest(), &model, LIMIT);
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    instance.reconfigure("offset_reset", offset_reset);
    (instance, written, model)
}

fn set_offset(kafka: &Kafka, names: &Names, how: &[&str]) {
    let mut args = vec!["--execute", "--group", &names.application_id, "--topic", &names.items];
    args.extend(how);
    kafka.tool(GROUPS, &args);
}

const SET: &str = "the group's offset was set from outside";
const DELETED: &str = "the group's offset was deleted";

/// The log tells of the input's offset once, and how: from where, and to where.
#[track_caller]
fn assert_told(instance: &Instance, names: &Names, what: &str, from: usize, to: usize) {
    let log = instance.log();
    let lines: Vec<_> = [SET, DELETED].iter().flat_map(|what| log::lines(&log, what)).collect();
    assert_eq!(lines.len(), 1, "said once:\n{log}");
    assert!(log::message(&lines[0]).starts_with(what), "{}", lines[0]);
    assert_eq!(log::text(&lines[0], "partition"), format!("{}-0", names.items));
    assert_eq!((log::number(&lines[0], "from"), log::number(&lines[0], "to")), (from as u64, to as u64));
}

#[test]
fn offsets_that_an_operator_moved_are_obeyed_and_told() {
    let kafka = Kafka::shared();
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("moved");
        let (mut instance, mut written, mut model) = started(kafka, &names, guarantee, "earliest");
        let end = |written: &Written| written.values.len();

        // Back by 100: they count again. The state knows better where it stands, and must not insist.
        assert!(instance.terminate().success());
        set_offset(kafka, &names, &["--reset-offsets", "--shift-by", "-100"]);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        written.count(&mut model, end(&written) - 100..end(&written));
        wait_rows(&instance.rest(), &model, LIMIT);
        assert_told(&instance, &names, SET, end(&written), end(&written) - 100);

        // Forward by 100: they never count.
        assert!(instance.terminate().success());
        let at = end(&written);
        written.add(kafka, &names, RECORDS);
        set_offset(kafka, &names, &["--reset-offsets", "--shift-by", "100"]);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        written.count(&mut model, at + 100..end(&written));
        wait_rows(&instance.rest(), &model, LIMIT);
        assert_told(&instance, &names, SET, at, at + 100);

        // To the end: nothing is left to be committed, and still it is told once, not at each start.
        assert!(instance.terminate().success());
        let at = end(&written);
        written.add(kafka, &names, RECORDS);
        set_offset(kafka, &names, &["--reset-offsets", "--to-latest"]);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        assert_told(&instance, &names, SET, at, end(&written));
        assert!(instance.terminate().success());
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        wait_rows(&instance.rest(), &model, LIMIT);
        assert_eq!(log::count(&instance.log(), &[SET]), 0, "{}", instance.log());

        // Killed: the state may be behind what was committed, which is nobody's reset.
        let at = end(&written);
        written.add(kafka, &names, RECORDS);
        written.count(&mut model, at..end(&written));
        wait_rows(&instance.rest(), &model, LIMIT);
        instance.kill();
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        wait_rows(&instance.rest(), &model, LIMIT);
        assert_eq!(log::count(&instance.log(), &[SET]), 0, "{}", instance.log());

        // Commits again, so that the state stands where the group does.
        let at = end(&written);
        written.add(kafka, &names, RECORDS);
        written.count(&mut model, at..end(&written));
        wait_rows(&instance.rest(), &model, LIMIT);

        // Deleted: `offset_reset` decides, and earliest counts everything again.
        assert!(instance.terminate().success());
        kafka.tool(GROUPS, &["--delete-offsets", "--group", &names.application_id, "--topic", &names.items]);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        written.count(&mut model, 0..end(&written));
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
        assert_told(&instance, &names, DELETED, end(&written), 0);
        assert!(instance.terminate().success());
    }
}

/// Retention takes records that the stopped instance has not read. Each policy does what it says, and each says it.
#[test]
fn offsets_out_of_range_follow_the_policy() {
    let kafka = Kafka::shared();
    for (guarantee, policy) in [
        ("exactly_once", "earliest"),
        ("at_least_once", "earliest"),
        ("exactly_once", "latest"),
        ("exactly_once", "none"),
    ] {
        let names = Names::fresh("retention");
        let (mut instance, mut written, mut model) = started(kafka, &names, guarantee, policy);
        assert!(instance.terminate().success());
        let at = written.values.len();
        written.add(kafka, &names, RECORDS);
        let ends = consumer::end_offsets(kafka, &names.items);
        kafka.delete_records(&names.items, &BTreeMap::from([(0, at as i64 + 100)]));

        instance.start_again(&StateFate::Keep);
        if policy == "none" {
            let (status, log) = instance.wait_for_exit();
            assert!(code(status) > 0, "ended with {status}");
            log::assert_said(&log, &[&names.items, "offset_reset is none"]);
            let committed = consumer::committed_offsets(kafka, &names.application_id, &names.items);
            assert_eq!(committed[&0], at as i64, "nothing was committed");
            continue;
        }
        instance.wait_ready();
        log::wait_said_once(&instance, &[&names.items, "going on by offset_reset"], LIMIT);
        let from = if policy == "earliest" { at + 100 } else { ends[&0] as usize };
        written.count(&mut model, from..written.values.len());
        let more = written.values.len();
        // With latest only what comes after the instance has gone on: it has, when the first of these shows.
        written.add(kafka, &names, RECORDS);
        written.count(&mut model, more..written.values.len());
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
        assert!(instance.terminate().success());
    }
}

/// Retention overtakes an instance that lags, because it was stopped for a moment (shorter than its session). What its
/// broker had sent before that counts, whether or not it is still in the log: the line tells how far that went.
#[test]
fn retention_that_overtakes_a_paused_instance_loses_only_what_it_took() {
    let kafka = Kafka::start();
    let names = Names::fresh("overtaken");
    let (mut instance, mut written, mut model) = started(&kafka, &names, "exactly_once", "earliest");
    instance.pause();
    let at = written.values.len();
    // A fetch that waits at the broker is answered with one record, not with all that retention takes.
    written.add(&kafka, &names, 1);
    written.add(&kafka, &names, RECORDS);
    kafka.delete_records(&names.items, &BTreeMap::from([(0, at as i64 + 100)]));
    instance.resume();
    let line = wait::until("a line about what is lost", LIMIT, || {
        log::lines(&instance.log(), "going on by offset_reset").pop().ok_or("none")
    });
    let read = log::number(&line, "offset") as usize;
    assert!((at..at + 100).contains(&read), "offset {read} is not in what retention took of {at} and on");
    written.count(&mut model, at..read);
    written.count(&mut model, at + 100..written.values.len());
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}
