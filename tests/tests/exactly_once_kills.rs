//! Exactly once under `kill -9`: kills at random moments, state kept, removed or replaced by an older copy, and in the
//! end every row, output, changelog and dead letter is what an independent model says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance,
    consumer::Ends,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{STORES, check_exactly_over_restart},
    kafka::{Kafka, Names},
    load::LoadConfig,
    state,
    traffic::Traffic,
    wait,
};
use rand::{RngExt, rngs::StdRng};

const KILLS: usize = 36;
const PER_S: f64 = 1_500.0;
const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 150, skus: 30, bad_one_in: 50, counting: false };

/// When a kill falls.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Anywhere from the start of the process on: opening, joining, restoring.
    Starting,
    /// After it listens and before it is ready, mostly: joining, restoring.
    Restoring,
    /// While it processes.
    Processing,
    /// Just after the changelog grew: records are produced, the transaction is open or being committed.
    Committing,
}

impl Moment {
    fn choose(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0..2 => Self::Starting,
            2..4 => Self::Restoring,
            4..7 => Self::Processing,
            _ => Self::Committing,
        }
    }

    fn wait(self, rng: &mut StdRng, instance: &mut Instance, kafka: &Kafka, names: &Names) {
        match self {
            Self::Starting => {
                wait::random_moment(rng, Duration::from_millis(500));
            }
            Self::Restoring => {
                instance.wait_listening();
                wait::random_moment(rng, Duration::from_millis(250));
            }
            Self::Processing => {
                instance.wait_ready();
                wait::random_moment(rng, Duration::from_millis(1_500));
            }
            Self::Committing => {
                instance.wait_ready();
                let ends = Ends::of(kafka, &names.changelog(STORES));
                let before = ends.sum();
                wait::until_true("the changelog to grow", LIMIT, || ends.sum() > before);
                wait::random_moment(rng, Duration::from_millis(25));
            }
        }
    }
}

#[test]
fn every_record_counts_once_over_kills() {
    let seed = chance::seed("exactly once");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("exactly-once");
    names.create_topics(kafka, 3);
    let mut instance = InstanceConfig::new(kafka, &names)
        .set("processing_guarantee", "exactly_once")
        // State that is removed takes the names of open transactions with it: then only these two free the way.
        .set("session_timeout_ms", "3000")
        .set("heartbeat_interval_ms", "500")
        .set("transaction_timeout_ms", "3000")
        // Rows reach RocksDB while the test runs: the copies differ, and crashes fall into flushes too.
        .set("max_replay_ms", "1000")
        .start_ready();
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    let copies = tempfile::tempdir().unwrap();
    let mut copy: Option<PathBuf> = None;
    let begin = Instant::now();
    let kills = chance::repetitions(KILLS);
    for kill in 1..=kills {
        let moment = Moment::choose(&mut rng);
        moment.wait(&mut rng, &mut instance, kafka, &names);
        instance.kill();
        let fate = match (rng.random_range(0..4), &copy) {
            (0, _) => StateFate::Remove,
            (1, Some(copy)) => StateFate::Replace(copy.clone()),
            _ => StateFate::Keep,
        };
        // A copy is as old as the number of lives since it was taken.
        if instance.state_dir().exists() && rng.random_range(0..4) == 0 {
            let taken = copies.path().join(kill.to_string());
            state::copy(&instance.state_dir(), &taken);
            copy = Some(taken);
        }
        eprintln!("{:6.1} s kill {kill} of {kills}, {moment:?}, then {}", begin.elapsed().as_secs_f64(), name(&fate));
        instance.start_again(&fate);
    }
    instance.wait_ready();
    let sent = traffic.sent();
    let model = traffic.finish();
    eprintln!("{:6.1} s {sent} records sent, {} refused", begin.elapsed().as_secs_f64(), model.refused.len());
    assert!(!model.refused.is_empty());
    check_exactly_over_restart(kafka, &names, &mut instance, &model, LIMIT);
    assert!(instance.terminate().success());
    eprintln!("{:6.1} s all equal", begin.elapsed().as_secs_f64());
}

fn name(fate: &StateFate) -> &'static str {
    match fate {
        StateFate::Keep => "state kept",
        StateFate::Remove => "state removed",
        StateFate::Replace(_) => "an older copy put back",
    }
}
