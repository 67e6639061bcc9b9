//! A stable hash over what a sub-topology is made of.

use super::{
    RepartitionSpec,
    graph::{GraphNode, GraphStore, NodeKind},
};

/// FNV-1a over 64 bits: the same on every machine and in every version, which the standard library's hashers are not.
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(super) fn node(&mut self, node: &GraphNode, parents: &[&str]) {
        self.text(&node.name);
        for parent in parents {
            self.text(parent);
        }
        match &node.kind {
            NodeKind::Source { topic, repartition, codecs, .. } => {
                self.text("source");
                self.text(topic.as_str());
                self.text(&codecs.0);
                self.text(&codecs.1);
                if let Some(RepartitionSpec { partitions: Some(partitions) }) = repartition {
                    self.text(&partitions.to_string());
                }
            }
            NodeKind::Processor { .. } => self.text("processor"),
            NodeKind::Sink { topic, codecs } => {
                self.text("sink");
                self.text(topic.as_str());
                self.text(&codecs.0);
                self.text(&codecs.1);
            }
        }
    }

    pub(super) fn store(&mut self, store: &GraphStore) {
        self.text(&store.name);
        self.text(&format!("{:?}", store.kind));
        self.text(if store.changelog { "logged" } else { "unlogged" });
        self.text(store.key.name());
        self.text(store.value.name());
    }

    pub(super) fn finish(self) -> String {
        format!("{:016x}", self.0)
    }
}
