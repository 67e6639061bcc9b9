//! Three brokers of one cluster, with three replicas of everything: any one of them may go.

use std::thread;

use crate::{
    kafka::{Kafka, KafkaConfig},
    ports,
    wire::Wire,
};

/// Brokers, which are controllers besides.
const BROKERS: usize = 3;

/// The cluster.
#[derive(Debug)]
pub struct Brokers(Vec<Kafka>);

impl Brokers {
    /// Starts them side by side; none is up before there are two.
    pub fn start() -> Self {
        let ports: Vec<(u16, u16)> = (0..BROKERS).map(|_| (ports::free(), ports::free())).collect();
        let voter = |(index, (_, controller)): (usize, &(u16, u16))| format!("{}@127.0.0.1:{controller}", index + 1);
        let voters: Vec<String> = ports.iter().enumerate().map(voter).collect();
        let config = &|index: usize| {
            let (port, controller) = ports[index];
            let properties = [
                ("node.id", (index + 1).to_string()),
                ("controller.quorum.voters", voters.join(",")),
                ("listeners", format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}")),
                ("default.replication.factor", "3".to_owned()),
                ("min.insync.replicas", "2".to_owned()),
                ("offsets.topic.replication.factor", "3".to_owned()),
                ("transaction.state.log.replication.factor", "3".to_owned()),
                ("transaction.state.log.min.isr", "2".to_owned()),
                // Who is gone is missed in a second or two, not in ten.
                ("broker.heartbeat.interval.ms", "300".to_owned()),
                ("broker.session.timeout.ms", "2000".to_owned()),
                ("controller.quorum.fetch.timeout.ms", "1500".to_owned()),
                ("controller.quorum.election.timeout.ms", "500".to_owned()),
            ];
            let properties = properties.map(|(key, value)| (key.to_owned(), value)).into();
            KafkaConfig { properties, port: Some(port), ..KafkaConfig::default() }
        };
        let brokers = thread::scope(|scope| {
            let starting: Vec<_> =
                (0..BROKERS).map(|index| scope.spawn(move || Kafka::start_with(config(index)))).collect();
            starting.into_iter().map(|broker| broker.join().expect("a broker did not start")).collect()
        });
        Self(brokers)
    }

    /// One of them.
    pub fn broker(&self, index: usize) -> &Kafka {
        &self.0[index]
    }

    /// `host:port` of all of them, as instances are told.
    pub fn bootstrap(&self) -> String {
        self.0.iter().map(Kafka::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// The index of the broker that coordinates a group, as the broker at `asked` says; `None` while there is none.
    pub fn coordinator(&self, asked: usize, group: &str) -> Option<usize> {
        let node = Wire::connect(&self.0[asked]).group_coordinator(group)?;
        Some(usize::try_from(node).expect("node ids begin at 1") - 1)
    }
}
