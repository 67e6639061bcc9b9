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
    error::{Error, Result},
    load::http::Get,
    workload::WorkloadFlags,
};

/// More than Kafka's default session.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// The instances, by number from 0.
pub(super) struct Cluster<'a> {
    bench: &'a Bench,
    kind: Kind,
    site: Site<'a>,
    nodes: Vec<Node<'a>>,
}

struct Node<'a> {
    site: Site<'a>,
    server: Server,
}

impl<'a> Cluster<'a> {
    /// Starts the instances one after the other, with outputs of as many partitions as the input; each has worked through the input before the next one starts.
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

    /// Waits until every instance has tasks and each task as many standbys as it should.
    pub(super) fn wait_settled(&self, standbys: usize) -> Result<()> {
        let (path, list, active, standby) = match self.kind {
            Kind::Peer => ("/api/v1/stores/meta-data", "", "partitions", "standbyPartitions"),
            _ => ("/v1/instances", "/instances", "active", "standby"),
        };
        let addresses = self.addresses();
        let address = *addresses.first().ok_or_else(|| Error::other("nobody runs"))?;
        wait("each task to have an active and its standbys", || {
            let asked = async { Get::connect(address, path).await?.get("").await };
            let Ok((200, body)) = self.bench.runtime.block_on(asked) else { return Ok(false) };
            let described: Value = serde_json::from_slice(&body)?;
            let members = described.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let of = |member: &Value, name: &str| member.get(name).and_then(Value::as_array).map_or(0, Vec::len);
            let sum = |name| members.iter().map(|member| of(member, name)).sum::<usize>();
            let spread = members.len() == addresses.len() && members.iter().all(|member| of(member, active) > 0);
            Ok(spread && sum(active) * standbys == sum(standby))
        })
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
pub(super) fn wait(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let look = || match there() {
        Ok(false) => Err(()),
        Ok(true) => Ok(Ok(())),
        Err(error) => Ok(Err(error)),
    };
    wait::try_until(LIMIT, look).unwrap_or_else(|()| Err(Error::other(format!("waited {LIMIT:?} for {what}"))))
}
