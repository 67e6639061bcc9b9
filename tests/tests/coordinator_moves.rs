//! One of three brokers goes, the one that coordinates the group: everything that it led moves, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::Duration;

use holdfast_tests::{
    brokers::Brokers,
    chance,
    cluster::{self, evictions},
    instance::{Instance, InstanceConfig},
    inventory::{ITEMS, check_exactly},
    kafka::{Kafka, Names},
    load::LoadConfig,
    log,
    readers::{Asking, Readers, wait_items},
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 300.0;
/// The brokers take some seconds to find that one is gone, and nobody is confirmed meanwhile.
const BOUNDED: Asking = Asking::Bounded(Duration::from_secs(40));

/// How a broker goes.
type Going = (&'static str, fn(&Kafka));

#[test]
fn the_group_and_its_transactions_go_on_at_another_broker() {
    // Three brokers, of which one goes four times: minutes.
    if !chance::soak() {
        return;
    }
    let seed = chance::seed("coordinator moves");
    let brokers = Brokers::start();
    let names = Names::fresh("moves");
    names.create_topics(brokers.broker(0), 3);
    let config = InstanceConfig::new(brokers.broker(0), &names)
        .set("bootstrap_servers", brokers.bootstrap())
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", "1");
    let mut instances = cluster::start(&config, 3);
    let traffic = Traffic::start(brokers.broker(0), &names.items, LOAD, seed, PER_S);
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    wait_items(&rests, LOAD.skus);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let readers = Readers::start(&rests, &[Asking::Strong, BOUNDED], LOAD.skus);
    let goings: [Going; 4] = [
        ("killed", Kafka::kill),
        ("stopped", Kafka::stop),
        ("killed again", Kafka::kill),
        ("stopped again", Kafka::stop),
    ];
    for (how, go) in goings {
        readers.wait_answers();
        let coordinator = |asked| brokers.coordinator(asked, &names.application_id);
        let gone = wait::until("a coordinator", LIMIT, || coordinator(0).ok_or("none"));
        let other = (gone + 1) % 3;
        go(brokers.broker(gone));
        let moved = wait::until("another coordinator", LIMIT, || match coordinator(other) {
            Some(now) if now != gone => Ok(now),
            seen => Err(format!("{seen:?}")),
        });
        eprintln!("broker {gone} {how}: the coordinator is broker {moved}");
        // What was written after that becomes readable, everywhere.
        let sent = i64::try_from(traffic.sent()).unwrap();
        for rest in &rests {
            wait::until(format!("what was written to be readable at {}", rest.address()), LIMIT, || {
                let rows = rest.try_scan(ITEMS, 100).map_err(|refused| refused.body)?;
                let total: i64 = rows.iter().map(|(_, row)| row["currentStock"].as_i64().unwrap()).sum();
                if total >= sent { Ok(()) } else { Err(format!("{total} of {sent}")) }
            });
        }
        readers.wait_answers();
        brokers.broker(gone).start_again();
    }
    let (answered, refused) = readers.finish();
    eprintln!("{answered} reads answered, {} refused", refused.len());
    let failed: Vec<_> = refused.iter().filter(|refusal| refusal.asking == BOUNDED).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for instance in &instances {
        assert_eq!(log::count(&instance.log(), &["membership lost"]), 0, "{}", instance.log());
    }
    assert_eq!(evictions(&rests), 0.0);
    let model = traffic.finish();
    for rest in &rests {
        check_exactly(brokers.broker(0), &names, rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
