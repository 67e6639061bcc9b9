//! Which form of each sub-topology the group runs: members differ during a rolling upgrade.

use std::collections::BTreeMap;

use holdfast_types::SubtopologySpec;

use super::{Member, Refused};

/// A sub-topology as the group runs it.
#[derive(Clone, Debug)]
pub(super) struct Form<'a> {
    pub(super) spec: &'a SubtopologySpec,
    /// The members that have it, in ascending order; never empty.
    pub(super) having: Vec<usize>,
}

/// The forms that the group runs, by id, and what members have beside them that cannot run at the same time.
///
/// Two forms cannot run at the same time when they have the same id, own the same store or read the same topic: rows would
/// be counted twice, into one changelog. The topology that most members have runs as a whole (among equally many, the one
/// that sorts last); of the others runs what can run beside it. Members get no tasks of the rest.
pub(super) fn choose(members: &[Member]) -> (Vec<Form<'_>>, Vec<Refused>) {
    let mut chosen: Vec<Form<'_>> = Vec::new();
    let mut refused = Vec::new();
    for form in forms(members) {
        let conflict = chosen.iter().find_map(|other| Some((other, difference(other, &form)?)));
        match conflict {
            None => chosen.push(form),
            Some((other, difference)) => {
                let (id, here, there) = (form.spec.id, form.having.len(), other.having.len());
                let reason = format!(
                    "sub-topology {id} as this member has it ({here} of {} do) cannot run beside sub-topology {} as {there} \
                     have it: {difference}; this member gets no tasks of it until most members have it (finish the upgrade, \
                     or use another application_id)",
                    members.len(),
                    other.spec.id,
                );
                refused.extend(form.having.iter().map(|&member| Refused { member, reason: reason.clone() }));
            }
        }
    }
    chosen.sort_by_key(|form| form.spec.id);
    refused.sort_by_key(|refused| refused.member);
    (chosen, refused)
}

/// All forms that any member has: those of the topology that most members have first. The order of members does not matter.
fn forms(members: &[Member]) -> Vec<Form<'_>> {
    let mut topologies: BTreeMap<Vec<Key<'_>>, usize> = BTreeMap::new();
    let mut having: BTreeMap<Key<'_>, Form<'_>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let mut topology: Vec<Key<'_>> = member.subtopologies.iter().map(key).collect();
        topology.sort_unstable();
        *topologies.entry(topology).or_default() += 1;
        for spec in &member.subtopologies {
            let form = having.entry(key(spec)).or_insert_with(|| Form { spec, having: Vec::new() });
            if form.having.last() != Some(&index) {
                form.having.push(index);
            }
        }
    }
    let mut by_votes: Vec<(usize, Vec<Key<'_>>)> = topologies.into_iter().map(|(keys, votes)| (votes, keys)).collect();
    by_votes.sort_unstable_by(|a, b| b.cmp(a));
    by_votes.into_iter().flat_map(|(_, keys)| keys).filter_map(|key| having.remove(&key)).collect()
}

/// What tells forms apart: id, fingerprint, partitions.
type Key<'a> = (u32, &'a str, i32);

fn key(spec: &SubtopologySpec) -> Key<'_> {
    (spec.id, &spec.fingerprint, spec.partitions)
}

/// Why two forms cannot run at the same time; `None` if they can.
fn difference(running: &Form<'_>, other: &Form<'_>) -> Option<String> {
    let one_has_both = running.having.iter().any(|member| other.having.contains(member));
    let (running, other) = (running.spec, other.spec);
    if running.id == other.id {
        return Some(if running.partitions != other.partitions {
            format!("it has {} partitions there and {} here", running.partitions, other.partitions)
        } else if running.stores != other.stores {
            format!("its stores are {:?} there and {:?} here", names(&running.stores), names(&other.stores))
        } else if running.source_topics != other.source_topics {
            format!("it reads {:?} there and {:?} here", running.source_topics, other.source_topics)
        } else {
            format!("its processing differs (fingerprint {} there, {} here)", running.fingerprint, other.fingerprint)
        });
    }
    // A topology is at one with itself.
    if one_has_both {
        return None;
    }
    if let Some(store) = running.stores.iter().find(|store| other.stores.contains(store)) {
        return Some(format!("both own the store {store}"));
    }
    let topic = running.source_topics.iter().find(|topic| other.source_topics.contains(topic))?;
    Some(format!("both read the topic {topic}"))
}

fn names(stores: &[holdfast_types::StoreName]) -> Vec<String> {
    stores.iter().map(ToString::to_string).collect()
}
