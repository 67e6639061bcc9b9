//! A random mix of faults over three to five instances, under writes and every kind of read: no answer is wrong, nothing is
//! lost or counted twice, and no read fails while another copy is there to answer it. `HOLDFAST_SEED` makes the same choices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::{Duration, Instant};

use holdfast_tests::{
    chance,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::check_exactly,
    kafka::{Kafka, Names},
    load::LoadConfig,
    network::Proxy,
    own_writes::OwnWrites,
    ports,
    readers::{Asking, BOUNDED, Kind, Readers, wait_items},
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};
use rand::{RngExt, rngs::StdRng};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 80, skus: 30, bad_one_in: 50, counting: true };
const PER_S: f64 = 400.0;
const TASKS: usize = 6;
const STEPS: usize = 4;
/// Shorter than a standstill.
const TIGHT: Asking = Asking::Bounded(Duration::from_millis(1_500));
/// Less than after what a peer is held to be gone.
const STANDSTILL: Duration = Duration::from_secs(2);

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Kill(usize, StateFate),
    Restart(usize),
    StandStill(usize),
    Unreachable(usize),
    Add,
    Remove(usize),
    BrokerStops,
    BrokerDies,
}

impl Step {
    fn choose(rng: &mut StdRng, instances: usize) -> Self {
        let one = rng.random_range(0..instances);
        match rng.random_range(0..20) {
            0..6 => Self::Kill(one, if rng.random_bool(0.3) { StateFate::Remove } else { StateFate::Keep }),
            6..9 => Self::Restart(one),
            9..12 => Self::StandStill(one),
            12..14 => Self::Unreachable(one),
            14..16 if instances < 5 => Self::Add,
            14..18 if instances > 3 => Self::Remove(one),
            // The only broker. Stopped, and on a busy machine away for longer than `transaction_timeout_ms`, it is the changelog's
            // known fault.
            18 if chance::soak() => Self::BrokerStops,
            19 if chance::soak() => Self::BrokerDies,
            _ => Self::StandStill(one),
        }
    }

    /// The one that answers nobody meanwhile: a load balancer sends it no reads.
    fn away(&self) -> Option<usize> {
        match self {
            Self::Kill(one, _) | Self::Restart(one) | Self::StandStill(one) | Self::Remove(one) => Some(*one),
            Self::Unreachable(_) | Self::Add | Self::BrokerStops | Self::BrokerDies => None,
        }
    }
}

/// An instance, and the way on which its peers reach it.
struct Node {
    instance: Instance,
    link: Proxy,
}

struct Cluster {
    kafka: Kafka,
    config: InstanceConfig,
    nodes: Vec<Node>,
}

impl Cluster {
    fn add(&mut self) {
        let port = ports::free();
        let link = Proxy::start("127.0.0.1", 0, &format!("127.0.0.1:{port}"));
        let config = self.config.clone().set("peer_listen", format!("127.0.0.1:{port}"));
        let instance = config.set("peer_advertise", link.address().to_string()).start();
        self.nodes.push(Node { instance, link });
    }

    /// Those that answer now, but for one.
    fn rests(&mut self, away: Option<usize>) -> Vec<Rest> {
        let there = self.nodes.iter_mut().enumerate().filter(|(index, _)| Some(*index) != away);
        there.map(|(_, node)| node.instance.rest()).collect()
    }

    /// Takes a step; returns when all that are left are ready.
    fn take(&mut self, step: Step, rng: &mut StdRng) {
        match step {
            Step::Kill(one, fate) => {
                self.nodes[one].instance.kill();
                wait::random_moment(rng, Duration::from_secs(2));
                self.nodes[one].instance.start_again(&fate);
            }
            Step::Restart(one) => {
                assert!(self.nodes[one].instance.terminate().success());
                self.nodes[one].instance.start_again(&StateFate::Keep);
            }
            Step::StandStill(one) => {
                self.nodes[one].instance.pause();
                wait::random_moment(rng, STANDSTILL);
                self.nodes[one].instance.resume();
            }
            Step::Unreachable(one) => {
                let link = &self.nodes[one].link;
                if rng.random_bool(0.5) {
                    link.silence()
                } else {
                    link.cut()
                }
                wait::random_moment(rng, 2 * STANDSTILL);
                link.mend();
            }
            Step::Add => self.add(),
            Step::Remove(one) => assert!(self.nodes.remove(one).instance.terminate().success()),
            Step::BrokerStops => {
                self.kafka.stop();
                self.kafka.start_again();
            }
            Step::BrokerDies => {
                self.kafka.kill();
                self.kafka.start_again();
            }
        }
        self.nodes.iter_mut().for_each(|node| node.instance.wait_ready());
    }
}

#[test]
fn no_answer_is_wrong_and_no_record_is_lost_whatever_happens() {
    let seed = chance::seed("random mix");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::start();
    let names = Names::fresh("mix");
    names.create_topics(&kafka, 3);
    let config = InstanceConfig::new(&kafka, &names)
        // Kafka's default: whoever waits for it fails this test.
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", "1")
        .set("max_replay_ms", "1000");
    let mut cluster = Cluster { kafka, config, nodes: Vec::new() };
    (0..3).for_each(|_| cluster.add());
    let traffic = Traffic::start(&cluster.kafka, &names.items, LOAD, seed, PER_S);
    let rests = cluster.rests(None);
    wait_items(&rests, LOAD.skus);
    let by_key = [Asking::Strong, BOUNDED, TIGHT, Asking::Any].map(Kind::from);
    let kinds = [&by_key[..], &[Asking::Strong.in_scans(), BOUNDED.in_scans(), BOUNDED.in_batches()]].concat();
    let readers = Readers::start(&rests[..1], &kinds, LOAD.skus);
    let own_writes = OwnWrites::start(&cluster.kafka, &names.items, &rests, LOAD.skus.into());
    let begin = Instant::now();
    let steps = chance::repetitions(STEPS);
    for number in 1..=steps {
        // Now and then one fault follows the other before the first one is over.
        let calm = rng.random_bool(0.8);
        let replicated = calm && wait_replicated(&cluster.rests(None));
        let step = Step::choose(&mut rng, cluster.nodes.len());
        eprintln!(
            "{:6.1} s step {number} of {steps}: {step:?}, each task has a copy: {replicated}",
            begin.elapsed().as_secs_f64()
        );
        let through = cluster.rests(step.away());
        readers.go_through(&through);
        own_writes.go_through(&through);
        // What was refused in a step that followed too soon is its own.
        readers.refused();
        // While the broker is away nobody knows how old a copy is.
        let must_answer = replicated && !matches!(step, Step::BrokerStops | Step::BrokerDies);
        cluster.take(step.clone(), &mut rng);
        let rests = cluster.rests(None);
        tasks::wait_processed(&rests, TASKS, LIMIT);
        readers.go_through(&rests);
        own_writes.go_through(&rests);
        readers.wait_answers();
        let refused = readers.refused();
        let failed: Vec<_> = refused.iter().filter(|refusal| matches!(refusal.asking, BOUNDED | Asking::Any)).collect();
        assert!(
            failed.is_empty() || !must_answer,
            "step {number}, {step:?}: refused though each task had a copy: {failed:?}"
        );
        eprintln!("{:6.1} s step {number}: {} reads refused", begin.elapsed().as_secs_f64(), refused.len());
    }
    let (answered, _) = readers.finish();
    let (own, mut model) = (own_writes.finish(), traffic.finish());
    own.apply_to(&mut model);
    eprintln!(
        "{:6.1} s {} records, {answered} reads; of own writes {} reads, {} refused (first: {:?})",
        begin.elapsed().as_secs_f64(),
        model.accepted,
        own.answered,
        own.refused.len(),
        own.refused.first()
    );
    for rest in cluster.rests(None) {
        check_exactly(&cluster.kafka, &names, &rest, &model, LIMIT);
    }
    cluster.nodes.iter_mut().for_each(|node| assert!(node.instance.terminate().success()));
}

/// Waits until each task is processed, and for a while until each has another copy: the slots of one that was stopped are kept
/// for it for minutes.
fn wait_replicated(rests: &[Rest]) -> bool {
    let patience = Instant::now() + Duration::from_secs(5);
    wait::until("copies of all tasks", LIMIT, || {
        let replicated = tasks::wait_processed(rests, TASKS, LIMIT);
        if replicated || Instant::now() > patience { Ok(replicated) } else { Err("some have none") }
    })
}
