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
    if env::var_os("HOLDFAST_SOAK").is_some() { usual * 10 } else { usual }
}
