//! The topics that a topology needs: what exists, what is created, and how many tasks follow from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::SubtopologySpec;
use rdkafka::error::KafkaError;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    config::EngineConfig,
    permissions,
    topic_watch::{TopicUse, WatchedTopic},
};
use crate::{
    kafka::{
        FetchConsumer, Reads,
        admin::{AdminError, TopicAdmin, TopicSpec, TopicState},
        limits::Limits,
    },
    topology::{Subtopology, TopicName, Topology},
};

/// Why a topology cannot run on this cluster.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// librdkafka refused a setting.
    #[error("librdkafka refuses the settings: {0}; see the [kafka] table")]
    Settings(#[from] KafkaError),
    /// A topic could not be looked at or created.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A topic is missing, and may not be created.
    #[error("topic {topic} does not exist; create it, or set create_topics=true")]
    MissingTopic {
        /// The topic.
        topic: String,
    },
    /// An internal topic has a partition count that does not fit the tasks.
    #[error(
        "internal topic {topic} has {found} partitions, expected {expected} (one for each task). If the input topic was given more \
         partitions, its keys are spread over both counts: copy it into a new topic and read that one. If another version of the \
         application or another application with this application_id made the topic, choose another application_id. Then \
         reset the application (holdfast reset --topics)"
    )]
    WrongPartitions {
        /// The topic.
        topic: String,
        /// What the topology needs.
        expected: i32,
        /// What is there.
        found: i32,
    },
    /// Topics that are read together have different partition counts.
    #[error("topics that sub-topology {subtopology} reads together must have equally many partitions, found {found}")]
    NotCopartitioned {
        /// The sub-topology.
        subtopology: u32,
        /// Topics and counts, in words.
        found: String,
    },
    /// The caller gave up waiting.
    #[error("stopped while waiting for the cluster")]
    Stopped,
}

const STEP: Duration = Duration::from_secs(5);
/// The first question to the cluster: an operator who starts an instance beside a broker that is away hears of it before they
/// wonder.
const FIRST_STEP: Duration = Duration::from_millis(1_500);
/// librdkafka's own defaults and bounds.
const DEFAULT_BATCH_BYTES: usize = 1_000_000;
const LARGEST_MESSAGE_BYTES: usize = 1_000_000_000;

/// Waits for the cluster, saying so once, and gives the partition counts of `topics`.
pub(super) fn wait_for_cluster(
    admin: &TopicAdmin,
    topics: &[String],
    stop: &dyn Fn() -> bool,
    config: &EngineConfig,
) -> Result<BTreeMap<String, i32>, PrepareError> {
    let bootstrap_servers = config.connection.bootstrap_servers.as_str();
    let mut told = false;
    // An admin handle keeps to itself why it cannot connect; this one says it (wrong credentials, an unknown certificate).
    let mut outspoken: Option<FetchConsumer> = None;
    loop {
        match admin.partition_counts(topics, if told { STEP } else { FIRST_STEP }) {
            Ok(counts) => {
                if told {
                    info!(bootstrap_servers, "the cluster answers");
                }
                return Ok(counts);
            }
            Err(AdminError::Unreachable(error)) => {
                if !told {
                    told = true;
                    warn!(bootstrap_servers, %error, "no broker answers yet; waiting for the cluster before joining the group");
                }
            }
            Err(error) => return Err(error.into()),
        }
        if stop() {
            return Err(PrepareError::Stopped);
        }
        match &outspoken {
            Some(handle) => handle.serve(),
            None => {
                let (settings, group) = (&config.connection, &config.application_id);
                outspoken = Some(FetchConsumer::new(settings, group, Reads::Uncommitted, 1 << 20)?);
            }
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

/// Makes sure that every topic of the topology exists with the right shape; gives the sub-topologies with their task counts, and
/// every topic as it was found.
pub(super) fn ensure(
    admin: &TopicAdmin,
    topology: &Topology,
    config: &EngineConfig,
    stop: &dyn Fn() -> bool,
) -> Result<(Vec<SubtopologySpec>, BTreeMap<String, WatchedTopic>), PrepareError> {
    let names = all_topics(topology, config);
    let mut counts = wait_for_cluster(admin, &names, stop, config)?;
    if permissions::wait_to_see(admin, &names, stop)? {
        counts = wait_for_cluster(admin, &names, stop, config)?;
    }
    let partitions = loop {
        let (partitions, mut missing) = plan(topology, config, counts)?;
        missing.iter_mut().for_each(|spec| spec.replication_factor = config.replication_factor);
        if permissions::create(admin, &missing, stop)? {
            break partitions;
        }
        counts = wait_for_cluster(admin, &names, stop, config)?;
    };
    let found = wait_until_visible(admin, &names, stop)?;
    let watched = topic_uses(topology, config)
        .into_iter()
        .filter_map(|(topic, usage)| {
            let (id, partitions) = found.get(&topic).copied()?;
            Some((topic, WatchedTopic::new(usage, id, partitions)))
        })
        .collect();
    let subtopologies = topology
        .subtopologies()
        .iter()
        .map(|subtopology| SubtopologySpec {
            id: subtopology.id,
            fingerprint: subtopology.fingerprint.clone(),
            source_topics: subtopology
                .sources
                .iter()
                .map(|source| source.topic.resolve(&config.application_id))
                .collect(),
            stores: subtopology
                .stores
                .iter()
                .filter_map(|&store| topology.stores().get(store))
                .map(|store| store.name.clone())
                .collect(),
            partitions: partitions.get(&subtopology.id).copied().unwrap_or(1),
        })
        .collect();
    Ok((subtopologies, watched))
}

/// Task counts, and what is to be created, where there are `counts` partitions of the topics that exist.
fn plan(
    topology: &Topology,
    config: &EngineConfig,
    mut counts: BTreeMap<String, i32>,
) -> Result<(BTreeMap<u32, i32>, Vec<TopicSpec>), PrepareError> {
    let mut missing: Vec<TopicSpec> = Vec::new();
    for topic in external_sources(topology) {
        if !counts.contains_key(&*topic) {
            plan_external(&topic, config.input_partitions, config, &mut counts, &mut missing)?;
        }
    }
    let partitions = task_counts(topology, config, &mut counts, &mut missing)?;
    for subtopology in topology.subtopologies() {
        for sink in &subtopology.sinks {
            if let TopicName::External(topic) = &sink.topic
                && !counts.contains_key(&**topic)
            {
                plan_external(topic, config.output_partitions, config, &mut counts, &mut missing)?;
                if let Some(spec) = missing.last_mut() {
                    spec.configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
                }
            }
        }
    }
    for (subtopology, changelog) in changelogs(topology, config) {
        let expected = partitions.get(&subtopology).copied().unwrap_or(1);
        check_internal(&changelog, expected, changelog_configs(), &mut counts, &mut missing)?;
    }
    if !counts.contains_key(&*config.dead_letter_topic) {
        plan_external(&config.dead_letter_topic, config.input_partitions, config, &mut counts, &mut missing)?;
    }
    Ok((partitions, missing))
}

/// Finds out what the topics take that are written, and lets the producer send as much. Without permission to ask, the
/// broker's refusals tell.
pub(super) fn learn_limits(admin: &TopicAdmin, topology: &Topology, config: &mut EngineConfig) {
    let sizes_differ = ["compression.type", "compression.codec"]
        .iter()
        .any(|name| config.connection.properties.get(*name).is_some_and(|codec| codec != "none"));
    let limits = match admin.limits(&written_topics(topology, config), STEP) {
        Ok(limits) => limits,
        Err(error) => {
            debug!(%error, "what the topics take is not known");
            return;
        }
    };
    let limits = limits.into_iter().map(|(topic, mut limits)| {
        if sizes_differ {
            // The broker looks at the compressed size, which nobody knows beforehand.
            limits.max_message_bytes = usize::MAX;
        }
        (topic.into(), limits)
    });
    config.limits = Limits::new(limits.collect());
    if let Some((smallest, largest)) = config.limits.message_bytes_range() {
        let properties = &mut config.connection.properties;
        let mut set = |name: &str, bytes: usize| {
            properties.entry(name.to_owned()).or_insert(bytes.to_string());
        };
        // A batch that is larger than its topic takes is refused as a whole, however small its records are.
        set("batch.size", smallest.clamp(1, DEFAULT_BATCH_BYTES));
        set("message.max.bytes", largest.clamp(DEFAULT_BATCH_BYTES, LARGEST_MESSAGE_BYTES));
    }
}

/// Names of every topic that a commit may write to.
pub(super) fn written_topics(topology: &Topology, config: &EngineConfig) -> Vec<String> {
    let sinks = topology.subtopologies().iter().flat_map(|subtopology| &subtopology.sinks);
    let mut names: BTreeSet<String> =
        sinks.map(|sink| sink.topic.resolve(&config.application_id).to_string()).collect();
    names.extend(changelogs(topology, config).into_iter().map(|(_, changelog)| changelog));
    names.insert(config.dead_letter_topic.to_string());
    names.into_iter().collect()
}

/// Names of every topic of the application, dead letters included.
fn all_topics(topology: &Topology, config: &EngineConfig) -> Vec<String> {
    topic_uses(topology, config).into_keys().collect()
}

/// Every topic of the application, and what for: one that is read counts as such, whoever else writes it.
fn topic_uses(topology: &Topology, config: &EngineConfig) -> BTreeMap<String, TopicUse> {
    let mut uses = BTreeMap::from([(config.dead_letter_topic.to_string(), TopicUse::Output)]);
    let name = |topic: &TopicName| topic.resolve(&config.application_id).to_string();
    for subtopology in topology.subtopologies() {
        uses.extend(subtopology.sinks.iter().map(|sink| (name(&sink.topic), TopicUse::Output)));
    }
    uses.extend(changelogs(topology, config).into_iter().map(|(_, changelog)| (changelog, TopicUse::Changelog)));
    for source in topology.subtopologies().iter().flat_map(|subtopology| &subtopology.sources) {
        let usage = if source.repartition.is_some() { TopicUse::Repartition } else { TopicUse::Input };
        uses.insert(name(&source.topic), usage);
    }
    uses
}

fn external_sources(topology: &Topology) -> BTreeSet<Arc<str>> {
    let sources = topology.subtopologies().iter().flat_map(|subtopology| &subtopology.sources);
    sources
        .filter_map(|source| match &source.topic {
            TopicName::External(topic) => Some(Arc::clone(topic)),
            TopicName::Internal(_) => None,
        })
        .collect()
}

/// Changelog topics with the sub-topology that owns each.
pub(super) fn changelogs(topology: &Topology, config: &EngineConfig) -> Vec<(u32, String)> {
    let logged = topology.stores().iter().filter(|store| store.changelog);
    logged.map(|store| (store.subtopology, changelog_topic(&config.application_id, &store.name))).collect()
}

/// `<application.id>-<store>-changelog`.
pub(super) fn changelog_topic(application_id: &str, store: &str) -> String {
    format!("{application_id}-{store}-changelog")
}

fn plan_external(
    topic: &str,
    partitions: i32,
    config: &EngineConfig,
    counts: &mut BTreeMap<String, i32>,
    missing: &mut Vec<TopicSpec>,
) -> Result<(), PrepareError> {
    if !config.create_topics {
        return Err(PrepareError::MissingTopic { topic: topic.to_owned() });
    }
    counts.insert(topic.to_owned(), partitions);
    missing.push(TopicSpec { name: topic.to_owned(), partitions, replication_factor: -1, configs: BTreeMap::new() });
    Ok(())
}

fn check_internal(
    topic: &str,
    expected: i32,
    configs: BTreeMap<String, String>,
    counts: &mut BTreeMap<String, i32>,
    missing: &mut Vec<TopicSpec>,
) -> Result<(), PrepareError> {
    match counts.get(topic) {
        Some(&found) if found != expected => {
            Err(PrepareError::WrongPartitions { topic: topic.to_owned(), expected, found })
        }
        Some(_) => Ok(()),
        None => {
            counts.insert(topic.to_owned(), expected);
            missing.push(TopicSpec { name: topic.to_owned(), partitions: expected, replication_factor: -1, configs });
            Ok(())
        }
    }
}

/// Tasks per sub-topology. A repartition topic without a count of its own takes the largest of the sub-topologies that write
/// to it, which may themselves wait for one: repeated until nothing changes.
fn task_counts(
    topology: &Topology,
    config: &EngineConfig,
    counts: &mut BTreeMap<String, i32>,
    missing: &mut Vec<TopicSpec>,
) -> Result<BTreeMap<u32, i32>, PrepareError> {
    let mut tasks = BTreeMap::new();
    let mut open: Vec<&Subtopology> = topology.subtopologies().iter().collect();
    while !open.is_empty() {
        let before = open.len();
        let mut waiting = Vec::new();
        for subtopology in open {
            let mut known = true;
            for source in &subtopology.sources {
                let topic = source.topic.resolve(&config.application_id);
                let Some(repartition) = &source.repartition else { continue };
                let wanted = match repartition.partitions {
                    Some(partitions) => Some(partitions),
                    None => upstream_partitions(topology, &source.topic, &tasks),
                };
                match wanted {
                    Some(partitions) => check_internal(&topic, partitions, repartition_configs(), counts, missing)?,
                    None => known = false,
                }
            }
            if !known {
                waiting.push(subtopology);
                continue;
            }
            tasks.insert(subtopology.id, co_partitioned(subtopology, config, counts)?);
        }
        open = waiting;
        if open.len() == before {
            // A loop of repartition topics, none of which says how many partitions it wants: one decides for all.
            if let Some(subtopology) = open.first() {
                tasks.insert(subtopology.id, config.input_partitions);
            }
        }
    }
    Ok(tasks)
}

fn upstream_partitions(topology: &Topology, topic: &TopicName, tasks: &BTreeMap<u32, i32>) -> Option<i32> {
    let mut largest = None;
    for subtopology in topology.subtopologies() {
        if subtopology.sinks.iter().any(|sink| sink.topic == *topic) {
            largest = largest.max(Some(*tasks.get(&subtopology.id)?));
        }
    }
    largest
}

fn co_partitioned(
    subtopology: &Subtopology,
    config: &EngineConfig,
    counts: &BTreeMap<String, i32>,
) -> Result<i32, PrepareError> {
    let mut found = BTreeMap::new();
    for source in &subtopology.sources {
        let topic = source.topic.resolve(&config.application_id);
        found.insert(topic.to_string(), counts.get(&*topic).copied().unwrap_or(1));
    }
    let distinct: BTreeSet<i32> = found.values().copied().collect();
    if distinct.len() > 1 {
        let found = found.iter().map(|(topic, count)| format!("{topic}: {count}")).collect::<Vec<_>>().join(", ");
        return Err(PrepareError::NotCopartitioned { subtopology: subtopology.id, found });
    }
    Ok(distinct.into_iter().next().unwrap_or(1))
}

/// What Kafka Streams gives the changelog of a key-value store.
fn changelog_configs() -> BTreeMap<String, String> {
    configs(&[("cleanup.policy", "compact"), ("message.timestamp.type", "CreateTime")])
}

/// What Kafka Streams gives a repartition topic.
fn repartition_configs() -> BTreeMap<String, String> {
    configs(&[
        ("cleanup.policy", "delete"),
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "-1"),
        ("segment.bytes", "52428800"),
    ])
}

fn configs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Waits until every topic can be seen, saying so if it takes long; gives each one's id and partition count.
fn wait_until_visible(
    admin: &TopicAdmin,
    names: &[String],
    stop: &dyn Fn() -> bool,
) -> Result<BTreeMap<String, (Option<Uuid>, i32)>, PrepareError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let mut missing = names.to_vec();
        match admin.topic_states(names, STEP) {
            Ok(states) => {
                let mut found = BTreeMap::new();
                for (topic, state) in states {
                    if let TopicState::Present { id, partitions } = state {
                        missing.retain(|name| *name != topic);
                        found.insert(topic, (id, partitions));
                    }
                }
                if missing.is_empty() {
                    return Ok(found);
                }
            }
            Err(AdminError::Unreachable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if !told && began.elapsed() > STEP {
            told = true;
            warn!(
                topics = missing.join(", "),
                "topics cannot be seen, although they exist: does this user have the Describe permission on them? Waiting"
            );
        }
        if stop() {
            return Err(PrepareError::Stopped);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
