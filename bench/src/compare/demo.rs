//! The demo: from its start until it answers its first query.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use holdfast_tests::ports;

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
};
use crate::{
    error::{Error, Result},
    figures::Figures,
    load::http::Get,
};

const NAME: &str = "first-query";
const LIMIT: Duration = Duration::from_secs(60);
const METRICS: &[Metric] = &[Metric::less("first_query_s", "from the start until the first row is answered, s")];
const GOALS: &[Goal] = &[Goal::at_most("first_query_s", 3.0)];
/// What the demo's greeting says to try.
const PATH: &str = "/api/v1/stores/inventory/Store_1";

/// The demo with its embedded broker.
pub(crate) fn demo(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !show.wants("demo", NAME) {
        return Ok(());
    }
    let contenders = vec![Contender::new("holdfast", |_| first_query(bench))];
    let title = "`holdfast demo`, built: broker, instance and load in one process".to_owned();
    show.case("demo", Case { name: NAME, title, metrics: METRICS, goals: GOALS, contenders })
}

fn first_query(bench: &Bench) -> Result<Figures> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let state = bench.path(&bench.name("demo-state"));
    let arguments: Vec<String> = [
        "demo",
        "--listen",
        &address.to_string(),
        "--peer-listen",
        "127.0.0.1:0",
        "--state-dir",
        &state.display().to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    let started = Instant::now();
    let mut process = bench.start_service(&arguments, &[]);
    loop {
        let asked = async { Get::connect(address, PATH).await?.get("").await };
        match bench.runtime.block_on(asked) {
            Ok((200, _)) => break,
            _ if process.exited().is_some() || started.elapsed() > LIMIT => {
                return Err(Error::other(format!("the demo answered nothing\n{}", process.tail())));
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    let mut figures = Figures::new();
    figures.number("first_query_s", started.elapsed().as_secs_f64());
    process.terminate(Duration::from_secs(30));
    match std::fs::remove_dir_all(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(figures),
    }
}
