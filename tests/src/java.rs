//! Where the Java runtime and Kafka's jars are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The pom that names Kafka's version; `cargo xtask` resolves it with Maven.
const POM: &str = include_str!("../kafka/pom.xml");

/// Version of Apache Kafka under test.
pub fn kafka_version() -> &'static str {
    POM.split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</kafka.version>"))
        .map(|(version, _)| version)
        .expect("tests/kafka/pom.xml names <kafka.version>")
}

/// The cargo target directory that this executable was built into.
pub fn target_dir() -> PathBuf {
    let executable = env::current_exe().unwrap();
    executable
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").exists())
        .unwrap_or_else(|| panic!("{} is not inside a cargo target directory", executable.display()))
        .to_owned()
}

/// The directory with Kafka's jars: `HOLDFAST_KAFKA_LIB`, or `target/kafka/<version>/lib`.
pub fn kafka_lib() -> PathBuf {
    let lib = match env::var_os("HOLDFAST_KAFKA_LIB") {
        Some(lib) => PathBuf::from(lib),
        None => target_dir().join("kafka").join(kafka_version()).join("lib"),
    };
    assert!(
        lib.join(format!("kafka_2.13-{}.jar", kafka_version())).exists(),
        "Kafka's jars are not in {}: `cargo xtask kafka --fetch` gets them (`cargo xtask test` does so by itself), or \
         set HOLDFAST_KAFKA_LIB to a Kafka distribution's libs directory",
        lib.display()
    );
    lib
}

/// The `java` executable: of `JAVA_HOME`, or the one on the path.
pub fn java() -> PathBuf {
    executable("java")
}

/// The `javac` executable, likewise.
pub fn javac() -> PathBuf {
    executable("javac")
}

fn executable(name: &str) -> PathBuf {
    match env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin").join(name)) {
        Some(path) if path.exists() => path,
        _ => PathBuf::from(name),
    }
}
