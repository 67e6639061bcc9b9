//! The scenario without a broker: every vector of the inventory lab, and what the domain refuses.

use holdfast_stream::test_driver::{TestInputTopic, TestOutputTopic, TopologyTestDriver};
use serde_json::{Value, json};

use super::{load::Model, types::TransactionType, *};
use crate::cli::LoadPlan;

struct Lab {
    driver: TopologyTestDriver,
    items: TestInputTopic<String, ItemTransaction>,
    store_output: TestOutputTopic<String, StoreInventory>,
    item_output: TestOutputTopic<String, ItemStock>,
}

/// A movement: store, sku, signed quantity.
type Movement = (&'static str, &'static str, i32);

impl Lab {
    fn new() -> Self {
        let driver = TopologyTestDriver::new(&topology(&DomainSettings::default()).unwrap()).unwrap();
        Self {
            items: driver.input_topic("items", Utf8, Json::default()),
            store_output: driver.output_topic("store.inventory", Utf8, Json::default()),
            item_output: driver.output_topic("item.inventory", Utf8, Json::default()),
            driver,
        }
    }

    fn of(movements: &[Movement]) -> Self {
        let lab = Self::new();
        for (store, sku, change) in movements {
            lab.items.pipe(*store, movement(store, sku, *change)).unwrap();
        }
        lab
    }

    fn store(&self, name: &str) -> Option<Value> {
        let store = self.driver.store::<String, StoreInventory>(STORE_INVENTORY).unwrap();
        store.get(name).unwrap().map(|row| json!(row.stock))
    }

    fn item(&self, sku: &str) -> Option<i64> {
        let store = self.driver.store::<String, ItemStock>(ITEM_STOCK).unwrap();
        store.get(sku).unwrap().map(|row| row.current_stock)
    }

    /// What went to `store.inventory`: the stock of one sku in each output.
    fn store_outputs(&self, sku: &str) -> Vec<i64> {
        self.store_output.read_values().unwrap().into_iter().map(|row| row.stock[sku]).collect()
    }

    fn item_outputs(&self) -> Vec<i64> {
        self.item_output.read_values().unwrap().into_iter().map(|row| row.current_stock).collect()
    }
}

fn movement(store: &str, sku: &str, change: i32) -> ItemTransaction {
    ItemTransaction {
        id: 5,
        store_name: store.to_owned(),
        sku: sku.to_owned(),
        quantity: change.abs(),
        kind: if change < 0 { TransactionType::Sale } else { TransactionType::Restock },
        price: Some(44.12),
        timestamp: Some("2020-10-13T16:15:30.790437".to_owned()),
    }
}

#[test]
fn the_topology_has_the_labs_names() {
    let topology = topology(&DomainSettings::default()).unwrap();
    assert_eq!(topology.subtopologies().len(), 2);
    let stores: Vec<&str> = topology.stores().iter().map(|store| store.name.as_str()).collect();
    assert_eq!(stores, [STORE_INVENTORY, ITEM_STOCK]);
    let text = topology.describe().to_string();
    for name in ["items", "store.inventory", "item.inventory", "ItemStock-repartition"] {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[test]
fn topics_are_settings() {
    let settings = DomainSettings::with([("items_topic", "in"), ("store_output_topic", "by-store")]);
    let text = topology(&settings).unwrap().describe().to_string();
    assert!(text.contains("topics: [in]") && text.contains("by-store") && text.contains("item.inventory"), "{text}");
    let keys: Vec<String> = settings.declared().into_iter().map(|setting| setting.key).collect();
    assert_eq!(keys, ["store_output_topic", "item_output_topic", "items_topic"]);
}

#[test]
fn a_store_holds_each_of_its_skus() {
    let lab = Lab::of(&[("Store-1", "Item-1", 5), ("Store-1", "Item-2", 10)]);
    assert_eq!(lab.store("Store-1"), Some(json!({"Item-1": 5, "Item-2": 10})));
    assert_eq!(lab.store("Store-2"), None);
}

#[test]
fn every_movement_is_an_output_of_its_store() {
    let lab = Lab::of(&[("Store-1", "Item-1", 5), ("Store-1", "Item-1", -2)]);
    assert_eq!(lab.store_outputs("Item-1"), [5, 3]);
    let lab = Lab::of(&[("Store-1", "Item-1", 5), ("Store-1", "Item-1", 2)]);
    assert_eq!(lab.store_outputs("Item-1"), [5, 7]);
}

#[test]
fn stock_may_go_below_zero() {
    let lab = Lab::of(&[("Store-1", "Item-1", -10)]);
    assert_eq!((lab.store_outputs("Item-1"), lab.item("Item-1")), (vec![-10], Some(-10)));
    let lab = Lab::of(&[("Store-1", "Item-1", -10), ("Store-1", "Item-1", 10), ("Store-1", "Item-1", -10)]);
    assert_eq!(lab.store_outputs("Item-1"), [-10, 0, -10]);
}

#[test]
fn an_item_sums_over_stores() {
    let lab = Lab::of(&[("Store-1", "Item-1", 5), ("Store-2", "Item-1", 10)]);
    assert_eq!(lab.item("Item-1"), Some(15));
    let lab = Lab::of(&[("S1", "Item-1", 6), ("S2", "Item-1", 5), ("S1", "Item-1", -2), ("S2", "Item-1", -3)]);
    assert_eq!(lab.item_outputs(), [6, 11, 9, 6]);
}

#[test]
fn the_whole_scenario() {
    let lab = Lab::of(&[
        ("Store_1", "Item_1", 10),
        ("Store_1", "Item_2", 5),
        ("Store_1", "Item_3", 15),
        ("Store_2", "Item_1", 10),
        ("Store_1", "Item_2", -5),
        ("Store_1", "Item_3", -5),
        ("Store_3", "Item_1", 10),
        ("Store_4", "Item_1", 10),
        ("Store_5", "Item_1", 10),
    ]);
    assert_eq!(lab.store("Store_1"), Some(json!({"Item_3": 10, "Item_2": 0, "Item_1": 10})));
    for store in ["Store_2", "Store_3", "Store_4", "Store_5"] {
        assert_eq!(lab.store(store), Some(json!({"Item_1": 10})), "{store}");
    }
    let items = ["Item_1", "Item_2", "Item_3", "Item_4"].map(|sku| lab.item(sku));
    assert_eq!(items, [Some(50), Some(0), Some(10), None]);
}

#[test]
fn rows_are_the_labs_json() {
    let lab = Lab::of(&[("Store_2", "Item_6", -1), ("Store_2", "Item_4", 7)]);
    let row = json!({"stock": {"Item_6": -1, "Item_4": 7}, "storeName": "Store_2"});
    assert_eq!(lab.driver.rows(STORE_INVENTORY).unwrap(), [("Store_2".to_owned(), row)]);
    let item = lab.driver.rows(ITEM_STOCK).unwrap().remove(0);
    assert_eq!(item, ("Item_4".to_owned(), json!({"itemID": "Item_4", "currentStock": 7})));
}

#[test]
fn what_the_domain_refuses_is_a_dead_letter_and_changes_nothing() {
    let good = json!({"id": 1, "storeName": "S", "sku": "I", "quantity": 3, "type": "RESTOCK", "price": null});
    let with = |field: &str, value: Value| {
        let mut record = good.clone();
        record[field] = value;
        record.to_string().into_bytes()
    };
    let without = |field: &str| {
        let mut record = good.clone();
        record.as_object_mut().unwrap().remove(field);
        record.to_string().into_bytes()
    };
    let bad: [(Option<&[u8]>, _, _); 15] = [
        (Some(b"S"), with("storeName", json!("")), "expected a storeName"),
        (Some(b"S"), without("storeName"), "expected a storeName"),
        (Some(b"S"), with("storeName", Value::Null), "expected a storeName"),
        (Some(b"S"), with("sku", json!("")), "expected a sku"),
        (Some(b"S"), without("sku"), "expected a sku"),
        (Some(b"S"), with("type", json!("GIFT")), "expected type SALE or RESTOCK, got \"GIFT\""),
        (Some(b"S"), without("type"), "expected type SALE or RESTOCK"),
        (Some(b"T"), with("id", json!(2)), "expected the key to be the storeName \"S\", got \"T\""),
        (None, with("id", json!(3)), "expected the key to be the storeName \"S\", got \"\""),
        (Some(b"S"), with("quantity", json!(3_000_000_000_u64)), "JSON"),
        (Some(b"S"), with("quantity", json!("many")), "JSON"),
        (Some(b"S"), without("quantity"), "quantity"),
        (Some(b"S"), b"{\"id\":".to_vec(), "JSON"),
        (Some(b"S"), vec![0xff, 0x00], "JSON"),
        (Some(&[0xff]), with("id", json!(4)), "UTF-8"),
    ];
    let lab = Lab::new();
    for (key, value, expected) in bad {
        lab.driver.pipe_raw("items", key, Some(&value), 0).unwrap();
        let letters = lab.driver.dead_letters();
        let what = String::from_utf8_lossy(&value);
        assert_eq!(letters.len(), 1, "{what}");
        assert_eq!(letters[0].value.as_deref(), Some(&value[..]), "{what}");
        let message = letters[0].header("__streams.errors.message").unwrap();
        assert!(message.contains(expected), "{what}: expected {expected:?} in {message:?}");
        assert_eq!((lab.store("S"), lab.item("I")), (None, None), "{what}");
    }
    assert!(lab.store_output.read_all().unwrap().is_empty() && lab.item_output.read_all().unwrap().is_empty());
    // The next good one counts.
    lab.driver.pipe_raw("items", Some(b"S"), Some(good.to_string().as_bytes()), 0).unwrap();
    assert_eq!((lab.store("S"), lab.item("I")), (Some(json!({"I": 3})), Some(3)));
}

#[test]
fn the_load_leads_to_what_the_model_says() {
    let plan = LoadPlan { records: Some(3_000), keys: 9, seed: 7 };
    let lab = Lab::new();
    let mut model = Model::default();
    for item in load::transactions(&plan) {
        model.count(&item.store_name, &item).unwrap();
        lab.items.pipe(item.store_name.clone(), item).unwrap();
    }
    for (store, expected) in model.rows() {
        let rows = lab.driver.rows(&store).unwrap();
        assert!(rows.into_iter().eq(expected), "{store}");
    }
}
