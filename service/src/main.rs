//! The inventory service: the example that a user replaces by a service of their own.

use std::process::ExitCode;

use holdfast::{Service, inventory};

/// RocksDB and librdkafka allocate through it, too. What glibc's allocator keeps to itself grows with threads and time, until
/// the pod is killed; and its locks cost a look-up a tenth of its time (`cargo xtask bench --only lookups`).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Service::new(inventory::topology).routes(inventory::routes).scenario(inventory::load::StockMovements).run()
}
