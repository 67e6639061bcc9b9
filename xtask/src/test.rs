//! Everything that CI checks, from the quick to the slow.

use crate::{
    kafka, kubernetes,
    prerequisites::{self, ensure},
    process::{Failure, cargo, run, succeeds},
    tidy,
};

/// `cargo xtask test [--soak] [filter…]`.
pub(crate) fn test(flags: &[String]) -> Result<(), Failure> {
    let (soak, filters): (Vec<_>, Vec<_>) = flags.iter().partition(|flag| *flag == "--soak");
    if let Some(unknown) = filters.iter().find(|flag| flag.starts_with('-')) {
        return Err(Failure::new(format!("unknown flag {unknown}; expected --soak and names of tests")));
    }
    ensure(&prerequisites::BUILD)?;
    ensure(&prerequisites::JAVAC)?;
    ensure(&prerequisites::KAFKA)?;
    ensure(&prerequisites::GO)?;
    kafka::fetch_jars()?;
    kubernetes::build()?;
    if filters.is_empty() {
        run(cargo().args(["fmt", "--check"]))?;
        tidy::tidy()?;
        deny()?;
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    }
    // The tests of several processes run the service's binary, which cargo does not build for another package's tests.
    // All targets, so that cargo chooses the same features as for the tests.
    run(cargo().args(["build", "--workspace", "--all-targets"]))?;
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if !soak.is_empty() {
        command.env("HOLDFAST_SOAK", "1");
    }
    if !filters.is_empty() {
        command.arg("--").args(filters);
    }
    run(&mut command)
}

/// Licences, duplicate and foreign sources of dependencies; advisories where their database can be reached.
fn deny() -> Result<(), Failure> {
    if !succeeds("cargo", &["deny", "--version"]) {
        // Building it takes longer than most of the tests: not behind anybody's back.
        println!("note: cargo-deny is not installed, so licences and advisories are not checked here;");
        println!("      `cargo install --locked cargo-deny` adds that check");
        return Ok(());
    }
    run(cargo().args(["deny", "--all-features", "check", "licenses", "bans", "sources"]))?;
    if !succeeds("cargo", &["deny", "fetch", "db"]) {
        println!("note: the database of advisories cannot be reached from here, so advisories are not checked");
        return Ok(());
    }
    run(cargo().args(["deny", "--all-features", "--offline", "check", "advisories"]))
}
