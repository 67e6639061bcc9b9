//! A service whose closures do what its records say: take long, fail, panic. For the tests of slow and failing user code.
//!
//! A record of topic `orders` is JSON: `{"n": 5, "act": "panic", "at": "aggregate", "ms": 0}`. `sums` adds `n` up by key,
//! `counts` counts records; what fails counts in neither.

// Misbehaving is what it is for.
#![allow(clippy::panic)]

use std::{
    collections::HashSet,
    process::ExitCode,
    sync::{LazyLock, Mutex, mpsc},
    time::Duration,
};

use holdfast::{Service, config::DomainSettings};
use holdfast_stream::prelude::*;
use serde::{Deserialize, Serialize};

/// What a record asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    n: i64,
    #[serde(default)]
    act: Act,
    #[serde(default)]
    at: Place,
    /// How long a sleep takes.
    #[serde(default)]
    ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    #[default]
    Work,
    Sleep,
    Fail,
    /// Fails when it comes for the first time: the same `n` works from then on.
    FailOnce,
    Panic,
}

/// In which closure it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    /// Before any table has changed.
    #[default]
    Filter,
    /// While a row changes.
    Aggregate,
    /// After both tables have changed.
    End,
    /// While the changed rows of a commit are passed on.
    Downstream,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sum {
    sum: i64,
    /// The order that came last, for what happens downstream.
    last: Option<Order>,
}

impl HasCodec for Order {
    type Codec = Json<Self>;
}

impl HasCodec for Sum {
    type Codec = Json<Self>;
}

static SEEN: LazyLock<Mutex<HashSet<i64>>> = LazyLock::new(Mutex::default);

impl Order {
    fn obey(&self, place: Place) -> Result<(), String> {
        if self.at != place {
            return Ok(());
        }
        match self.act {
            Act::Work => Ok(()),
            Act::Sleep => {
                be_slow(self.ms);
                Ok(())
            }
            Act::Fail => Err(format!("order {} is refused", self.n)),
            Act::FailOnce => {
                let new = SEEN.lock().is_ok_and(|mut seen| seen.insert(self.n));
                if new { Err(format!("order {} is refused for now", self.n)) } else { Ok(()) }
            }
            Act::Panic => panic!("order {} wants a panic", self.n),
        }
    }
}

/// Slow user code: a call with a time limit, to something that never answers.
fn be_slow(ms: u64) {
    let (_silent, answer) = mpsc::channel::<()>();
    let _ = answer.recv_timeout(Duration::from_millis(ms));
}

impl Sum {
    fn add(&mut self, _key: &String, order: &Order) -> Result<(), String> {
        let sum = self.sum.checked_add(order.n).ok_or_else(|| format!("{} and {} overflow", self.sum, order.n))?;
        // Half a change, for a panic to leave behind.
        let before = std::mem::replace(&mut self.sum, sum);
        if let Err(error) = order.obey(Place::Aggregate) {
            self.sum = before;
            return Err(error);
        }
        self.last = Some(order.clone());
        Ok(())
    }
}

fn topology(settings: &DomainSettings) -> Result<Topology, TopologyError> {
    let orders = settings.text("orders_topic", "orders", "Topic of orders");
    let sums = settings.text("sums_topic", "sums", "Topic that sums go to");
    let builder = TopologyBuilder::new();
    let orders = builder
        .stream(&orders, Consumed::with(Utf8, Json::<Order>::default()))
        .try_filter(|_key, order| order.obey(Place::Filter).map(|()| true));
    orders
        .group_by_key()
        .aggregate(Sum::default, Sum::add, Materialized::named("sums"))
        .to_stream()
        .try_map_values(|_key: &String, row: &Option<Sum>| {
            let Some(row) = row else { return Ok(0) };
            row.last.as_ref().map_or(Ok(()), |order| order.obey(Place::Downstream))?;
            Ok::<i64, String>(row.sum)
        })
        .to(&sums);
    orders.group_by_key().count(Materialized::named("counts"));
    orders.try_for_each(|_key: &String, order: &Order| order.obey(Place::End));
    builder.build()
}

fn main() -> ExitCode {
    Service::new(topology).name("unruly").run()
}
