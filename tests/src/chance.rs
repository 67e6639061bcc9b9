//! Random choices that can be made again: one seed per test, printed, taken from `HOLDFAST_SEED` if set.

use std::env;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The seed of this run of `test`, said on standard error so that a failure shows it.
pub fn seed(test: &str) -> u64 {
    let seed = match env::var("HOLDFAST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("HOLDFAST_SEED {text:?} is no number: {e}")),
        Err(_) => rand::rng().random_range(0..1_000_000),
    };
    eprintln!("{test}: HOLDFAST_SEED={seed}");
    seed
}

/// A generator for a seed.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// `usual` repetitions, ten times as many with `cargo xtask test --soak`.
pub fn repetitions(usual: usize) -> usize {
    if soak() { usual * 10 } else { usual }
}

/// Whether this is `cargo xtask test --soak`: tests that need minutes run only then.
pub fn soak() -> bool {
    env::var_os("HOLDFAST_SOAK").is_some()
}

/// The guarantees under which a fault is tried: both with `--soak`, else the one that forgives nothing.
pub fn guarantees() -> &'static [&'static str] {
    if soak() { &["exactly_once", "at_least_once"] } else { &["exactly_once"] }
}
