//! Tables of what settings accept, refuse and say.

use std::{collections::BTreeMap, path::Path, time::Duration};

use holdfast_types::Endpoint;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn items_topic() -> DomainSetting {
    DomainSetting { key: "items_topic".to_owned(), default: "items".to_owned(), help: String::new() }
}

/// Resolves on a machine of 1000 MiB without a container.
fn resolve(sources: Sources) -> Result<Settings, SettingErrors> {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemTotal: 1024000 kB\n").unwrap();
    let defaults = Defaults { service_name: "inventory".to_owned() };
    Settings::resolve_in(sources, &[items_topic()], &defaults, root.path())
}

fn refused(sources: Sources) -> String {
    resolve(sources).unwrap_err().to_string()
}

fn toml(text: &str) -> Sources {
    Sources::new().toml(Path::new("h.toml"), text)
}

fn flag(key: &str, value: &str) -> Sources {
    Sources::new().flag(key, value)
}

#[test]
fn every_default_parses_as_itself() {
    resolve(Sources::new()).unwrap();
    for spec in SETTINGS.iter().filter(|spec| !spec.default.is_empty()) {
        if let Err(error) = resolve(flag(spec.key, spec.default)) {
            panic!("{}: {error}", spec.key);
        }
    }
}

#[test]
fn every_setting_of_the_table_is_read_and_shown() {
    let settings = resolve(Sources::new()).unwrap();
    let shown: Vec<&str> = settings.shown.iter().map(|shown| shown.key.as_str()).collect();
    for spec in SETTINGS {
        assert_eq!(shown.iter().filter(|key| **key == spec.key).count(), 1, "{}", spec.key);
    }
    assert_eq!(shown.len(), SETTINGS.len() + 1);
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = resolve(Sources::new()).unwrap();
    assert_eq!(settings.application_id, "inventory");
    assert_eq!(settings.bootstrap_list(), "127.0.0.1:9092");
    assert_eq!(settings.listen.public, Endpoint::new("127.0.0.1", 7070));
    assert_eq!(settings.listen.peer, Endpoint::new("127.0.0.1", 7071));
    assert_eq!(settings.commit_interval, Duration::from_millis(100));
    assert_eq!(settings.processing_guarantee, ProcessingGuarantee::ExactlyOnce);
    assert_eq!(settings.memory_limit_bytes, 1_024_000 * 1024 / 100 * 25);
    assert_eq!(settings.dead_letter_topic_for("items"), "items.dlq");
    assert_eq!(&*settings.domain.text("items_topic", "items", ""), "items");
    assert_eq!(settings.requests.default_max_staleness, Duration::from_secs(5));
}

#[test]
fn later_sources_win() {
    let file = "commit_interval_ms = 10\nitems_topic = 'file'";
    let variables =
        environment(&[("HOLDFAST_COMMIT_INTERVAL_MS", "20"), ("HOLDFAST_NUM_STANDBY_REPLICAS", "1"), ("OTHER", "x")]);
    let sources = toml(file).environment(&variables).flag("commit_interval_ms", "30");
    let settings = resolve(sources).unwrap();
    assert_eq!(settings.commit_interval, Duration::from_millis(30));
    assert_eq!(settings.num_standby_replicas, 1);
    assert_eq!(&*settings.domain.text("items_topic", "items", ""), "file");

    let settings = resolve(toml(file).environment(&variables)).unwrap();
    assert_eq!(settings.commit_interval, Duration::from_millis(20));
    let settings = resolve(toml(file)).unwrap();
    assert_eq!(settings.commit_interval, Duration::from_millis(10));

    // What a command derives is a default of its own: every source wins over it.
    let settings = resolve(toml(file).derived("commit_interval_ms", "40", "the demo")).unwrap();
    assert_eq!(settings.commit_interval, Duration::from_millis(10));
}

#[test]
fn print_shows_values_and_origins_and_no_secrets() {
    let variables = environment(&[
        ("HOLDFAST_STATE_DIR", "/data"),
        ("HOLDFAST_KAFKA_SASL_PASSWORD", "hunter2"),
        ("POD_IP", "10.0.0.7"),
    ]);
    let sources = toml("commit_interval_ms = 10\n[kafka]\n'fetch.min.bytes' = 1").environment(&variables);
    let settings = resolve(sources.flag("listen", "0.0.0.0:7070")).unwrap();
    let printed = settings.print();
    let line = |key: &str| {
        let line = printed.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or(&printed);
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("commit_interval_ms"), "commit_interval_ms = 10 # file h.toml");
    assert_eq!(line("state_dir"), "state_dir = \"/data\" # environment HOLDFAST_STATE_DIR");
    assert_eq!(line("listen"), "listen = \"0.0.0.0:7070\" # flag --listen");
    assert_eq!(line("advertise"), "advertise = \"10.0.0.7\" # POD_IP");
    assert_eq!(line("items_topic"), "items_topic = \"items\" # default");
    assert_eq!(line("\"sasl.password\""), "\"sasl.password\" = \"****\" # environment HOLDFAST_KAFKA_SASL_PASSWORD");
    assert_eq!(line("\"fetch.min.bytes\""), "\"fetch.min.bytes\" = 1 # file h.toml");
    assert!(!printed.contains("hunter2") && !format!("{settings:?}").contains("hunter2\""));
    // What is printed can be used as a file again, but for the secret.
    let again = printed.replace("\"****\"", "\"hunter2\"");
    let again = resolve(toml(&again)).unwrap();
    assert_eq!(again.listen, settings.listen);
    assert_eq!(again.kafka.to_map(), settings.kafka.to_map());
    assert_eq!(again.memory_limit_bytes, settings.memory_limit_bytes);
}

#[test]
fn unknown_keys_are_errors_with_a_hint() {
    let cases = [
        (
            toml("comit_interval_ms = 1"),
            "file h.toml: there is no setting `comit_interval_ms`; did you mean `commit_interval_ms`?",
        ),
        (toml("colour = 'red'"), "file h.toml: there is no setting `colour`"),
        (toml("item_topic = 'x'"), "file h.toml: there is no setting `item_topic`; did you mean `items_topic`?"),
        (
            Sources::new().environment(&environment(&[("HOLDFAST_STATEDIR", "x")])),
            "environment HOLDFAST_STATEDIR: there is no setting `statedir`; did you mean `state_dir`?",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(refused(sources), expected);
    }
}

#[test]
fn a_kubernetes_service_of_our_name_is_no_setting() {
    let variables = environment(&[
        ("HOLDFAST_SERVICE_HOST", "10.0.0.1"),
        ("HOLDFAST_SERVICE_PORT", "7070"),
        ("HOLDFAST_SERVICE_PORT_HTTP", "7070"),
        ("HOLDFAST_PORT", "tcp://10.0.0.1:7070"),
        ("HOLDFAST_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("HOLDFAST_PORT_7070_TCP_ADDR", "10.0.0.1"),
        ("HOLDFAST_PEERS_SERVICE_HOST", "10.0.0.1"),
        ("HOLDFAST_PEERS_PORT_7071_TCP_PROTO", "tcp"),
        ("HOLDFAST_SERVER", "http://x"),
        ("HOLDFAST_CONFIG", "h.toml"),
    ]);
    resolve(Sources::new().environment(&variables)).unwrap();
}

#[test]
fn what_the_tests_read_is_no_setting() {
    let variables = environment(&[
        ("HOLDFAST_BIN", "/somewhere/holdfast"),
        ("HOLDFAST_KAFKA_LIB", "/somewhere/lib"),
        ("HOLDFAST_SEED", "1"),
        ("HOLDFAST_SOAK", "1"),
    ]);
    resolve(Sources::new().environment(&variables)).unwrap();
}

#[test]
fn bad_values_say_what_was_expected_and_where_they_came_from() {
    let cases = [
        (
            flag("commit_interval_ms", "0"),
            "flag --commit-interval-ms: `commit_interval_ms` must be milliseconds from 1 to 300000 (or with a unit: 5s, 10min), got \"0\"",
        ),
        (flag("commit_interval_ms", "fast"), "got \"fast\""),
        (flag("memory_limit", "1MiB"), "a size of at least 32MiB, with a unit (512MiB, 2GiB), got \"1MiB\""),
        (flag("memory_limit", "lots"), "got \"lots\""),
        (flag("listen", "7070"), "`listen` must be host:port"),
        (flag("advertise", "0.0.0.0:1"), "`advertise` must be host or host:port that others can reach"),
        (
            flag("bootstrap_servers", ""),
            "`bootstrap_servers` must be a list of host:port, separated by commas, got \"\"",
        ),
        (flag("bootstrap_servers", "a:1,,b:2"), "got \"a:1,,b:2\""),
        (flag("processing_guarantee", "twice"), "exactly_once or at_least_once, got \"twice\""),
        (flag("num_stream_threads", "0"), "a whole number from 1 to 256, got \"0\""),
        (flag("num_standby_replicas", "-1"), "a whole number from 0 to 16, got \"-1\""),
        (flag("application_id", "a b"), "a legal Kafka topic prefix"),
        (flag("items_topic", "a/b"), "`items_topic` must be a legal topic name"),
        (flag("items_topic", ""), "`items_topic` must be a text that is not empty"),
        (
            flag("processing_error", "retry:0:1s:fail"),
            "`processing_error` must be fail, continue, dead_letter, or retry",
        ),
        (flag("processing_error", "retry:2:1s:retry:2:1s:fail"), "`processing_error` must be"),
        (flag("create_topics", "maybe"), "true or false, got \"maybe\""),
        (flag("otlp_endpoint", "collector:4317"), "an http:// or https:// address"),
        (flag("replication_factor", "0"), "-1, or a whole number from 1 to 100"),
        (flag("tags", "zone"), "NAME=VALUE pairs"),
        (
            flag("heartbeat_interval_ms", "5s"),
            "`heartbeat_interval_ms` must be at most a third of `session_timeout_ms`",
        ),
        (
            flag("backlog_commit_interval_ms", "50"),
            "`backlog_commit_interval_ms` must be at least `commit_interval_ms`",
        ),
        (flag("backlog_commit_interval_ms", "6s"), "at most half of `transaction_timeout_ms`"),
        (flag("peer_listen", "127.0.0.1:7070"), "`listen` and `peer_listen` must differ"),
        (toml("listen = {host = 'x'}"), "a plain value; the only table is [kafka]"),
        (toml("listen = "), "h.toml: not TOML"),
        (Sources::new().kafka_flag("novalue"), "PROPERTY=VALUE"),
    ];
    for (sources, expected) in cases {
        let message = refused(sources);
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
    let missing = refused(Sources::new().file(Path::new("/nonexistent/h.toml")));
    assert!(missing.starts_with("cannot read the settings file /nonexistent/h.toml: "), "{missing}");
}

#[test]
fn all_errors_are_reported_at_once() {
    let errors = resolve(toml("listen = 'x'\nlog = ''\nnope = 1")).unwrap_err();
    assert_eq!(errors.0.len(), 3, "{errors}");
}

#[test]
fn values_with_units_and_lists() {
    let settings = resolve(toml(
        "memory_limit = '2GiB'\nmax_body_bytes = 2048\nsession_timeout_ms = '30s'\nbootstrap_servers = ['a:1', '[::1]:2']\n\
         tags = 'zone=a, rack=b'\nprocessing_error = 'retry:3:100ms:dead_letter'",
    ))
    .unwrap();
    assert_eq!(settings.memory_limit_bytes, 2 << 30);
    assert_eq!(settings.requests.max_body_bytes, 2048);
    assert_eq!(settings.session_timeout, Duration::from_secs(30));
    assert_eq!(settings.bootstrap_list(), "a:1,[::1]:2");
    assert_eq!(settings.tags.get("rack").map(String::as_str), Some("b"));
    let then = Box::new(ErrorPolicySetting::DeadLetter);
    let retry = ErrorPolicySetting::Retry { attempts: 3, backoff: Duration::from_millis(100), then };
    assert_eq!(settings.processing_error, retry);
}

#[test]
fn the_interval_of_a_backlog_fits_the_others_unless_it_is_named() {
    for (pairs, expected) in [
        (vec![], 1_000),
        (vec![("transaction_timeout_ms", "1500")], 750),
        (vec![("commit_interval_ms", "4000")], 4_000),
        (vec![("commit_interval_ms", "50"), ("backlog_commit_interval_ms", "50")], 50),
    ] {
        let sources = pairs.iter().fold(Sources::new(), |sources, (key, value)| sources.flag(key, *value));
        let settings = resolve(sources).unwrap();
        assert_eq!(settings.backlog_commit_interval, Duration::from_millis(expected), "{pairs:?}");
    }
}

#[test]
fn addresses_follow_from_each_other() {
    let of = |pairs: &[(&str, &str)], variables: &[(&str, &str)]| {
        let sources = Sources::new().environment(&environment(variables));
        let sources = pairs.iter().fold(sources, |sources, (key, value)| sources.flag(key, *value));
        let listen = resolve(sources).unwrap().listen;
        (listen.peer.to_string(), listen.advertise.at(1).to_string(), listen.peer_advertise.at(2).to_string())
    };
    let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(of(&[("listen", "127.0.0.2:80")], &[]), text("127.0.0.2:81", "127.0.0.2:1", "127.0.0.2:2"));
    assert_eq!(of(&[("listen", "127.0.0.2:0")], &[]), text("127.0.0.2:0", "127.0.0.2:1", "127.0.0.2:2"));
    assert_eq!(
        of(&[("listen", "0.0.0.0:80")], &[("POD_IP", "10.0.0.7")]),
        text("0.0.0.0:81", "10.0.0.7:1", "10.0.0.7:2")
    );
    assert_eq!(of(&[("listen", "0.0.0.0:80")], &[("HOSTNAME", "box")]), text("0.0.0.0:81", "box:1", "box:2"));
    assert_eq!(of(&[("listen", "[::]:80")], &[]), text("[::]:81", "127.0.0.1:1", "127.0.0.1:2"));
    assert_eq!(of(&[("listen", "h:65535")], &[]), text("h:65534", "h:1", "h:2"));
    assert_eq!(of(&[("advertise", "pub:9")], &[("POD_IP", "10.0.0.7")]), text("127.0.0.1:7071", "pub:9", "pub:2"));
    assert_eq!(of(&[], &[("POD_IP", "fd00::7")]), text("127.0.0.1:7071", "[fd00::7]:1", "[fd00::7]:2"));
}

#[test]
fn kafka_properties_pass_through_or_are_refused_with_the_reason() {
    let settings = resolve(
        toml(
            "[kafka]\nsecurity.protocol = 'SASL_SSL'\nsasl.mechanisms = 'SCRAM-SHA-512'\n'ssl.ca.location' = '/ca.pem'",
        )
        .environment(&environment(&[("HOLDFAST_KAFKA_SASL_USERNAME", "me")]))
        .kafka_flag("fetch.wait.max.ms=7"),
    )
    .unwrap();
    for (property, value) in [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("ssl.ca.location", "/ca.pem"),
        ("sasl.username", "me"),
        ("fetch.wait.max.ms", "7"),
    ] {
        assert_eq!(settings.kafka.get(property), Some(value), "{property}");
    }
    for (pair, reason) in [
        ("isolation.level=read_uncommitted", "must read committed records only"),
        ("enable.idempotence=false", "double or reorder"),
        ("transactional.id=x", "fences"),
        ("group.id=x", "use the setting `application_id`"),
        ("enable.auto.commit=true", "committed together with state"),
        ("partitioner=random", "murmur2"),
        ("bootstrap.servers=x:1", "use the setting `bootstrap_servers`"),
        ("sasl.mechanisms=GSSAPI", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ("sasl.kerberos.principal=x", "GSSAPI is not available"),
        ("security.protocol=tls", "PLAINTEXT, SSL"),
        ("log_cb=x", "a pointer of the C library"),
        ("ssl.keystore.location=x", "ssl.certificate.location"),
        ("sasl.jaas.config=x", "sasl.username"),
    ] {
        let message = refused(Sources::new().kafka_flag(pair));
        assert!(message.starts_with("flag --kafka: `kafka.") && message.contains(reason), "{pair}: {message}");
    }
}

#[test]
fn no_setting_looks_like_a_command_or_a_kubernetes_variable() {
    for spec in SETTINGS {
        assert!(!spec.key.starts_with("kafka_") && !spec.key.ends_with("_port"), "{}", spec.key);
    }
}

#[test]
fn a_topology_declares_by_reading() {
    let settings = DomainSettings::with([("items_topic", "mine")]);
    assert_eq!(&*settings.text("items_topic", "items", "Input"), "mine");
    assert_eq!(&*settings.text("output_topic", "out", "Output"), "out");
    settings.text("items_topic", "items", "Input");
    let declared: Vec<String> = settings.declared().into_iter().map(|setting| setting.key).collect();
    assert_eq!(declared, ["items_topic", "output_topic"]);
}
