//! From sources to [`Settings`]: parsing, bounds, and what is derived from the surroundings.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, time::Duration};

use holdfast_types::{Endpoint, StoreName};

use super::{
    Advertise, Defaults, DomainSetting, DomainSettings, ErrorPolicySetting, KafkaProperties, ListenSettings, Origin,
    ProcessingGuarantee, ReadyWhen, RequestBounds, RoutingMode, SETTINGS, Secret, SettingError, SettingErrors,
    Settings, Sources, TopicSettings, cgroup,
    error::nearest,
    settings::Shown,
    sources::Sourced,
    table, units,
    words::{
        advertised, boolean, duration_in, endpoints, guarantee, is_unspecified, legal_topic, log_format, offset_reset,
        on_fatal_error, policy, show_host, tags,
    },
};

const DAY_MS: u64 = 86_400_000;
/// Unless it is named. Rows that change often merge better in a longer one, but whoever reads a repartition topic waits for it.
const BACKLOG_COMMIT_INTERVAL: Duration = Duration::from_secs(1);

impl Settings {
    /// Checks all sources and fills in what none of them names. `domain` is what the topology declares.
    pub fn resolve(sources: Sources, domain: &[DomainSetting], defaults: &Defaults) -> Result<Self, SettingErrors> {
        Self::resolve_in(sources, domain, defaults, Path::new("/"))
    }

    /// The same with a root directory of one's own for what the operating system says about memory.
    pub(crate) fn resolve_in(
        sources: Sources,
        domain: &[DomainSetting],
        defaults: &Defaults,
        root: &Path,
    ) -> Result<Self, SettingErrors> {
        let mut read = Reader { values: sources.values, errors: sources.errors, shown: Vec::new() };
        read.refuse_unknown(domain);
        let kafka = KafkaProperties::check(&sources.kafka, &mut read.errors);

        let service_name = if defaults.service_name.is_empty() { "holdfast" } else { &defaults.service_name };
        let application_id = read.parse_or(
            "application_id",
            "a legal Kafka topic prefix: letters, digits, `.`, `_`, `-`, at most 200",
            |text| StoreName::is_legal(text).then(|| text.to_owned()),
            || (service_name.to_owned(), service_name.to_owned(), Origin::Default),
        );
        let session_timeout = read.duration("session_timeout_ms", 1_000..=300_000);
        let heartbeat_interval = read.duration("heartbeat_interval_ms", 50..=100_000);
        let commit_interval = read.duration("commit_interval_ms", 1..=300_000);
        let transaction_timeout = read.duration("transaction_timeout_ms", 1_000..=900_000);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (memory, memory_origin) = cgroup::Memory::read(root).default_limit();

        let mut settings = Self {
            bootstrap_servers: read.parse("bootstrap_servers", "a list of host:port, separated by commas", endpoints),
            application_id,
            session_timeout,
            heartbeat_interval,
            rebalance_timeout: read.duration("rebalance_timeout_ms", 1_000..=10_000),
            transaction_timeout,
            kafka,
            listen: read.listen(sources.pod_ip.as_deref(), sources.hostname.as_deref()),
            tags: read.parse("tags", "NAME=VALUE pairs, separated by commas", tags),
            peer_token: read.secret("peer_token", "visible ASCII characters, at least 8", |text| {
                text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_graphic())
            }),
            peer_timeout: read.duration("peer_timeout_ms", 500..=60_000),
            drain_timeout: read.duration("drain_timeout_ms", 100..=600_000),
            drain_delay: read.duration("drain_delay_ms", 0..=300_000),
            ready_when: read.parse("ready_when", "answering or caught_up", |text| match text {
                "answering" => Some(ReadyWhen::Answering),
                "caught_up" => Some(ReadyWhen::CaughtUp),
                _ => None,
            }),
            processing_guarantee: read.parse("processing_guarantee", "exactly_once or at_least_once", guarantee),
            num_stream_threads: read.parse_or(
                "num_stream_threads",
                "a whole number from 1 to 256",
                |text| text.parse().ok().filter(|n| (1..=256).contains(n)),
                || {
                    let threads = u32::try_from(cores.min(256)).unwrap_or(1);
                    (threads, threads.to_string(), Origin::Derived("one per processor".to_owned()))
                },
            ),
            num_standby_replicas: read.number("num_standby_replicas", 0..=16),
            acceptable_recovery_lag: read.number("acceptable_recovery_lag", 0..=u64::MAX),
            max_warmup_replicas: read.number("max_warmup_replicas", 1..=10_000),
            probing_rebalance_interval: read.duration("probing_rebalance_interval_ms", 60_000..=DAY_MS),
            drained_slot_retention: read.duration("drained_slot_retention_ms", 0..=DAY_MS),
            rack_aware_assignment_tags: read.parse(
                "rack_aware_assignment_tags",
                "names of tags, separated by commas",
                |text| {
                    Some(text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect())
                },
            ),
            commit_interval,
            backlog_commit_interval: read.duration_or("backlog_commit_interval_ms", 1..=300_000, || {
                let (usual, most) = (BACKLOG_COMMIT_INTERVAL, transaction_timeout / 2);
                let derived = usual.min(most).max(commit_interval);
                let reason = || "from `commit_interval_ms` to half of `transaction_timeout_ms`".to_owned();
                let origin = if derived == usual { Origin::Default } else { Origin::Derived(reason()) };
                (derived, derived.as_millis().to_string(), origin)
            }),
            offset_reset: read.parse("offset_reset", "earliest, latest or none", offset_reset),
            on_fatal_error: read.parse("on_fatal_error", "replace or exit", on_fatal_error),
            state_dir: read.parse("state_dir", "a path", |text| (!text.is_empty()).then(|| text.into())),
            memory_limit_bytes: read.parse_or(
                "memory_limit",
                "a size of at least 32MiB, with a unit (512MiB, 2GiB)",
                |text| units::bytes(text).filter(|bytes| *bytes >= cgroup::LEAST_BYTES),
                || (memory, units::show_bytes(memory), Origin::Derived(memory_origin)),
            ),
            max_replay: read.duration("max_replay_ms", 100..=3_600_000),
            slow_record: read.duration("slow_record_ms", 1..=DAY_MS),
            state_cleanup_delay: read.duration("state_cleanup_delay_ms", 0..=365 * DAY_MS),
            deserialization_error: read.policy("deserialization_error"),
            processing_error: read.policy("processing_error"),
            production_error: read.policy("production_error"),
            dead_letter_topic: read.topic("dead_letter_topic"),
            topics: TopicSettings {
                create: read.parse("create_topics", "true or false", boolean),
                input_partitions: read.number("topic_partitions", 1..=10_000),
                output_partitions: read.number("output_topic_partitions", 1..=10_000),
                replication_factor: read.parse("replication_factor", "-1, or a whole number from 1 to 100", |text| {
                    text.parse().ok().filter(|n| *n == -1 || (1..=100).contains(n))
                }),
            },
            requests: read.requests(),
            log: read.parse("log", "a level (info) or target=level pairs, separated by commas", |text| {
                (!text.is_empty()).then(|| text.to_owned())
            }),
            log_format: read.parse("log_format", "auto, text or json", log_format),
            otlp_endpoint: read.optional("otlp_endpoint", "an http:// or https:// address", |text| {
                (text.starts_with("http://") || text.starts_with("https://")).then(|| text.to_owned())
            }),
            domain: DomainSettings::default(),
            shown: Vec::new(),
        };
        settings.domain = read.domain(domain);
        settings.check(&mut read.errors);
        if read.errors.is_empty() {
            settings.shown = read.shown;
            Ok(settings)
        } else {
            Err(SettingErrors(read.errors))
        }
    }

    /// What only two settings together can get wrong.
    fn check(&self, errors: &mut Vec<SettingError>) {
        let mut need = |holds: bool, text: String| {
            if !holds {
                errors.push(SettingError::Conflict(text));
            }
        };
        let ms = Duration::as_millis;
        need(
            self.heartbeat_interval * 3 <= self.session_timeout,
            format!(
                "`heartbeat_interval_ms` must be at most a third of `session_timeout_ms`, or one lost heartbeat ends the \
                 membership: got {} and {}",
                ms(&self.heartbeat_interval),
                ms(&self.session_timeout)
            ),
        );
        need(
            self.commit_interval <= self.backlog_commit_interval,
            format!(
                "`backlog_commit_interval_ms` must be at least `commit_interval_ms`: got {} and {}",
                ms(&self.backlog_commit_interval),
                ms(&self.commit_interval)
            ),
        );
        need(
            self.processing_guarantee == ProcessingGuarantee::AtLeastOnce
                || self.backlog_commit_interval * 2 <= self.transaction_timeout,
            format!(
                "`backlog_commit_interval_ms` must be at most half of `transaction_timeout_ms`, or the broker aborts \
                 transactions that are being filled: got {} and {}",
                ms(&self.backlog_commit_interval),
                ms(&self.transaction_timeout)
            ),
        );
        need(
            self.requests.default_timeout <= self.requests.max_timeout,
            format!(
                "`request_timeout_ms` must be at most `max_request_timeout_ms`: got {} and {}",
                ms(&self.requests.default_timeout),
                ms(&self.requests.max_timeout)
            ),
        );
        need(
            self.listen.public != self.listen.peer || self.listen.public.port == 0,
            format!("`listen` and `peer_listen` must differ: both are {}", self.listen.public),
        );
    }
}

/// Reads values one by one and collects what is wrong and what to show.
struct Reader {
    values: BTreeMap<String, Sourced>,
    errors: Vec<SettingError>,
    shown: Vec<Shown>,
}

impl Reader {
    fn refuse_unknown(&mut self, domain: &[DomainSetting]) {
        let known = || SETTINGS.iter().map(|spec| spec.key).chain(domain.iter().map(|setting| setting.key.as_str()));
        for (key, (_, origin)) in &self.values {
            if !known().any(|name| name == key) {
                self.errors.push(SettingError::UnknownKey {
                    key: key.clone(),
                    origin: origin.clone(),
                    nearest: nearest(key, known()),
                });
            }
        }
    }

    /// The value of a key that has a default in the table.
    fn parse<T: Default>(&mut self, key: &'static str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let default = table::find(key).map_or("", |spec| spec.default);
        // Every default in the table parses; a test holds it to that.
        let fallback = || (parse(default).unwrap_or_default(), default.to_owned(), Origin::Default);
        self.parse_or(key, expected, &parse, fallback)
    }

    /// The value of a key, or what `fallback` makes: value, how it is shown, and where it comes from.
    fn parse_or<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
        fallback: impl FnOnce() -> (T, String, Origin),
    ) -> T {
        if let Some((text, origin)) = self.values.get(key) {
            if let Some(value) = parse(text.trim()) {
                self.shown.push(Shown { key: key.to_owned(), value: text.clone(), origin: origin.clone() });
                return value;
            }
            self.errors.push(SettingError::Value {
                key: key.to_owned(),
                origin: origin.clone(),
                expected: expected.to_owned(),
                got: text.clone(),
            });
        }
        let (value, text, origin) = fallback();
        self.shown.push(Shown { key: key.to_owned(), value: text, origin });
        value
    }

    fn optional<T>(&mut self, key: &'static str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let parse = |text: &str| if text.is_empty() { Some(None) } else { parse(text).map(Some) };
        self.parse_or(key, expected, parse, || (None, String::new(), Origin::Default))
    }

    /// A text that is shown nowhere, neither where it is printed nor where it is wrong.
    fn secret(&mut self, key: &'static str, expected: &str, fits: impl Fn(&str) -> bool) -> Option<Secret> {
        const SHOWN: &str = "****";
        let given = self.values.get(key).map(|(text, origin)| (text.trim().to_owned(), origin.clone()));
        let (text, origin) = given.unwrap_or((String::new(), Origin::Default));
        let shown = if text.is_empty() { "" } else { SHOWN };
        self.shown.push(Shown { key: key.to_owned(), value: shown.to_owned(), origin: origin.clone() });
        if text.is_empty() {
            return None;
        }
        if !fits(&text) {
            let (key, expected, got) = (key.to_owned(), expected.to_owned(), SHOWN.to_owned());
            self.errors.push(SettingError::Value { key, origin, expected, got });
            return None;
        }
        Some(Secret::new(text))
    }

    fn duration(&mut self, key: &'static str, ms: RangeInclusive<u64>) -> Duration {
        let (expected, parse) = duration_in(ms);
        self.parse(key, &expected, parse)
    }

    fn duration_or(
        &mut self,
        key: &'static str,
        ms: RangeInclusive<u64>,
        fallback: impl FnOnce() -> (Duration, String, Origin),
    ) -> Duration {
        let (expected, parse) = duration_in(ms);
        self.parse_or(key, &expected, parse, fallback)
    }

    fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: Default + PartialOrd + std::str::FromStr + std::fmt::Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.parse(key, &expected, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> usize {
        let show = units::show_bytes;
        let expected = format!("a size from {} to {}, with a unit", show(*range.start()), show(*range.end()));
        self.parse(key, &expected, |text| {
            units::bytes(text).filter(|bytes| range.contains(bytes)).and_then(|bytes| usize::try_from(bytes).ok())
        })
    }

    fn topic(&mut self, key: &'static str) -> Option<String> {
        self.optional(key, TOPIC_EXPECTED, |text| legal_topic(text).then(|| text.to_owned()))
    }

    fn policy(&mut self, key: &'static str) -> ErrorPolicySetting {
        let expected = "fail, continue, dead_letter, or retry:ATTEMPTS:BACKOFF:THEN (retry:3:100ms:dead_letter)";
        self.parse(key, expected, policy)
    }

    fn requests(&mut self) -> RequestBounds {
        const GIB: u64 = 1 << 30;
        RequestBounds {
            routing: self.parse("routing", "proxy or redirect", |text| match text {
                "proxy" => Some(RoutingMode::Proxy),
                "redirect" => Some(RoutingMode::Redirect),
                _ => None,
            }),
            hedge_after: Some(self.duration("hedge_after_ms", 0..=60_000)).filter(|after| !after.is_zero()),
            default_max_staleness: self.duration("max_staleness_ms", 0..=DAY_MS),
            default_timeout: self.duration("request_timeout_ms", 1..=600_000),
            max_timeout: self.duration("max_request_timeout_ms", 1..=600_000),
            max_concurrent_requests: self.number("max_concurrent_requests", 1..=1_000_000),
            max_concurrent_scans: self.number("max_concurrent_scans", 1..=10_000),
            max_body_bytes: self.size("max_body_bytes", 1024..=GIB),
            max_key_bytes: self.size("max_key_bytes", 16..=16 << 20),
            max_batch_keys: self.number("max_batch_keys", 1..=1_000_000),
            max_scan_rows: self.number("max_scan_rows", 1..=1_000_000),
            max_scan_bytes: self.size("max_scan_bytes", 1024..=GIB),
        }
    }

    fn listen(&mut self, pod_ip: Option<&str>, hostname: Option<&str>) -> ListenSettings {
        let expected = "host:port (127.0.0.1:7070, [::1]:7070)";
        let public = self.parse_or(
            "listen",
            expected,
            |text| text.parse().ok(),
            || {
                let default = Endpoint::new("127.0.0.1", 7070);
                (default.clone(), default.to_string(), Origin::Default)
            },
        );
        let peer = self.parse_or(
            "peer_listen",
            expected,
            |text| text.parse().ok(),
            || {
                // Port 0 stays 0: both are chosen by the system. The last port has no next one.
                let port = if public.port == 0 { 0 } else { public.port.checked_add(1).unwrap_or(public.port - 1) };
                let peer = Endpoint::new(public.host.clone(), port);
                (peer.clone(), peer.to_string(), Origin::Derived("the host of listen, the next port".to_owned()))
            },
        );
        let (host, how) = match pod_ip {
            Some(ip) => (ip, "POD_IP"),
            None if is_unspecified(&public.host) => match hostname {
                Some(name) => (name, "HOSTNAME, because listen names no host that others could reach"),
                None => ("127.0.0.1", "loopback, because listen names no host and HOSTNAME is not set"),
            },
            None => (public.host.as_str(), "the host of listen"),
        };
        let derived = |host: &str, how: &str| {
            let value = Advertise { host: host.to_owned(), port: None };
            (value, show_host(host), Origin::Derived(how.to_owned()))
        };
        let expected = "host or host:port that others can reach (10.0.0.7:7070)";
        let advertise = self.parse_or("advertise", expected, advertised, || derived(host, how));
        let peer_advertise =
            self.parse_or("peer_advertise", expected, advertised, || derived(&advertise.host, "the host of advertise"));
        ListenSettings { public, peer, advertise, peer_advertise }
    }

    fn domain(&mut self, declared: &[DomainSetting]) -> DomainSettings {
        let mut values = BTreeMap::new();
        for setting in declared {
            let given = self.values.get(&setting.key).cloned();
            if let Some((text, origin)) = &given
                && text.is_empty()
            {
                self.errors.push(SettingError::Value {
                    key: setting.key.clone(),
                    origin: origin.clone(),
                    expected: "a text that is not empty".to_owned(),
                    got: String::new(),
                });
            }
            let (value, origin) = given.unwrap_or_else(|| (setting.default.clone(), Origin::Default));
            if setting.key.ends_with("_topic") && !legal_topic(&value) {
                self.errors.push(SettingError::Value {
                    key: setting.key.clone(),
                    origin: origin.clone(),
                    expected: TOPIC_EXPECTED.to_owned(),
                    got: value.clone(),
                });
            }
            self.shown.push(Shown { key: setting.key.clone(), value: value.clone(), origin: origin.clone() });
            values.insert(setting.key.clone(), (value, origin));
        }
        DomainSettings::sourced(values)
    }
}

const TOPIC_EXPECTED: &str = "a legal topic name: letters, digits, `.`, `_`, `-`, at most 249";
