//! What has to be on the machine: found, installed with apt-get where that is allowed, or named.

use std::{env, fs, path::Path, process::Command};

use crate::{
    process::{Failure, output, run, succeeds},
    workspace,
};

/// One thing that a build or a test needs.
pub(crate) struct Prerequisite {
    what: &'static str,
    /// Debian's and Ubuntu's package.
    package: &'static str,
    found: fn() -> bool,
}

/// For building.
pub(crate) const BUILD: [Prerequisite; 5] = [
    Prerequisite {
        what: "a C and C++ compiler and make (RocksDB, librdkafka)",
        package: "build-essential",
        found: compilers,
    },
    Prerequisite { what: "libclang (bindgen, for RocksDB)", package: "libclang-dev", found: libclang },
    Prerequisite { what: "pkg-config", package: "pkg-config", found: || succeeds("pkg-config", &["--version"]) },
    Prerequisite { what: "OpenSSL's headers (librdkafka)", package: "libssl-dev", found: || library("openssl") },
    Prerequisite { what: "zlib's headers (librdkafka)", package: "zlib1g-dev", found: || library("zlib") },
];

/// For a real Kafka, and for the tests that start processes.
pub(crate) const KAFKA: [Prerequisite; 4] = [
    Prerequisite { what: "a JDK or JRE, 17 or newer (Apache Kafka)", package: "default-jre-headless", found: java },
    Prerequisite { what: "Maven (fetches Kafka's jars)", package: "maven", found: || succeeds("mvn", &["-v"]) },
    Prerequisite {
        what: "setpriv (ends children with their parent)",
        package: "util-linux",
        found: || succeeds("setpriv", &["--version"]),
    },
    Prerequisite {
        what: "openssl (certificates for tests)",
        package: "openssl",
        found: || succeeds("openssl", &["version"]),
    },
];

/// For the tests that hand state over to Kafka Streams: they compile an application of it. Brings a JRE too.
pub(crate) const JAVAC: [Prerequisite; 1] = [Prerequisite {
    what: "a JDK, 17 or newer (compiles the tests' Kafka Streams application)",
    package: "default-jdk-headless",
    found: || java() && succeeds("javac", &["-version"]),
}];

/// For the tests of the Kubernetes manifests: they run an API server that is built from its Go modules.
pub(crate) const GO: [Prerequisite; 1] = [Prerequisite {
    what: "Go, as new as tests/kubernetes/go.mod says (builds the Kubernetes API server that k8s/ is tested against)",
    package: "golang-go",
    found: go,
}];

/// Finds everything, or installs what is missing, or says what to install.
pub(crate) fn ensure(wanted: &[Prerequisite]) -> Result<(), Failure> {
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    for prerequisite in &missing {
        println!("missing: {}", prerequisite.what);
    }
    let packages: Vec<_> = missing.iter().map(|prerequisite| prerequisite.package).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    let Some(apt_get) = apt_get() else {
        return Err(Failure::new(format!(
            "install what is missing and try again; on Debian and Ubuntu: sudo {by_hand}"
        )));
    };
    // A machine whose package lists are fresh enough needs no network for this; one that was just made does.
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(&packages))?;
    let still: Vec<_> = self::missing(wanted).iter().map(|prerequisite| prerequisite.what).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("still missing after {by_hand}: {}", still.join("; "))))
    }
}

fn missing(wanted: &[Prerequisite]) -> Vec<&Prerequisite> {
    wanted.iter().filter(|prerequisite| !(prerequisite.found)()).collect()
}

/// apt-get as root or through sudo without a password; `None` where neither goes.
fn apt_get() -> Option<fn() -> Command> {
    if !succeeds("apt-get", &["--version"]) {
        None
    } else if output("id", &["-u"]).is_some_and(|id| id.trim() == "0") {
        Some(|| {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command
        })
    } else if succeeds("sudo", &["-n", "true"]) {
        Some(|| {
            let mut command = Command::new("sudo");
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            command
        })
    } else {
        None
    }
}

fn compilers() -> bool {
    ["cc", "c++", "make"].iter().all(|program| succeeds(program, &["--version"]))
}

fn library(name: &str) -> bool {
    succeeds("pkg-config", &["--exists", name])
}

/// bindgen's own search, the part that matters on Linux. Like bindgen, it passes over `libclang-cpp`, which other packages bring and
/// which has not the functions that bindgen calls.
fn libclang() -> bool {
    let mut directories: Vec<_> = env::var_os("LIBCLANG_PATH").into_iter().map(Into::into).collect();
    for root in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
    {
        directories.push(Path::new(root).to_owned());
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        directories.extend(
            entries.filter(|e| e.file_name().to_string_lossy().starts_with("llvm")).map(|e| e.path().join("lib")),
        );
    }
    directories.iter().any(|directory| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| is_libclang(&name))
    })
}

fn is_libclang(name: &str) -> bool {
    let is_c = name.starts_with("libclang.") || name.starts_with("libclang-") && !name.starts_with("libclang-cpp");
    is_c && (name.contains(".so") || name.ends_with(".dylib"))
}

fn java() -> bool {
    output("java", &["-version"]).and_then(|text| java_major(&text)).is_some_and(|major| major >= 17)
}

/// Whether Go takes the module, whose file says how new it has to be.
fn go() -> bool {
    let module = workspace::root().join("tests/kubernetes");
    succeeds("go", &["-C", &module.display().to_string(), "list", "-m"])
}

/// The major version in `openjdk version "17.0.15" 2025-04-15`.
fn java_major(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    version.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_built_with_what_a_build_needs() {
        let dockerfile = include_str!("../../Dockerfile");
        let (build, run) = dockerfile.split_once("\nFROM debian").unwrap();
        for package in BUILD.map(|prerequisite| prerequisite.package) {
            assert!(build.contains(&format!(" {package} ")), "the Dockerfile does not install {package}");
            assert!(!run.contains(package), "{package} is not needed to run");
        }
        let toolchain = include_str!("../../rust-toolchain.toml");
        let channel = toolchain.split('"').nth(1).unwrap();
        assert!(
            build.contains(&format!("FROM rust:{channel}-slim")) && build.contains(&format!("TOOLCHAIN={channel}\n"))
        );
    }

    #[test]
    fn versions_and_libraries_are_recognised() {
        assert_eq!(java_major("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(java_major("openjdk version \"21-ea\" 2023"), Some(21));
        assert_eq!(java_major("java version \"1.8.0_201\""), Some(1));
        assert_eq!(java_major("command not found"), None);
        for name in ["libclang.so", "libclang-14.so.14.0.6", "libclang.so.1", "libclang.dylib"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang-cpp.dylib", "libclangAST.a", "libclang-14.a", "libz.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
