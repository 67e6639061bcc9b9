//! Names that every Holdfast crate shares: tasks, topics, positions, endpoints, roles, the partitioner, the clock, and
//! what a commit needs of the consumer group. No I/O, and nothing that knows RocksDB, Kafka's wire or HTTP.

pub mod assignment;
pub mod clock;
pub mod endpoint;
pub mod group;
pub mod partitioner;
pub mod position;
pub mod role;
pub mod store_name;
pub mod task;
pub mod topic;

pub use assignment::{Assignment, InstanceInfo, MemberAssignment, ProcessId, SubtopologySpec, TaskSpec};
pub use clock::{Clock, ManualClock, SystemClock, TimestampMs};
pub use endpoint::Endpoint;
pub use group::{
    CommittedOffset, Confirmed, GroupError, GroupMetadata, GroupSession, LostTransaction, OffsetToCommit,
    TransactionEnd,
};
pub use partitioner::{murmur2, partition_for};
pub use position::Position;
pub use role::{AssignedRole, Role};
pub use store_name::StoreName;
pub use task::TaskId;
pub use topic::TopicPartition;
