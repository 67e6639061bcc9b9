//! Apache Kafka's jars from Maven Central, and a broker in the foreground.

use std::{fs, path::Path, process::Command};

use crate::{
    build_binaries,
    prerequisites::{self, ensure},
    process::{Failure, run},
    workspace,
};

/// `cargo xtask kafka`.
pub(crate) fn kafka(flags: &[String]) -> Result<(), Failure> {
    ensure(&prerequisites::KAFKA)?;
    fetch_jars()?;
    if flags.iter().any(|flag| flag == "--fetch") {
        return Ok(());
    }
    ensure(&prerequisites::BUILD)?;
    build_binaries(&[])?;
    run(workspace::binary("debug", "holdfast-kafka").args(flags))
}

/// Copies the jars that tests/kafka/pom.xml names to `target/kafka/<version>/lib`, unless they are there.
pub(crate) fn fetch_jars() -> Result<(), Failure> {
    let pom = workspace::root().join("tests/kafka/pom.xml");
    let text = fs::read_to_string(&pom).map_err(|e| Failure::new(format!("cannot read {}: {e}", pom.display())))?;
    let version =
        kafka_version(&text).ok_or_else(|| Failure::new(format!("{} does not name <kafka.version>", pom.display())))?;
    let home = workspace::target().join("kafka").join(version);
    let lib = home.join("lib");
    // Written last: a fetch that was interrupted is done again, and so is one from before the last of these was wanted.
    let complete = home.join("complete");
    let wanted = ["kafka_2.13", "kafka-streams"].map(|name| lib.join(format!("{name}-{version}.jar")));
    if complete.exists() && wanted.iter().all(|jar| jar.exists()) {
        return Ok(());
    }
    run(Command::new("mvn")
        .args(["--batch-mode", "--quiet", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(output_directory(&lib)))
    .map_err(|failure| {
        Failure::new(format!(
            "{failure}\nApache Kafka {version} comes from Maven Central; without it, put a Kafka distribution's libs \
             into {} and an empty file `complete` beside it",
            lib.display()
        ))
    })?;
    fs::write(&complete, "").map_err(|e| Failure::new(format!("cannot write {}: {e}", complete.display())))
}

fn output_directory(lib: &Path) -> String {
    format!("-DoutputDirectory={}", lib.display())
}

fn kafka_version(pom: &str) -> Option<&str> {
    let (_, rest) = pom.split_once("<kafka.version>")?;
    rest.split_once("</kafka.version>").map(|(version, _)| version)
}
