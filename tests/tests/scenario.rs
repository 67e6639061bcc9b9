//! The lab's scenario and test vectors on a real Kafka, seen through REST, gRPC, the output topics and Kafka's tools.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use holdfast_tests::{
    consumer,
    grpc::Grpc,
    instance::InstanceConfig,
    kafka::{Kafka, Names},
    load::{SCENARIO, transaction},
    producer::Producer,
    rest, wait,
};
use serde_json::{Value, json};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(20);

fn map(entries: &[(&str, i64)]) -> BTreeMap<String, i64> {
    entries.iter().map(|(sku, quantity)| ((*sku).to_owned(), *quantity)).collect()
}

fn send(producer: &Producer, names: &Names, (store, sku, kind, quantity): (&str, &str, &str, i64)) {
    producer.send(&names.items, Some(store.as_bytes()), Some(&transaction(store, sku, kind, quantity)));
}

#[test]
fn the_whole_scenario_through_rest_grpc_and_outputs() {
    let kafka = Kafka::shared();
    // No topic exists: the instance creates inputs and outputs as the lab has them.
    let names = Names::fresh("scenario");
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    assert_eq!(kafka.partitions(&names.items), Some(3));
    assert_eq!(kafka.partitions(&names.store_output), Some(1));
    let producer = Producer::new(kafka);
    for record in SCENARIO {
        send(&producer, &names, record);
    }
    producer.flush();

    let rest = instance.rest();
    let stock = map(&[("Item_1", 10), ("Item_2", 0), ("Item_3", 10)]);
    wait::until_equal("the stock of Store_1", LIMIT, &Some(stock.clone()), || rest.store_stock("Store_1"));
    wait::until_equal("the stock of Item_1", LIMIT, &Some(50), || rest.item_stock("Item_1"));
    wait::until_equal("the stock of Item_2", LIMIT, &Some(0), || rest.item_stock("Item_2"));
    wait::until_equal("the stock of Item_3", LIMIT, &Some(10), || rest.item_stock("Item_3"));
    for store in ["Store_2", "Store_3", "Store_4", "Store_5"] {
        wait::until_equal(store, LIMIT, &Some(map(&[("Item_1", 10)])), || rest.store_stock(store));
    }

    // The lab's envelope names who answered.
    let answer = rest.fetch("/api/v1/stores/inventory/Store_1").expect_status(200);
    let body = answer.json();
    assert_eq!(format!("{}:{}", body["host"].as_str().unwrap(), body["port"]), instance.address());
    assert_eq!(answer.header("holdfast-role"), "active");
    assert_eq!(answer.header("holdfast-served-by"), instance.address());
    assert!(rest.fetch("/api/v1/version").expect_status(200).json()["version"].is_string());
    let metadata = rest.fetch("/api/v1/stores/meta-data").expect_status(200).json();
    assert_eq!(metadata[0]["host"], instance.address(), "{metadata}");

    // Typed and generic gRPC say the same.
    let grpc = Grpc::connect(&instance.address());
    assert_eq!(grpc.store_stock("Store_1").unwrap(), stock);
    assert_eq!(grpc.item_stock("Item_1").unwrap(), 50);
    let row = grpc.get("StoreInventoryStock", "Store_1").unwrap().row.unwrap();
    assert_eq!(rest::stock(&serde_json::from_str(&row.value_json).unwrap()), stock);
    let stores: Vec<_> = grpc.stores().unwrap().into_iter().map(|store| (store.name, store.partitions)).collect();
    assert_eq!(stores, [("ItemStock".to_owned(), 3), ("StoreInventoryStock".to_owned(), 3)]);

    // A scan has all rows in key order, page by page; a batch has one outcome for each key.
    let rows = rest.scan("StoreInventoryStock", 2);
    let keys: Vec<_> = rows.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["Store_1", "Store_2", "Store_3", "Store_4", "Store_5"]);
    assert_eq!(rest::stock(&rows[0].1), stock);
    let scanned: Vec<_> = grpc.scan("StoreInventoryStock").unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(scanned, keys);
    let batch = rest.batch("ItemStock", &["Item_3".to_owned(), "none".to_owned(), "Item_1".to_owned()]);
    let stocks: Vec<_> =
        batch.iter().map(|(_, value)| value.as_ref().map(|value| value["currentStock"].clone())).collect();
    assert_eq!(stocks, [Some(json!(10)), None, Some(json!(50))]);

    // The outputs' last values are the rows, bytes compatible with the lab's.
    let last = wait::until("outputs of five stores", LIMIT, || {
        let last = consumer::last_by_key(&consumer::read_committed(kafka, &names.store_output));
        if last.len() == 5 { Ok(last) } else { Err(format!("{} keys", last.len())) }
    });
    let value: Value = serde_json::from_slice(&last["Store_1"]).unwrap();
    assert_eq!((rest::stock(&value), &value["storeName"]), (stock, &json!("Store_1")));
    let last = consumer::last_by_key(&consumer::read_committed(kafka, &names.item_output));
    assert_eq!(
        serde_json::from_slice::<Value>(&last["Item_1"]).unwrap(),
        json!({"itemID": "Item_1", "currentStock": 50})
    );

    // The changelog's name and bytes are Kafka Streams'.
    let changelog = consumer::last_by_key(&consumer::read_committed(kafka, &names.changelog("ItemStock")));
    assert_eq!(changelog["Item_1"], last["Item_1"]);

    // Kafka's own tool shows the group's progress.
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    let described = kafka.describe_group(&names.application_id);
    assert!(described.contains(&names.items), "{described}");
    assert!(instance.terminate().success());
}

/// One step of a vector: a record, and what store and item must show after it.
type Step = ((&'static str, &'static str, &'static str, i64), i64, i64);

/// The lab's vectors, each on stores and items of its own.
const VECTORS: [(&str, &[Step]); 5] = [
    ("two items", &[(("A", "a1", "RESTOCK", 5), 5, 5), (("A", "a2", "RESTOCK", 10), 10, 10)]),
    ("restock and sale", &[(("B", "b", "RESTOCK", 5), 5, 5), (("B", "b", "SALE", 2), 3, 3)]),
    ("two restocks", &[(("C", "c", "RESTOCK", 5), 5, 5), (("C", "c", "RESTOCK", 2), 7, 7)]),
    (
        "below zero",
        &[(("D", "d", "SALE", 10), -10, -10), (("D", "d", "RESTOCK", 10), 0, 0), (("D", "d", "SALE", 10), -10, -10)],
    ),
    (
        "over stores",
        &[
            (("S1", "s", "RESTOCK", 6), 6, 6),
            (("S2", "s", "RESTOCK", 5), 5, 11),
            (("S1", "s", "SALE", 2), 4, 9),
            (("S2", "s", "SALE", 3), 2, 6),
        ],
    ),
];

#[test]
fn the_vectors_step_by_step_under_both_guarantees() {
    let kafka = Kafka::shared();
    for guarantee in ["exactly_once", "at_least_once"] {
        let names = Names::fresh("vectors");
        names.create_topics(kafka, 3);
        let mut instance = InstanceConfig::new(kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let (rest, producer) = (instance.rest(), Producer::new(kafka));
        for (name, steps) in VECTORS {
            for (record, store_stock, item_stock) in steps {
                send(&producer, &names, *record);
                producer.flush();
                // A row that can be read is committed: the next record makes an output of its own.
                let (store, sku, ..) = *record;
                let seen = || rest.store_stock(store).and_then(|stock| stock.get(sku).copied());
                wait::until_equal(format!("{guarantee}, {name}: {sku} in {store}"), LIMIT, &Some(*store_stock), seen);
                wait::until_equal(format!("{guarantee}, {name}: {sku}"), LIMIT, &Some(*item_stock), || {
                    rest.item_stock(sku)
                });
            }
        }
        let outputs = consumer::read_committed(kafka, &names.item_output);
        for (name, steps) in VECTORS {
            let mut expected: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
            for ((_, sku, ..), _, item_stock) in steps {
                expected.entry(sku).or_default().push(*item_stock);
            }
            for (sku, expected) in expected {
                let of_sku = outputs.iter().filter(|record| record.key_text() == sku);
                let seen: Vec<_> = of_sku.map(|record| record.json()["currentStock"].as_i64().unwrap()).collect();
                assert_eq!(seen, expected, "{guarantee}, {name}: outputs of {sku}");
            }
        }
        assert!(instance.terminate().success());
    }
}

#[test]
fn refused_records_become_dead_letters_and_change_nothing() {
    let kafka = Kafka::shared();
    for guarantee in ["exactly_once", "at_least_once"] {
        let names = Names::fresh("refused");
        names.create_topics(kafka, 1);
        let mut instance = InstanceConfig::new(kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let (rest, producer) = (instance.rest(), Producer::new(kafka));
        let refused: Vec<Vec<u8>> = vec![
            transaction("", "Item_1", "RESTOCK", 1),
            transaction("Store_1", "", "RESTOCK", 1),
            br#"{"id":1,"quantity":1,"type":"SALE","sku":"Item_1"}"#.to_vec(),
            br#"{"id":1,"quantity":1,"type":"SALE","storeName":"Store_1"}"#.to_vec(),
            transaction("Store_1", "Item_1", "GIFT", 1),
            transaction("Store_1", "Item_1", "RESTOCK", i64::from(i32::MAX) + 1),
            b"{".to_vec(),
            b"".to_vec(),
            vec![0xff, 0xfe],
        ];
        send(&producer, &names, ("Store_1", "Item_1", "RESTOCK", 3));
        for value in &refused {
            producer.send(&names.items, Some(b"Store_1"), Some(value));
        }
        send(&producer, &names, ("Store_1", "Item_1", "RESTOCK", 4));
        producer.flush();
        let stock = map(&[("Item_1", 7)]);
        wait::until_equal("the records around the refused ones", LIMIT, &Some(stock), || rest.store_stock("Store_1"));
        wait::until_equal("their item", LIMIT, &Some(7), || rest.item_stock("Item_1"));
        consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
        assert_eq!(rest.scan("StoreInventoryStock", 100).len(), 1);
        assert_eq!(rest.scan("ItemStock", 100).len(), 1);

        let letters = consumer::read_committed(kafka, &names.dead_letters());
        let values: Vec<_> = letters.iter().map(|letter| letter.value.clone().unwrap_or_default()).collect();
        assert_eq!(values, refused, "{guarantee}: each refused record once, in order");
        for (index, letter) in letters.iter().enumerate() {
            assert_eq!(letter.key.as_deref(), Some(b"Store_1".as_slice()));
            let header = |name: &str| {
                letter
                    .header(&format!("__streams.errors.{name}"))
                    .unwrap_or_else(|| panic!("letter {index} has no {name}"))
            };
            assert_eq!(header("topic"), names.items);
            assert_eq!(header("partition"), "0");
            assert_eq!(header("offset"), (index + 1).to_string());
            for name in ["exception", "message", "stacktrace"] {
                assert!(!header(name).is_empty() || name == "stacktrace", "letter {index}: empty {name}");
            }
        }
        assert!(instance.terminate().success());
    }
}

#[test]
fn missing_keys_stores_and_paths_are_told_apart() {
    let kafka = Kafka::shared();
    let names = Names::fresh("missing");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let rest = instance.rest();
    for (path, status, code) in [
        ("/v1/stores/StoreInventoryStock/keys/nobody", 404, "NOT_FOUND"),
        ("/v1/stores/NoSuchStore/keys/x", 404, "STORE_NOT_FOUND"),
        ("/v1/nothing/here", 404, "PATH_NOT_FOUND"),
        ("/v1/stores/StoreInventoryStock/keys/x?consistency=perhaps", 400, "INVALID_ARGUMENT"),
        ("/v1/stores/StoreInventoryStock/keys?limit=0", 400, "INVALID_ARGUMENT"),
        ("/v1/stores/StoreInventoryStock/keys?cursor=nonsense", 400, "INVALID_ARGUMENT"),
        ("/api/v1/stores/inventory/nobody", 404, "NOT_FOUND"),
        ("/api/v1/items/nothing", 404, "NOT_FOUND"),
    ] {
        let answer = rest.fetch(path).expect_status(status);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["code"], code, "{path}: {}", answer.body);
        assert_eq!(answer.json()["status"], status, "{path}: {}", answer.body);
    }
    let grpc = Grpc::connect(&instance.address());
    assert_eq!(grpc.store_stock("nobody").unwrap_err().code(), Code::NotFound);
    assert_eq!(grpc.get("StoreInventoryStock", "nobody").unwrap_err().code(), Code::NotFound);
    assert_eq!(grpc.get("NoSuchStore", "x").unwrap_err().code(), Code::NotFound);

    let route = rest.fetch("/v1/route?store=StoreInventoryStock&key=nobody").expect_status(200).json();
    assert_eq!(route["active"], instance.address(), "{route}");
    assert_eq!(route["standbys"], json!([]), "{route}");
    assert!(instance.terminate().success());
}
