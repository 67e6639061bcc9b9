//! What the members of a group that has settled send each other, as messages: reports all the while, and rebalances.

use std::time::Instant;

use holdfast_discovery::{
    assignor::{AssignorSettings, Member, assign},
    measure,
    peers::interval,
};
use holdfast_proto::holdfast::v1 as pb;
use holdfast_types::{SubtopologySpec, TaskId};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{carry_out, member, settings};
use crate::{
    error::{Error, Result},
    figures::Figures,
};

/// An offset that a long-lived topic has.
const OFFSET: i64 = 1_000_000_000;

pub(super) fn run(size: usize, subtopologies: &[SubtopologySpec]) -> Result<Figures> {
    let mut members = scattered(size, subtopologies);
    let settled = AssignorSettings { max_warmup_replicas: usize::MAX, ..settings() };
    // Tasks move in the first, and are given out in the second.
    for _ in 0..3 {
        let outcome = assign(&members, &[], &settled);
        carry_out(&mut members, outcome);
    }
    let mut figures = Figures::new();
    let kib = |bytes: usize| bytes as f64 / 1024.0;

    let reports: usize = members.iter().map(|member| report(member, subtopologies).encoded_len()).sum();
    let questions = (size - 1) as f64 / interval(size).as_secs_f64();
    figures.number("questions_per_s", questions);
    // It asks each of the others with a report, and answers each with one.
    figures.number("reports_kib_per_s", 2.0 * questions * kib(reports / size));

    let subscriptions = measure::subscriptions(&members, true).map_err(Error::Other)?;
    let joins: usize = subscriptions.iter().map(|(_, bytes)| bytes.len()).sum();
    let began = Instant::now();
    let assignments = measure::lead(subscriptions, &settings()).map_err(Error::Other)?;
    figures.number("leader_ms", began.elapsed().as_secs_f64() * 1e3);
    let syncs: usize = assignments.iter().map(|bytes| bytes.len()).sum();
    let plain = measure::subscriptions(&members, false).and_then(|members| measure::lead(members, &settings()));
    let plain: usize = plain.map_err(Error::Other)?.iter().map(|bytes| bytes.len()).sum();
    figures.number("rebalance_kib", kib((joins + syncs) / size));
    figures.number("group_kib", kib(joins + syncs));
    figures.number("group_plain_kib", kib(joins + plain));
    Ok(figures)
}

/// Members among which tasks and copies have moved for a long time: nothing is regular about who has what.
fn scattered(size: usize, subtopologies: &[SubtopologySpec]) -> Vec<Member> {
    let mut members: Vec<Member> = (0..size).map(|number| member(number, subtopologies)).collect();
    let mut random = SmallRng::seed_from_u64(42);
    for task in subtopologies.iter().flat_map(SubtopologySpec::tasks) {
        if let Some(owner) = members.get_mut(random.random_range(0..size)) {
            owner.owned.push(task.id);
        }
        if let Some(follower) = members.get_mut(random.random_range(0..size)).filter(|_| task.stateful) {
            follower.followed.push(task.id);
            follower.lags.insert(task.id, 0);
        }
    }
    members
}

/// What an instance tells of itself, as `service` writes it.
fn report(member: &Member, subtopologies: &[SubtopologySpec]) -> pb::PeerReport {
    let instance = &member.instance;
    let active = member.owned.iter().map(|task| held(*task, pb::Role::Active, subtopologies));
    let copies = member.followed.iter().map(|task| held(*task, pb::Role::Standby, subtopologies));
    pb::PeerReport {
        process_id: instance.process_id.to_string(),
        incarnation: u64::MAX,
        application_id: "inventory".to_owned(),
        member_id: format!("{}-{}", instance.process_id, instance.process_id),
        generation: member.generation,
        leaving: false,
        endpoint: instance.endpoint.to_string(),
        peer_endpoint: instance.peer_endpoint.to_string(),
        transactional_ids: instance.transactional_ids.clone(),
        tasks: active.chain(copies).collect(),
        peers: Vec::new(),
        evicted: Vec::new(),
    }
}

fn held(task: TaskId, role: pb::Role, subtopologies: &[SubtopologySpec]) -> pb::PeerTask {
    let spec = subtopologies.iter().find(|spec| spec.id == task.subtopology);
    let topics = spec.map(|spec| &*spec.source_topics).unwrap_or_default();
    let stateful = spec.is_some_and(|spec| !spec.stores.is_empty());
    let offsets = topics.iter().map(|topic| pb::PartitionOffset {
        topic: topic.to_string(),
        partition: task.partition,
        offset: OFFSET,
    });
    pb::PeerTask {
        id: task.to_string(),
        role: role.into(),
        lag_records: stateful.then_some(100),
        staleness_ms: stateful.then_some(100),
        position: Some(pb::Position { offsets: if stateful { offsets.collect() } else { Vec::new() } }),
        changelog: if stateful && role == pb::Role::Active { vec![OFFSET] } else { Vec::new() },
    }
}
