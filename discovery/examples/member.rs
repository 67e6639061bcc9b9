//! One group member by hand: joins, prints its events, commits a growing offset, leaves on end of input.
//!
//! `cargo run -p holdfast-discovery --example member -- <bootstrap> <group> <port> [process id] [librdkafka.property=value …]`
//!
//! Sub-topology 0 reads topic `items` (6 partitions). Lines on standard input: `rejoin`, `commit`, `fetch`, `leave`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{error::Error, io::BufRead as _, time::Duration};

use holdfast_discovery::{
    GroupConfig, GroupEvent, GroupMember,
    routing::{RoutingSnapshot, RoutingTable},
};
use holdfast_types::{
    Endpoint, GroupSession as _, InstanceInfo, OffsetToCommit, ProcessId, SubtopologySpec, TopicPartition,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, group, port, rest @ ..] = arguments.as_slice() else {
        return Err("usage: member <bootstrap> <group> <port> [process id] [property=value …]".into());
    };
    let port: u16 = port.parse()?;
    let (properties, ids): (Vec<&String>, Vec<&String>) = rest.iter().partition(|argument| argument.contains('='));
    let process_id = match ids.first() {
        Some(id) => ProcessId(id.parse()?),
        None => ProcessId(uuid::Uuid::from_u128(u128::from(port))),
    };
    let instance = InstanceInfo {
        process_id,
        endpoint: Endpoint::new("127.0.0.1", port),
        peer_endpoint: Endpoint::new("127.0.0.1", port + 1),
        threads: 1,
        tags: Default::default(),
        transactional_ids: vec![format!("{group}-{process_id}-0")],
    };
    let items = SubtopologySpec {
        id: 0,
        fingerprint: "items".to_owned(),
        source_topics: vec!["items".into()],
        stores: vec!["stock".into()],
        partitions: 6,
    };
    let mut config = GroupConfig::new(bootstrap, group, instance, vec![items.clone()]);
    config.kafka = properties
        .iter()
        .filter_map(|property| property.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    config.fence_on_start = true;

    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let runtime = tokio::runtime::Runtime::new()?;
    let (member, mut events) = GroupMember::start(config, runtime.handle().clone())?;
    let started = std::time::Instant::now();
    let (acknowledging, specs) = (member.clone(), vec![items]);
    runtime.spawn(async move {
        let routing = RoutingTable::new();
        while let Some(event) = events.recv().await {
            let at = started.elapsed().as_secs_f64();
            match event {
                GroupEvent::Assigned(assignment) => {
                    routing.publish(RoutingSnapshot::of(&assignment, &specs));
                    let tasks = assignment.active.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    let (generation, members) = (assignment.generation, assignment.members.len());
                    let of_key = routing.load().route_key("stock", b"Store_1").ok().and_then(|route| {
                        route.active.as_ref().map(|instance| format!("{} on {}", route.task, instance.endpoint))
                    });
                    println!("{at:.3} assigned in {generation} of {members} members: {tasks}; Store_1: {of_key:?}");
                    acknowledging.acknowledge(assignment.tenure, generation, &assignment.active);
                }
                other => println!("{at:.3} {other:?}"),
            }
        }
        println!("{:.3} over", started.elapsed().as_secs_f64());
    });

    let partitions = [TopicPartition::new("items", 0), TopicPartition::new("items", 1)];
    let deadline = Duration::from_secs(5);
    let mut offset = 0;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "rejoin" => member.rejoin("asked for on the terminal"),
            "fetch" => println!("fetched: {:?}", member.fetch_offsets(&partitions, deadline)),
            "commit" => match member.metadata() {
                None => println!("not a member"),
                Some(metadata) => {
                    offset += 1;
                    let one =
                        OffsetToCommit { partition: partitions[0].clone(), offset, metadata: "by hand".to_owned() };
                    let begun = std::time::Instant::now();
                    let outcome = member.commit_offsets(&metadata, &[one], deadline);
                    println!("commit in {}: {outcome:?} after {:?}", metadata.generation, begun.elapsed());
                }
            },
            "confirmed" => {
                println!("confirmed {:?} ago", member.last_confirmed().map(|confirmed| confirmed.at.elapsed()))
            }
            "leave" => break,
            "" => {}
            other => println!("unknown: {other}"),
        }
    }
    println!("left: {:?} after {:.3}", member.leave(deadline), started.elapsed().as_secs_f64());
    Ok(())
}
