//! The inventory service: the example that a user replaces by a service of their own.

use std::process::ExitCode;

use holdfast::{Service, inventory};

fn main() -> ExitCode {
    Service::new(inventory::topology).routes(inventory::routes).scenario(inventory::load::StockMovements).run()
}
