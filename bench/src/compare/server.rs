//! The servers under measurement: started on their state, ready, stopped.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use holdfast_tests::{ports, process::Process};

use super::bench::Bench;
use crate::{
    broker::GroupProgress,
    error::{Error, Result},
    load::http::Get,
    workload::{Topology, WorkloadFlags},
};

const READY_LIMIT: Duration = Duration::from_secs(120);
const CAUGHT_UP_LIMIT: Duration = Duration::from_secs(600);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Holdfast,
    FloorRest,
    FloorGrpc,
    Peer,
}

/// A server with its state, between its lives.
#[derive(Clone)]
pub(crate) struct Site<'a> {
    pub(crate) kind: Kind,
    bench: &'a Bench,
    topology: Topology,
    topic: String,
    workload: WorkloadFlags,
    application_id: String,
    state: PathBuf,
    address: Ipv4Addr,
    more_flags: Vec<String>,
}

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// From the start of its process until it was ready, in seconds.
    pub(crate) ready_s: f64,
    process: Process,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits until it has ended; another status than 0 is an error.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let status = self.process.terminate(STOP_LIMIT);
        // A JVM that ends by a signal says so.
        if status.success() || status.code() == Some(143) {
            return Ok(());
        }
        Err(Error::other(format!("SIGTERM ended it with {status}\n{}", self.process.tail())))
    }
}

impl<'a> Site<'a> {
    /// A service of the inventory.
    pub(crate) fn new(bench: &'a Bench, kind: Kind, topic: &str, workload: &WorkloadFlags) -> Self {
        let application_id = bench.name(match kind {
            Kind::Holdfast => "served",
            Kind::FloorRest | Kind::FloorGrpc => "floor-served",
            Kind::Peer => "peer-served",
        });
        let state = bench.path(&application_id);
        let (topic, workload) = (topic.to_owned(), workload.clone());
        let (address, more_flags) = (Ipv4Addr::LOCALHOST, Vec::new());
        let topology = Topology::Both;
        Self { kind, bench, topology, topic, workload, application_id, state, address, more_flags }
    }

    /// A service of the counts in its place.
    pub(crate) fn counting(self) -> Self {
        Self { topology: Topology::Count, ..self }
    }

    /// The same one, started with further flags.
    pub(crate) fn with(&self, more_flags: &[&str]) -> Self {
        let more_flags = more_flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { more_flags, ..self.clone() }
    }

    /// One of several instances of it, by number from 0, on an address of its own.
    pub(crate) fn instance(&self, number: u8, more_flags: &[&str]) -> Self {
        let state = self.state.join(number.to_string());
        let address = Ipv4Addr::new(127, 0, 0, number + 2);
        Self { state, address, ..self.with(more_flags) }
    }

    /// Whether it works through a topic; a floor's rows are there.
    pub(crate) fn has_input(&self) -> bool {
        matches!(self.kind, Kind::Holdfast | Kind::Peer)
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Server> {
        let address = SocketAddr::from((self.address, ports::free()));
        let started = Instant::now();
        let mut process = match self.kind {
            Kind::Holdfast if self.topology == Topology::Count => {
                self.bench.start_own("serve", &self.counting_flags(address))
            }
            Kind::Holdfast => self.bench.start_service(&self.service_flags(address), &[]),
            Kind::FloorRest => self.bench.start_own("floor-rest", &self.floor_flags(address)),
            Kind::FloorGrpc => self.bench.start_own("floor-grpc", &self.floor_flags(address)),
            Kind::Peer => {
                let peer = self.bench.peer.as_ref().ok_or_else(|| Error::other("there is no peer"))?;
                self.bench.start_peer(peer, &self.peer_flags(address))
            }
        };
        while !self.ready(address) {
            if let Some(status) = process.exited() {
                return Err(Error::other(format!("{:?} ended with {status}\n{}", self.kind, process.tail())));
            }
            if started.elapsed() > READY_LIMIT {
                return Err(Error::other(format!(
                    "{:?} was not ready in {READY_LIMIT:?}\n{}",
                    self.kind,
                    process.tail()
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Server { address, ready_s: started.elapsed().as_secs_f64(), process })
    }

    /// Starts it and waits until it has processed all of its input.
    pub(crate) fn start_caught_up(&self) -> Result<Server> {
        let server = self.start()?;
        if !self.has_input() {
            return Ok(server);
        }
        // Once the input is worked off, repartition topics have all that is to be read there.
        let (mut first, mut second) = (Some(self.progress()?), None);
        let deadline = Instant::now() + CAUGHT_UP_LIMIT;
        loop {
            let missing = first.as_ref().or(second.as_ref()).map_or(Ok(0), GroupProgress::missing)?;
            match missing {
                0 if first.take().is_some() => second = Some(self.progress()?),
                0 => return Ok(server),
                missing if Instant::now() > deadline => {
                    return Err(Error::other(format!("{:?} has still {missing} records to process", self.kind)));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// What it has to commit until it has worked through what its input, and a repartition topic, hold now.
    pub(crate) fn progress(&self) -> Result<GroupProgress> {
        GroupProgress::new(&self.bench.broker, &self.application_id, &self.topic, true)
    }

    /// Stops it as an operator does, keeping its state.
    pub(crate) fn stop(&self, mut server: Server) {
        if self.has_input() {
            server.process.terminate(STOP_LIMIT);
        }
    }

    /// The topics that it writes the tables' changes to.
    pub(crate) fn outputs(&self) -> [String; 2] {
        ["store", "item"].map(|table| format!("{}-{table}-output", self.application_id))
    }

    /// Removes its state and its topics.
    pub(crate) fn remove(&self) -> Result<()> {
        self.bench.clean(&self.application_id)
    }

    fn ready(&self, address: SocketAddr) -> bool {
        let path = match self.kind {
            Kind::Holdfast => "/healthz/ready",
            Kind::FloorRest | Kind::Peer => "/ready",
            Kind::FloorGrpc => return std::net::TcpStream::connect(address).is_ok(),
        };
        let asked = async { Get::connect(address, path).await?.get("").await };
        self.bench.runtime.block_on(asked).is_ok_and(|(status, _)| status == 200)
    }

    fn service_flags(&self, address: SocketAddr) -> Vec<String> {
        let [store_output, item_output] = self.outputs();
        let flags = [
            ("--bootstrap-servers", self.bench.broker.bootstrap().to_owned()),
            ("--application-id", self.application_id.clone()),
            ("--state-dir", self.state.display().to_string()),
            ("--listen", address.to_string()),
            ("--peer-listen", format!("{}:0", address.ip())),
            ("--items-topic", self.topic.clone()),
            ("--store-output-topic", store_output),
            ("--item-output-topic", item_output),
        ];
        std::iter::once("serve".to_owned())
            .chain(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]))
            .chain(self.more_flags.iter().cloned())
            .collect()
    }

    fn counting_flags(&self, address: SocketAddr) -> Vec<String> {
        let flags = [
            ("--bootstrap", self.bench.broker.bootstrap().to_owned()),
            ("--topology", "count".to_owned()),
            ("--topic", self.topic.clone()),
            ("--application-id", self.application_id.clone()),
            ("--state-dir", self.state.display().to_string()),
            ("--set", format!("listen={address}")),
            ("--set", format!("peer_listen={}:0", address.ip())),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        flags.chain(self.more_flags.iter().cloned()).collect()
    }

    fn peer_flags(&self, address: SocketAddr) -> Vec<String> {
        let [store_output, item_output] = self.outputs();
        let flags = [
            ("--bootstrap", self.bench.broker.bootstrap().to_owned()),
            ("--topology", if self.topology == Topology::Count { "count" } else { "both" }.to_owned()),
            ("--application-id", self.application_id.clone()),
            ("--state-dir", self.state.display().to_string()),
            ("--listen", address.to_string()),
            ("--topic", self.topic.clone()),
            ("--store-output", store_output),
            ("--item-output", item_output),
            ("--guarantee", "exactly_once_v2".to_owned()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        flags.chain(self.more_flags.iter().cloned()).collect()
    }

    fn floor_flags(&self, address: SocketAddr) -> Vec<String> {
        let flags = [("--listen", address.to_string()), ("--state-dir", self.state.display().to_string())];
        let own = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        own.chain(self.workload.arguments()).chain(self.more_flags.iter().cloned()).collect()
    }
}
