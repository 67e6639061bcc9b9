//! Between instances: questions that one puts to another, and what they tell each other about themselves. Served on the peer
//! listener only.
//!
//! | file | is for |
//! |---|---|
//! | `token` | the shared secret that lets an instance in |
//! | `channels` | HTTP/2 connections to each peer: one for questions from each thread that serves, and one for reports |
//! | `client`, `service` | both ends of a question |
//! | `questions` | what is counted of questions |
//! | `gather` | look-ups that go from one thread to the same peer at the same time travel together |
//! | `line` | the stream that they travel on |
//! | `convert` | between messages and the router's types |
//! | `report`, `exchange` | what this instance tells, and the loop that carries out what `holdfast_discovery::peers` decides |

mod channels;
mod client;
mod convert;
mod exchange;
mod gather;
mod line;
mod questions;
mod report;
mod service;
pub(crate) mod token;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    client::PeerClient,
    exchange::{Exchange, Inbox, Parts},
    report::Reporter,
    service::router,
    token::{Token, TokenError},
};
