//! The manifests in `k8s/`: a real API server takes them, and they say what the service does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use holdfast_tests::{
    instance::binary,
    kubernetes::{self, ApiServer, environment, manifests, render},
    process::Process,
    rest::Rest,
    wait,
};
use serde_json::{Value, json};

const OVERLAYS: [&str; 3] = ["base", "overlays/stateless", "overlays/zones"];
const LIMIT: Duration = Duration::from_secs(30);

/// What kustomize makes of an overlay.
struct Overlay {
    name: &'static str,
    objects: Vec<Value>,
}

impl Overlay {
    fn all() -> impl Iterator<Item = Self> {
        OVERLAYS.into_iter().map(|name| Self { name, objects: render(&manifests().join(name)) })
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The one StatefulSet or Deployment.
    fn workload(&self) -> &Value {
        let workloads: Vec<_> = self.of_kind("StatefulSet").chain(self.of_kind("Deployment")).collect();
        assert_eq!(workloads.len(), 1, "workloads of {}", self.name);
        workloads[0]
    }

    fn template(&self) -> &Value {
        &self.workload()["spec"]["template"]
    }

    fn container(&self) -> &Value {
        let containers = self.template()["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "containers of {}", self.name);
        &containers[0]
    }

    /// The environment that a pod at 127.0.0.1 in zone `a` gets.
    fn environment(&self) -> BTreeMap<String, String> {
        let field = |path: &str| match path {
            "status.podIP" => "127.0.0.1".to_owned(),
            "metadata.labels['topology.kubernetes.io/zone']" => "a".to_owned(),
            other => panic!("what is {other} of a pod?"),
        };
        let environment = environment(self.container(), &self.objects, field);
        environment.into_iter().map(|(name, value)| (name, value.as_str().unwrap().to_owned())).collect()
    }

    /// The container's ports by name.
    fn ports(&self) -> BTreeMap<&str, u64> {
        let ports = self.container()["ports"].as_array().unwrap();
        ports.iter().map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap())).collect()
    }
}

/// The settings as the service understands them.
fn settings(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut command = Command::new(binary());
    let output = command.env_clear().envs(environment).args(["check-config", "--print-config"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        let value = value.split("  # ").next().unwrap_or(value).trim();
        Some((key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Labels that a selector asks for.
fn selected(selector: &Value) -> &serde_json::Map<String, Value> {
    selector.as_object().filter(|labels| !labels.is_empty()).expect("a selector with labels")
}

fn matches(selector: &Value, labels: &Value) -> bool {
    selected(selector).iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn a_real_api_server_takes_each_overlay() {
    let server = ApiServer::start();
    server.kubectl(&["apply", "--server-side", "-f", &kubernetes::service_monitors().display().to_string()]);
    server.kubectl(&["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"]);
    server.kubectl_with(
        &["create", "-f", "-"],
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "labels": {
            "topology.kubernetes.io/zone": "zone-a"}}}),
    );
    for overlay in Overlay::all() {
        let namespace = overlay.name.replace('/', "-");
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"});
        server.kubectl_with(
            &["create", "-f", "-"],
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}),
        );
        let folder = manifests().join(overlay.name).display().to_string();
        let apply = ["-n", &namespace, "apply", "--server-side", "--validate=strict", "-o", "name", "-k", &folder];
        let applied = server.kubectl(&apply);
        assert_eq!(applied.lines().count(), overlay.objects.len(), "{}: {applied}", overlay.name);

        // There is no controller that makes pods: one that is made by hand meets what theirs would meet.
        let mut pod = overlay.template().clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "pod".into();
        for claim in overlay.workload()["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let name = &claim["metadata"]["name"];
            pod["spec"]["volumes"] = json!([{"name": name, "persistentVolumeClaim": {"claimName": name}}]);
        }
        server.kubectl_with(&["-n", &namespace, "create", "--validate=strict", "-f", "-"], &pod);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "pod"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node"}});
        server.kubectl_with(
            &["create", "--raw", &format!("/api/v1/namespaces/{namespace}/pods/pod/binding"), "-f", "-"],
            &binding,
        );
        let zone = r"jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}";
        let zone = server.kubectl(&["-n", &namespace, "get", "pod", "pod", "-o", zone]);
        assert_eq!(zone, "zone-a", "the overlay `zones` reads the zone from the pod's labels");
    }
    refuses_what_is_wrong(&server);
}

/// The proof that the server looks: a field that nobody knows, a pod that is too privileged.
fn refuses_what_is_wrong(server: &ApiServer) {
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut pod = Overlay::all().next().unwrap().template().clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "wrong".into();
        pod["spec"]["volumes"] = json!([{"name": "state", "emptyDir": {}}]);
        change(&mut pod);
        let create = ["-n", "base", "create", "--validate=strict", "-f", "-"];
        let error = server.try_kubectl(&create, Some(&pod)).expect_err(expected);
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    };
    refused(&|pod| pod["spec"]["terminationGracePeriod"] = 30.into(), "unknown field \"spec.terminationGracePeriod\"");
    refused(&|pod| pod["spec"]["securityContext"]["runAsNonRoot"] = false.into(), "violates PodSecurity \"restricted");
}

#[test]
fn the_service_understands_every_variable() {
    for overlay in Overlay::all() {
        let environment = overlay.environment();
        let (settings, ports) = (settings(&environment), overlay.ports());
        let expect = |key: &str, value: &str| assert_eq!(settings[key], value, "{key} in {}", overlay.name);

        expect("listen", &format!("0.0.0.0:{}", ports["http"]));
        expect("peer_listen", &format!("0.0.0.0:{}", ports["peer"]));
        expect("advertise", "127.0.0.1");
        expect("peer_advertise", "127.0.0.1");
        let resources = &overlay.container()["resources"];
        expect("num_stream_threads", resources["requests"]["cpu"].as_str().unwrap());
        // The service takes a share of the container's limit by itself, which is all that it can rely on.
        assert!(!environment.contains_key("HOLDFAST_MEMORY_LIMIT"));
        assert_eq!(resources["requests"]["memory"], resources["limits"]["memory"], "{}", overlay.name);
        let mounts = overlay.container()["volumeMounts"].as_array().unwrap();
        let inside =
            |mount: &Value| settings["state_dir"].starts_with(&format!("{}/", mount["mountPath"].as_str().unwrap()));
        assert!(mounts.iter().any(inside), "{} is in no volume", settings["state_dir"]);
        let replicas = overlay.workload()["spec"]["replicas"].as_u64().unwrap();
        assert!(settings["num_standby_replicas"].parse::<u64>().unwrap() < replicas, "{}", overlay.name);
        if overlay.name == "overlays/zones" {
            expect("tags", "zone=a");
        }
    }
}

#[test]
fn a_pod_has_the_time_to_drain() {
    for overlay in Overlay::all() {
        let settings = settings(&overlay.environment());
        let seconds = |key: &str| settings[key].parse::<u64>().unwrap().div_ceil(1000);
        let pod = &overlay.template()["spec"];
        let before = overlay.container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let drain = before + seconds("drain_delay_ms") + seconds("drain_timeout_ms");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(drain < grace, "{}: {drain} s of draining, and {grace} s until SIGKILL", overlay.name);
    }
}

/// What the probes and the monitor ask for is there: nobody needs Kafka for that.
#[test]
fn the_service_answers_probes_and_monitors() {
    let home = tempfile::tempdir().unwrap();
    for (life, overlay) in Overlay::all().enumerate() {
        let mut environment = overlay.environment();
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value).expect("a variable");
        // The ports that the manifests have may be taken on this machine.
        set("HOLDFAST_LISTEN", "127.0.0.1:0".to_owned());
        set("HOLDFAST_PEER_LISTEN", "127.0.0.1:0".to_owned());
        set("HOLDFAST_STATE_DIR", home.path().join(life.to_string()).display().to_string());
        // Nobody listens there.
        set("HOLDFAST_BOOTSTRAP_SERVERS", "127.0.0.1:1".to_owned());
        let args: Vec<String> = serde_json::from_value(overlay.container()["args"].clone()).unwrap();
        let environment: Vec<_> = environment.into_iter().collect();
        let log = home.path().join(format!("{life}.log"));
        let process = Process::start("holdfast", &binary(), &args, &environment, &log);
        let addresses = wait::until("the service to listen", LIMIT, || {
            let line = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["peer"].is_string());
            process.log().lines().find_map(line).ok_or_else(|| process.tail())
        });
        let ask = |port: &Value, path: &Value| {
            let listener = if port == "http" { "public" } else { port.as_str().unwrap() };
            Rest::new(addresses[listener].as_str().unwrap()).get(path.as_str().unwrap()).unwrap()
        };
        for (probe, status) in [("startupProbe", 200), ("livenessProbe", 200), ("readinessProbe", 503)] {
            let get = &overlay.container()[probe]["httpGet"];
            let answer = ask(&get["port"], &get["path"]).expect_status(status);
            assert!(answer.json()["checks"].is_array(), "{probe} of {}: {}", overlay.name, answer.body);
        }
        for endpoint in
            overlay.of_kind("ServiceMonitor").flat_map(|monitor| monitor["spec"]["endpoints"].as_array().unwrap())
        {
            let answer = ask(&endpoint["port"], &endpoint["path"]).expect_status(200);
            assert!(answer.body.contains("# TYPE holdfast_"), "{}", answer.body);
        }
    }
}

/// Names and labels that only a running cluster would miss.
#[test]
fn selectors_and_ports_meet() {
    for overlay in Overlay::all() {
        let (labels, ports) = (&overlay.template()["metadata"]["labels"], overlay.ports());
        let workload = overlay.workload();
        assert!(matches(&workload["spec"]["selector"]["matchLabels"], labels));
        for service in overlay.of_kind("Service") {
            assert!(matches(&service["spec"]["selector"], labels), "{service}");
            for port in service["spec"]["ports"].as_array().unwrap() {
                assert_eq!(
                    Some(&port["port"].as_u64().unwrap()),
                    ports.get(port["targetPort"].as_str().unwrap()),
                    "{service}"
                );
            }
        }
        if let Some(name) = workload["spec"].get("serviceName") {
            let named = overlay.of_kind("Service").find(|service| service["metadata"]["name"] == *name);
            assert_eq!(named.unwrap()["spec"]["clusterIP"], "None", "{} is to be headless", name);
        }
        for kind in ["PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"] {
            assert_eq!(overlay.of_kind(kind).count(), 1, "{kind} in {}", overlay.name);
        }
        for constraint in overlay.template()["spec"]["topologySpreadConstraints"].as_array().unwrap() {
            assert!(matches(&constraint["labelSelector"]["matchLabels"], labels));
        }
        for budget in overlay.of_kind("PodDisruptionBudget") {
            assert!(matches(&budget["spec"]["selector"]["matchLabels"], labels));
        }
        for monitor in overlay.of_kind("ServiceMonitor") {
            let wanted = &monitor["spec"]["selector"]["matchLabels"];
            let services = overlay.of_kind("Service").filter(|service| matches(wanted, &service["metadata"]["labels"]));
            assert_eq!(services.count(), 1, "each instance is to be read once");
        }
        for policy in overlay.of_kind("NetworkPolicy") {
            assert!(matches(&policy["spec"]["podSelector"]["matchLabels"], labels));
            // The peer listener takes what changes something.
            for rule in policy["spec"]["ingress"].as_array().unwrap() {
                let from = rule["from"].as_array().map_or(0, Vec::len);
                for port in rule["ports"].as_array().unwrap() {
                    assert!(ports.contains_key(port["port"].as_str().unwrap()), "{policy}");
                    assert!(port["port"] != "peer" || from > 0, "{policy}");
                }
                for peer in rule["from"].as_array().into_iter().flatten() {
                    assert!(matches(&peer["podSelector"]["matchLabels"], labels), "{policy}");
                }
            }
        }
    }
}

#[test]
fn a_cluster_without_the_prometheus_operator_gets_no_monitor() {
    let folder = tempfile::tempdir().unwrap();
    // kustomize takes relative paths only.
    let from = folder.path().canonicalize().unwrap();
    let to = manifests().canonicalize().unwrap();
    let up = "../".repeat(from.components().count() - 1) + to.to_str().unwrap().trim_start_matches('/');
    let text = format!("resources: [{up}/base]\ncomponents: [{up}/components/without-prometheus-operator]\n");
    fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
    let kinds = |folder: &Path| render(folder).iter().map(|object| object["kind"].clone()).collect::<Vec<_>>();
    let (all, without) = (kinds(&manifests().join("base")), kinds(folder.path()));
    assert_eq!(without, all.into_iter().filter(|kind| kind != "ServiceMonitor").collect::<Vec<_>>());
}

/// Libraries of the system that the binary is linked with, and Debian's packages of them; libc is everywhere.
const LIBRARIES: [(&str, &str); 5] = [
    ("libssl.so", "libssl3"),
    ("libcrypto.so", "libssl3"),
    ("libz.so", "zlib1g"),
    ("libstdc++.so", "libstdc++6"),
    ("libgcc_s.so", "libgcc-s1"),
];
const LIBC: [&str; 4] = ["linux-vdso.so", "libc.so", "libm.so", "ld-linux"];

#[test]
fn the_image_has_what_the_binary_is_linked_with() {
    let dockerfile = fs::read_to_string(manifests().with_file_name("Dockerfile")).unwrap();
    let (_, image) = dockerfile.split_once("\nFROM debian").unwrap();
    let output = Command::new("ldd").arg(binary()).output().unwrap();
    assert!(output.status.success(), "ldd: {}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let library = line.split_whitespace().next().unwrap().rsplit('/').next().unwrap();
        if LIBC.iter().any(|name| library.starts_with(name)) {
            continue;
        }
        let package = LIBRARIES.iter().find(|(name, _)| library.starts_with(name)).map(|(_, package)| *package);
        let package =
            package.unwrap_or_else(|| panic!("which package of Debian has {library}? Install it in the Dockerfile"));
        assert!(image.contains(&format!(" {package} ")), "the image lacks {package} with {library}");
    }
}
