//! Reads that no copy here can answer: which other instances may, in which order they are asked, and for how long somebody is
//! looked for while tasks move. Only reads that leave the instance come here.

mod ask;
mod replica;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_discovery::{
    peers::{Condition, HeldTask, PeersView},
    routing::PartitionRoute,
};
use holdfast_types::{InstanceInfo, Position, ProcessId, Role, StoreName, TaskId};
use tokio::time::{Instant, sleep};

use super::{Answer, Cluster, Consistency, Queries, QueryError, ReadOptions, Routing, RowRead, StoreInfo};

/// Time without an answer after which a peer counts as slow, and the next replica is asked besides if that was not done before.
const SLOW_AFTER: Duration = Duration::from_millis(100);
/// How long a read looks for somebody who can answer: tasks that move are with their new owner after a fraction of that.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// How much longer than its time a question is waited for.
const GRACE: Duration = Duration::from_millis(50);
/// Pauses between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// Reads that may look for somebody at a time.
pub(super) const MAX_SEARCHES: usize = 256;

/// A read on its way through other instances: its time, and how often it may look again.
#[derive(Debug)]
pub(super) struct Search {
    timeout: Duration,
    pub(super) until: Instant,
    look_until: Instant,
    pause: Duration,
}

impl Search {
    /// A read that begins now, with the time that it has.
    pub(super) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { timeout, until: now + timeout, look_until: now + LOOK_FOR.min(timeout), pause: PAUSE.0 }
    }

    /// `options` with what is left of the time.
    pub(super) fn left(&self, options: &ReadOptions) -> ReadOptions {
        let left = self.until.saturating_duration_since(Instant::now());
        ReadOptions { timeout: Some(left.max(Duration::from_millis(1))), ..options.clone() }
    }

    /// `options` as a peer gets them: it must not forward them.
    pub(super) fn forwarded(&self, options: &ReadOptions) -> ReadOptions {
        ReadOptions { routing: Routing::Local, ..self.left(options) }
    }

    /// Waits for a moment if `error` may pass soon; answers it otherwise.
    pub(super) async fn again(&mut self, queries: &Queries, error: QueryError) -> Result<(), QueryError> {
        let moves = queries.inner.view.cluster().members.len() > 1 && error.may_pass_within(LOOK_FOR);
        if !moves || Instant::now() + self.pause >= self.look_until {
            return Err(error);
        }
        let Ok(_place) = queries.inner.searches.try_acquire() else { return Err(error) };
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        Ok(())
    }
}

/// Whom to ask, the best first, and for what.
pub(super) type Group<T> = (Vec<Arc<InstanceInfo>>, Vec<T>);

/// Parts of a question, of which those that the same instances can answer go together.
#[derive(Debug)]
pub(super) struct Groups<T>(BTreeMap<Vec<ProcessId>, Group<T>>);

impl<T> Groups<T> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn add(&mut self, peers: Vec<Arc<InstanceInfo>>, parts: impl IntoIterator<Item = T>) {
        let ids = peers.iter().map(|peer| peer.process_id).collect();
        self.0.entry(ids).or_insert_with(|| (peers, Vec::new())).1.extend(parts);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_groups(self) -> impl Iterator<Item = Group<T>> {
        self.0.into_values()
    }
}

impl Queries {
    /// The row of a key that nobody here can answer for, as `error` says.
    pub(super) async fn get_elsewhere(
        &self,
        store: &Arc<StoreInfo>,
        partition: i32,
        key: &[u8],
        options: &ReadOptions,
        mut error: QueryError,
    ) -> Result<Answer<RowRead>, QueryError> {
        let mut search = Search::new(self.timeout(options));
        loop {
            let cluster = self.inner.view.cluster();
            let peers = self.candidates(&cluster, store, partition, options);
            let asked = if peers.is_empty() {
                Err(self.owner_gone(&cluster, store, partition).unwrap_or_else(|| error.clone()))
            } else {
                let call = |peer| self.get_of(&cluster, peer, store, key, search.forwarded(options));
                self.ask(&cluster, &peers, &search, call).await
            };
            match asked {
                Ok(answer) => return Ok(answer),
                Err(refusal) if refusal.elsewhere_may_help() => error = error.or_rather(refusal),
                Err(refusal) => return Err(refusal),
            }
            search.again(self, error.clone()).await?;
            // The task may have come here meanwhile.
            let cluster = self.inner.view.cluster();
            match self.get_here(&cluster, store, partition, key, &search.left(options)).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) if refusal.elsewhere_may_help() => error = refusal,
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The instances that may answer for a partition, in the order in which they are asked. This one is among them if its copy
    /// is behind the position asked for and nothing else: it waits for it, in case that nobody answers who has it.
    pub(super) fn candidates(
        &self,
        cluster: &Cluster,
        store: &StoreInfo,
        partition: i32,
        options: &ReadOptions,
    ) -> Vec<Arc<InstanceInfo>> {
        let Some(route) = cluster.route(&store.name, partition) else { return Vec::new() };
        let strong = options.consistency == Consistency::Strong;
        let own = |instance: &InstanceInfo| cluster.is_self(instance);
        order(route, &self.inner.forward.peers(), own, self.catches_up(store, partition, options), strong)
    }

    /// The error of a partition whose owner is gone, if that is why nobody can be asked.
    pub(super) fn owner_gone(&self, cluster: &Cluster, store: &StoreInfo, partition: i32) -> Option<QueryError> {
        let owner = cluster.active(&store.name, partition).filter(|owner| !cluster.is_self(owner))?;
        let gone = self.inner.forward.peers().condition(owner.process_id).is_gone();
        gone.then(|| QueryError::OwnerUnreachable {
            store: store.name.clone(),
            partition: Some(partition),
            owner: owner.endpoint.clone(),
            problem: "nobody answers there any more; its tasks move to other instances".to_owned(),
        })
    }
}

impl Queries {
    /// A partition that nobody can answer for: neither a copy here, nor one that a peer has reported.
    pub(crate) fn unanswerable(&self) -> Option<(StoreName, i32)> {
        let cluster = self.inner.view.cluster();
        let view = self.inner.forward.peers();
        let complete = |role| matches!(role, Role::Active | Role::Standby);
        let answerable = |store: &StoreInfo, partition| {
            let here = self.inner.view.copy(&store.name, partition);
            let task = TaskId::new(store.subtopology, partition);
            here.is_some_and(|copy| complete(copy.role()))
                || view
                    .iter()
                    .any(|peer| !peer.condition.is_gone() && peer.copy(task).is_some_and(|copy| complete(copy.role)))
        };
        let unknown = cluster.stores().iter().find(|store| store.partitions <= 0).map(|store| (store, 0));
        let partitions = |store: &'_ Arc<StoreInfo>| 0..store.partitions;
        let all = cluster.stores().iter().flat_map(|store| partitions(store).map(move |partition| (store, partition)));
        let missing = all.filter(|(store, partition)| !answerable(store, *partition));
        unknown.into_iter().chain(missing).next().map(|(store, partition)| (store.name.clone(), partition))
    }

    /// The copies here, for other instances.
    pub(crate) fn held_tasks(&self) -> Vec<HeldTask> {
        let now = self.inner.clock.monotonic();
        let status = self.inner.view.status();
        let open = |stores: &[StoreName], id: TaskId| {
            let copy = stores.iter().find_map(|store| self.inner.view.copy(store, id.partition))?;
            let (position, changelog) = copy.reflected();
            Some(HeldTask {
                id,
                role: copy.role(),
                lag_records: u64::try_from(copy.lag_records()).ok(),
                staleness: self.staleness(&copy, copy.role(), now),
                position: Position::clone(&position),
                changelog,
            })
        };
        let assigned = status.tasks.iter().map(|task| {
            // Not opened yet, or without a store.
            open(&task.stores, task.id).unwrap_or_else(|| HeldTask {
                id: task.id,
                role: task.role,
                lag_records: task.restore.as_ref().map(|restore| restore.remaining_records),
                staleness: None,
                position: Position::new(),
                changelog: Vec::new(),
            })
        });
        let released = status.released.iter().filter_map(|copy| open(&copy.stores, copy.id));
        assigned.chain(released).collect()
    }
}

/// Those who may answer, best first: who answers before who is slow, the active before standbys before warm-ups, the fresher
/// before the older. Nobody listens at a refused one; a silent one is asked last. The copy on this instance is among them only
/// if it `catches_up`.
fn order(
    route: &PartitionRoute,
    view: &PeersView,
    is_self: impl Fn(&InstanceInfo) -> bool,
    catches_up: bool,
    strong: bool,
) -> Vec<Arc<InstanceInfo>> {
    let mut found: Vec<(Rank, Arc<InstanceInfo>)> = Vec::new();
    let mut add = |instance: &Arc<InstanceInfo>, assigned: Copy| {
        let known = found.iter().any(|(_, other)| other.process_id == instance.process_id);
        let condition = view.condition(instance.process_id);
        if known || condition == Condition::Refused {
            return;
        }
        let rank = match (is_self(instance), assigned) {
            (false, _) => Rank::of(assigned, condition, view, instance.process_id, route.task),
            (true, Copy::Standby | Copy::WarmUp) if catches_up => Rank::HERE,
            (true, _) => return,
        };
        if !strong || matches!(rank.copy, Copy::Active | Copy::Opening) {
            found.push((rank, Arc::clone(instance)));
        }
    };
    route.active.iter().for_each(|active| add(active, Copy::Active));
    route.standbys.iter().for_each(|standby| add(standby, Copy::Standby));
    route.warmups.iter().for_each(|warmup| add(warmup, Copy::WarmUp));
    // A copy that the assignment at hand does not have: one of the two is newer.
    for peer in view.iter() {
        match peer.copy(route.task).map(|copy| copy.role) {
            Some(Role::Active) => add(&peer.instance, Copy::Active),
            Some(Role::Standby) => add(&peer.instance, Copy::WarmUp),
            Some(Role::Restoring) | None => {}
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, instance)| instance).collect()
}

/// What a copy is good for; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Copy {
    Active,
    Standby,
    WarmUp,
    /// Assigned as active, and not complete when its holder last reported.
    Opening,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 0 for who answers, 1 for who is slow, 2 for who is silent.
    condition: u8,
    copy: Copy,
    staleness: Duration,
}

impl Rank {
    /// A copy on this instance that waits for its position: after an active that answers, before all that wait as well.
    const HERE: Self = Self { condition: 0, copy: Copy::Standby, staleness: Duration::ZERO };

    fn of(assigned: Copy, condition: Condition, view: &PeersView, peer: ProcessId, task: TaskId) -> Self {
        let peer = view.get(peer);
        let reported = peer.is_some_and(|peer| peer.report.is_some());
        let held = peer.and_then(|peer| peer.copy(task));
        let complete = held.is_some_and(|held| held.role != Role::Restoring);
        Self {
            condition: match condition {
                Condition::Alive => 0,
                Condition::Slow => 1,
                Condition::Silent | Condition::Refused => 2,
            },
            // Nothing reported yet speaks for the assignment.
            copy: if reported && !complete && assigned == Copy::Active { Copy::Opening } else { assigned },
            staleness: match assigned {
                Copy::Active => Duration::ZERO,
                _ => held.and_then(|held| held.staleness).unwrap_or(Duration::MAX),
            },
        }
    }
}

#[cfg(test)]
mod tests;
