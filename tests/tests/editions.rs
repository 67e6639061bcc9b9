//! A topology changes while its instances are restarted in turn: what it has more runs where it is known, what cannot run beside
//! the old form is refused by name, and rows stay exact.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use holdfast_tests::{
    cluster::wait_owned,
    instance::{Instance, InstanceConfig, StateFate},
    kafka::{Kafka, Names},
    log::wait_said,
    producer::Producer,
    rest::Rest,
    tasks, wait,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;
/// Of one sub-topology.
const TASKS: usize = 3;
const ITEMS: usize = 60;

/// The topics of one application, and what was sent to them.
struct Shop<'a> {
    kafka: &'a Kafka,
    names: Names,
    producer: Producer,
    ordered: BTreeMap<String, i64>,
    returned: BTreeMap<String, i64>,
}

fn item(number: usize) -> String {
    format!("item{:02}", number % ITEMS)
}

impl<'a> Shop<'a> {
    fn open(kafka: &'a Kafka, test: &str) -> Self {
        let producer = Producer::new(kafka);
        let shop =
            Self { kafka, names: Names::fresh(test), producer, ordered: BTreeMap::new(), returned: BTreeMap::new() };
        for what in ["orders", "returns"] {
            kafka.create_topic(&shop.topic(what), PARTITIONS, &[]);
        }
        shop
    }

    fn topic(&self, what: &str) -> String {
        format!("{}.{what}", self.names.application_id)
    }

    fn instance(&self, edition: &str) -> InstanceConfig {
        InstanceConfig::example("editions", self.kafka, &self.names.application_id)
            .set("edition", edition)
            .set("orders_topic", self.topic("orders"))
            .set("returns_topic", self.topic("returns"))
            .set("num_standby_replicas", "1")
            .set("num_stream_threads", "1")
    }

    /// One more order of each item, and for every third one a return.
    fn trade(&mut self) {
        for number in 0..ITEMS {
            let item = item(number);
            self.producer.send(&self.topic("orders"), Some(item.as_bytes()), Some(b"1 piece"));
            *self.ordered.entry(item.clone()).or_default() += 1;
            if number % 3 == 0 {
                self.producer.send(&self.topic("returns"), Some(item.as_bytes()), Some(b"1 piece"));
                *self.returned.entry(item).or_default() += 1;
            }
        }
        self.producer.flush();
    }

    #[track_caller]
    fn check(&self, rest: &Rest, store: &str) {
        let model = if store == "Ordered" { &self.ordered } else { &self.returned };
        let expected: Vec<_> = model.iter().map(|(item, count)| (item.clone(), json!(count))).collect();
        wait::until(format!("{store} at {} to have the model's rows", rest.address()), LIMIT, || {
            match rest.try_scan(store, 17) {
                Ok(rows) if rows == expected => Ok(()),
                Ok(rows) => Err(format!("{rows:?}, expected {expected:?}")),
                Err(refused) => Err(format!("{} {}", refused.status, refused.body)),
            }
        });
    }
}

/// Looks orders up all the while, through those who stay.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Vec<String>)>,
}

impl Reader {
    fn start(rests: Vec<Rest>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut answered, mut failed) = (0, Vec::new());
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let rest = &rests[number % rests.len()];
                match rest.get(&format!("/v1/stores/Ordered/keys/{}", item(number))) {
                    Ok(answer) if answer.status == 200 => answered += 1,
                    Ok(answer) => failed.push(format!("{}: {} {}", rest.address(), answer.status, answer.body)),
                    Err(error) => failed.push(format!("{}: {error:?}", rest.address())),
                }
            }
            (answered, failed)
        });
        Self { stop, thread }
    }

    #[track_caller]
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, failed) = self.thread.join().unwrap();
        assert!(answered > 0 && failed.is_empty(), "of {answered} reads: {failed:?}");
    }
}

fn rests(instances: &mut [Instance]) -> Vec<Rest> {
    instances.iter_mut().map(Instance::rest).collect()
}

fn restart(instance: &mut Instance, edition: &str, fate: &StateFate) {
    assert!(instance.terminate().success());
    instance.reconfigure("edition", edition);
    instance.start_again(fate);
    instance.wait_ready();
}

/// How many copies of a sub-topology's tasks an instance has that are complete.
fn complete(rest: &Rest, subtopology: &str) -> usize {
    tasks::of(rest).iter().filter(|task| task.id.starts_with(subtopology) && task.role != "restoring").count()
}

#[test]
fn a_table_is_added_while_instances_are_restarted_in_turn() {
    let kafka = Kafka::shared();
    let mut shop = Shop::open(kafka, "grown");
    let mut instances: Vec<Instance> = (0..3).map(|_| shop.instance("first").start()).collect();
    instances.iter_mut().for_each(Instance::wait_ready);
    shop.trade();
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
    rests(&mut instances).iter().for_each(|rest| shop.check(rest, "Ordered"));

    for rolled in 0..instances.len() {
        let staying = instances.iter_mut().enumerate().filter(|(index, _)| *index != rolled);
        let reader = Reader::start(staying.map(|(_, instance)| instance.rest()).collect());
        restart(&mut instances[rolled], "grown", &StateFate::Keep);
        // Whoever knows the new table has it, and nobody else; all the others have copies of the old one.
        let rests = rests(&mut instances);
        tasks::wait_processed(&rests, 2 * TASKS, LIMIT);
        shop.trade();
        for (index, rest) in rests.iter().enumerate() {
            shop.check(rest, "Ordered");
            if index <= rolled {
                shop.check(rest, "Returned");
                continue;
            }
            let tasks = tasks::of(rest);
            assert!(
                tasks.iter().all(|task| task.id.starts_with("0_")),
                "a sub-topology that it does not have: {tasks:?}"
            );
            let unknown = rest.fetch("/v1/stores/Returned/keys/item00").expect_status(404);
            assert!(
                unknown.body.contains("there is no store") && unknown.body.contains("Returned"),
                "{}",
                unknown.body
            );
        }
        // A copy of each order's row beside the one who is restarted next.
        wait::until_true("a standby of each old task", LIMIT, || {
            rests.iter().map(|rest| complete(rest, "0_")).sum::<usize>() == 2 * TASKS
        });
        reader.finish();
    }
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 2 * TASKS, 1, LIMIT);
    shop.trade();
    for rest in rests(&mut instances) {
        shop.check(&rest, "Ordered");
        shop.check(&rest, "Returned");
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn what_cannot_run_beside_the_old_form_waits_until_most_instances_have_it() {
    let kafka = Kafka::shared();
    let mut shop = Shop::open(kafka, "changed");
    // Who comes back without its state is another process: nothing is kept for it.
    let config = shop.instance("first").set("drained_slot_retention_ms", "0");
    let mut instances: Vec<Instance> = (0..3).map(|_| config.clone().start()).collect();
    instances.iter_mut().for_each(Instance::wait_ready);
    shop.trade();
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);

    // One of three: it gets nothing, is told why, and answers through the others.
    restart(&mut instances[0], "changed", &StateFate::Remove);
    let all = rests(&mut instances);
    tasks::wait_settled(&mut instances[1..].iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
    assert_eq!(tasks::of(&all[0]), []);
    for words in [["sub-topology 0", "its processing differs"], ["until most members have it", "application_id"]] {
        wait_said(&instances[0], &words, 1, LIMIT);
    }
    shop.trade();
    all.iter().for_each(|rest| shop.check(rest, "Ordered"));

    // Two of three: the changed form runs, and goes on where the old one was.
    restart(&mut instances[1], "changed", &StateFate::Remove);
    let all = rests(&mut instances);
    wait_owned(&all, TASKS);
    wait::until_true("the old form to be given up", LIMIT, || tasks::of(&all[2]).is_empty());
    tasks::wait_settled(&mut instances[..2].iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
    wait_said(&instances[2], &["its processing differs"], 1, LIMIT);
    shop.trade();
    all.iter().for_each(|rest| shop.check(rest, "Ordered"));

    restart(&mut instances[2], "changed", &StateFate::Remove);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
    shop.trade();
    rests(&mut instances).iter().for_each(|rest| shop.check(rest, "Ordered"));
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
