//! What the router sees of the processing side.

use std::sync::Arc;

use holdfast_discovery::GroupMember;
use holdfast_stream::engine::{Engine, EngineState, EngineStatus, ServedTable};
use holdfast_types::{Confirmed, GroupSession, Position, TaskId};
use tokio::sync::Notify;

use super::Processing;
use crate::query::{Cluster, StoreView};

impl StoreView for Processing {
    fn cluster(&self) -> Arc<Cluster> {
        self.cluster.load_full()
    }

    fn copy(&self, store: &str, partition: i32) -> Option<Arc<ServedTable>> {
        self.engine.get()?.stores().get(store, partition)
    }

    fn status(&self) -> Arc<EngineStatus> {
        let status = self.engine.get().map(Engine::status);
        match (status, self.waiting.load_full()) {
            (Some(status), None) => status,
            (Some(status), Some(_)) if status.state.outweighs_waiting() => status,
            (Some(status), Some(reason)) => {
                let mut status = EngineStatus::clone(&status);
                status.state = EngineState::Waiting(reason.to_string());
                Arc::new(status)
            }
            (None, reason) => {
                let state = reason.map_or(EngineState::Joining, |reason| EngineState::Waiting(reason.to_string()));
                Arc::new(EngineStatus::of(state, -1))
            }
        }
    }

    fn last_confirmed(&self) -> Option<Confirmed> {
        self.member.get()?.last_confirmed()
    }

    fn confirmations(&self) -> Arc<Notify> {
        self.member.get().map(GroupMember::confirmations).unwrap_or_default()
    }

    fn group(&self) -> Option<GroupMember> {
        self.member.get().cloned()
    }

    fn learn(&self, task: TaskId, position: &Position, changelog: &[i64]) {
        if let Some(engine) = self.engine.get() {
            engine.stores().learn(task, position, changelog);
        }
    }

    fn request_confirmation(&self) {
        if let Some(member) = self.member.get() {
            member.confirm_soon();
        }
    }
}
