//! The leader of the group is killed in the middle of a rebalance: while everybody waits for it to join, and while everybody
//! waits for what it assigns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::Duration;

use holdfast_tests::{
    chance,
    cluster::{self, evictions, wait_owned},
    instance::{Instance, InstanceConfig},
    inventory::check_exactly,
    kafka::{Kafka, KafkaConfig, Names},
    load::LoadConfig,
    readers::{Asking, BOUNDED, Readers, wait_items},
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};

/// Long before its session ends.
const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 500.0;
const TASKS: usize = 6;

/// What the others wait for when the leader is killed.
#[derive(Clone, Copy, Debug)]
enum Missing {
    /// Its JoinGroup: it stands still.
    Join,
    /// Its SyncGroup, which is on its way for longer than it lives.
    Sync,
}

#[test]
fn a_leader_that_is_killed_before_it_joins_holds_nobody_up() {
    kill_the_leader(Missing::Join);
}

#[test]
fn a_leader_that_is_killed_before_it_has_assigned_holds_nobody_up() {
    kill_the_leader(Missing::Sync);
}

fn kill_the_leader(missing: Missing) {
    let seed = chance::seed(&format!("leader kill, {missing:?} missing"));
    let kafka = Kafka::start_with(KafkaConfig { proxied: true, ..KafkaConfig::default() });
    let names = Names::fresh("leader");
    names.create_topics(&kafka, 3);
    let config = InstanceConfig::new(&kafka, &names)
        // Kafka's default: whoever waits for it fails this test.
        .set("session_timeout_ms", "45000")
        .set("heartbeat_interval_ms", "500")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", "1");
    // The first member leads, for as long as it is one.
    let mut leader = config.clone().set("bootstrap_servers", kafka.proxied_bootstrap()).start_ready();
    let mut others = vec![config.clone().start(), config.clone().start()];
    let traffic = Traffic::start(&kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut others), LOAD.skus);
    let settled = |leader: &mut Instance, others: &mut [Instance]| {
        let instances = std::iter::once(leader).chain(others.iter_mut());
        tasks::wait_settled(&mut instances.collect::<Vec<_>>(), TASKS, 1, LIMIT)
    };
    settled(&mut leader, &mut others);
    assert!(leader.log().contains("assigned tasks as the leader"));
    let rests = all(&mut others);
    let readers = Readers::start(&rests, &[Asking::Strong, BOUNDED], LOAD.skus);
    readers.wait_answers();

    let awaited = match missing {
        Missing::Join => {
            leader.pause();
            "PreparingRebalance"
        }
        Missing::Sync => {
            kafka.proxy().delay(Duration::from_secs(1));
            "CompletingRebalance"
        }
    };
    others.push(config.start());
    wait::until(format!("the group to be in state {awaited}"), LIMIT, || {
        let state = kafka.group_state(&names.application_id);
        // One that stands still for long is evicted while it does.
        if state == awaited || evictions(&rests) > 0.0 { Ok(()) } else { Err(state) }
    });
    leader.kill();
    // What it has sent is on its way no more.
    kafka.proxy().cut();
    wait_owned(&all(&mut others), TASKS);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    eprintln!("{missing:?} missing: {answered} reads answered, {} refused", refused.len());
    let failed: Vec<_> = refused.iter().filter(|refusal| refusal.asking == BOUNDED).collect();
    assert!(failed.is_empty(), "{failed:?}");
    // Counted when its transactions are ended, too.
    let rests = all(&mut others);
    wait::until_true("its peers to remove it, not its session's end", SOON, || evictions(&rests) >= 1.0);
    cluster::wait_spread(&mut others);
    let model = traffic.finish();
    for rest in all(&mut others) {
        check_exactly(&kafka, &names, &rest, &model, LIMIT);
    }
    others.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

fn all(instances: &mut [Instance]) -> Vec<Rest> {
    instances.iter_mut().map(Instance::rest).collect()
}
