//! Wild input: floods of bad records and of distinct keys, random bytes, and keys that are hard to ask for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use holdfast_proto::holdfast::v1::{GetRequest, Key, key};
use holdfast_tests::{
    block_on, chance, consumer,
    grpc::Grpc,
    instance::{Instance, InstanceConfig},
    inventory::{STORES, Tables},
    kafka::{Kafka, Names},
    letters,
    load::transaction,
    log,
    model::Model,
    producer::Producer,
    rest, wait,
};
use rand::RngExt;
use serde_json::json;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// A restock of one piece.
fn restock(store: &str, sku: &str) -> Vec<u8> {
    transaction(store, sku, "RESTOCK", 1)
}

/// 20,000 bad records in a row: a bounded number of lines, which say how many they stand for.
#[test]
fn a_flood_of_bad_records_is_no_flood_of_lines() {
    let kafka = Kafka::shared();
    let names = Names::fresh("flood");
    names.create_topics(kafka, 1);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let (producer, bad) = (Producer::new(kafka), 20_000);
    producer.send(&names.items, Some(b"S"), Some(&restock("S", "I")));
    for index in 0..bad {
        producer.send(&names.items, Some(b"S"), Some(format!("bad {index}").as_bytes()));
    }
    producer.send(&names.items, Some(b"S"), Some(&restock("S", "I")));
    producer.flush();
    let rest = instance.rest();
    wait::until_equal("both good ones", LIMIT, &Some(2), || rest.item_stock("I"));
    let counted = || rest.metric("holdfast_stream_dead_letter_records_total", &[]);
    wait::until_equal("letters to be counted", LIMIT, &Some(f64::from(bad)), counted);
    assert_eq!(letters::by_place(kafka, &names.dead_letters()).len(), bad as usize);
    // Each record is in a line or in the count of one.
    wait::until("every failure to be told", LIMIT, || {
        let log = instance.log();
        let shown = log::lines(&log, "a record failed").len() as u64;
        let lines = log::lines(&log, "failed and");
        assert!(lines.len() < 50, "{} lines", lines.len());
        let told = shown + lines.iter().map(|line| log::number(line, "not_shown")).sum::<u64>();
        if told == bad as u64 { Ok(()) } else { Err(format!("{told} in {} lines", lines.len())) }
    });
    assert!(instance.terminate().success());
}

/// Thousands of random byte strings, and transactions with one byte changed: an independent reader says which count.
#[test]
fn random_bytes_count_or_become_dead_letters() {
    let kafka = Kafka::shared();
    let names = Names::fresh("random");
    names.create_topics(kafka, 3);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let mut rng = chance::rng(chance::seed("random_bytes"));
    let producer = Producer::new(kafka);
    let mut model = Model::default();
    let (mut bad, mut skipped) = (0, 0);
    for _ in 0..chance::repetitions(4_000) {
        let (store, sku) = (format!("Store_{}", rng.random_range(0..9)), format!("Item_{}", rng.random_range(0..9)));
        let mut value = restock(&store, &sku);
        let mut key = store.clone().into_bytes();
        let mut bytes = |longest: usize| {
            let length = rng.random_range(0..longest);
            (0..length).map(|_| rng.random::<u8>()).collect::<Vec<u8>>()
        };
        let (random_key, random_value) = (bytes(40), bytes(400));
        match rng.random_range(0..4) {
            0 => value = random_value,
            1 => key = random_key,
            2 => {
                let at = rng.random_range(0..value.len());
                value[at] = rng.random();
            }
            _ => {}
        }
        let null = rng.random_range(0..100) == 0;
        if null {
            skipped += u64::from(std::str::from_utf8(&key).is_ok());
            bad += u64::from(std::str::from_utf8(&key).is_err());
        } else if of_store(&value, &key) && model.apply(&value) {
            // It counts.
        } else {
            bad += 1;
        }
        producer.send(&names.items, Some(&key), if null { None } else { Some(&value) });
    }
    producer.flush();
    let rest = instance.rest();
    let expected = Tables::of_model(&model);
    wait::until("the rows to be the model's", LIMIT, || {
        Tables::of_rest(&rest).difference(&expected).map_or(Ok(()), Err)
    });
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    let metric = |name: &str| rest.metric(name, &[]).unwrap_or(0.0) as u64;
    assert_eq!(letters::by_place(kafka, &names.dead_letters()).len() as u64, bad);
    wait::until_equal("letters to be counted", LIMIT, &bad, || metric("holdfast_stream_dead_letter_records_total"));
    assert_eq!(metric("holdfast_stream_skipped_records_total"), skipped);
    assert!(instance.terminate().success());
}

/// Whether the value is JSON whose store is the key.
fn of_store(value: &[u8], key: &[u8]) -> bool {
    let value: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    value["storeName"].as_str().is_some_and(|store| store.as_bytes() == key)
}

/// More distinct keys than the memory limit holds, as fast as they can be sent.
#[test]
fn a_flood_of_distinct_keys_stays_within_memory() {
    let kafka = Kafka::shared();
    let names = Names::fresh("keys");
    names.create_topics(kafka, 3);
    let mut instance = InstanceConfig::new(kafka, &names).set("memory_limit", "64MiB").start_ready();
    let keys = chance::repetitions(100_000);
    let producer = Producer::new(kafka);
    let mut peak = 0;
    for index in 0..keys {
        let store = format!("Store_{index}");
        producer.send(&names.items, Some(store.as_bytes()), Some(&restock(&store, "Item")));
        if index % 1_000 == 0 {
            peak = peak.max(resident_bytes(&instance));
        }
    }
    producer.flush();
    let rest = instance.rest();
    wait::until("every record to count", Duration::from_secs(900), || {
        peak = peak.max(resident_bytes(&instance));
        // On a machine that is busy with the flood a look-up may run out of time, and says so.
        let answer = rest.fetch("/api/v1/items/Item");
        assert!([200, 404, 504].contains(&answer.status), "{} {}", answer.status, answer.body);
        let counted = if answer.status == 200 { answer.json()["result"]["currentStock"].as_u64() } else { None };
        if counted == Some(keys as u64) { Ok(()) } else { Err(format!("{counted:?} of {keys}")) }
    });
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    let rows = rest.scan(STORES, 10_000);
    assert_eq!(rows.len(), keys);
    let stores: BTreeSet<_> = rows.iter().map(|(store, _)| store.as_str()).collect();
    assert_eq!(stores.len(), keys);
    assert!(rows.iter().all(|(_, row)| row["stock"]["Item"] == 1));
    eprintln!("{keys} keys: peak of {} MiB resident", peak / MIB as u64);
    assert!(peak < 256 << 20, "{} MiB resident with a limit of 64", peak / MIB as u64);
    assert!(instance.terminate().success());
}

fn resident_bytes(instance: &Instance) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Keys as wild as bytes can be, asked for over REST.
#[test]
fn wild_keys_are_answered() {
    let kafka = Kafka::shared();
    let names = Names::fresh("wild-keys");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let long = "k".repeat(40_000);
    let stores =
        ["a/b", "a%2Fb", "a b+c", "..", ".", "\0", "\n\r\t", "ä🦀", "?x=y&z", "#", "\"'\\", "%", "keys:batch", &long];
    let producer = Producer::new(kafka);
    for store in stores {
        producer.send(&names.items, Some(store.as_bytes()), Some(&restock(store, "I")));
    }
    producer.flush();
    let client = instance.rest();
    wait::until_equal("all of them", LIMIT, &Some(stores.len() as i64), || client.item_stock("I"));
    for store in stores {
        let short: String = store.chars().take(20).collect();
        // A client takes the two dots for a path of its own, however they are written: such a key goes into a body.
        if ![".", ".."].contains(&store) {
            let answer = client.fetch(&format!("/v1/stores/{STORES}/keys/{}", rest::encode(store)));
            assert_eq!(answer.status, 200, "{short:?}: {}", answer.body);
            assert_eq!(answer.json()["value"]["storeName"], store, "{short:?}");
        }
        let batch = client.batch(STORES, &[store.to_owned()]);
        assert_eq!(batch[0].1.as_ref().map(|row| row["stock"]["I"].clone()), Some(1.into()), "{short:?}");
    }
    for (key, status) in [("%ff%fe", 400), ("%zz", 400), ("%", 400), ("none%00", 404)] {
        let answer = client.fetch(&format!("/v1/stores/{STORES}/keys/{key}"));
        assert_eq!(answer.status, status, "{key}: {}", answer.body);
    }
    let grpc = Grpc::connect(&instance.address());
    for store in stores {
        let answer = grpc.get(STORES, store).unwrap();
        assert!(answer.row.is_some(), "{answer:?}");
    }
    let encoded = |bytes: &[u8]| Key { form: Some(key::Form::Encoded(bytes.to_vec().into())) };
    for (key, code) in [
        (encoded(&[0xff, 0xfe]), Code::InvalidArgument),
        (encoded(b"none"), Code::NotFound),
        (Key { form: None }, Code::InvalidArgument),
        (encoded(&vec![b'k'; 100_000]), Code::OutOfRange),
        // The message itself is too long.
        (encoded(&vec![b'k'; MIB]), Code::OutOfRange),
    ] {
        let request = GetRequest { store: STORES.to_owned(), key: Some(key), options: None };
        let refusal = block_on(grpc.queries().get(request)).unwrap_err();
        assert_eq!(refusal.code(), code, "{}", refusal.message());
    }
    // Too long for a path: in a body it is refused with a reason, as a path by the HTTP server itself.
    let million = "k".repeat(MIB);
    let batch = client.post(&format!("/v1/stores/{STORES}/keys:batch"), &json!({"keys": [million]}));
    assert_eq!(batch.json()["code"], "PAYLOAD_TOO_LARGE", "{}", batch.body);
    let status = raw_status(&instance.address(), &format!("/v1/stores/{STORES}/keys/{million}"));
    assert!(["414", "431"].contains(&status.as_str()), "a path of 1 MB is answered with {status}");
    assert_eq!(client.fetch("/healthz/ready").status, 200);
    assert!(instance.terminate().success());
}

/// The status of a request that no client library would send.
fn raw_status(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The server may answer, and close, before it has read all.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[9..]).into_owned()
}
