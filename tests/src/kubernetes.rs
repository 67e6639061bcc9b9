//! Kubernetes: what kustomize makes of `k8s/`, and a real API server that takes it or does not.
//!
//! The program is built by `cargo xtask test` from `tests/kubernetes`. There are no nodes and no controllers: objects are
//! checked, completed and kept, and no pod ever runs.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::{java::target_dir, ports, process::Process, wait};

/// The API server's own start-up takes some seconds, on a busy machine many.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// The folder `k8s/` of the workspace: of the clone that cargo runs the tests of, whichever it built them in.
pub fn manifests() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().join("k8s")
}

/// The objects that kustomize makes of a folder.
#[track_caller]
pub fn render(folder: &Path) -> Vec<Value> {
    let output = Command::new(program()).arg("render").arg(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "kustomize says of {}: {errors}", folder.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A Kubernetes API server with an etcd of its own.
#[derive(Debug)]
pub struct ApiServer {
    // Dropped before the directory with its log, which a failed test shows then.
    process: Process,
    home: TempDir,
}

impl ApiServer {
    /// Starts one on loopback, and waits until it is ready.
    pub fn start() -> Self {
        let home = tempfile::Builder::new().prefix("holdfast-kubernetes-").tempdir().unwrap();
        let args = ["serve".to_owned(), home.path().display().to_string(), ports::free().to_string()];
        let process = Process::start("kube-apiserver", &program(), &args, &[], &home.path().join("log"));
        let mut server = Self { process, home };
        wait::until("kube-apiserver to be ready", READY_LIMIT, || {
            if let Some(status) = server.process.exited() {
                panic!("kube-apiserver ended with {status}");
            }
            server.try_kubectl(&["get", "--raw", "/readyz"], None)
        });
        server
    }

    /// kubectl with these arguments; its output, or the test fails. Warnings of the server are errors here.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, None).unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// The same with an object on standard input (`-f -`).
    #[track_caller]
    pub fn kubectl_with(&self, args: &[&str], object: &Value) -> String {
        self.try_kubectl(args, Some(object)).unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// kubectl with these arguments; its output, or what it complains of.
    pub fn try_kubectl(&self, args: &[&str], object: Option<&Value>) -> Result<String, String> {
        let mut command = Command::new(program());
        command.args(["kubectl", "--kubeconfig"]).arg(self.home.path().join("kubeconfig"));
        // What it learns of the server, it keeps in files: not in the home of whoever runs the tests.
        command.arg("--cache-dir").arg(self.home.path().join("cache")).arg("--warnings-as-errors").args(args);
        command.stdin(match object {
            Some(object) => {
                let input = self.home.path().join("input.json");
                serde_json::to_writer(File::create(&input).unwrap(), object).unwrap();
                File::open(&input).unwrap().into()
            }
            None => Stdio::null(),
        });
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// The definition of ServiceMonitors, which the Prometheus operator brings to a cluster.
pub fn service_monitors() -> PathBuf {
    built("servicemonitors.yaml")
}

fn program() -> PathBuf {
    built("kubernetes")
}

fn built(name: &str) -> PathBuf {
    let path = target_dir().join("kubernetes").join(name);
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds it, with Go", path.display());
    path
}

/// The environment of a container as a kubelet sets it: `sources` are the objects that `envFrom` may name, `field` says what
/// a field of the pod is.
pub fn environment(container: &Value, sources: &[Value], field: impl Fn(&str) -> String) -> Map<String, Value> {
    let mut environment = Map::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let (reference, kind) = match source.get("configMapRef") {
            Some(reference) => (reference, "ConfigMap"),
            None => (&source["secretRef"], "Secret"),
        };
        let found =
            sources.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == reference["name"]);
        assert!(found.is_some() || reference["optional"] == true, "no {kind} {}", reference["name"]);
        environment.extend(found.and_then(|object| object["data"].as_object()).cloned().into_iter().flatten());
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let from = &variable["valueFrom"];
        let value = match (&variable["value"], &from["fieldRef"], &from["resourceFieldRef"]) {
            (Value::String(text), ..) => expand(text, &environment),
            (_, Value::Object(reference), _) => field(reference["fieldPath"].as_str().unwrap()),
            (.., Value::Object(reference)) => {
                let (kind, resource) = reference["resource"].as_str().unwrap().split_once('.').unwrap();
                container["resources"][kind][resource].as_str().unwrap().to_owned()
            }
            _ => panic!("what is {variable}?"),
        };
        environment.insert(variable["name"].as_str().unwrap().to_owned(), value.into());
    }
    environment
}

/// `$(NAME)` of variables that stand before it.
fn expand(text: &str, environment: &Map<String, Value>) -> String {
    environment.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("$({name})"), value.as_str().unwrap_or_default())
    })
}
