//! A broker whose disk gets full, one that is restarted twice in the middle of transactions, and one that goes down with the
//! instance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{thread, time::Duration};

use holdfast_tests::{
    chance,
    instance::{InstanceConfig, StateFate},
    inventory::{STORES, check_at_least, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{LoadConfig, transaction},
    log,
    model::Model,
    producer::Producer,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(120);
const LOAD: LoadConfig = LoadConfig { stores: 50, skus: 10, bad_one_in: 0, counting: true };

/// A file of the broker's may hold this much: more than its indexes take from the start, less than what is written here.
const DISK_KIB: u64 = 12 * 1024;

/// Records so large that a log segment reaches the limit soon.
fn large(sequence: usize) -> Vec<u8> {
    let value = transaction("Store_1", &format!("Item_{}", sequence % 10), "RESTOCK", 1);
    let mut value: serde_json::Value = serde_json::from_slice(&value).unwrap();
    value["comment"] = "x".repeat(20_000).into();
    value.to_string().into_bytes()
}

/// A broker whose log directory fails ends by itself; with room again it goes on from what it has.
#[test]
fn a_full_broker_is_waited_for_until_it_has_room() {
    if !chance::soak() {
        return;
    }
    let kafka = Kafka::start_with(KafkaConfig { file_limit_kib: Some(DISK_KIB), ..KafkaConfig::default() });
    let names = Names::fresh("full");
    names.create_topics(&kafka, 1);
    let mut instance = InstanceConfig::new(&kafka, &names).start_ready();
    let rest = instance.rest();
    let mut model = Model::default();
    let values: Vec<Vec<u8>> = (0..1_000).map(large).collect();
    let (producer, topic) = (Producer::new(&kafka), names.items.clone());
    producer.send(&topic, Some(b"Store_1"), Some(&large(0)));
    producer.flush();
    for value in std::iter::once(&large(0)).chain(&values) {
        model.apply(value);
    }
    let key = format!("/v1/stores/{STORES}/keys/Store_1");
    wait::until_equal("a row", LIMIT, &200, || rest.fetch(&key).status);
    let writer = thread::spawn(move || {
        for value in values {
            producer.send(&topic, Some(b"Store_1"), Some(&value));
        }
        producer.flush();
    });
    kafka.wait_for_halt(LIMIT);
    let any = format!("{key}?consistency=any");
    wait::until_equal("default reads to be refused", LIMIT, &503, || {
        rest.fetch(&any).expect_status(200);
        rest.fetch(&key).status
    });
    let said = |text| log::count(&instance.log(), &[text]);
    let told = said("membership lost; joining again") + said("the group cannot be reached");
    assert!((1..=2).contains(&told), "said {told} times:\n{}", instance.log());
    kafka.give_space();
    kafka.start_again();
    writer.join().unwrap();
    instance.wait_ready();
    check_exactly(&kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());
}

/// Under load, so that transactions are open when the broker goes: twice stopped in order, twice killed.
#[test]
fn a_broker_restarted_in_the_middle_of_transactions_is_survived() {
    if !chance::soak() {
        return;
    }
    let kafka = Kafka::start();
    let seed = chance::seed("broker_restarts");
    let mut rng = chance::rng(seed);
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("restarts");
        names.create_topics(&kafka, 3);
        let mut instance = InstanceConfig::new(&kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let rest = instance.rest();
        let traffic = Traffic::start(&kafka, &names.items, LOAD, seed, 1_000.0);
        for stop in [Kafka::stop as fn(&Kafka), Kafka::stop, Kafka::kill, Kafka::kill] {
            let at = traffic.sent() + 1_000;
            wait::until_true("records enough", LIMIT, || traffic.sent() >= at);
            wait::random_moment(&mut rng, Duration::from_millis(300));
            stop(&kafka);
            let answer = rest.fetch(&format!("/v1/stores/{STORES}/keys?limit=10&consistency=any"));
            assert_eq!(answer.status, 200, "{guarantee}: reads go on: {}", answer.body);
            kafka.start_again();
            instance.wait_ready();
        }
        let model = traffic.finish();
        match guarantee {
            "exactly_once" => check_exactly(&kafka, &names, &rest, &model, LIMIT),
            _ => check_at_least(&kafka, &names, &rest, &model, LIMIT),
        }
        assert!(instance.terminate().success());
    }
}

/// As when the machine of both loses its power: the broker forgets markers of what it had committed, and the instance what that was.
#[test]
fn a_broker_that_is_killed_together_with_the_instance_is_survived() {
    let kafka = Kafka::start();
    let names = Names::fresh("power");
    names.create_topics(&kafka, 3);
    let seed = chance::seed("power");
    let mut rng = chance::rng(seed);
    let mut instance = InstanceConfig::new(&kafka, &names).start_ready();
    let (producer, mut model) = (Producer::new(&kafka), Model::default());
    for sent in 1..=chance::repetitions(1) {
        let value = transaction("Store_1", "Item_1", "RESTOCK", 1);
        producer.send(&names.items, Some(b"Store_1"), Some(&value));
        producer.flush();
        assert!(model.apply(&value));
        let (rest, stock) = (instance.rest(), i64::try_from(sent).unwrap());
        wait::until_equal("the row", LIMIT, &Some(stock), || {
            rest.store_stock("Store_1").and_then(|row| row.get("Item_1").copied())
        });
        // The coordinator has just answered, and still writes markers.
        wait::random_moment(&mut rng, Duration::from_millis(5));
        kafka.kill();
        instance.kill();
        kafka.start_again();
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
    }
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}
