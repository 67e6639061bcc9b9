//! The harness itself: a broker that starts, keeps its data over a stop and a kill, and shows what a consumer sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use holdfast_tests::{consumer, kafka::Kafka, producer::Producer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_broker_keeps_its_data_over_a_stop_and_a_kill() {
    let kafka = Kafka::start();
    kafka.create_topic("kept", 2, &[]);
    let producer = Producer::new(&kafka);
    let send = |value: &str| {
        producer.send("kept", Some(b"key"), Some(value.as_bytes()));
        producer.flush();
    };
    send("1");
    kafka.stop();
    kafka.start_again();
    send("2");
    kafka.kill();
    kafka.start_again();
    send("3");
    let records = consumer::read_committed(&kafka, "kept");
    let values: Vec<_> = records.iter().map(|record| record.value.clone().unwrap()).collect();
    assert_eq!(values, [b"1", b"2", b"3"]);
    assert_eq!(producer.acknowledged(), 3);
    assert!(kafka.topics().contains(&"kept".to_owned()));
    assert_eq!(kafka.partitions("absent"), None);
}

#[test]
fn an_open_transaction_is_seen_only_uncommitted() {
    let kafka = Kafka::shared();
    kafka.create_topic("transactions", 1, &[]);
    let producer: BaseProducer = kafka.client().set("transactional.id", "harness").create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    let send = |value: &str| {
        producer.send(BaseRecord::to("transactions").key("key").payload(value)).unwrap();
        producer.flush(LIMIT).unwrap();
    };
    producer.begin_transaction().unwrap();
    send("committed");
    producer.commit_transaction(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    send("aborted");
    producer.abort_transaction(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    send("open");

    let committed = consumer::read_committed(kafka, "transactions");
    assert_eq!(committed.len(), 1);
    assert_eq!(consumer::last_by_key(&committed)["key"], b"committed");
    assert_eq!(consumer::read_uncommitted(kafka, "transactions").len(), 3);
    producer.abort_transaction(LIMIT).unwrap();
}
