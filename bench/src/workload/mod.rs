//! The generated data, as a function of its parameters alone. The peer's `generate` makes the same records in the same
//! order from the same flags, so that each side can check its result by itself.

mod expected;
mod input;
mod random;
mod record;

pub(crate) use expected::{Expected, Tally};
pub(crate) use input::InputFlags;
pub(crate) use record::{Encoder, key};

use clap::{Args, ValueEnum};

use self::random::SplittableRandom;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topology {
    /// Topic `events`, records of about 20 bytes: a count per key, store `Counts`.
    Count,
    /// Topic `items`, JSON of about 160 bytes: the inventory's two tables.
    Both,
}

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distribution {
    /// Each key as often as any other.
    Uniform,
    /// Few keys often, most seldom, as `theta` says.
    Zipf,
}

/// The flags that describe the data, named as the peer names them.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkloadFlags {
    /// Number of records
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) records: u64,
    /// Distinct keys at most (stores, for the inventory)
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i32).range(1..=99_999_999))]
    pub(crate) keys: i32,
    /// Distinct skus of the inventory
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=99_999_999))]
    pub(crate) skus: i32,
    /// The same seed gives the same records
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: i64,
    /// How keys are drawn
    #[arg(long, value_enum, default_value = "uniform")]
    pub(crate) dist: Distribution,
    /// Skew of zipf, between 0 and 1
    #[arg(long, default_value_t = 0.99)]
    pub(crate) theta: f64,
}

impl WorkloadFlags {
    /// Items for tables of so many skus, and half as many stores.
    pub(crate) fn tables(skus: i32) -> Self {
        let records = u64::from(skus.unsigned_abs()) * 5;
        Self { records, keys: skus / 2, skus, seed: 42, dist: Distribution::Uniform, theta: 0.99 }
    }

    /// The same flags as a command line, for another process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = self.shape();
        arguments.extend(["--records".to_owned(), self.records.to_string()]);
        arguments
    }

    /// The flags without the number of records, which the peer reads from the topic.
    pub(crate) fn shape(&self) -> Vec<String> {
        let dist = match self.dist {
            Distribution::Uniform => "uniform",
            Distribution::Zipf => "zipf",
        };
        [
            ("--keys", self.keys.to_string()),
            ("--skus", self.skus.to_string()),
            ("--seed", self.seed.to_string()),
            ("--dist", dist.to_owned()),
            ("--theta", self.theta.to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }
}

/// One generated record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generated {
    pub(crate) id: u64,
    /// Number of the key: of the store, for the inventory.
    pub(crate) key: i32,
    pub(crate) sku: i32,
    pub(crate) quantity: i32,
    pub(crate) sale: bool,
    pub(crate) cents: i32,
}

impl Generated {
    /// What it adds to the stock.
    pub(crate) fn change(&self) -> i64 {
        if self.sale { -i64::from(self.quantity) } else { i64::from(self.quantity) }
    }
}

/// The records in order.
#[derive(Debug)]
pub(crate) struct Workload {
    topology: Topology,
    flags: WorkloadFlags,
    random: SplittableRandom,
    zipf: Option<Zipf>,
    next_id: u64,
}

impl Workload {
    pub(crate) fn new(topology: Topology, flags: &WorkloadFlags) -> Self {
        Self {
            topology,
            random: SplittableRandom::new(flags.seed),
            zipf: (flags.dist == Distribution::Zipf).then(|| Zipf::new(flags.keys, flags.theta)),
            flags: flags.clone(),
            next_id: 0,
        }
    }
}

impl Iterator for Workload {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        if self.next_id >= self.flags.records {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let key = match &self.zipf {
            Some(zipf) => zipf.draw(&mut self.random),
            None => self.random.below(self.flags.keys),
        };
        if self.topology == Topology::Count {
            return Some(Generated { id, key, ..Generated::default() });
        }
        let bits = self.random.next_u64();
        Some(Generated {
            id,
            key,
            sku: ((bits >> 32) % u64::from(self.flags.skus.unsigned_abs())) as i32,
            quantity: 1 + ((bits & 0xff) % 10) as i32,
            sale: (bits >> 8 & 0xff) % 10 < 4,
            cents: 100 + ((bits >> 16 & 0xffff) % 9_900) as i32,
        })
    }
}

/// Gray et al., "Quickly generating billion-record synthetic databases": rank 0 is the most frequent.
#[derive(Debug)]
struct Zipf {
    keys: i32,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(keys: i32, theta: f64) -> Self {
        let zeta = |n: i32| -> f64 { (1..=n).map(|i| 1.0 / f64::from(i).powf(theta)).sum() };
        let all = zeta(keys);
        let eta = (1.0 - (2.0 / f64::from(keys)).powf(1.0 - theta)) / (1.0 - zeta(2) / all);
        Self { keys, theta, alpha: 1.0 / (1.0 - theta), zeta: all, eta }
    }

    fn draw(&self, random: &mut SplittableRandom) -> i32 {
        let drawn = random.next_f64();
        let scaled = drawn * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1.min(self.keys - 1);
        }
        let rank = f64::from(self.keys) * (self.eta * drawn - self.eta + 1.0).powf(self.alpha);
        (rank as i32).min(self.keys - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(dist: Distribution) -> WorkloadFlags {
        WorkloadFlags { records: 1_000_000, keys: 100_000, skus: 20, seed: 42, dist, theta: 0.99 }
    }

    /// What the peer's generator draws with the same flags.
    #[test]
    fn draws_the_peers_keys() {
        let uniform: Vec<_> =
            Workload::new(Topology::Count, &flags(Distribution::Uniform)).take(3).map(|r| r.key).collect();
        assert_eq!(uniform, [45_031, 97_556, 22_481]);
        let zipf: Vec<_> = Workload::new(Topology::Count, &flags(Distribution::Zipf)).map(|r| r.key).collect();
        assert_eq!(zipf[..8], [4_737, 3, 15, 36, 0, 21_366, 7, 9_590]);
        let hash = zipf.iter().fold(0_i64, |hash, key| hash.wrapping_mul(31).wrapping_add(i64::from(*key)));
        assert_eq!(hash, 3_359_124_681_136_118_494);
    }

    #[test]
    fn flags_come_back_from_their_command_line() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: WorkloadFlags,
        }
        let mut given = flags(Distribution::Zipf);
        given.records = 17;
        let line = std::iter::once("bench".to_owned()).chain(given.arguments());
        let parsed = <Line as clap::Parser>::parse_from(line).flags;
        assert_eq!(parsed.arguments(), given.arguments());
    }
}
