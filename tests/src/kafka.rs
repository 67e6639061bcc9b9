//! Apache Kafka: one KRaft process per broker, from the jars that `cargo xtask` fetches.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{block_on, java, network::Proxy, ports, process::Process, wait};

/// A JVM on a busy machine; usually it takes 3 s.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ADMIN_LIMIT: Duration = Duration::from_secs(30);

static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::start);
static NEXT_NAME: AtomicU32 = AtomicU32::new(1);

/// What a broker differs in from the usual one.
#[derive(Clone, Debug, Default)]
pub struct KafkaConfig {
    /// Lines of `server.properties` that are added to, or replace, the harness's.
    pub properties: BTreeMap<String, String>,
    /// Arguments of the JVM, in place of the harness's.
    pub jvm: Option<Vec<String>>,
    /// The plain listener's port; a free one if not given.
    pub port: Option<u16>,
    /// Where the broker keeps its data; a temporary directory if not given.
    pub home: Option<PathBuf>,
    /// A second listener, named `SECURE`, with this protocol (`SSL`, `SASL_SSL`).
    pub secure: Option<String>,
    /// A third listener, named `PROXIED`, that clients reach only through [`Kafka::proxy`].
    pub proxied: bool,
    /// Most KiB that a file of the broker's may hold, until [`Kafka::give_space`]: a disk that gets full.
    pub file_limit_kib: Option<u64>,
    /// SCRAM users, as `StorageTool --add-scram` takes them: `SCRAM-SHA-256=[name=alice,password=secret]`.
    pub scram: Vec<String>,
}

/// A broker on 127.0.0.1.
#[derive(Debug)]
pub struct Kafka {
    home: PathBuf,
    lib: PathBuf,
    config: KafkaConfig,
    port: u16,
    secure_port: Option<u16>,
    /// The port of the listener behind the proxy, and the proxy that it is advertised as.
    proxied: Option<(u16, Proxy)>,
    space_given: AtomicBool,
    process: Mutex<Option<Process>>,
    // Removed when the broker is dropped.
    _temporary: Option<TempDir>,
}

impl Kafka {
    /// The broker that all tests of one test binary share; started at the first call, gone with the process.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// A broker of one's own.
    pub fn start() -> Self {
        Self::start_with(KafkaConfig::default())
    }

    /// A broker of one's own, with settings of one's own.
    pub fn start_with(config: KafkaConfig) -> Self {
        let lib = java::kafka_lib();
        let (home, temporary) = match &config.home {
            Some(home) => (home.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("holdfast-kafka-").tempdir().unwrap();
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        fs::create_dir_all(&home).unwrap();
        let port = config.port.unwrap_or_else(ports::free);
        let secure_port = config.secure.as_ref().map(|_| ports::free());
        let proxied = config.proxied.then(|| {
            let behind = ports::free();
            (behind, Proxy::start("127.0.0.1", 0, &format!("127.0.0.1:{behind}")))
        });
        let kafka = Self {
            home,
            lib,
            config,
            port,
            secure_port,
            proxied,
            space_given: AtomicBool::new(false),
            process: Mutex::new(None),
            _temporary: temporary,
        };
        kafka.format();
        kafka.start_again();
        kafka
    }

    /// `host:port` of the plain listener.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the listener asked for with [`KafkaConfig::secure`].
    pub fn secure_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secure_port.expect("this broker was started with KafkaConfig::secure"))
    }

    /// The network between the broker and the clients of [`Kafka::proxied_bootstrap`].
    pub fn proxy(&self) -> &Proxy {
        let (_, proxy) = self.proxied.as_ref().expect("this broker was started with KafkaConfig::proxied");
        proxy
    }

    /// `host:port` of the listener behind the proxy, as clients reach it.
    pub fn proxied_bootstrap(&self) -> String {
        self.proxy().address().to_string()
    }

    /// The disk has room again, from the next start on: see [`KafkaConfig::file_limit_kib`].
    pub fn give_space(&self) {
        self.space_given.store(true, Ordering::Relaxed);
    }

    /// Where the broker keeps its data.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Starts the broker after [`Kafka::stop`] or [`Kafka::kill`], on the same ports with the same data.
    #[track_caller]
    pub fn start_again(&self) {
        let mut slot = self.process.lock().unwrap();
        assert!(slot.is_none(), "the broker runs already");
        let log = self.home.join("broker.log");
        let mut args = self.jvm();
        args.push("kafka.Kafka".to_owned());
        args.push(self.properties_file().display().to_string());
        let mut process = match self.config.file_limit_kib {
            Some(kib) if !self.space_given.load(Ordering::Relaxed) => {
                // Writes past the limit fail as on a full disk: an I/O error of the log directory.
                let mut limited =
                    vec![format!("--fsize={}", kib * 1024), "--".to_owned(), java::java().display().to_string()];
                limited.append(&mut args);
                Process::start("kafka", Path::new("prlimit"), &limited, &[], &log)
            }
            _ => Process::start("kafka", &java::java(), &args, &[], &log),
        };
        wait::until(format!("Kafka at {}", self.bootstrap()), START_LIMIT, || {
            if let Some(status) = process.exited() {
                panic!("Kafka ended with {status}\n{}", process.tail());
            }
            self.answers()
        });
        *slot = Some(process);
    }

    /// SIGTERM: the broker closes its logs.
    #[track_caller]
    pub fn stop(&self) {
        let mut process = self.process.lock().unwrap().take().expect("the broker is stopped already");
        process.terminate(STOP_LIMIT);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.process.lock().unwrap().take().expect("the broker is stopped already").kill();
    }

    /// SIGSTOP: the broker answers nothing, and its connections stay open.
    pub fn pause(&self) {
        self.process.lock().unwrap().as_mut().expect("the broker is stopped").signal(Signal::STOP);
    }

    /// SIGCONT after [`Kafka::pause`].
    pub fn resume(&self) {
        self.process.lock().unwrap().as_mut().expect("the broker is stopped").signal(Signal::CONT);
    }

    /// Waits until the broker has given up by itself; it can be started again then.
    #[track_caller]
    pub fn wait_for_halt(&self, limit: Duration) {
        let mut process = self.process.lock().unwrap().take().expect("the broker is stopped already");
        process.wait_for_exit(limit);
    }

    /// Waits until the broker ends by itself (a foreground run).
    pub fn wait_for_exit(&self, limit: Duration) {
        if let Some(process) = self.process.lock().unwrap().as_mut() {
            process.wait_for_exit(limit);
        }
    }

    /// Settings of a client of the plain listener.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.bootstrap()).set("log_level", "2");
        client
    }

    /// Creates a topic with the broker's default of replicas and waits until its partitions have leaders; an existing one is
    /// an error.
    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_LIMIT));
        for outcome in block_on(admin.create_topics([&topic], &options)).unwrap() {
            outcome.unwrap_or_else(|(topic, error)| panic!("cannot create topic {topic}: {error}"));
        }
        wait::until(format!("leaders of {name}"), ADMIN_LIMIT, || match self.partitions(name) {
            Some(found) if found == partitions => Ok(()),
            other => Err(format!("{other:?} partitions, expected {partitions}")),
        });
    }

    /// Adds partitions to a topic and waits until they have leaders.
    #[track_caller]
    pub fn add_partitions(&self, name: &str, total: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let new = NewPartitions::new(name, usize::try_from(total).unwrap());
        for outcome in block_on(admin.create_partitions([&new], &AdminOptions::new())).unwrap() {
            outcome.unwrap_or_else(|(topic, error)| panic!("cannot add partitions to {topic}: {error}"));
        }
        wait::until_equal(format!("partitions of {name}"), ADMIN_LIMIT, &Some(total), || self.partitions(name));
    }

    /// Deletes the records before each partition's offset, as retention does.
    #[track_caller]
    pub fn delete_records(&self, topic: &str, before: &BTreeMap<i32, i64>) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut list = TopicPartitionList::new();
        for (partition, offset) in before {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
        }
        block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// Deletes topics and waits until they are gone; a missing one is no error.
    pub fn delete_topics(&self, names: &[&str]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        for outcome in block_on(admin.delete_topics(names, &AdminOptions::new())).unwrap() {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, error)) => panic!("cannot delete topic {topic}: {error}"),
            }
        }
        wait::until_true(format!("{names:?} to be gone"), ADMIN_LIMIT, || {
            let topics = self.topics();
            names.iter().all(|name| !topics.iter().any(|topic| topic == name))
        });
    }

    /// Number of partitions that have a leader; `None` for a topic that does not exist.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), ADMIN_LIMIT).ok()?;
        let found = metadata.topics().iter().find(|found| found.name() == topic)?;
        let led = found.partitions().iter().filter(|partition| partition.leader() >= 0).count();
        (led > 0).then_some(i32::try_from(led).unwrap())
    }

    /// Names of all topics.
    pub fn topics(&self) -> Vec<String> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let metadata = consumer.fetch_metadata(None, ADMIN_LIMIT).unwrap();
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Runs one of Kafka's own tools by class name and returns its standard output.
    #[track_caller]
    pub fn tool(&self, class: &str, args: &[&str]) -> String {
        let output = self.run_tool(class, args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{class} {args:?} ended with {}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// `kafka-consumer-groups.sh --describe --group <group>`.
    #[track_caller]
    pub fn describe_group(&self, group: &str) -> String {
        self.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &["--describe", "--group", group])
    }

    /// `kafka-consumer-groups.sh --describe --group <group> --members --verbose`.
    #[track_caller]
    pub fn describe_group_members(&self, group: &str) -> String {
        let args = ["--describe", "--group", group, "--members", "--verbose"];
        self.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args)
    }

    /// Members that a group has at the moment, dead ones included whose session is not over yet.
    pub fn members(&self, group: &str) -> usize {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let groups = consumer.fetch_group_list(Some(group), ADMIN_LIMIT).unwrap();
        groups.groups().iter().find(|found| found.name() == group).map_or(0, |found| found.members().len())
    }

    /// A group's state as the coordinator names it (`PreparingRebalance`); empty for one that does not exist.
    pub fn group_state(&self, group: &str) -> String {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let groups = consumer.fetch_group_list(Some(group), ADMIN_LIMIT).unwrap();
        groups
            .groups()
            .iter()
            .find(|found| found.name() == group)
            .map_or_else(String::new, |found| found.state().to_owned())
    }

    fn run_tool(&self, class: &str, args: &[&str]) -> Output {
        Command::new(java::java())
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(self.lib.join("*"))
            .arg(class)
            .args(["--bootstrap-server", &self.bootstrap()])
            .args(args)
            .output()
            .unwrap()
    }

    fn answers(&self) -> Result<(), String> {
        // A refused connection is cheap; a client that is not answered waits and logs.
        TcpStream::connect(self.bootstrap()).map_err(|e| e.to_string())?;
        let consumer: BaseConsumer = self.client().create().map_err(|e| e.to_string())?;
        consumer.fetch_metadata(None, Duration::from_secs(5)).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn properties_file(&self) -> PathBuf {
        self.home.join("server.properties")
    }

    fn jvm(&self) -> Vec<String> {
        let mut args = match &self.config.jvm {
            Some(args) => args.clone(),
            // Small and quick to start: a test's broker lives for a minute or two.
            None => ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).to_vec(),
        };
        args.push(format!("-Dlog4j2.configurationFile={}", self.log4j_file().display()));
        args.extend(["-cp".to_owned(), self.lib.join("*").display().to_string()]);
        args
    }

    fn log4j_file(&self) -> PathBuf {
        self.home.join("log4j2.yaml")
    }

    /// Writes the settings, and the cluster's identity where the directory has none.
    fn format(&self) {
        fs::write(self.log4j_file(), include_str!("../kafka/log4j2.yaml")).unwrap();
        let text: String = self.properties().iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(self.properties_file(), text).unwrap();
        if self.home.join("data/meta.properties").exists() {
            return;
        }
        let mut command = Command::new(java::java());
        command.args(self.jvm()).args(["kafka.tools.StorageTool", "format", "-t", "aG9sZGZhc3QtdGVzdHMtMQ", "-c"]);
        command.arg(self.properties_file());
        for user in &self.config.scram {
            command.args(["--add-scram", user]);
        }
        let output = command.output().unwrap_or_else(|e| panic!("cannot run java (JDK 17 or newer): {e}"));
        assert!(
            output.status.success(),
            "formatting Kafka's storage ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn properties(&self) -> BTreeMap<String, String> {
        // Only the broker itself uses it: a new one after each start of the harness is fine.
        let controller_port = ports::free();
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{controller_port}", self.port);
        let mut advertised = format!("PLAINTEXT://127.0.0.1:{}", self.port);
        let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        if let (Some(protocol), Some(port)) = (&self.config.secure, self.secure_port) {
            listeners.push_str(&format!(",SECURE://127.0.0.1:{port}"));
            advertised.push_str(&format!(",SECURE://127.0.0.1:{port}"));
            protocols.push_str(&format!(",SECURE:{protocol}"));
        }
        if let Some((behind, proxy)) = &self.proxied {
            listeners.push_str(&format!(",PROXIED://127.0.0.1:{behind}"));
            advertised.push_str(&format!(",PROXIED://{}", proxy.address()));
            protocols.push_str(",PROXIED:PLAINTEXT");
        }
        let own = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", "1".to_owned()),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller_port}")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
            ("listeners", listeners),
            ("advertised.listeners", advertised),
            ("listener.security.protocol.map", protocols),
            ("log.dirs", self.home.join("data").display().to_string()),
            // Every topic in the tests is created on purpose.
            ("auto.create.topics.enable", "false".to_owned()),
            ("offsets.topic.replication.factor", "1".to_owned()),
            ("offsets.topic.num.partitions", "2".to_owned()),
            ("transaction.state.log.replication.factor", "1".to_owned()),
            ("transaction.state.log.min.isr", "1".to_owned()),
            ("transaction.state.log.num.partitions", "2".to_owned()),
            ("share.coordinator.state.topic.replication.factor", "1".to_owned()),
            ("share.coordinator.state.topic.min.isr", "1".to_owned()),
            // Dead members and the transactions that they left open are found in a second or two, not in half a minute.
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
            ("group.min.session.timeout.ms", "1000".to_owned()),
            ("transaction.max.timeout.ms", "60000".to_owned()),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500".to_owned()),
            ("group.coordinator.threads", "1".to_owned()),
            ("num.network.threads", "2".to_owned()),
            ("num.io.threads", "4".to_owned()),
            ("log.cleaner.dedupe.buffer.size", "8388608".to_owned()),
            ("offsets.topic.segment.bytes", "10485760".to_owned()),
        ];
        let mut properties: BTreeMap<String, String> = own.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        properties.extend(self.config.properties.clone());
        properties
    }
}

/// Names for one test's application and topics: tests share a broker.
#[derive(Clone, Debug)]
pub struct Names {
    /// Application id, and the consumer group.
    pub application_id: String,
    /// The inventory's input.
    pub items: String,
    /// Output of the store aggregate.
    pub store_output: String,
    /// Output of the item aggregate.
    pub item_output: String,
}

impl Names {
    /// Names that no other test of this process has, beginning with `test`.
    pub fn fresh(test: &str) -> Self {
        let prefix = format!("{test}-{}", NEXT_NAME.fetch_add(1, Ordering::Relaxed));
        Self {
            items: format!("{prefix}.items"),
            store_output: format!("{prefix}.store.inventory"),
            item_output: format!("{prefix}.item.inventory"),
            application_id: prefix,
        }
    }

    /// Creates the input topic (`partitions`) and both outputs (one partition, compacted), as the lab has them.
    pub fn create_topics(&self, kafka: &Kafka, partitions: i32) {
        kafka.create_topic(&self.items, partitions, &[]);
        for output in [&self.store_output, &self.item_output] {
            kafka.create_topic(output, 1, &[("cleanup.policy", "compact")]);
        }
    }

    /// Where refused records go.
    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.items)
    }

    /// The changelog of a store.
    pub fn changelog(&self, store: &str) -> String {
        format!("{}-{store}-changelog", self.application_id)
    }

    /// The repartition topic in front of the second aggregate, which the instance has made.
    #[track_caller]
    pub fn repartition(&self, kafka: &Kafka) -> String {
        let internal = |topic: &String| topic.starts_with(&self.application_id) && topic.ends_with("-repartition");
        kafka.topics().into_iter().find(internal).expect("the instance has made its repartition topic")
    }
}
