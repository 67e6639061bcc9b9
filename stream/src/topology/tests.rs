//! Names and sub-topologies are Kafka Streams' (its own output is in `golden/`), checks, pictures, fingerprints.

use super::*;
use crate::prelude::*;

type Lines = KStream<String, String>;
type Rows = KTable<String, String>;

fn stream(builder: &TopologyBuilder, topic: &str) -> Lines {
    builder.stream(topic, Consumed::with(Utf8, Utf8))
}

fn table(builder: &TopologyBuilder, topic: &str) -> Rows {
    builder.table(topic, Consumed::with(Utf8, Utf8))
}

#[expect(clippy::ptr_arg, reason = "reduce hands out values as they are")]
fn first(a: &String, _: &String) -> String {
    a.clone()
}

fn keep(_: &String, _: &String) -> bool {
    true
}

#[expect(clippy::ptr_arg, reason = "group_by hands out values as they are")]
fn swap(_: &String, value: &String) -> (String, String) {
    (value.clone(), value.clone())
}

/// Kafka Streams lists the successors of a node in an order that depends on Java's hash maps: lists are compared sorted.
fn normalized(text: &str) -> String {
    let sorted = |line: &str| match line.split_once("--> ").or_else(|| line.split_once("<-- ")) {
        Some((before, list)) => {
            let mut names: Vec<&str> = list.split(", ").collect();
            names.sort_unstable();
            format!("{before}{}", names.join(", "))
        }
        None => line.to_owned(),
    };
    text.lines().map(sorted).collect::<Vec<_>>().join("\n")
}

fn assert_described(builder: &TopologyBuilder, golden: &str) {
    let description = builder.build().unwrap().describe();
    assert_eq!(normalized(&description.to_string()), normalized(golden), "got:\n{description}");
}

fn word_count() -> TopologyBuilder {
    let builder = TopologyBuilder::new();
    stream(&builder, "streams-plaintext-input")
        .flat_map_values(|line: &String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_, word| word.clone())
        .count(Materialized::named("counts-store"))
        .to_stream()
        .to("streams-wordcount-output");
    builder
}

fn inventory() -> TopologyBuilder {
    let builder = TopologyBuilder::new();
    let items = stream(&builder, "items");
    let add = |stock: &mut String, _: &String, item: &String| stock.push_str(item);
    items
        .group_by_key()
        .aggregate(String::new, add, Materialized::named("StoreInventoryStock"))
        .to_stream()
        .to("store.inventory");
    items
        .group_by(|_, item| item.clone())
        .aggregate(String::new, add, Materialized::named("ItemStock"))
        .to_stream()
        .to("item.inventory");
    builder
}

#[test]
fn word_count_is_described_as_in_java() {
    assert_described(&word_count(), include_str!("golden/wordcount.txt"));
}

#[test]
fn the_inventory_is_described_as_in_java() {
    assert_described(&inventory(), include_str!("golden/inventory.txt"));
}

#[test]
fn generated_names_are_counted_as_in_java() {
    let builder = TopologyBuilder::new();
    let lines = stream(&builder, "in");
    lines.filter(keep).map(swap).group_by_key().count(Materialized::default()).to_stream().to("out");
    lines.group_by_key().reduce(first, Materialized::default()).to_stream().for_each(|_, _| {});
    assert_described(&builder, include_str!("golden/unnamed.txt"));
}

#[test]
fn branches_and_merges_are_described_as_in_java() {
    let builder = TopologyBuilder::new();
    let (left, right) = (stream(&builder, "in"), stream(&builder, "other"));
    let mut branches =
        left.merge(&right).peek(|_, _| {}).split().branch(keep).branch(keep).default_branch().into_iter();
    let mut next = || branches.next().unwrap();
    next().to("one");
    next().map_values(String::clone).to("two");
    next().select_key(|_, value| value.clone()).repartition(Repartitioned::default()).to("rest");
    assert_described(&builder, include_str!("golden/branches.txt"));
}

#[test]
fn tables_are_described_as_in_java() {
    let builder = TopologyBuilder::new();
    table(&builder, "users").filter(keep).map_values(String::clone).to_stream().to("plain");
    assert_described(&builder, include_str!("golden/table_plain.txt"));

    let builder = TopologyBuilder::new();
    builder
        .table_with("users", Consumed::with(Utf8, Utf8), Materialized::named("users-store"))
        .group_by(swap)
        .count(Materialized::named("by-region"))
        .to_stream()
        .to("regions");
    assert_described(&builder, include_str!("golden/table_group.txt"));

    let builder = TopologyBuilder::new();
    let grouped = table(&builder, "users").filter_not(keep).group_by(swap);
    grouped.reduce(first, first, Materialized::default()).to_stream().to("reduced");
    let nothing = |_: &mut String, _: &String, _: &String| {};
    grouped.aggregate(String::new, nothing, nothing, Materialized::default());
    assert_described(&builder, include_str!("golden/table_group_unnamed.txt"));
}

#[test]
fn a_named_grouping_shares_its_repartition_as_in_java() {
    let builder = TopologyBuilder::new();
    let lines = stream(&builder, "in");
    let grouped = lines.group_by_with(|_, word| word.clone(), Grouped::default().named("by-word"));
    grouped.count(Materialized::named("counts"));
    grouped.reduce(first, Materialized::named("last"));
    lines
        .repartition(Repartitioned::default().named("wide").partitions(8))
        .group_by_key()
        .count(Materialized::named("wide-counts"));
    assert_described(&builder, include_str!("golden/grouped_named.txt"));
    let topology = builder.build().unwrap();
    let wide = &topology.subtopologies()[2].sources[0];
    assert_eq!(wide.repartition, Some(RepartitionSpec { partitions: Some(8) }));
    assert_eq!(&*wide.topic.resolve("app"), "app-wide-repartition");
}

#[test]
fn streams_of_one_topic_share_a_source_as_in_java() {
    let builder = TopologyBuilder::new();
    let (left, right) = (stream(&builder, "in"), stream(&builder, "in"));
    left.filter(keep).to("a");
    right.filter_not(keep).to("b");
    assert_described(&builder, include_str!("golden/same_topic.txt"));
}

#[test]
fn seams_say_what_is_read_kept_and_written() {
    let topology = inventory().build().unwrap();
    let [stores, items] = topology.subtopologies() else { panic!("{topology:?}") };
    assert_eq!((stores.id, items.id), (0, 1));
    assert_eq!(stores.sources[0].topic, TopicName::External("items".into()));
    assert_eq!(
        stores.sinks.iter().map(|sink| sink.topic.to_string()).collect::<Vec<_>>(),
        ["store.inventory", "ItemStock-repartition"]
    );
    assert_eq!(items.sources[0].topic, TopicName::Internal("ItemStock-repartition".into()));
    assert_eq!(items.sources[0].repartition, Some(RepartitionSpec::default()));
    let store = &topology.stores()[items.stores[0]];
    assert_eq!((store.name.as_str(), store.subtopology, store.queryable), ("ItemStock", 1, true));
    assert_eq!(store.changelog_topic(), Some(TopicName::Internal("ItemStock-changelog".into())));
    assert_eq!((store.key.name(), store.value.name()), ("utf8", "utf8"));
    assert_eq!(topology.store("ItemStock"), Some(items.stores[0]));
}

#[test]
fn fingerprints_change_with_what_they_cover_only() {
    let prints = |builder: TopologyBuilder| {
        let topology = builder.build().unwrap();
        topology.subtopologies().iter().map(|part| part.fingerprint.clone()).collect::<Vec<_>>()
    };
    assert_eq!(prints(inventory()), prints(inventory()));
    let builder = inventory();
    stream(&builder, "more").to("elsewhere");
    assert_eq!(prints(builder)[..2], prints(inventory())[..], "another part changes no part");

    let counted = |kind: fn(Materialized<i64>) -> Materialized<i64>, name: &str, topic: &str| {
        let builder = TopologyBuilder::new();
        stream(&builder, topic).group_by_key().count(kind(Materialized::named(name)));
        prints(builder)
    };
    let same: fn(Materialized<i64>) -> Materialized<i64> = |materialized| materialized;
    let plain = counted(same, "a", "in");
    assert_ne!(plain, counted(same, "b", "in"));
    assert_ne!(plain, counted(same, "a", "out"));
    assert_ne!(plain, counted(Materialized::in_memory, "a", "in"));
    assert_ne!(plain, counted(Materialized::without_changelog, "a", "in"));
}

#[test]
fn pictures_show_topics_nodes_and_stores() {
    let description = word_count().build().unwrap().describe();
    let dot = description.dot();
    assert!(dot.starts_with("digraph topology {"));
    for part in [
        r#""topic streams-plaintext-input" -> "KSTREAM-SOURCE-0000000000";"#,
        r#""counts-store-repartition-sink" -> "topic counts-store-repartition";"#,
        r#""topic counts-store-repartition" -> "counts-store-repartition-source";"#,
        r#""KSTREAM-AGGREGATE-0000000003" -> "store counts-store""#,
    ] {
        assert!(dot.contains(part), "{part} in\n{dot}");
    }
    let mermaid = description.mermaid();
    assert!(mermaid.starts_with("flowchart LR\n"));
    for part in ["subgraph s1[\"Sub-topology 1\"]", "[(\"counts-store\")]", ">\"streams-wordcount-output\"]"] {
        assert!(mermaid.contains(part), "{part} in\n{mermaid}");
    }
    let json = serde_json::to_value(&description).unwrap();
    assert_eq!(json["subtopologies"][0]["nodes"][0]["type"], "source");
    assert_eq!(json["subtopologies"][0]["nodes"][0]["topics"][0], "streams-plaintext-input");
    assert_eq!(json["subtopologies"][1]["nodes"][1]["stores"][0], "counts-store");
}

fn error(build: impl FnOnce(&TopologyBuilder)) -> TopologyError {
    let builder = TopologyBuilder::new();
    build(&builder);
    builder.build().unwrap_err()
}

#[test]
fn what_cannot_be_right_is_refused() {
    assert_eq!(error(|_| {}), TopologyError::NoSource);
    let illegal = error(|b| stream(b, "in").to("no spaces"));
    assert!(matches!(&illegal, TopologyError::IllegalName { what: "the topic", .. }), "{illegal}");
    let illegal = error(|b| {
        stream(b, "in").group_by_key().count(Materialized::named("a/b"));
    });
    assert!(illegal.to_string().contains("\"a/b\""), "{illegal}");
    assert_eq!(
        error(|b| {
            let grouped = stream(b, "in").group_by_key();
            grouped.count(Materialized::named("twice"));
            grouped.reduce(first, Materialized::named("twice"));
        }),
        TopologyError::DuplicateStore("twice".into())
    );
    assert_eq!(
        error(|b| {
            let lines = stream(b, "in");
            lines.filter(keep).named("mine").to("a");
            lines.filter(keep).named("mine").to("b");
        }),
        TopologyError::DuplicateNode("mine".into())
    );
    assert_eq!(
        error(|b| {
            stream(b, "in").to("a");
            table(b, "in").to_stream().to("b");
        }),
        TopologyError::DuplicateSource("in".into())
    );
    assert_eq!(
        error(|b| {
            let lines = stream(b, "in");
            lines.repartition(Repartitioned::default().named("r")).to("a");
            lines.repartition(Repartitioned::default().named("r")).to("b");
        }),
        TopologyError::DuplicateRepartition("r-repartition".into())
    );
    assert!(matches!(
        error(|b| {
            stream(b, "in").repartition(Repartitioned::default().partitions(0)).to("a");
        }),
        TopologyError::Partitions { partitions: 0, .. }
    ));
    assert!(matches!(
        error(|b| {
            let lines = stream(b, "in");
            let a = lines.repartition(Repartitioned::default().named("a").partitions(2));
            let b = lines.repartition(Repartitioned::default().named("b").partitions(3));
            a.merge(&b).group_by_key().count(Materialized::named("c"));
        }),
        TopologyError::CoPartitioning { first_partitions: 2, second_partitions: 3, .. }
    ));
    assert!(matches!(
        error(|b| {
            stream(b, "in").to("a");
            let other = TopologyBuilder::new();
            let _ = stream(b, "x").merge(&stream(&other, "y"));
        }),
        TopologyError::ForeignStream(_)
    ));
}

#[test]
fn a_stream_may_go_back_only_through_something_that_can_stop_it() {
    let looping = error(|b| stream(b, "in").map_values(String::clone).to("in"));
    assert!(matches!(looping, TopologyError::Loop { .. }), "{looping}");
    let builder = TopologyBuilder::new();
    stream(&builder, "in").filter(keep).to("in");
    builder.build().unwrap();
}

#[test]
fn stores_without_a_processor_and_processors_without_a_store_are_refused() {
    let builder = word_count();
    let mut graph = Graph::default();
    graph.add("source", source_kind(), Vec::new(), vec![3]);
    assert!(matches!(build_topology(&graph).unwrap_err(), TopologyError::UnknownStore { store: 3, .. }));

    let topology = builder.build().unwrap();
    let held = &topology.stores()[0];
    let mut graph = Graph::default();
    graph.add("source", source_kind(), Vec::new(), Vec::new());
    graph.add_store(GraphStore {
        name: "alone".into(),
        kind: held.kind,
        changelog: true,
        key: Arc::clone(&held.key),
        value: Arc::clone(&held.value),
        queryable: true,
        materialized: Arc::new(true.into()),
    });
    assert_eq!(build_topology(&graph).unwrap_err(), TopologyError::OrphanStore("alone".into()));
}

fn source_kind() -> NodeKind {
    NodeKind::Source {
        topic: TopicName::External("in".into()),
        repartition: None,
        table: false,
        codecs: (String::new(), String::new()),
        factories: Vec::new(),
    }
}

#[test]
fn what_is_added_after_the_build_is_not_part_of_it() {
    let builder = TopologyBuilder::new();
    let lines = stream(&builder, "in");
    lines.to("a");
    let topology = builder.build().unwrap();
    lines.filter(keep).to("b");
    let driver = crate::test_driver::TopologyTestDriver::new(&topology).unwrap();
    driver.input_topic("in", Utf8, Utf8).pipe("k", "v").unwrap();
    assert_eq!(driver.output_topic("a", Utf8, Utf8).read_values().unwrap(), ["v"]);
    assert!(driver.output_topic("b", Utf8, Utf8).read_values().unwrap().is_empty());
}

#[test]
fn a_graph_needs_the_tables_of_its_sub_topology() {
    use crate::processor::TaskGraph;
    let topology = word_count().build().unwrap();
    assert!(TaskGraph::build(&topology, 0, &[]).is_ok());
    assert_eq!(TaskGraph::build(&topology, 1, &[]).unwrap_err(), GraphError::WrongTables { expected: 1, got: 0 });
    assert_eq!(TaskGraph::build(&topology, 2, &[]).unwrap_err(), GraphError::UnknownSubtopology(2));
}

#[test]
fn topologies_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    fn owned<T: Send>() {}
    shared::<Topology>();
    owned::<crate::processor::TaskGraph>();
    owned::<crate::processor::TaskContext>();
}
