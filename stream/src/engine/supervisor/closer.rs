//! Closes stores beside the supervisor: one that writes what it has in memory takes a while, on a slow disk seconds, in which
//! tasks would wait to be processed.

use std::{sync::Arc, thread::JoinHandle};

use crossbeam_channel::{Sender, bounded};
use holdfast_store::TaskStore;
use holdfast_types::TaskId;
use tracing::warn;

use crate::engine::StartError;

/// The thread. Dropping it waits until all is closed that it was given.
#[derive(Debug)]
pub(super) struct Closer {
    stores: Option<Sender<(TaskId, Arc<TaskStore>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    pub(super) fn start() -> Result<Self, StartError> {
        let (stores, incoming) = bounded::<(TaskId, Arc<TaskStore>)>(1);
        let thread = std::thread::Builder::new().name("close".to_owned()).spawn(move || {
            while let Ok((task, store)) = incoming.recv() {
                close_store(task, store);
            }
        })?;
        Ok(Self { stores: Some(stores), thread: Some(thread) })
    }

    /// Whether a store that is given now is closed without delay to whoever gives it.
    pub(super) fn has_room(&self) -> bool {
        self.stores.as_ref().is_some_and(|stores| !stores.is_full())
    }

    /// Closes a store, here if the thread is gone.
    pub(super) fn close(&self, task: TaskId, store: Arc<TaskStore>) {
        let Some(stores) = &self.stores else { return close_store(task, store) };
        if let Err(refused) = stores.send((task, store)) {
            let (task, store) = refused.into_inner();
            close_store(task, store);
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.stores = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that closes stores panicked");
        }
    }
}

fn close_store(task: TaskId, store: Arc<TaskStore>) {
    if let Err(error) = store.close() {
        warn!(%task, %error, "a store could not be closed cleanly; it replays its changelog on the next start");
    }
}
