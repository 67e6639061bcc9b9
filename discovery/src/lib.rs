//! Group membership, the assignor, what peers report, the routing table; the only crate that speaks Kafka's group protocol.
