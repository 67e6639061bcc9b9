//! File descriptors used up by clients: records are processed and written meanwhile, and look-ups go on when they are back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{fs, io::Write, net::TcpStream, time::Duration};

use holdfast_tests::{
    instance::InstanceConfig,
    inventory::{check_exactly_over_restart, committed},
    kafka::{Kafka, Names},
    load::LoadConfig,
    log,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 200, skus: 20, bad_one_in: 50, counting: false };

/// Few enough for clients to use up what is left of them.
const OPEN_FILES: u32 = 170;

/// Connections that ask for nothing, until there are `number`, or no more are to be had.
fn occupy(address: &str, number: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        // A request that does not end: idle connections are no burden to a server that closes them.
        stream.write_all(b"GET /healthz/live HTTP/1.1\r\nhost: a\r\n").ok()?;
        Some(stream)
    };
    (0..number).map_while(connect).collect()
}

#[test]
fn clients_that_take_all_descriptors_stop_nothing() {
    let kafka = Kafka::shared();
    let names = Names::fresh("descriptors");
    names.create_topics(kafka, 2);
    let mut instance =
        InstanceConfig::new(kafka, &names).open_files(OPEN_FILES).set("max_replay_ms", "500").start_ready();
    let rest = instance.rest();
    let (public, peer) = (instance.address(), instance.peer_address());
    let traffic = Traffic::start(kafka, &names.items, LOAD, 7, 2_000.0);
    for _ in 0..2 {
        // More than are accepted, and no more than wait in the kernel's queue: behind it, connecting takes long.
        let streams = [occupy(&public, 150), occupy(&peer, 60)];
        let open = fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap().count();
        eprintln!("{:?} connections, {open} of {OPEN_FILES} descriptors", streams.each_ref().map(Vec::len));
        // Records are processed, committed and written to disk meanwhile.
        let before = committed(kafka, &names);
        wait::until_true("processing to go on", LIMIT, || committed(kafka, &names) > before + 5_000);
        assert!(instance.runs());
        drop(streams);
        wait::until("look-ups to be answered again", LIMIT, || match rest.get("/healthz/ready") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let model = traffic.finish();
    let log = instance.log();
    let told = log::count(&log, &["connections cannot be accepted"]);
    assert!(told <= 8, "the log floods: {told} lines\n{log}");
    check_exactly_over_restart(kafka, &names, &mut instance, &model, LIMIT);
    assert!(instance.terminate().success());
}
