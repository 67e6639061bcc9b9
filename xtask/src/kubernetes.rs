//! A Kubernetes API server with kubectl and kustomize, built from the modules that tests/kubernetes/go.mod names.

use std::{fs, path::Path, process::Command};

use crate::{
    process::{Failure, output, run},
    workspace,
};

/// The module that carries the definition of ServiceMonitors.
const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator";
const SERVICE_MONITORS: &str = "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml";

/// Builds `target/kubernetes/kubernetes`, and puts the definition of ServiceMonitors beside it. Go's own cache makes this a
/// matter of seconds when nothing has changed.
pub(crate) fn build() -> Result<(), Failure> {
    let module = workspace::root().join("tests/kubernetes").display().to_string();
    let home = workspace::target().join("kubernetes");
    fs::create_dir_all(&home).map_err(|e| Failure::new(format!("cannot make {}: {e}", home.display())))?;
    // Without symbols: the linker then needs half of the memory.
    run(Command::new("go")
        .args(["-C", &module, "build", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(home.join("kubernetes"))
        .arg("."))?;
    run(Command::new("go").args(["-C", &module, "mod", "download", OPERATOR]))?;
    let operator = output("go", &["-C", &module, "list", "-m", "-f", "{{.Dir}}", OPERATOR]).unwrap_or_default();
    let source = Path::new(operator.trim()).join(SERVICE_MONITORS);
    let copy = home.join("servicemonitors.yaml");
    // What is in Go's cache is read-only, and a copy of it would not be overwritten the next time.
    fs::read(&source)
        .and_then(|text| fs::write(&copy, text))
        .map_err(|e| Failure::new(format!("cannot copy {} to {}: {e}", source.display(), copy.display())))
}
