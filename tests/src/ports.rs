//! Free ports for processes that cannot take port 0 and tell.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::{LazyLock, Mutex},
};

use rand::RngExt;

/// Below the range from which the kernel takes ports of outgoing connections, so that a port stays free between a stop
/// and the next start of its process.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// What this process was given before: it may not listen there yet.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nothing listens on at 127.0.0.1 now, and that was not given before.
pub fn free() -> u16 {
    let mut rng = rand::rng();
    for _ in 0..1_000 {
        let port = rng.random_range(RANGE);
        let is_free = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).is_ok();
        if is_free && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
    panic!("no free port in {RANGE:?} on 127.0.0.1 after 1000 attempts");
}
