//! Commands and flags. Flags of settings are made from the table of settings and from what the topology declares.

use std::{collections::BTreeMap, ffi::OsString, io, path::Path};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Failure, Service};
use crate::config::{Defaults, DomainSetting, SETTINGS, Settings, Sources, environment_name, flag_name};

/// A command line, read.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The command: `serve`, `query`, ….
    pub(crate) command: String,
    /// Its flags.
    pub(crate) matches: ArgMatches,
    pub(crate) declared: Vec<DomainSetting>,
    pub(crate) environment: BTreeMap<String, String>,
}

impl Invocation {
    /// What file, environment and flags say.
    pub(crate) fn sources(&self) -> Sources {
        let mut sources = Sources::new();
        let file = self.text("config").or_else(|| self.environment.get("HOLDFAST_CONFIG").map(String::as_str));
        if let Some(file) = file.filter(|file| !file.is_empty()) {
            sources = sources.file(Path::new(file));
        }
        sources = sources.environment(&self.environment);
        for key in self.setting_keys() {
            if let Ok(Some(value)) = self.matches.try_get_one::<String>(&key) {
                sources = sources.flag(&key, value);
            }
        }
        for pair in self.matches.try_get_many::<String>("kafka").ok().flatten().into_iter().flatten() {
            sources = sources.kafka_flag(pair);
        }
        sources
    }

    /// All settings, checked.
    pub(crate) fn settings(&self, service: &Service, sources: Sources) -> Result<Settings, Failure> {
        let defaults = Defaults { service_name: service.service_name().to_owned() };
        Settings::resolve(sources, &self.declared, &defaults)
            .map_err(|errors| Failure::new(format!("the settings cannot be used:\n{errors}")))
    }

    fn setting_keys(&self) -> Vec<String> {
        let framework = SETTINGS.iter().map(|spec| spec.key.to_owned());
        framework.chain(self.declared.iter().map(|setting| setting.key.clone())).collect()
    }
}

/// Reads a command line. `None` when it asked for help or the version, which has been printed.
pub(crate) fn parse(
    service: &Service,
    declared: Vec<DomainSetting>,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, String>,
) -> Result<Option<Invocation>, Failure> {
    let matches = match command(service, &declared).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => {
            // Help and version go to standard output; when it is closed, nobody reads them.
            let _ = error.print();
            return Ok(None);
        }
        Err(error) => {
            let text = error.render().to_string();
            return Err(Failure::new(text.trim_start_matches("error: ").trim_end()));
        }
    };
    Ok(matches.subcommand().map(|(command, matches)| Invocation {
        command: command.to_owned(),
        matches: matches.clone(),
        declared,
        environment,
    }))
}

/// Prints the completion script of a shell.
pub(crate) fn completions(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let shell: &clap_complete::Shell = invocation
        .matches
        .get_one("shell")
        .ok_or_else(|| Failure::new("name a shell: bash, elvish, fish, powershell or zsh"))?;
    let mut command = command(service, &invocation.declared);
    clap_complete::generate(*shell, &mut command, BINARY, &mut io::stdout());
    Ok(())
}

const BINARY: &str = env!("CARGO_PKG_NAME");

/// The whole command line.
pub(crate) fn command(service: &Service, declared: &[DomainSetting]) -> Command {
    let settings = |command: Command| with_settings(command, declared);
    let root = Command::new(BINARY)
        .version(service.service_version().to_owned())
        .about("Aggregates Kafka topics into tables and answers look-ups from them over REST and gRPC")
        .arg_required_else_help(true)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(settings(Command::new("serve").about("Run an instance").arg(print_config())))
        .subcommand(generate(settings(
            Command::new("generate")
                .about("Send the scenario's load to a broker; the same flags send the same records"),
        )))
        .subcommand(query())
        .subcommand(settings(
            Command::new("describe").about("Print the topology").arg(
                Arg::new("format")
                    .long("format")
                    .value_name("FORMAT")
                    .value_parser(["text", "mermaid", "dot", "json"])
                    .default_value("text")
                    .help("How to print it"),
            ),
        ))
        .subcommand(settings(
            Command::new("reset")
                .about("Remove the local state of an application whose instances are stopped")
                .arg(switch("topics", "Remove its internal topics as well, and start its input from the beginning"))
                .arg(switch("dry-run", "Only print what would be removed")),
        ))
        .subcommand(settings(
            Command::new("check-config").about("Check the settings and the topology, and exit").arg(print_config()),
        ))
        .subcommand(Command::new("completions").about("Print a shell's completion script").arg(
            Arg::new("shell").required(true).value_parser(clap::value_parser!(clap_complete::Shell)).help("The shell"),
        ));
    // There without the broker too: its error says how to get one, which "no such command" does not.
    let about = if cfg!(feature = "embedded") {
        "Run a broker in this process, an instance and the load, and say what to try"
    } else {
        "Not in this build, which has no embedded broker"
    };
    root.subcommand(demo(settings(Command::new("demo").about(about))))
}

fn demo(command: Command) -> Command {
    load_flags(command, "10000", "without it the demo runs until Ctrl-C")
        .arg(switch("exit", "End when all records are processed: compare every row with what was sent"))
        .arg(number("broker-port", "PORT", "0", "Port of the embedded broker on 127.0.0.1; 0 chooses a free one"))
}

fn generate(command: Command) -> Command {
    load_flags(command, "0", "100000 when not given")
        .arg(Arg::new("topic").long("topic").value_name("TOPIC").help("Topic to send to [default: the input topic]"))
}

fn load_flags(command: Command, rate: &'static str, records: &'static str) -> Command {
    command
        .arg(
            Arg::new("records")
                .long("records")
                .value_name("N")
                .value_parser(clap::value_parser!(u64))
                .help(format!("Records to send; {records}")),
        )
        .arg(number("keys", "N", "100", "Distinct keys"))
        .arg(number("seed", "N", "42", "Where the random numbers start"))
        .arg(number("rate", "N", rate, "Records per second; 0 is as fast as possible"))
        .arg(
            Arg::new("partitions")
                .long("partitions")
                .value_name("N")
                .value_parser(clap::value_parser!(u32).range(1..=10_000))
                .help("Partitions of the topic when it is created [default: topic_partitions]"),
        )
}

fn query() -> Command {
    let store = || Arg::new("store").required(true).help("The store's name");
    let key =
        || Arg::new("key").required(true).allow_hyphen_values(true).help("The key, as text of the store's key format");
    let command = |name: &'static str, about: &'static str| with_query_flags(Command::new(name).about(about));
    Command::new("query")
        .about("Ask an instance; prints JSON; exits 0 when found, 1 when the key does not exist, 2 otherwise")
        .arg_required_else_help(true)
        .subcommand_required(true)
        .subcommand(command("get", "One row").arg(store()).arg(key()))
        .subcommand(
            command("batch", "Several rows, each with its own outcome")
                .arg(store())
                .arg(key().num_args(1..).allow_hyphen_values(false).action(ArgAction::Append)),
        )
        .subcommand(
            command("scan", "Rows in order of key")
                .arg(store())
                .arg(option("from", "KEY", "First key"))
                .arg(option("to", "KEY", "Key at which to end, itself included"))
                .arg(option("prefix", "KEY", "Only keys that start so"))
                .arg(switch("reverse", "From the last key to the first"))
                .arg(option("limit", "N", "Most rows in a page"))
                .arg(option("cursor", "CURSOR", "Go on behind the page that answered this cursor"))
                .arg(switch("all", "Follow the cursor to the end, and print one row a line")),
        )
        .subcommand(
            command("window", "Windows or sessions of a key")
                .arg(store())
                .arg(key())
                .arg(option("from", "MS", "Earliest start, milliseconds since 1970"))
                .arg(option("to", "MS", "Latest start, milliseconds since 1970")),
        )
        .subcommand(command("watch", "A row now, then every committed change, one a line").arg(store()).arg(key()))
        .subcommand(
            command("route", "Where a key lives, who would be asked and answer, and why").arg(store()).arg(key()),
        )
}

/// Read options as they stand on a URL, under the names of flags.
pub(crate) const READ_OPTIONS: &[&str] =
    &["consistency", "max_staleness", "max_lag", "min_position", "timeout", "routing"];

fn with_query_flags(command: Command) -> Command {
    let help = |name: &str| match name {
        "consistency" => "strong, bounded or any",
        "max_staleness" => "Staleness that a bounded read allows, in ms",
        "max_lag" => "Lag that a bounded read allows, in records",
        "min_position" => "Wait until this position is reached (topic-partition:offset,…)",
        "timeout" => "Deadline of the request",
        _ => "proxy or redirect",
    };
    let command = command.arg(
        Arg::new("server")
            .long("server")
            .value_name("URL")
            .help("Instance to ask [env: HOLDFAST_SERVER] [default: http://127.0.0.1:7070]"),
    );
    READ_OPTIONS.iter().fold(command, |command, name| {
        let flag = Arg::new(*name).long(flag_name(name)).value_name("VALUE");
        command.arg(flag.allow_hyphen_values(true).help(help(name)).help_heading("Read options"))
    })
}

fn with_settings(command: Command, declared: &[DomainSetting]) -> Command {
    let setting = |key: String, value: &str, help: String, default: &str, heading: &'static str| {
        let shown = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        Arg::new(key.clone())
            .long(flag_name(&key))
            .value_name(value.to_owned())
            .allow_hyphen_values(true)
            .help(format!("{help}{shown}"))
            .long_help(format!("{help}{shown} [env: {}]", environment_name(&key)))
            .help_heading(heading)
    };
    let command = SETTINGS.iter().fold(command, |command, spec| {
        command.arg(setting(spec.key.to_owned(), spec.value, spec.help.to_owned(), spec.default, spec.heading))
    });
    let command = declared.iter().fold(command, |command, own| {
        command.arg(setting(own.key.clone(), "VALUE", own.help.clone(), &own.default, "This service"))
    });
    command.arg(option("config", "FILE", "Settings file (TOML) [env: HOLDFAST_CONFIG]")).arg(
        Arg::new("kafka")
            .long("kafka")
            .value_name("PROPERTY=VALUE")
            .action(ArgAction::Append)
            .help("A librdkafka property (security.protocol=ssl); may be repeated")
            .help_heading("Kafka"),
    )
}

fn print_config() -> Arg {
    switch("print-config", "Print every setting with its origin, and exit")
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).allow_hyphen_values(true).help(help)
}

fn number(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).default_value(default).value_parser(clap::value_parser!(u64)).help(help)
}
