//! The two connections to the coordinator: one for JoinGroup and SyncGroup, which the broker holds back until all members
//! are there, and one for everything that must not wait behind them.

mod coordinator;
mod dialer;
mod join;

pub(super) use coordinator::{CoordinatorWorker, MemberCall, OffsetCall};
pub(super) use dialer::Dialer;
pub(super) use join::{JoinCall, JoinWorker};

use super::state::Refusal;
use crate::wire::error::{WireError, code};

/// An answer's error code, as the state machine takes it.
fn accepted(error_code: i16) -> Result<(), Refusal> {
    if error_code == code::NONE { Ok(()) } else { Err(Refusal::Code(error_code)) }
}

fn broken(error: &WireError) -> Refusal {
    Refusal::Broken(error.to_string())
}
