//! `holdfast demo`: a broker in this process, one instance, and the scenario's load, in one command.

pub mod broker;
