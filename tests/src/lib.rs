//! What needs a real Kafka, several processes, or a killed one; and the harness that starts them.
