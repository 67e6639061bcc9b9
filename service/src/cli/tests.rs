//! Command lines and what they mean.

use std::{collections::BTreeMap, ffi::OsString};

use super::{args, *};
use crate::{config::DomainSettings, inventory};

fn service() -> Service {
    Service::new(inventory::topology)
        .routes(inventory::routes)
        .scenario(inventory::load::StockMovements)
        .name("inventory")
}

fn parse(line: &str) -> Result<Option<Invocation>, Failure> {
    let service = service();
    let declared = service.declared_settings()?;
    let arguments: Vec<OsString> = std::iter::once("holdfast").chain(line.split_whitespace()).map(Into::into).collect();
    args::parse(&service, declared, arguments, BTreeMap::new())
}

fn parsed(line: &str) -> Invocation {
    parse(line).unwrap_or_else(|failure| panic!("{line}: {}", failure.message)).unwrap()
}

#[test]
fn the_command_line_is_sound() {
    let service = service();
    args::command(&service, &service.declared_settings().unwrap()).debug_assert();
}

#[test]
fn flags_become_settings() {
    let invocation = parsed(
        "serve --state-dir /data --listen 127.0.0.2:0 --items-topic mine --num-standby-replicas 1 \
         --create-topics=false --kafka security.protocol=ssl --kafka ssl.ca.location=/ca.pem",
    );
    assert_eq!(invocation.command, "serve");
    let settings = invocation.settings(&service(), invocation.sources()).unwrap();
    assert_eq!(settings.state_dir.to_str(), Some("/data"));
    assert_eq!(settings.listen.public.to_string(), "127.0.0.2:0");
    assert_eq!(&*settings.domain.text("items_topic", "items", ""), "mine");
    assert_eq!(settings.num_standby_replicas, 1);
    assert!(!settings.topics.create);
    assert_eq!(settings.kafka.get("ssl.ca.location"), Some("/ca.pem"));
    assert_eq!(settings.application_id, "inventory");
}

#[test]
fn the_environment_names_the_file() {
    let service = service();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("h.toml");
    std::fs::write(&file, "commit_interval_ms = 7").unwrap();
    let environment = BTreeMap::from([("HOLDFAST_CONFIG".to_owned(), file.to_str().unwrap().to_owned())]);
    let arguments = vec!["holdfast".into(), "serve".into()];
    let declared = service.declared_settings().unwrap();
    let invocation = args::parse(&service, declared, arguments, environment).unwrap().unwrap();
    let settings = invocation.settings(&service, invocation.sources()).unwrap();
    assert_eq!(settings.commit_interval.as_millis(), 7);
}

#[test]
fn wrong_command_lines_fail_with_status_2() {
    for (line, expected) in [
        ("serve --statedir x", "unexpected argument '--statedir'"),
        ("query get S", "<key>"),
        ("nonsense", "unrecognized subcommand 'nonsense'"),
        ("describe --format pdf", "invalid value 'pdf'"),
        ("generate --records many", "invalid value 'many'"),
    ] {
        let failure = parse(line).unwrap_err();
        assert_eq!(failure.status, 2, "{line}");
        assert!(failure.message.contains(expected), "{line}: {}", failure.message);
    }
}

#[test]
fn every_command_is_there() {
    for line in [
        "serve",
        "generate --topic t --records 5 --keys 3 --partitions 2 --seed 1 --rate 9",
        "query get S k",
        "query batch S a b c",
        "query scan S --from a --to b --reverse --limit 5 --all",
        "query window S k --from 0 --to 5",
        "query watch S k",
        "query route S k --server http://h:1",
        "query get S k --consistency strong --timeout 5s",
        "query get S -- -dash",
        "describe --format mermaid",
        "reset --topics --dry-run",
        "check-config --print-config",
        "completions bash",
        "demo --records 1000 --exit --rate 0 --keys 5 --seed 3 --partitions 2 --listen 127.0.0.1:0",
    ] {
        parsed(line);
    }
}

#[test]
fn a_batch_of_keys_ends_at_the_next_flag() {
    let invocation = parsed("query batch S a b --server h:1");
    let (_, flags) = invocation.matches.subcommand().unwrap();
    let keys: Vec<&String> = flags.get_many("key").unwrap().collect();
    assert_eq!(keys, ["a", "b"]);
    assert_eq!(flags.get_one::<String>("server").map(String::as_str), Some("h:1"));
}

#[test]
fn a_load_is_planned_from_flags() {
    let invocation = parsed("generate --records 5 --keys 3 --seed 7 --rate 11");
    assert_eq!(generate::plan(&invocation).unwrap(), LoadPlan { records: Some(5), keys: 3, seed: 7 });
    assert_eq!(generate::pace(&invocation).rate, 11);
    assert!(generate::plan(&parsed("generate --keys 0")).is_err());
    assert_eq!(generate::plan(&parsed("generate")).unwrap(), LoadPlan::default());
}

#[test]
fn a_topology_without_settings_is_one_too() {
    fn words() -> Result<holdfast_stream::topology::Topology, holdfast_stream::topology::TopologyError> {
        inventory::topology(&DomainSettings::default())
    }
    assert!(Service::new(words).declared_settings().unwrap().is_empty());
}
