//! One key: the way of every look-up. The common case (active here, fresh enough) never waits and allocates nothing of
//! its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_stream::engine::ServedTable;
use holdfast_types::{Position, Role, TaskId};

use super::{
    Answer, Cluster, Consistency, Queries, QueryError, ReadOptions, Routing, RowRead, Served, StoreInfo,
    consistency::{CopyState, Verdict, confirmed_since, judge, reaches},
    position_text,
};

/// How often a waiting read looks again. Waits end at a commit or a heartbeat, both of which are far longer apart.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Queries {
    /// The row of `key` (bytes as the store's serde writes them), from here or from another instance.
    pub async fn get(&self, store: &str, key: &[u8], options: &ReadOptions) -> Result<Answer<RowRead>, QueryError> {
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        self.get_from(&cluster, &store, key, options).await
    }

    /// The same for a store that was looked up already.
    pub async fn get_in(
        &self,
        store: &Arc<StoreInfo>,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Answer<RowRead>, QueryError> {
        self.get_from(&self.inner.view.cluster(), store, key, options).await
    }

    async fn get_from(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Answer<RowRead>, QueryError> {
        self.check_key(key)?;
        let partition = self.partition(store, key)?;
        match self.get_here(cluster, store, partition, key, options).await {
            Err(error) if error.elsewhere_may_help() => match options.routing {
                Routing::Local => Err(error),
                Routing::Redirect => Err(self.redirect(cluster, store, partition, options, error)),
                // Boxed: the way of a local look-up stays small.
                Routing::Proxy => Box::pin(self.get_elsewhere(store, partition, key, options, error)).await,
            },
            answer => answer,
        }
    }

    /// The row of a key from the copy here.
    pub(super) async fn get_here(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        partition: i32,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Answer<RowRead>, QueryError> {
        let copy = self.here(cluster, store, partition, options)?;
        let served = self.admit(cluster, store, partition, &copy, options).await?;
        // A row in memory or in the block cache takes a few microseconds: less than a thread hop would.
        let value = copy.table.get(key).map_err(|source| store_error(store, source))?;
        Ok(Answer { value, served })
    }

    /// The copy here, if it is the one to ask for a partition. Otherwise the reason why there is none.
    pub(super) fn here(
        &self,
        cluster: &Cluster,
        store: &StoreInfo,
        partition: i32,
        options: &ReadOptions,
    ) -> Result<Arc<ServedTable>, QueryError> {
        let Some(copy) = self.inner.view.copy(&store.name, partition) else {
            return Err(self.not_here(cluster, store, partition));
        };
        let ask = match copy.role() {
            Role::Active => true,
            // The active has what a standby has not yet.
            Role::Standby => {
                let reached = options.min_position.as_ref();
                options.routing == Routing::Local
                    || (judge(options.consistency, &self.state(&copy)) == Verdict::Answer
                        && reached.is_none_or(|bound| reaches(&copy.position(), bound, partition)))
            }
            Role::Restoring => options.routing == Routing::Local,
        };
        // Nobody else has it: it is this copy that the answer is about, even if that is a refusal.
        let only = || cluster.active(&store.name, partition).is_none_or(|owner| cluster.is_self(owner));
        if ask || only() { Ok(copy) } else { Err(self.not_here(cluster, store, partition)) }
    }

    /// Why a partition is not answered for here.
    pub(super) fn not_here(&self, cluster: &Cluster, store: &StoreInfo, partition: i32) -> QueryError {
        match cluster.active(&store.name, partition) {
            None if cluster.generation < 0 => QueryError::NotReady("it has not joined its group yet".to_owned()),
            None => QueryError::NoOwner { store: store.name.clone(), partition },
            // Assigned here, and not opened yet.
            Some(owner) if cluster.is_self(owner) => {
                self.restoring(store, partition, TaskId::new(store.subtopology, partition))
            }
            Some(_) => not_mine(cluster, store, partition),
        }
    }

    /// Names the instance that may answer instead, or says why there is none.
    pub(super) fn redirect(
        &self,
        cluster: &Cluster,
        store: &StoreInfo,
        partition: i32,
        options: &ReadOptions,
        error: QueryError,
    ) -> QueryError {
        match self.candidates(cluster, store, partition, options).into_iter().find(|other| !cluster.is_self(other)) {
            Some(other) => QueryError::NotHere { store: store.name.clone(), partition, owner: other.endpoint.clone() },
            None => error,
        }
    }

    /// Waits until the copy may answer; the position is taken before the row is read, so that the row reflects at least it.
    pub(super) async fn admit(
        &self,
        cluster: &Cluster,
        store: &StoreInfo,
        partition: i32,
        copy: &ServedTable,
        options: &ReadOptions,
    ) -> Result<Served, QueryError> {
        let arrival = self.inner.clock.monotonic();
        let state = self.state_at(copy, arrival);
        match judge(options.consistency, &state) {
            Verdict::Answer => {}
            Verdict::Confirm => {
                if !self.confirm(copy, arrival, self.timeout(options)).await? {
                    return Err(self.not_here(cluster, store, partition));
                }
            }
            Verdict::Restoring => return Err(self.restoring(store, partition, copy.task)),
            Verdict::NotActive => return Err(self.not_here(cluster, store, partition)),
            Verdict::Stale { allowed } => {
                return Err(QueryError::Stale {
                    store: store.name.clone(),
                    partition,
                    role: state.role,
                    staleness: state.staleness,
                    allowed,
                });
            }
            Verdict::Lagging { allowed } => {
                let lag = state.lag_records;
                return Err(QueryError::Lagging { store: store.name.clone(), partition, lag, allowed });
            }
        }
        if let Some(bound) = &options.min_position {
            self.wait_for_position(store, partition, copy, bound, self.timeout(options)).await?;
        }
        let waited = options.min_position.is_some() || options.consistency == Consistency::Strong;
        let now = if waited { self.inner.clock.monotonic() } else { arrival };
        Ok(Served {
            by: Arc::clone(&cluster.instance),
            role: state.role,
            partition,
            position: copy.position(),
            staleness: self.staleness(copy, state.role, now),
        })
    }

    pub(super) fn state(&self, copy: &ServedTable) -> CopyState {
        self.state_at(copy, self.inner.clock.monotonic())
    }

    fn state_at(&self, copy: &ServedTable, now: Instant) -> CopyState {
        let role = copy.role();
        CopyState {
            role,
            staleness: self.staleness(copy, role, now),
            lag_records: u64::try_from(copy.lag_records()).ok(),
        }
    }

    /// Waits until the coordinator has confirmed the copy since `arrival`: `false` as soon as it never will.
    async fn confirm(&self, copy: &ServedTable, arrival: Instant, timeout: Duration) -> Result<bool, QueryError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let confirmations = self.inner.view.confirmations();
        self.inner.view.request_confirmation();
        loop {
            // Listens from before the look, so that none is missed.
            let confirmed = confirmations.notified();
            if confirmed_since(arrival, self.active_as_of(copy)) {
                return Ok(true);
            }
            if copy.membership_is_over(self.inner.view.last_confirmed()) {
                return Ok(false);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(QueryError::Unconfirmed { timeout });
            }
            tokio::select! {
                () = confirmed => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn wait_for_position(
        &self,
        store: &StoreInfo,
        partition: i32,
        copy: &ServedTable,
        bound: &Position,
        timeout: Duration,
    ) -> Result<(), QueryError> {
        let foreign = bound.iter().find(|(topic, _, _)| !store.inputs.iter().any(|input| input == *topic));
        if foreign.is_some() {
            return Err(QueryError::Unimplemented(
                "min_position names a topic that the store's sub-topology does not read itself; following it through a \
                 repartition topic is not served by this version",
            ));
        }
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let at = copy.position();
            if reaches(&at, bound, partition) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let at = position_text::format(&at);
                return Err(QueryError::PositionNotReached { store: store.name.clone(), partition, at, timeout });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The error of a copy that is not complete, with what the engine knows of its restore.
    pub(super) fn restoring(&self, store: &StoreInfo, partition: i32, task: TaskId) -> QueryError {
        let status = self.inner.view.status();
        let restore = status.tasks.iter().find(|status| status.id == task).and_then(|status| status.restore.as_ref());
        // Told from the beginning, other than the engine's report of a restore that takes long.
        let behind = || u64::try_from(self.inner.view.copy(&store.name, partition)?.lag_records()).ok();
        QueryError::Restoring {
            store: store.name.clone(),
            partition,
            task,
            remaining_records: restore.map_or_else(|| behind().unwrap_or(0), |restore| restore.remaining_records),
            eta: restore.and_then(|restore| restore.eta),
        }
    }
}

pub(super) fn not_mine(cluster: &Cluster, store: &StoreInfo, partition: i32) -> QueryError {
    QueryError::NotMine { store: store.name.clone(), partition, instance: Arc::clone(&cluster.instance) }
}

pub(super) fn store_error(store: &StoreInfo, source: holdfast_store::StoreError) -> QueryError {
    match source {
        // The task left between the look at the map and the read: its new owner answers.
        holdfast_store::StoreError::Closed { task } => {
            QueryError::NoOwner { store: store.name.clone(), partition: task.partition }
        }
        source => QueryError::Store { store: store.name.clone(), source },
    }
}
