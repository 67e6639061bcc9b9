//! Sealing: what came of the records since the last commit is forwarded, checked and frozen.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::ActiveTask;
use crate::{
    engine::metrics,
    errors::{self, Failure},
    kafka::{
        StartOffset,
        limits::{Refusal, batch_bytes},
    },
    processor::SealedRow,
    task::{TaskError, TaskSeal},
};

impl ActiveTask {
    /// Whether anything waits to be sealed.
    pub fn has_unsealed(&self) -> bool {
        !self.condemned && self.has_news()
    }

    fn has_news(&self) -> bool {
        self.inputs.iter().any(|input| input.next != input.sealed) || !self.dead_letters.is_empty()
    }

    /// Forwards what tables hold back, then freezes rows, outputs and positions as this task's part of a commit. `None` when
    /// `time` was too short to forward everything: to be called again, and until then the task takes no records.
    pub fn seal(&mut self, time: Duration) -> Result<Option<TaskSeal>, TaskError> {
        self.steps.sealing(self.unsealed_records);
        if !self.forward(time)? {
            return Ok(None);
        }
        let mut rows = Vec::new();
        let graph = &mut self.graph;
        let sealed = match errors::catch(|| graph.seal(&mut rows)) {
            Ok(Ok(())) => self.check(&rows).map_err(Failure::refused_result),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(panic) => Err(Failure::of_panic(&panic)),
        };
        if let Err(failure) = sealed {
            return Err(self.refused(failure));
        }
        self.unsealed_records = 0;
        self.output_bytes = 0;
        self.outputs_counted = 0;
        self.letter_bytes = 0;
        self.sealed_letters += self.dead_letters.len() as u64;
        let mut offsets = BTreeMap::new();
        for input in &mut self.inputs {
            if input.next != input.sealed {
                input.sealed = input.next;
                let partition = input.queue.partition();
                offsets.insert(partition.clone(), input.next);
                if input.next > 0 {
                    self.position.advance(&partition.topic, partition.partition, input.next - 1);
                }
                if input.next >= input.careful_until {
                    input.careful_until = 0;
                }
            }
        }
        Ok(Some(TaskSeal {
            task: self.id,
            store: Arc::clone(&self.store),
            view: Arc::clone(&self.view),
            rows,
            changelogs: Arc::clone(&self.changelogs),
            outputs: std::mem::take(&mut self.context.outputs),
            sinks: Arc::clone(&self.sinks),
            dead_letters: std::mem::take(&mut self.dead_letters),
            offsets,
            position: self.position.clone(),
            stream_time_ms: self.context.stream_time_ms,
            sealed_at_ms: self.context.wall_clock_ms(),
        }))
    }

    /// Forwards changed rows for about `time`; whether all are.
    fn forward(&mut self, time: Duration) -> Result<bool, TaskError> {
        let began = Instant::now();
        self.hand.enter(&self.partitions);
        // Rows are forwarded in the name of the last record that was processed.
        let last = self.inputs.iter().enumerate().find(|(_, input)| input.next != input.sealed);
        let last = last.map(|(index, input)| (index, input.queue.partition().clone(), input.next - 1));
        if let Some((index, _, offset)) = &last {
            self.hand.begin(*index, *offset);
        }
        let (graph, context) = (&mut self.graph, &mut self.context);
        let forwarded = errors::catch(|| graph.flush(context, Some(began + time)));
        self.hand.leave();
        if let (Some((took, rows)), Some((_, partition, offset))) = (self.context.slow_rows.take(), last) {
            self.report.slow(&partition, offset, u32::try_from(rows).unwrap_or(u32::MAX).max(2), took);
        }
        let failure = match forwarded {
            Ok(Ok(all)) => {
                self.forwarding = !all;
                return Ok(all);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(panic) => Failure::of_panic(&panic),
        };
        self.forwarding = false;
        Err(self.refused(failure))
    }

    /// Whether a seal waits for rows to be forwarded: the task takes no records meanwhile.
    pub fn is_forwarding(&self) -> bool {
        self.forwarding
    }

    /// Whether every topic takes what it is to get; in words if not.
    fn check(&self, rows: &[Vec<SealedRow>]) -> Result<(), String> {
        let now_ms = self.context.wall_clock_ms();
        let refused = |what: &str, topic: &str, refusal: Refusal| Err(format!("{what} for {topic}: {refusal}"));
        for (rows, changelog) in rows.iter().zip(self.changelogs.iter()) {
            let Some(changelog) = changelog else { continue };
            let limits = self.limits.of(&changelog.topic);
            for row in rows {
                let bytes = batch_bytes(Some(&row.key), row.value.as_deref(), &[]);
                if let Err(refusal) = limits.check(bytes, row.timestamp_ms, now_ms) {
                    return refused("a row", &changelog.topic, refusal);
                }
            }
        }
        let limits: Vec<_> = self.sinks.iter().map(|sink| self.limits.of(&sink.topic)).collect();
        for output in &self.context.outputs {
            let (Some(sink), Some(limits)) = (self.sinks.get(output.sink), limits.get(output.sink)) else { continue };
            let bytes = batch_bytes(output.key.as_deref(), output.value.as_deref(), &output.headers);
            if let Err(refusal) = limits.check(bytes, output.timestamp_ms, now_ms) {
                return refused("a record", &sink.topic, refusal);
            }
        }
        Ok(())
    }

    /// The last seal is committed and visible.
    pub fn committed(&mut self) {
        self.graph.committed();
        if self.sealed_letters > 0 {
            metrics::dead_letters(self.id, std::mem::take(&mut self.sealed_letters));
        }
        self.step_committed();
        for input in &mut self.inputs {
            if input.sealed > 0 {
                input.committed = StartOffset::At(input.sealed);
            }
        }
        // Kept until here: another rewind would meet them again.
        let inputs = &self.inputs;
        self.marked.retain(|(partition, offset), _| {
            inputs.iter().any(|input| input.queue.partition() == partition && *offset >= input.sealed)
        });
    }
}
