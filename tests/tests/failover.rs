//! One of several instances is killed, or cannot be reached, under reads and writes: who is gone is evicted long before its
//! session ends, nobody else is, and no answer is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance,
    cluster::{self, evictions, wait_owned},
    consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, check_exactly, check_twice_at_most},
    kafka::{Kafka, Names},
    load::LoadConfig,
    log,
    network::Proxy,
    ports,
    readers::{Asking, BOUNDED, Readers, Refusal, wait_items},
    rest::Rest,
    tasks,
    traffic::Traffic,
    transactions, wait,
};
use rand::RngExt;

/// Kafka's default: whoever waits for it fails these tests.
const SESSION_MS: &str = "45000";
/// Long before its session ends.
const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(40);
/// As long as the session, so that neither explains what is sooner: only that its transactions were fenced.
const TRANSACTION_MS: &str = "60000";
/// Within which rows are fresh again after a kill; it takes a second where nothing else runs.
const FRESH: Duration = Duration::from_secs(10);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 500.0;

fn config(kafka: &Kafka, names: &Names) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("session_timeout_ms", SESSION_MS)
        .set("transaction_timeout_ms", TRANSACTION_MS)
        .set("num_stream_threads", "1")
}

fn all(instances: &mut [Instance]) -> Vec<Rest> {
    instances.iter_mut().map(Instance::rest).collect()
}

/// What operators look at in a failover.
const COUNTED: [&str; 3] = ["holdfast_group_rebalances_total", "holdfast_evictions_total", "holdfast_forwards_total"];

fn counted(rests: &[Rest]) -> [f64; COUNTED.len()] {
    COUNTED.map(|name| rests.iter().filter_map(|rest| rest.metric(name, &[])).sum())
}

/// What the others' logs have told since the kill fits on a screen, and says who is gone and who removed it.
fn assert_story(instances: &[Instance], dead: usize, told: &[usize], address: &str) {
    let others = instances.iter().zip(told).enumerate().filter(|(index, _)| *index != dead);
    let stories: Vec<String> = others.map(|(_, (instance, told))| instance.log()[*told..].to_owned()).collect();
    for story in &stories {
        assert!(story.lines().count() <= 10, "a failover in more than ten lines:\n{story}");
        log::assert_said(story, &["seems to be gone"]);
    }
    log::assert_said(&stories.concat(), &["evicted a member whose process is gone", address]);
}

#[test]
fn a_killed_instance_is_evicted_and_its_tasks_go_on_long_before_its_session_ends() {
    let seed = chance::seed("failover");
    let kafka = Kafka::shared();
    let names = Names::fresh("failover");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    for kill in 0..chance::repetitions(2) {
        let dead = kill % 3;
        let address = instances[dead].address();
        let rests: Vec<Rest> =
            instances.iter_mut().enumerate().filter(|(index, _)| *index != dead).map(|(_, i)| i.rest()).collect();
        let readers = Readers::start(&rests, &[Asking::Strong], LOAD.skus);
        readers.wait_answers();
        let (before, evicted) = (counted(&rests), evictions(&rests));
        let told: Vec<usize> = instances.iter().map(|instance| instance.log().len()).collect();
        transactions::kill_within(kafka, &names, &mut instances[dead]);
        let killed = Instant::now();
        wait_owned(&rests, 6);
        let owned = killed.elapsed();
        // What is written from now on becomes readable, and what was open at the kill with it.
        let sent = i64::try_from(traffic.sent()).unwrap();
        wait::until("what was written after the kill to be readable", FRESH.saturating_sub(owned), || {
            let rows = rests[0].try_scan(ITEMS, 100).map_err(|refused| refused.body)?;
            let total: i64 = rows.iter().map(|(_, row)| row["currentStock"].as_i64().unwrap()).sum();
            if total >= sent { Ok(()) } else { Err(format!("{total} of {sent}")) }
        });
        eprintln!("kill {kill} of {address}: tasks owned after {owned:?}, rows fresh after {:?}", killed.elapsed());
        wait::until_true("its peers to remove it, not its session's end", LIMIT, || evictions(&rests) > evicted);
        let now = counted(&rests);
        assert!(now.iter().zip(&before).all(|(now, before)| now > before), "{COUNTED:?}: {before:?}, {now:?}");
        assert_story(&instances, dead, &told, &address);
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        eprintln!("kill {kill}: {answered} reads answered, {} refused", refused.len());
        instances[dead].start_again(&StateFate::Keep);
        cluster::wait_spread(&mut instances);
    }
    let model = traffic.finish();
    for instance in &mut instances {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn with_a_standby_no_read_fails_when_an_instance_is_killed() {
    let seed = chance::seed("standby failover");
    let kafka = Kafka::shared();
    let names = Names::fresh("standby-failover");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names).set("num_standby_replicas", "1"), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let rests: Vec<Rest> = instances[1..].iter_mut().map(Instance::rest).collect();
    let readers = Readers::start(&rests, &[BOUNDED], LOAD.skus);
    readers.wait_answers();
    instances[0].kill();
    wait_owned(&rests, 6);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    assert!(refused.is_empty(), "of {answered} reads: {refused:?}");
    let model = traffic.finish();
    for instance in &mut instances[1..] {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances[1..].iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn with_a_standby_no_read_fails_while_all_instances_are_restarted_in_turn() {
    let seed = chance::seed("roll");
    let kafka = Kafka::shared();
    let names = Names::fresh("rolling");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names).set("num_standby_replicas", "1"), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    for rolled in 0..instances.len() {
        tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
        let others = instances.iter_mut().enumerate().filter(|(index, _)| *index != rolled);
        let rests: Vec<Rest> = others.map(|(_, instance)| instance.rest()).collect();
        let readers = Readers::start(&rests, &[BOUNDED], LOAD.skus);
        readers.wait_answers();
        assert!(instances[rolled].terminate().success());
        readers.wait_answers();
        instances[rolled].start_again(&StateFate::Keep);
        instances[rolled].wait_ready();
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        assert!(refused.is_empty(), "restart {rolled}: of {answered} reads: {refused:?}");
    }
    let model = traffic.finish();
    for instance in &mut instances {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn an_instance_whose_peers_do_not_reach_it_is_gone_around_and_not_evicted() {
    let seed = chance::seed("links");
    let kafka = Kafka::shared();
    let names = Names::fresh("links");
    names.create_topics(kafka, 3);
    let port = ports::free();
    let link = Proxy::start("127.0.0.1", 0, &format!("127.0.0.1:{port}"));
    let config = config(kafka, &names).set("num_standby_replicas", "1");
    let behind = config
        .clone()
        .set("peer_listen", format!("127.0.0.1:{port}"))
        .set("peer_advertise", link.address().to_string());
    let mut instances = vec![behind.start(), config.clone().start(), config.start()];
    cluster::wait_spread(&mut instances);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    let members = cluster::member_addresses(&rests[1]);

    for fault in [Proxy::silence as fn(&Proxy), Proxy::cut] {
        let readers = Readers::start(&rests[1..], &[BOUNDED], LOAD.skus);
        readers.wait_answers();
        fault(&link);
        for _ in 0..5 {
            readers.wait_answers();
        }
        link.mend();
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        assert!(refused.is_empty(), "of {answered} reads: {refused:?}");
    }
    for rest in &rests {
        assert_eq!(rest.metric("holdfast_evictions_total", &[]).unwrap_or(0.0), 0.0, "{}", rest.address());
        assert_eq!(cluster::member_addresses(rest), members);
    }
    let model = traffic.finish();
    for rest in &rests {
        check_exactly(kafka, &names, rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn two_of_four_killed_at_once_are_evicted_and_what_has_a_copy_left_is_answered() {
    let seed = chance::seed("two of four");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("two-of-four");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names).set("num_standby_replicas", "1"), 4);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let described = all(&mut instances)[0].fetch("/v1/instances").json();
    let order: Vec<String> = cluster::members(&described).map(|member| cluster::text(member, "endpoint")).collect();
    // The first in order would evict the other one.
    let doomed = [&order[0], &order[rng.random_range(1..order.len())]];
    let (mut dying, mut alive) = (Vec::new(), Vec::new());
    for mut instance in instances {
        if doomed.contains(&&instance.address()) { dying.push(instance) } else { alive.push(instance) }
    }
    let rests = all(&mut alive);
    let left: BTreeSet<String> = rests.iter().flat_map(tasks::of).map(|task| task.id).collect();
    let task_of = |item: usize| {
        let answer = rests[0].fetch(&format!("/v1/stores/{ITEMS}/keys/Item_{item}")).expect_status(200);
        format!("1_{}", answer.header("Holdfast-Partition"))
    };
    let tasks_of_items: Vec<String> = (0..LOAD.skus as usize).map(task_of).collect();
    let readers = Readers::start(&rests, &[Asking::Strong, BOUNDED], LOAD.skus);
    readers.wait_answers();
    dying.iter_mut().for_each(Instance::kill);
    wait_owned(&rests, 6);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    eprintln!("{} of 6 tasks have a copy left; {answered} reads answered, {} refused", left.len(), refused.len());
    let answerable = |refusal: &Refusal| refusal.item.is_some_and(|item| left.contains(&tasks_of_items[item]));
    let failed = |refusal: &&Refusal| refusal.asking == BOUNDED && answerable(refusal);
    let failed: Vec<&Refusal> = refused.iter().filter(failed).collect();
    assert!(failed.is_empty(), "refused where a copy was left: {failed:?}");
    // Counted when their transactions are ended, too.
    wait::until_true("the survivors to remove both, not their sessions' ends", SOON, || evictions(&rests) >= 2.0);
    let model = traffic.finish();
    for rest in &rests {
        check_exactly(kafka, &names, rest, &model, LIMIT);
    }
    alive.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn under_at_least_once_a_killed_instance_is_evicted_too_and_nothing_is_lost() {
    let seed = chance::seed("at-least-once failover");
    let kafka = Kafka::shared();
    let names = Names::fresh("at-least-once-failover");
    names.create_topics(kafka, 3);
    let config = config(kafka, &names).set("processing_guarantee", "at_least_once").set("num_standby_replicas", "1");
    let mut instances = cluster::start(&config, 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let repartition = names.repartition(kafka);
    let rests = all(&mut instances[1..]);
    // What was read may be counted again and differently: only that there is an answer.
    let readers = Readers::start(&rests, &[Asking::Any], LOAD.skus);
    readers.wait_answers();
    // From before the kill: a moment after it, who takes the tasks over may have committed again.
    let topics = [&names.items, &repartition];
    let committed = topics.map(|topic| consumer::committed_offsets(kafka, &names.application_id, topic));
    instances[0].kill();
    let at_risk: i64 = topics
        .iter()
        .zip(&committed)
        .map(|(topic, committed)| consumer::uncommitted_since(kafka, topic, committed))
        .sum();
    wait_owned(&rests, 6);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    assert!(refused.is_empty(), "of {answered} reads: {refused:?}");
    wait::until_true("its peers to remove it, not its session's end", SOON, || evictions(&rests) >= 1.0);
    let model = traffic.finish();
    let twice = check_twice_at_most(kafka, &names, &rests[0], &model, at_risk, LIMIT);
    eprintln!(
        "{} records, {at_risk} uncommitted at the kill; counted twice (by store, by item): {twice:?}",
        model.accepted
    );
    instances[1..].iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn reads_of_an_instance_that_stands_still_are_hedged() {
    let seed = chance::seed("hedges");
    let kafka = Kafka::shared();
    let names = Names::fresh("hedges");
    names.create_topics(kafka, 3);
    let config = config(kafka, &names)
        .set("num_standby_replicas", "1")
        .set("hedge_after_ms", "20")
        // However long this machine takes: nobody is held to be gone.
        .set("peer_timeout_ms", "60000");
    let mut instances = cluster::start(&config, 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&all(&mut instances), LOAD.skus);
    let homes = tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    // It has items; one of the others has no copy of them, and asks it first, once it has closed a copy that it was left with.
    let mut still = instances.remove(homes["1_0"]);
    let address = still.address();
    let rests = all(&mut instances);
    let served_by_it = |rest: &Rest, item| {
        let answer = rest.fetch(&format!("/v1/stores/{ITEMS}/keys/Item_{item}"));
        answer.header("Holdfast-Served-By") == address
    };
    wait::until_true("reads to go to the one that is to stand still", LIMIT, || {
        rests.iter().any(|rest| (0..LOAD.skus).any(|item| served_by_it(rest, item)))
    });
    let readers = Readers::start(&rests, &[BOUNDED], LOAD.skus);
    readers.wait_answers();
    let hedges = || rests.iter().filter_map(|rest| rest.metric("holdfast_forward_hedges_total", &[])).sum::<f64>();
    let before = hedges();
    still.pause();
    wait::until_true("reads to be hedged", LIMIT, || hedges() > before);
    readers.wait_answers();
    readers.wait_answers();
    still.resume();
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    assert!(refused.is_empty(), "of {answered} reads: {refused:?}");
    assert_eq!(evictions(&rests), 0.0);
    let model = traffic.finish();
    instances.push(still);
    for rest in all(&mut instances) {
        check_exactly(kafka, &names, &rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
