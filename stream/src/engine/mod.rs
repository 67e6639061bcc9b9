//! The engine: stream threads over tasks, what they commit, and what it tells about itself.

mod served;
mod status;

pub use served::{ServedStores, ServedTable};
pub use status::{EngineEvent, EngineState, EngineStatus, RestoreStatus, TaskStatus, ThreadStatus};
