//! Where a key lives, and what becomes of a read of it that asks for so much freshness: which copy is asked when, why it answers
//! or does not, and what the caller gets where nobody can. Nobody is asked for it: it is what this instance knows of the others.

use std::sync::Arc;

use holdfast_discovery::peers::{Condition, HeldTask, PeersView};
use holdfast_types::{InstanceInfo, ProcessId, Role, TaskId};
use serde::{Serialize, Serializer};

use super::{
    Cluster, Queries, QueryError, ReadOptions, Routing, StoreInfo,
    consistency::{CopyState, Verdict, judge, reaches},
    describe::LocalCopy,
};

/// The answer of `/v1/route`.
#[derive(Clone, Debug, Serialize)]
pub struct RouteExplanation {
    /// The store.
    pub store: String,
    /// The key's text.
    pub key: String,
    /// Its partition.
    pub partition: i32,
    /// The task that owns the partition.
    pub task: TaskId,
    /// `host:port` of the active's public listener.
    pub active: Option<String>,
    /// `host:port` of the standbys' public listeners.
    pub standbys: Vec<String>,
    /// Which instance would be asked first.
    pub would_ask: Option<String>,
    /// Which instance answers, as far as can be told; absent where nobody can.
    pub answers: Option<String>,
    /// Generation of the assignment that says so; −1 before the first.
    pub generation: i32,
    /// What the answering instance's own copy is good for, or that there is none.
    pub here: Why,
    /// The copy that the answering instance holds, if any.
    pub local: Option<LocalCopy>,
    /// The other instances that would be asked, in this order, as they last reported.
    pub others: Vec<RemoteCopy>,
    /// Those that have a copy, or should, and would not be asked.
    pub not_asked: Vec<RemoteCopy>,
    /// What a read gets where nobody can answer.
    pub error: Option<RouteError>,
}

/// Another instance's copy, as it last reported.
#[derive(Clone, Debug, Serialize)]
pub struct RemoteCopy {
    /// `host:port` of its public listener.
    pub instance: String,
    /// How it answers: `alive`, `slow`, `silent`, `refused`.
    pub condition: &'static str,
    /// What it is good for.
    pub why: Why,
    /// The copy; absent until one was reported.
    #[serde(flatten)]
    pub copy: Option<LocalCopy>,
}

/// The error of a read, in short.
#[derive(Clone, Debug, Serialize)]
pub struct RouteError {
    /// The code of the one error table.
    pub code: &'static str,
    /// Why, for codes that have several causes.
    pub reason: Option<&'static str>,
    /// For people.
    pub detail: String,
    /// When a later try may succeed.
    pub retry_after_ms: Option<u64>,
}

/// Why a copy answers a read, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does; a strong read once the coordinator has confirmed it.
    Answers,
    /// It would, but leaves questions open for too long: others are asked before it.
    Slow,
    /// Its instance was not heard of for a while; it is asked last.
    Silent,
    /// Nobody listens at its address any more.
    Gone,
    /// Its instance has not reported yet: nothing speaks against it.
    NotHeard,
    /// It has not reached `min_position`.
    BeforePosition,
    /// It is not complete yet.
    Restoring,
    /// It was last known to be caught up longer ago than the read allows.
    TooOld,
    /// It is more records behind than the read allows.
    TooFarBehind,
    /// Strong reads are answered by the active alone.
    NotTheActive,
    /// There is none.
    NoCopy,
}

impl Why {
    /// As answers carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Gone => "gone",
            Self::NotHeard => "not heard yet",
            Self::BeforePosition => "before min_position",
            Self::Restoring => "restoring",
            Self::TooOld => "too old",
            Self::TooFarBehind => "too far behind",
            Self::NotTheActive => "not the active",
            Self::NoCopy => "no copy",
        }
    }
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a read comes to at a copy: an error, or an answer if there is none.
type Judged = (Why, Option<QueryError>);

/// The partition that a read is about, and what it asks for.
struct Question<'a> {
    cluster: &'a Cluster,
    store: &'a StoreInfo,
    partition: i32,
    task: TaskId,
    options: &'a ReadOptions,
    peers: &'a PeersView,
}

impl Queries {
    /// Where `key` (its bytes) lives, and what becomes of a read of it with `options`.
    pub fn explain_route(
        &self,
        store: &str,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<RouteExplanation, QueryError> {
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        self.check_key(key)?;
        let partition = self.partition(&store, key)?;
        let task = TaskId::new(store.subtopology, partition);
        // A redirect leads to who would be asked.
        let options = &ReadOptions { routing: Routing::Proxy, ..options.clone() };
        let peers = self.inner.forward.peers();
        let question = Question { cluster: &cluster, store: &store, partition, task, options, peers: &peers };

        let here = self.here(&cluster, &store, partition, options);
        let asked_here = here.is_ok();
        let (here, refusal) = self.judge_here(&question, here.err());
        let candidates = self.candidates(&cluster, &store, partition, options);
        // The copy here is among those who are asked only if it answers as soon as it has come to the position.
        let own = |peer: &InstanceInfo| cluster.is_self(peer);
        let judge = |peer: &Arc<InstanceInfo>| {
            if own(peer) { (Why::BeforePosition, None) } else { question.judge(peer) }
        };
        let judged: Vec<Judged> = candidates.iter().map(judge).collect();
        let answers = match &refusal {
            None => Some(cluster.instance.to_string()),
            Some(_) => {
                let mut there = candidates.iter().zip(&judged).filter(|(_, (_, refusal))| refusal.is_none());
                there.next().map(|(peer, _)| peer.endpoint.to_string())
            }
        };
        let error = refusal.filter(|_| answers.is_none()).map(|refusal| {
            let theirs = judged.iter().filter_map(|(_, refused)| refused.clone()).reduce(QueryError::or_rather);
            match theirs.or_else(|| self.owner_gone(&cluster, &store, partition)) {
                Some(theirs) => refusal.or_rather(theirs),
                None => refusal,
            }
        });
        let active = cluster.active(&store.name, partition).map(|instance| instance.endpoint.to_string());
        let others = candidates.iter().zip(judged).filter(|(peer, _)| !own(peer));
        let others = others.map(|(peer, (why, _))| question.copy(peer, why)).collect();
        let known: Vec<ProcessId> = candidates.iter().map(|peer| peer.process_id).collect();
        Ok(RouteExplanation {
            store: store.name.to_string(),
            key: store.key.to_text(key).unwrap_or_default(),
            partition,
            task,
            would_ask: match candidates.first() {
                _ if asked_here => Some(cluster.instance.to_string()),
                Some(first) => Some(first.endpoint.to_string()),
                None => active.clone(),
            },
            active,
            standbys: cluster.standbys(&store.name, partition).iter().map(|copy| copy.endpoint.to_string()).collect(),
            answers,
            generation: cluster.generation,
            here,
            local: self.local_copy(&store, partition),
            others,
            not_asked: question.not_asked(&known),
            error: error.map(RouteError::from),
        })
    }

    /// The copy here; `passed_over` is why another one is asked before it.
    fn judge_here(&self, question: &Question<'_>, passed_over: Option<QueryError>) -> Judged {
        let Question { cluster, store, partition, options, .. } = *question;
        let Some(copy) = self.inner.view.copy(&store.name, partition) else {
            let refusal = passed_over.unwrap_or_else(|| self.not_here(cluster, store, partition));
            let why = if matches!(refusal, QueryError::Restoring { .. }) { Why::Restoring } else { Why::NoCopy };
            return (why, Some(refusal));
        };
        let state = self.state(&copy);
        let (why, refusal) = match judge(options.consistency, &state) {
            Verdict::Restoring => (Why::Restoring, Some(self.restoring(store, partition, copy.task))),
            Verdict::NotActive => (Why::NotTheActive, Some(self.not_here(cluster, store, partition))),
            verdict => question.judged(&state, verdict),
        };
        match (passed_over, why) {
            // What is right with its age is not with its position.
            (Some(refusal), Why::Answers) => (Why::BeforePosition, Some(refusal)),
            (Some(refusal), why) => (why, Some(refusal)),
            (None, why) => (why, refusal),
        }
    }

    fn local_copy(&self, store: &StoreInfo, partition: i32) -> Option<LocalCopy> {
        let copy = self.inner.view.copy(&store.name, partition)?;
        let role = copy.role();
        let staleness = self.staleness(&copy, role, self.inner.clock.monotonic());
        Some(LocalCopy {
            role,
            lag_records: Some(copy.lag_records()).filter(|lag| *lag >= 0),
            position: super::position_text::format(&copy.position()),
            staleness_ms: staleness.map(super::millis),
        })
    }
}

impl Question<'_> {
    /// What has become of a read at another instance's copy, as far as is known here.
    fn judge(&self, peer: &InstanceInfo) -> Judged {
        let condition = self.peers.condition(peer.process_id);
        let unreachable = |problem: &str| QueryError::OwnerUnreachable {
            store: self.store.name.clone(),
            partition: Some(self.partition),
            owner: peer.endpoint.clone(),
            problem: problem.to_owned(),
        };
        match condition {
            Condition::Refused => return (Why::Gone, Some(unreachable("nobody listens there"))),
            Condition::Silent => return (Why::Silent, Some(unreachable("it does not answer"))),
            Condition::Alive | Condition::Slow => {}
        }
        let Some(report) = self.peers.get(peer.process_id).and_then(|peer| peer.report.as_ref()) else {
            return (Why::NotHeard, None);
        };
        let not_mine = || QueryError::NotMine {
            store: self.store.name.clone(),
            partition: self.partition,
            instance: Arc::new(peer.endpoint.clone()),
        };
        let Some(held) = report.tasks.iter().find(|held| held.id == self.task) else {
            let owner = self.cluster.active(&self.store.name, self.partition);
            // Assigned there, and not opened yet.
            if owner.is_some_and(|owner| owner.process_id == peer.process_id) {
                return (Why::Restoring, Some(self.restoring(None)));
            }
            return (Why::NoCopy, Some(not_mine()));
        };
        let state = CopyState { role: held.role, staleness: held.staleness, lag_records: held.lag_records };
        match judge(self.options.consistency, &state) {
            Verdict::Restoring => (Why::Restoring, Some(self.restoring(held.lag_records))),
            Verdict::NotActive => (Why::NotTheActive, Some(not_mine())),
            verdict => match self.judged(&state, verdict) {
                (Why::Answers, None) if condition == Condition::Slow => (Why::Slow, None),
                // It waits for it, as long as the read has time.
                (Why::Answers, None) if held.role != Role::Active && !self.reached(held) => (Why::BeforePosition, None),
                judged => judged,
            },
        }
    }

    /// A verdict that depends on nothing but the copy.
    fn judged(&self, state: &CopyState, verdict: Verdict) -> Judged {
        let (store, partition) = (self.store.name.clone(), self.partition);
        match verdict {
            Verdict::Stale { allowed } => {
                let (role, staleness) = (state.role, state.staleness);
                (Why::TooOld, Some(QueryError::Stale { store, partition, role, staleness, allowed }))
            }
            Verdict::Lagging { allowed } => {
                (Why::TooFarBehind, Some(QueryError::Lagging { store, partition, lag: state.lag_records, allowed }))
            }
            _ => (Why::Answers, None),
        }
    }

    fn reached(&self, held: &HeldTask) -> bool {
        self.options.min_position.as_ref().is_none_or(|bound| reaches(&held.position, bound, self.partition))
    }

    fn restoring(&self, remaining: Option<u64>) -> QueryError {
        QueryError::Restoring {
            store: self.store.name.clone(),
            partition: self.partition,
            task: self.task,
            remaining_records: remaining.unwrap_or_default(),
            eta: None,
        }
    }

    fn copy(&self, peer: &InstanceInfo, why: Why) -> RemoteCopy {
        RemoteCopy {
            instance: peer.endpoint.to_string(),
            condition: self.peers.condition(peer.process_id).as_str(),
            why,
            copy: self.peers.get(peer.process_id).and_then(|peer| peer.copy(self.task)).map(LocalCopy::from),
        }
    }

    /// Those that have a copy or should have one, but for those that are asked.
    fn not_asked(&self, asked: &[ProcessId]) -> Vec<RemoteCopy> {
        let route = self.cluster.route(&self.store.name, self.partition);
        let assigned = route.into_iter().flat_map(|route| {
            route.active.iter().chain(&route.standbys).chain(&route.warmups).map(|instance| &**instance)
        });
        let reported = self.peers.iter().filter(|peer| peer.copy(self.task).is_some()).map(|peer| &*peer.instance);
        let mut found: Vec<&InstanceInfo> = Vec::new();
        for instance in assigned.chain(reported) {
            let known = asked.contains(&instance.process_id)
                || found.iter().any(|other| other.process_id == instance.process_id);
            if !known && !self.cluster.is_self(instance) {
                found.push(instance);
            }
        }
        found.into_iter().map(|peer| self.copy(peer, self.judge(peer).0)).collect()
    }
}

impl From<QueryError> for RouteError {
    fn from(error: QueryError) -> Self {
        let failure = error.failure();
        Self {
            code: failure.code.as_str(),
            reason: failure.reason.map(|reason| reason.as_str()),
            detail: failure.detail,
            retry_after_ms: failure.retry_after.map(super::millis),
        }
    }
}

#[cfg(test)]
mod tests;
