//! The scenario without a broker: vectors of the inventory lab.

use super::*;

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
