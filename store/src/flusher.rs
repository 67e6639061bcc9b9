//! The thread that moves memory tables into RocksDB: the largest first when memory is short, and any that waited long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use holdfast_types::StoreName;
use parking_lot::{Condvar, Mutex};

use crate::{
    budget::{Limits, MemoryAccount},
    error::StoreError,
    metrics,
    task_store::TaskStore,
};

/// Of the share of memory tables, in percent: above it the thread flushes the largest task.
const FLUSH_PERCENT: u64 = 55;
/// Of the share, in percent: above it `apply` flushes before it goes on. The rest of the share is for the batches of
/// flushes that are under way.
const WAIT_PERCENT: u64 = 80;
/// Of the share, in percent: a task with more is flushed, because a batch exists a second time while it is written.
const TASK_PERCENT: u64 = 20;
/// The same in bytes, however large the share: RocksDB takes a batch in one piece.
const TASK_LIMIT_BYTES: u64 = 256 << 20;
/// In-memory stores cannot be flushed; however large they are, this part of the share is left for memory tables.
const LEAST_PERCENT: u64 = 20;

/// Starts, feeds and stops the flush thread.
#[derive(Debug)]
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    share: u64,
    account: Arc<MemoryAccount>,
    max_replay: Duration,
    tasks: Mutex<Vec<Weak<TaskStore>>>,
    /// Stores seen so far with their rows at the last scrape.
    rows_by_store: Mutex<BTreeMap<StoreName, u64>>,
    /// There is something to do.
    wanted: Mutex<Wanted>,
    wake: Condvar,
    /// So that the commit path takes `wanted` only for the first of many reasons.
    woken: AtomicBool,
    /// Why the disk takes no rows at present: told once, when it begins.
    refused: Mutex<Option<StoreError>>,
}

#[derive(Debug, Default)]
struct Wanted {
    work: bool,
    stop: bool,
}

impl Flusher {
    pub(crate) fn new(limits: Limits, account: Arc<MemoryAccount>, max_replay: Duration) -> Self {
        let shared = Shared {
            share: limits.memory_tables,
            account,
            max_replay,
            tasks: Mutex::default(),
            rows_by_store: Mutex::default(),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            woken: AtomicBool::new(false),
            refused: Mutex::default(),
        };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Watches over a store from now on; starts the thread for the first one.
    pub(crate) fn register(&self, store: &Arc<TaskStore>) {
        let mut tasks = self.shared.tasks.lock();
        tasks.retain(|task| task.strong_count() > 0);
        tasks.push(Arc::downgrade(store));
        drop(tasks);
        let mut running = self.thread.lock();
        if running.is_none() {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("store-flush".to_owned()).spawn(move || shared.run()) {
                Ok(handle) => *running = Some(handle),
                // Memory stays bounded all the same: `apply` flushes when its share is used up.
                Err(error) => tracing::error!(%error, "the flush thread did not start; commits flush by themselves"),
            }
        }
    }

    /// Sets the number of rows of each store, over all its tasks; a store whose last task has gone goes to zero.
    pub(crate) fn record_rows(&self) {
        let mut rows = self.shared.rows_by_store.lock();
        rows.values_mut().for_each(|rows| *rows = 0);
        for task in self.tasks() {
            for table in task.tables() {
                *rows.entry(table.name().clone()).or_default() += table.approximate_rows();
            }
        }
        metrics::record_rows(&rows);
    }

    /// The stores that are in use.
    pub(crate) fn tasks(&self) -> Vec<Arc<TaskStore>> {
        self.shared.tasks()
    }

    /// Called before a batch is applied: while memory tables are over their share, flushes the largest.
    pub(crate) fn make_room(&self) -> Result<(), StoreError> {
        if self.shared.used() <= self.shared.share_percent(WAIT_PERCENT) {
            return Ok(());
        }
        // While the disk takes nothing, the thread alone tries again, now and then.
        if let Some(error) = &*self.shared.refused.lock() {
            return Err(error.clone());
        }
        let started = Instant::now();
        let outcome = match self.shared.largest() {
            Some(task) => {
                let outcome = task.flush();
                self.shared.tell(&task, &outcome);
                outcome.map(|_| ())
            }
            None => Ok(()),
        };
        metrics::waited(started.elapsed());
        outcome
    }

    /// Called after a batch was applied: wakes the thread when there is reason to.
    pub(crate) fn applied(&self, store: &TaskStore) {
        let shared = &self.shared;
        let crowded =
            store.unflushed_bytes() > shared.task_limit() || shared.used() > shared.share_percent(FLUSH_PERCENT);
        if crowded && !shared.woken.swap(true, Relaxed) {
            self.wake();
        }
    }

    /// Lets the thread look around now.
    pub(crate) fn wake(&self) {
        self.shared.wanted.lock().work = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.wanted.lock().stop = true;
        self.shared.wake.notify_one();
        let Some(handle) = self.thread.lock().take() else { return };
        // The thread itself may hold the last store, and with it the last budget: it then ends by itself.
        if handle.thread().id() != thread::current().id() && handle.join().is_err() {
            tracing::error!("the flush thread had panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        // Often enough that rows wait little longer than they may.
        let tick = (self.max_replay / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            {
                let mut wanted = self.wanted.lock();
                if !wanted.work && !wanted.stop {
                    self.wake.wait_for(&mut wanted, tick);
                }
                if wanted.stop {
                    return;
                }
                wanted.work = false;
            }
            self.woken.store(false, Relaxed);
            if !self.round() {
                // The disk fails: let it breathe before the next attempt.
                let mut wanted = self.wanted.lock();
                if !wanted.stop {
                    self.wake.wait_for(&mut wanted, tick);
                }
            }
        }
    }

    /// Flushes what is due; answers whether all went well.
    fn round(&self) -> bool {
        let mut well = true;
        let mut flushed = false;
        // One at a time: a task that is let go of meanwhile is to close at once.
        let tasks = self.tasks.lock().clone();
        for task in tasks.iter().filter_map(Weak::upgrade) {
            let waited = task.unflushed_for();
            if waited.is_some_and(|waited| waited >= self.max_replay)
                || task.unflushed_bytes() > self.task_limit()
                || task.has_unwritten()
            {
                well &= self.flush(&task);
                flushed = true;
            }
        }
        while well && self.used() > self.share_percent(FLUSH_PERCENT) {
            let Some(task) = self.largest() else { break };
            well &= self.flush(&task);
            flushed = true;
        }
        if well && flushed && self.refused.lock().take().is_some() {
            tracing::info!("rows are written to disk again");
        }
        if well {
            self.relieve_write_buffers();
        }
        well
    }

    /// Flushes one task; answers whether that went well.
    fn flush(&self, task: &TaskStore) -> bool {
        let outcome = task.flush_in_background();
        self.tell(task, &outcome);
        outcome.is_ok()
    }

    /// Tells the first failure of a row of them; the disk is all tasks' disk.
    fn tell<T>(&self, task: &TaskStore, outcome: &Result<T, StoreError>) {
        let Err(error) = outcome else { return };
        let mut refused = self.refused.lock();
        if refused.as_ref().is_none_or(|before| std::mem::discriminant(before) != std::mem::discriminant(error)) {
            tracing::error!(
                task = %task.task(), %error,
                "rows cannot be written to disk; reads go on, processing goes on while memory lasts, and it is tried again"
            );
        }
        *refused = Some(error.clone());
    }

    /// RocksDB only flushes the write buffers of the database that is written to: relieve the largest of them all.
    fn relieve_write_buffers(&self) {
        let tasks = self.tasks();
        if tasks.first().is_some_and(|task| task.write_buffers_crowded()) {
            let largest = tasks.into_iter().max_by_key(|task| task.write_buffer_bytes());
            if let Some(task) = largest {
                task.relieve_write_buffers();
            }
        }
    }

    fn tasks(&self) -> Vec<Arc<TaskStore>> {
        self.tasks.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The task with the most to flush.
    fn largest(&self) -> Option<Arc<TaskStore>> {
        let tasks = self.tasks().into_iter().map(|task| (task.unflushed_bytes(), task));
        tasks.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes).map(|(_, task)| task)
    }

    fn used(&self) -> u64 {
        self.account.memory_tables.load(Relaxed).max(0).unsigned_abs()
    }

    /// So many percent of what in-memory stores leave of the share.
    fn share_percent(&self, percent: u64) -> u64 {
        let in_memory = self.account.in_memory_stores.load(Relaxed).max(0).unsigned_abs();
        let left = self.share.saturating_sub(in_memory).max(self.share / 100 * LEAST_PERCENT);
        left / 100 * percent
    }

    fn task_limit(&self) -> u64 {
        TASK_LIMIT_BYTES.min(self.share_percent(TASK_PERCENT))
    }
}
