//! A join is due: it goes out when its time has come and the coordinator is known.

use std::{sync::Arc, time::Instant};

use super::{Action, Machine, State, WaitKind};
use crate::membership::{
    protocol,
    userdata::{COMPACT, SubscriptionData},
};

impl Machine {
    pub(super) fn drive_join(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let (State::Stable { generation }, true) = (&self.state, self.wanted.is_some()) {
            self.state = State::JoinDue { at: now, held: Some(*generation) };
        }
        let State::JoinDue { at, held } = self.state else { return };
        if now < at || !self.link.is_up() {
            return;
        }
        match self.subscription(now) {
            Ok(subscription) => {
                let ticket = self.ticket();
                let reason = self.wanted.take().unwrap_or_else(|| match held {
                    Some(_) => "the group is rebalancing".to_owned(),
                    None => "not a member".to_owned(),
                });
                tracing::debug!(group = %self.settings.group_id, member_id = %self.member_id, reason, "joining the group");
                self.state = State::Joining { ticket, held };
                if !self.surrendered {
                    self.level_at = None;
                }
                out.push(Action::Join { ticket, member_id: Arc::clone(&self.member_id), subscription, reason });
            }
            Err(reason) => self.join_failed(now, reason, out),
        }
    }

    fn subscription(&self, now: Instant) -> Result<bytes::Bytes, String> {
        let data = SubscriptionData {
            instance: self.settings.instance.clone(),
            subtopologies: self.settings.subtopologies.clone(),
            owned: self.ownership.claimed(),
            generation: self.ownership.generation(),
            followed: self.following.followed(),
            promised: self.following.promised(),
            follows: self.settings.follows,
            positions: self.following.copies.positions.clone(),
            restoring: self.following.copies.restoring.clone(),
            draining: self.draining || self.surrendered,
            reserved: self.following.reserved(now),
            reads: COMPACT,
        };
        let mut topics: Vec<&str> =
            data.subtopologies.iter().flat_map(|spec| &spec.source_topics).map(|topic| &**topic).collect();
        topics.sort_unstable();
        topics.dedup();
        let user_data = data.encode(self.counter).map_err(|error| error.to_string())?;
        protocol::encode_subscription(topics, user_data).map_err(|error| error.to_string())
    }

    /// The group does not let this member in for a reason that asking again at once does not change.
    pub(super) fn join_failed(&mut self, now: Instant, reason: String, out: &mut Vec<Action>) {
        self.retry_join(now);
        self.wait(WaitKind::Refused, reason, out);
    }

    /// Joins again after a pause that grows with each failure.
    pub(super) fn retry_join(&mut self, now: Instant) {
        self.join_failures = self.join_failures.saturating_add(1);
        self.state = State::JoinDue { at: now + self.settings.backoff(self.join_failures), held: self.held() };
    }
}
