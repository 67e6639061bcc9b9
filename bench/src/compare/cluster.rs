//! Several instances of one application: started together, settled, killed, stopped and started one by one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use holdfast_tests::wait;
use serde_json::Value;

use super::{
    bench::Bench,
    server::{Kind, Server, Site},
};
use crate::{
    error::{Error, Result, other},
    load::http::Get,
    workload::WorkloadFlags,
};

/// More than Kafka's default session.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Longest time until instances have their tasks and copies. An instance of Kafka Streams that lost its state copies its tasks
/// beside who has them, until the next rebalance that asks for it: see [`PEER_SETTLES`].
const SETTLED_LIMIT: Duration = Duration::from_secs(600);

/// The peer's flags where it has to settle between two events: it looks for copies that are ready to take over once a minute, the
/// least that there is, rather than every ten, and makes them of all tasks of the inventory at once, rather than of two.
pub(super) const PEER_SETTLES: [&str; 4] =
    ["--set", "probing.rebalance.interval.ms=60000", "--set", "max.warmup.replicas=12"];

/// The instances, by number from 0.
pub(super) struct Cluster<'a> {
    bench: &'a Bench,
    kind: Kind,
    site: Site<'a>,
    nodes: Vec<Node<'a>>,
}

/// What one instance has.
struct Member {
    address: SocketAddr,
    /// Tasks, or partitions, that it processes.
    active: usize,
    standby: usize,
    /// Copies that catch up to get a task.
    warm_ups: usize,
}

struct Node<'a> {
    site: Site<'a>,
    server: Server,
}

impl<'a> Cluster<'a> {
    /// Starts the instances one after the other, with outputs of as many partitions as the input; each has worked through the
    /// input before the next one starts.
    pub(super) fn start(
        bench: &'a Bench,
        kind: Kind,
        topic: &str,
        workload: &WorkloadFlags,
        instances: u8,
        flags: &[&str],
    ) -> Result<Self> {
        let site = Site::new(bench, kind, topic, workload);
        let partitions = bench.broker.partitions(topic)?;
        for output in site.outputs() {
            bench.runtime.block_on(bench.broker.create(&output, partitions, &[]))?;
        }
        let nodes = (0..instances).map(|number| {
            let site = site.instance(number, flags);
            let server = site.start_caught_up()?;
            Ok(Node { site, server })
        });
        Ok(Self { bench, kind, nodes: nodes.collect::<Result<_>>()?, site })
    }

    /// The topics that its tasks write to, but for changelogs.
    pub(super) fn outputs(&self) -> [String; 2] {
        self.site.outputs()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.server.address).collect()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.server.pid()).collect()
    }

    fn node(&mut self, number: usize) -> Result<&mut Node<'a>> {
        self.nodes.get_mut(number).ok_or_else(|| Error::other(format!("there is no instance {number}")))
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.node(number)?.server.kill();
        Ok(())
    }

    /// Stops an instance as an operator does; the time that it took.
    pub(super) fn terminate(&mut self, number: usize) -> Result<Duration> {
        let began = Instant::now();
        self.node(number)?.server.terminate()?;
        Ok(began.elapsed())
    }

    /// Starts an instance that has ended, on the state that it left, and waits until it is ready; the time that it took.
    pub(super) fn start_again(&mut self, number: usize) -> Result<Duration> {
        let node = self.node(number)?;
        node.server = node.site.start()?;
        Ok(Duration::from_secs_f64(node.server.ready_s))
    }

    /// Waits until every instance has tasks, each task as many standbys as it should, and none is on its way.
    pub(super) fn wait_settled(&self, standbys: usize) -> Result<()> {
        wait_for(SETTLED_LIMIT, "each instance to have tasks, and each task its standbys", || {
            let members = self.members()?;
            let settled = members.iter().all(|member| member.active > 0 && member.warm_ups == 0);
            Ok(settled && self.replicated(&members, standbys) && self.caught_up()?)
        })
    }

    /// Waits until each task has as many standbys as it should, and they have caught up; the instance that processes the most.
    pub(super) fn wait_replicated(&self, standbys: usize) -> Result<usize> {
        let mut members = Vec::new();
        wait_for(SETTLED_LIMIT, "each task to have its standbys", || {
            members = self.members()?;
            Ok(self.replicated(&members, standbys) && self.caught_up()?)
        })?;
        let busiest = members.iter().max_by_key(|member| member.active).map(|member| member.address);
        let number = self.addresses().iter().position(|address| Some(*address) == busiest);
        number.ok_or_else(|| Error::other("nobody has tasks"))
    }

    /// Whether each task has an instance that runs, and as many standbys as it should. What Kafka Streams copies in order to hand
    /// a task over is a standby more to it: there is none any more.
    fn replicated(&self, members: &[Member], standbys: usize) -> bool {
        let (active, standby) = members.iter().fold((0, 0), |sum, one| (sum.0 + one.active, sum.1 + one.standby));
        let known = self.addresses().iter().all(|address| members.iter().any(|member| member.address == *address));
        known && members.len() == self.nodes.len() && active > 0 && active * standbys == standby
    }

    /// Whether every copy is what it is assigned to be: one that restores yet would replace nobody. The peer does not tell.
    fn caught_up(&self) -> Result<bool> {
        if self.kind == Kind::Peer {
            return Ok(true);
        }
        for address in self.addresses() {
            let answer = async { Get::connect(address, "/v1/tasks").await?.get("").await };
            let Ok((200, body)) = self.bench.runtime.block_on(answer) else { return Ok(false) };
            let described: Value = serde_json::from_slice(&body)?;
            let tasks = described.get("tasks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            if tasks.iter().any(|task| task.get("role") != task.get("assigned")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The members as one of the instances tells them; none while it does not.
    fn members(&self) -> Result<Vec<Member>> {
        let (path, list, address, active, standby) = match self.kind {
            Kind::Peer => ("/api/v1/stores/meta-data", "", "host", "partitions", "standbyPartitions"),
            _ => ("/v1/instances", "/instances", "endpoint", "active", "standby"),
        };
        let asked = *self.addresses().first().ok_or_else(|| Error::other("nobody runs"))?;
        let answer = async { Get::connect(asked, path).await?.get("").await };
        let Ok((200, body)) = self.bench.runtime.block_on(answer) else { return Ok(Vec::new()) };
        let described: Value = serde_json::from_slice(&body)?;
        let members = described.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of = |member: &Value, name: &str| member.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let member = |member: &Value| {
            let address = member.get(address).and_then(Value::as_str).and_then(|address| address.parse().ok());
            let (active, standby) = (of(member, active), of(member, standby));
            // The peer does not tell of those that it has.
            let warm_ups = of(member, "warmup");
            address
                .map(|address| Member { address, active, standby, warm_ups })
                .ok_or_else(|| other(format!("no address: {member}")))
        };
        members.iter().map(member).collect()
    }

    /// Stops all and removes what they leave.
    pub(super) fn remove(self) -> Result<()> {
        for Node { site, server } in self.nodes {
            site.stop(server);
        }
        self.site.remove()
    }
}

/// Looks now and then until `there`.
pub(super) fn wait(what: &str, there: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(LIMIT, what, there)
}

fn wait_for(limit: Duration, what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let look = || match there() {
        Ok(false) => Err(()),
        Ok(true) => Ok(Ok(())),
        Err(error) => Ok(Err(error)),
    };
    wait::try_until(limit, look).unwrap_or_else(|()| Err(Error::other(format!("waited {limit:?} for {what}"))))
}
