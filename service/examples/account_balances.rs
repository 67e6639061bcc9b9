//! The template used for something else: payments in protobuf, balances per account, one route of its own.
//!
//! ```sh
//! cargo run --example account_balances                  # a broker in the process, and some payments
//! curl http://127.0.0.1:7070/balances/account-1
//! cargo run --example account_balances -- describe --format mermaid
//! ```

use std::{collections::BTreeMap, fmt::Display, process::ExitCode};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use holdfast::{
    Service,
    cli::{Expected, LoadPlan, LoadRecord, Sample, Scenario},
    config::DomainSettings,
    query::{Queries, ReadOptions},
    rest::problem::Problem,
};
use holdfast_stream::prelude::*;
use prost::Message;
use serde::{Deserialize, Serialize};

/// A payment, as `message Payment { string from = 1; string to = 2; uint64 cents = 3; }` writes it.
#[derive(Clone, PartialEq, Message)]
struct Payment {
    /// Account that pays.
    #[prost(string, tag = "1")]
    from: String,
    /// Account that is paid.
    #[prost(string, tag = "2")]
    to: String,
    /// Amount in cents.
    #[prost(uint64, tag = "3")]
    cents: u64,
}

/// A row: what an account holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Balance {
    cents: i64,
    bookings: u64,
}

impl HasCodec for Balance {
    type Codec = Json<Self>;
}

impl Balance {
    /// Refuses an overflow: the payment then goes to the dead-letter topic, and the balance stays as it was.
    fn book(&mut self, account: &impl Display, change: &i64) -> Result<(), String> {
        let cents = self.cents.checked_add(*change).ok_or_else(|| format!("the balance of {account} overflows"))?;
        *self = Self { cents, bookings: self.bookings + 1 };
        Ok(())
    }
}

fn payments_topic(settings: &DomainSettings) -> std::sync::Arc<str> {
    settings.text("payments_topic", "payments", "Topic of payments")
}

fn topology(settings: &DomainSettings) -> Result<Topology, TopologyError> {
    let builder = TopologyBuilder::new();
    builder
        .stream(&payments_topic(settings), Consumed::values(Protobuf::<Payment>::default()))
        .try_flat_map(|_key, payment: &Payment| {
            let cents = i64::try_from(payment.cents).map_err(|_| format!("{} cents are too many", payment.cents))?;
            // One payment changes two accounts, whose rows may live on different instances.
            Ok::<_, String>([(payment.from.clone(), -cents), (payment.to.clone(), cents)])
        })
        .group_by_key()
        .aggregate(Balance::default, Balance::book, Materialized::named("balances"))
        .to_stream()
        .to("balances");
    builder.build()
}

fn routes(queries: Queries) -> Router {
    Router::new().route("/balances/{account}", get(balance)).with_state(queries)
}

async fn balance(State(queries): State<Queries>, Path(account): Path<String>) -> Result<Response, Problem> {
    let answer = queries.typed::<String, Balance>("balances").get(&account, &ReadOptions::default()).await?;
    Ok(match answer.value {
        Some(balance) => axum::Json(balance).into_response(),
        None => (StatusCode::NOT_FOUND, "no such account\n").into_response(),
    })
}

/// Payments round a circle of accounts.
struct Payments;

impl Payments {
    fn payments(plan: &LoadPlan) -> impl Iterator<Item = Payment> + Send + use<> {
        let accounts = u64::from(plan.keys.max(1));
        (0..plan.records.unwrap_or(u64::MAX)).map(move |number| Payment {
            from: format!("account-{}", 1 + number % accounts),
            to: format!("account-{}", 1 + (number + 1) % accounts),
            cents: 1 + number % 99,
        })
    }
}

impl Scenario for Payments {
    fn topic(&self, settings: &DomainSettings) -> String {
        payments_topic(settings).to_string()
    }

    fn records(&self, plan: &LoadPlan) -> Box<dyn Iterator<Item = LoadRecord> + Send> {
        Box::new(
            Self::payments(plan)
                .map(|payment| LoadRecord { key: payment.from.clone().into_bytes(), value: payment.encode_to_vec() }),
        )
    }

    fn expected(&self, plan: &LoadPlan) -> Expected {
        let mut balances: BTreeMap<String, Balance> = BTreeMap::new();
        for payment in Self::payments(plan) {
            let cents = i64::try_from(payment.cents).unwrap_or(i64::MAX);
            for (account, change) in [(payment.from, -cents), (payment.to, cents)] {
                let balance = balances.entry(account).or_default();
                balance.cents += change;
                balance.bookings += 1;
            }
        }
        let rows = balances.into_iter().map(|(account, balance)| (account, serde_json::json!(balance)));
        Expected::from([("balances".to_owned(), rows.collect())])
    }

    fn sample(&self) -> Sample {
        let path = Some("/balances/account-1".to_owned());
        Sample { store: "balances".to_owned(), key: "account-1".to_owned(), path, grpc: None }
    }
}

fn main() -> ExitCode {
    Service::new(topology).name("account-balances").routes(routes).scenario(Payments).default_command("demo").run()
}
