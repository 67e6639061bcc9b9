//! Which crate may depend on which, of ours and of the few others that mark a border.

/// Crates of ours that each folder may depend on. `tests` and `bench` stand on top of all.
const OURS: [(&str, &[&str]); 9] = [
    ("types", &[]),
    ("proto", &[]),
    ("store", &["holdfast-types"]),
    ("stream", &["holdfast-types", "holdfast-store"]),
    ("discovery", &["holdfast-types"]),
    ("service", &["holdfast-types", "holdfast-proto", "holdfast-store", "holdfast-stream", "holdfast-discovery"]),
    (
        "tests",
        &["holdfast-types", "holdfast-proto", "holdfast-store", "holdfast-stream", "holdfast-discovery", "holdfast"],
    ),
    (
        "bench",
        &[
            "holdfast-types",
            "holdfast-proto",
            "holdfast-store",
            "holdfast-stream",
            "holdfast-discovery",
            "holdfast",
            "holdfast-tests",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that only some folders may see: each wire and the storage engine are known in one place.
const BORDERS: [(&str, &[&str]); 6] = [
    ("rdkafka", &["stream", "tests", "bench"]),
    ("kafka-protocol", &["discovery", "tests"]),
    ("rocksdb", &["store", "bench"]),
    ("axum", &["service", "bench"]),
    ("tonic", &["proto", "service", "tests", "bench"]),
    ("tansu-broker", &["service"]),
];

/// Complaints about one `Cargo.toml`.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let Some((folder, _)) = name.split_once('/') else { return Vec::new() };
    let Some((_, allowed)) = OURS.iter().find(|(ours, _)| *ours == folder) else {
        return vec![format!("{name}: a crate that xtask/src/tidy/arrows.rs does not know; add its arrows there")];
    };
    let mut complaints = Vec::new();
    for dependency in dependencies(text) {
        let ours = dependency == "holdfast" || dependency.starts_with("holdfast-");
        if ours && !allowed.contains(&dependency) {
            complaints.push(format!("{name}: no arrow from {folder} to {dependency}; allowed: {}", allowed.join(", ")));
        }
        if let Some((_, folders)) =
            BORDERS.iter().find(|(border, folders)| *border == dependency && !folders.contains(&folder))
        {
            complaints.push(format!("{name}: only {} may depend on {dependency}", folders.join(", ")));
        }
    }
    complaints
}

/// Names in the tables `[dependencies]`, `[dev-dependencies]` and `[build-dependencies]`.
fn dependencies(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).ends_with("dependencies") && !line.contains("workspace");
        } else if inside && !line.starts_with('#') {
            found.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_hold() {
        let manifest =
            "[package]\nname = \"x\"\n[dependencies]\nholdfast-types.workspace = true\n# rocksdb\nrdkafka = \"1\"\n";
        assert_eq!(check("stream/Cargo.toml", manifest), Vec::<String>::new());
        assert_eq!(check("types/Cargo.toml", manifest).len(), 2);
        assert_eq!(check("store/Cargo.toml", "[dev-dependencies]\nholdfast-stream = { path = \"x\" }\n").len(), 1);
        assert_eq!(check("unheard/Cargo.toml", "").len(), 1);
        assert_eq!(check("Cargo.toml", "[workspace.dependencies]\nholdfast = \"1\"\n"), Vec::<String>::new());
    }
}
