//! A producer that writes the inventory's input all the while, and keeps the model of what it wrote.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    kafka::Kafka,
    load::{Load, LoadConfig},
    model::Model,
    producer::Producer,
    wait::Pace,
};

/// Records on their way until [`Traffic::finish`].
#[derive(Debug)]
pub struct Traffic {
    writer: Option<JoinHandle<Model>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Traffic {
    /// Writes to `topic` at a steady rate.
    pub fn start(kafka: &Kafka, topic: &str, config: LoadConfig, seed: u64, per_s: f64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let (producer, topic) = (Producer::new(kafka), topic.to_owned());
        let writer = thread::spawn(move || {
            let (mut load, mut model) = (Load::new(config, seed), Model::default());
            let pace = Pace::new(per_s);
            while !stopped.load(Ordering::Relaxed) {
                pace.hold(counted.load(Ordering::Relaxed));
                let item = load.next_item();
                model.apply(&item.value);
                producer.send(&topic, Some(&item.key), Some(&item.value));
                counted.fetch_add(1, Ordering::Relaxed);
            }
            producer.flush();
            model
        });
        Self { writer: Some(writer), stop, sent }
    }

    /// Records written so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the writing; answers what the inventory must come to when all of it is acknowledged.
    #[track_caller]
    pub fn finish(mut self) -> Model {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.take().unwrap().join().expect("the writer of the traffic failed; its message is above")
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
