//! The engine's metrics: every name, unit and help text.

use std::time::Duration;

use holdfast_types::TaskId;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::errors::ErrorKind;

const PROCESSED: &str = "holdfast_stream_processed_records_total";
const SKIPPED: &str = "holdfast_stream_skipped_records_total";
const DEAD_LETTERS: &str = "holdfast_stream_dead_letter_records_total";
const FAILED: &str = "holdfast_stream_failed_records_total";
const SLOW: &str = "holdfast_stream_slow_records_total";
const SLOW_DURATION: &str = "holdfast_stream_slow_record_duration_seconds";
const COMMITS: &str = "holdfast_stream_commits_total";
const COMMIT_RETRIES: &str = "holdfast_stream_commit_retries_total";
const COMMIT_DURATION: &str = "holdfast_stream_commit_duration_seconds";
const COMMITTED_ROWS: &str = "holdfast_stream_committed_records_total";
const ROLLBACKS: &str = "holdfast_stream_task_rollbacks_total";
const THREAD_FAILURES: &str = "holdfast_stream_thread_failures_total";
const DIRTY_BYTES: &str = "holdfast_stream_dirty_bytes";
const CACHED_BYTES: &str = "holdfast_stream_cached_bytes";
const LAG: &str = "holdfast_stream_lag_records";
const RESTORED: &str = "holdfast_stream_restored_records_total";
const RESTORE_REMAINING: &str = "holdfast_stream_restore_remaining_records";
const RESTORE_DURATION: &str = "holdfast_stream_restore_duration_seconds";
const FOLLOWED: &str = "holdfast_stream_followed_records_total";
const STANDBY_LAG: &str = "holdfast_stream_standby_lag_records";
const STANDBY_STALENESS: &str = "holdfast_stream_standby_staleness_seconds";
const PROMOTED: &str = "holdfast_stream_promoted_tasks_total";
const WARM_UPS: &str = "holdfast_stream_warm_ups_total";
const TASKS: &str = "holdfast_stream_tasks";
const TOPICS_IN_TROUBLE: &str = "holdfast_stream_topics_in_trouble";
const HALTED: &str = "holdfast_stream_halted";

/// Registers help texts and units with the installed recorder.
pub fn describe() {
    describe_counter!(PROCESSED, Unit::Count, "Records processed, by task");
    describe_counter!(SKIPPED, Unit::Count, "Records that processors skipped (null key or value), by task");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Records committed to the dead-letter topic, by task");
    describe_counter!(FAILED, Unit::Count, "Records that failed, whatever the policy did with them, by task and kind");
    describe_counter!(SLOW, Unit::Count, "Records that took longer than slow_record_ms, by task");
    describe_histogram!(SLOW_DURATION, Unit::Seconds, "How long slow records took");
    describe_counter!(COMMITS, Unit::Count, "Commits, by outcome");
    describe_counter!(COMMIT_RETRIES, Unit::Count, "Commits tried again");
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "From a seal to its rows being visible");
    describe_counter!(COMMITTED_ROWS, Unit::Count, "Changelog and output records committed");
    describe_counter!(ROLLBACKS, Unit::Count, "Tasks taken back to their last commit, by reason");
    describe_counter!(THREAD_FAILURES, Unit::Count, "Stream threads that met a fatal error");
    describe_gauge!(DIRTY_BYTES, Unit::Bytes, "Uncommitted rows and outputs, by thread");
    describe_gauge!(CACHED_BYTES, Unit::Bytes, "Typed rows kept in tasks, by thread");
    describe_gauge!(
        LAG,
        Unit::Count,
        "Records between the committed offset and the end of the input, by task and partition"
    );
    describe_counter!(RESTORED, Unit::Count, "Changelog records replayed, by task");
    describe_gauge!(RESTORE_REMAINING, Unit::Count, "Changelog records still to replay, by task");
    describe_histogram!(RESTORE_DURATION, Unit::Seconds, "Time to restore a task");
    describe_counter!(FOLLOWED, Unit::Count, "Changelog records that standbys and warm-ups took over, by task");
    describe_gauge!(STANDBY_LAG, Unit::Count, "Changelog records that a standby or warm-up is behind, by task");
    describe_gauge!(
        STANDBY_STALENESS,
        Unit::Seconds,
        "Time since a standby or warm-up was last known to have caught up, by task"
    );
    describe_counter!(PROMOTED, Unit::Count, "Standbys and warm-ups that became active in place");
    describe_counter!(WARM_UPS, Unit::Count, "Copies that began to be built because their task is to move here");
    describe_gauge!(TASKS, Unit::Count, "Tasks by role: active, restoring, standby, warm_up");
    describe_gauge!(
        TOPICS_IN_TROUBLE,
        Unit::Count,
        "Topics that are missing, hidden, or not as large as the tasks were made for"
    );
    describe_gauge!(
        HALTED,
        Unit::Count,
        "1 while processing is halted because a topic is not what it was; the log says which"
    );
}

pub(crate) fn processed(task: TaskId, records: u64) {
    counter!(PROCESSED, "task" => task.to_string()).increment(records);
}

pub(crate) fn skipped(task: TaskId, records: u64) {
    counter!(SKIPPED, "task" => task.to_string()).increment(records);
}

pub(crate) fn dead_letters(task: TaskId, records: u64) {
    counter!(DEAD_LETTERS, "task" => task.to_string()).increment(records);
}

pub(crate) fn failed(task: TaskId, kind: ErrorKind) {
    counter!(FAILED, "task" => task.to_string(), "kind" => kind.as_str()).increment(1);
}

pub(crate) fn slow_record(task: TaskId, took: Duration) {
    counter!(SLOW, "task" => task.to_string()).increment(1);
    histogram!(SLOW_DURATION).record(took.as_secs_f64());
}

pub(crate) fn committed(took: Duration, records: u64) {
    counter!(COMMITS, "outcome" => "committed").increment(1);
    counter!(COMMITTED_ROWS).increment(records);
    histogram!(COMMIT_DURATION).record(took.as_secs_f64());
}

pub(crate) fn commit_failed(outcome: &'static str) {
    counter!(COMMITS, "outcome" => outcome).increment(1);
}

pub(crate) fn commit_retried() {
    counter!(COMMIT_RETRIES).increment(1);
}

pub(crate) fn rolled_back(reason: &'static str) {
    counter!(ROLLBACKS, "reason" => reason).increment(1);
}

pub(crate) fn thread_failed() {
    counter!(THREAD_FAILURES).increment(1);
}

pub(crate) fn thread_memory(thread: usize, dirty_bytes: usize, cached_bytes: usize) {
    gauge!(DIRTY_BYTES, "thread" => thread.to_string()).set(dirty_bytes as f64);
    gauge!(CACHED_BYTES, "thread" => thread.to_string()).set(cached_bytes as f64);
}

pub(crate) fn lag(task: TaskId, partition: &str, records: i64) {
    gauge!(LAG, "task" => task.to_string(), "partition" => partition.to_owned()).set(records as f64);
}

pub(crate) fn restored(task: TaskId, records: u64, remaining: u64) {
    counter!(RESTORED, "task" => task.to_string()).increment(records);
    gauge!(RESTORE_REMAINING, "task" => task.to_string()).set(remaining as f64);
}

pub(crate) fn restore_took(took: Duration) {
    histogram!(RESTORE_DURATION).record(took.as_secs_f64());
}

pub(crate) fn followed(task: TaskId, records: u64) {
    counter!(FOLLOWED, "task" => task.to_string()).increment(records);
}

pub(crate) fn following(task: TaskId, lag: Option<u64>, staleness: Option<Duration>) {
    if let Some(lag) = lag {
        gauge!(STANDBY_LAG, "task" => task.to_string()).set(lag as f64);
    }
    if let Some(staleness) = staleness {
        gauge!(STANDBY_STALENESS, "task" => task.to_string()).set(staleness.as_secs_f64());
    }
}

pub(crate) fn not_followed(task: TaskId) {
    following(task, Some(0), Some(Duration::ZERO));
}

pub(crate) fn warms_up() {
    counter!(WARM_UPS).increment(1);
}

pub(crate) fn promoted() {
    counter!(PROMOTED).increment(1);
}

/// How many tasks are what here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TaskCounts {
    pub(crate) active: usize,
    pub(crate) restoring: usize,
    pub(crate) standby: usize,
    pub(crate) warm_up: usize,
}

pub(crate) fn tasks(counts: TaskCounts) {
    let TaskCounts { active, restoring, standby, warm_up } = counts;
    for (role, tasks) in [("active", active), ("restoring", restoring), ("standby", standby), ("warm_up", warm_up)] {
        gauge!(TASKS, "role" => role).set(tasks as f64);
    }
}

pub(crate) fn topics_in_trouble(topics: usize) {
    gauge!(TOPICS_IN_TROUBLE).set(topics as f64);
}

pub(crate) fn halted(halted: bool) {
    gauge!(HALTED).set(f64::from(u8::from(halted)));
}
