//! What this instance tells the others about itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use holdfast_discovery::peers::{Condition, Evicted, PeerReport};
use holdfast_proto::holdfast::v1 as pb;
use holdfast_types::{InstanceInfo, ProcessId};

use super::convert;
use crate::query::{Queries, StoreView};

/// What this instance finds of others, as the loop of exchanges last left it.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) opinions: Vec<(ProcessId, Condition)>,
    pub(super) evicted: Vec<Evicted>,
}

/// Makes reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    application_id: String,
    instance: InstanceInfo,
    incarnation: u64,
    queries: Queries,
    leaving: AtomicBool,
    findings: ArcSwap<Findings>,
}

impl Reporter {
    /// A reporter of this life of the process.
    pub(crate) fn new(application_id: String, instance: InstanceInfo, queries: Queries) -> Arc<Self> {
        let (incarnation, leaving) = (rand::random(), AtomicBool::new(false));
        Arc::new(Self { application_id, instance, incarnation, queries, leaving, findings: ArcSwap::default() })
    }

    /// The group.
    pub(super) fn application_id(&self) -> &str {
        &self.application_id
    }

    /// The instance is about to leave: its silence is none to act upon.
    pub(crate) fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(super) fn set_findings(&self, findings: Findings) {
        self.findings.store(Arc::new(findings));
    }

    /// The report of this moment.
    pub(super) fn message(&self) -> pb::PeerReport {
        let view: &dyn StoreView = self.queries.view();
        let findings = self.findings.load();
        let report = PeerReport {
            process_id: self.instance.process_id,
            incarnation: self.incarnation,
            member_id: view.member_id(),
            generation: view.cluster().generation,
            leaving: self.leaving.load(Ordering::Acquire),
            transactional_ids: self.instance.transactional_ids.clone(),
            tasks: self.queries.held_tasks(),
            opinions: findings.opinions.clone(),
            evicted: findings.evicted.clone(),
        };
        convert::report_to(&report, &self.application_id, [&self.instance.endpoint, &self.instance.peer_endpoint])
    }
}
