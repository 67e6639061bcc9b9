//! The node that keeps a table: each record changes one row; a commit forwards, seals and later drops rows.

use std::{marker::PhantomData, sync::Arc, time::Instant};

use bytes::Bytes;
use holdfast_store::Table;

use super::{
    rows::{RowId, Rows, TableSizes},
    update::TableUpdate,
};
use crate::{
    codec::{Change, SharedCodec},
    errors::{ProcessingError, RecordPart},
    processor::{Children, Processor, SealedRow, TableCall, TaskContext, stateless::refused},
};

/// Rows forwarded between two looks at the clock.
const ROWS_PER_LOOK: usize = 64;

/// A table as its task sees it, its types inside.
pub(crate) trait TaskTable: Send {
    /// Sends each row that changed since it was last sent, until about a given time; whether all are sent.
    fn flush(&mut self, context: &mut TaskContext, until: Option<Instant>) -> Result<bool, ProcessingError>;
    /// Encodes each row that changed since the last seal.
    fn seal(&mut self, rows: &mut Vec<SealedRow>) -> Result<(), ProcessingError>;
    /// The oldest open seal is committed.
    fn committed(&mut self);
    /// Drops rows that the store has until `target_bytes` are left.
    fn evict(&mut self, target_bytes: usize);
}

/// A table of rows `R` by key `K`, changed by records `V` as `U` says.
pub(crate) struct TableNode<K, V, R, U> {
    /// The table's number in its task.
    number: usize,
    node: Arc<str>,
    store: Arc<str>,
    key: SharedCodec<K>,
    row: SharedCodec<R>,
    /// The codec of incoming values where it knows nulls: those are dropped, as Kafka Streams does.
    nullable: Option<SharedCodec<V>>,
    table: Arc<Table>,
    update: Arc<U>,
    sends_old: bool,
    children: Children<K, Change<R>>,
    rows: Rows<R>,
    encoded_key: Vec<u8>,
    encoded_value: Vec<u8>,
    key_slot: Option<K>,
    input: PhantomData<fn(&V)>,
}

impl<K: 'static, V: 'static, R: 'static, U> TableNode<K, V, R, U> {
    #[expect(clippy::too_many_arguments, reason = "called from one place, and each is its own type")]
    pub(crate) fn new(
        (number, sizes): (usize, Arc<TableSizes>),
        node: Arc<str>,
        store: Arc<str>,
        key: SharedCodec<K>,
        row: SharedCodec<R>,
        input: Option<&SharedCodec<V>>,
        table: Arc<Table>,
        update: Arc<U>,
        sends_old: bool,
        children: Children<K, Change<R>>,
    ) -> Self {
        let nullable = input.filter(|codec| codec.null().is_some()).cloned();
        Self {
            number,
            node,
            store,
            key,
            row,
            nullable,
            table,
            update,
            sends_old,
            children,
            rows: Rows::new(sizes),
            encoded_key: Vec::new(),
            encoded_value: Vec::new(),
            key_slot: None,
            input: PhantomData,
        }
    }

    /// The row of `encoded_key`: held already, or read from the store (and held from then on, absent ones too).
    #[inline]
    fn locate(&mut self) -> Result<RowId, ProcessingError> {
        let hash = self.rows.hash(&self.encoded_key);
        match self.rows.find(hash, &self.encoded_key) {
            Some(id) => Ok(id),
            None => self.read(hash),
        }
    }

    #[cold]
    fn read(&mut self, hash: u64) -> Result<RowId, ProcessingError> {
        let stored = match self.table.get(&self.encoded_key)? {
            Some(row) => {
                let value = self
                    .row
                    .decode(&row.value)
                    .map_err(|source| ProcessingError::CorruptRow { store: Arc::clone(&self.store), source })?;
                Some((value, row.timestamp_ms, row.value.len()))
            }
            None => None,
        };
        Ok(self.rows.insert(hash, &self.encoded_key, stored))
    }

    fn unwritable(node: &Arc<str>, part: RecordPart) -> impl Fn(crate::codec::CodecError) -> ProcessingError {
        move |source| ProcessingError::Encode { node: Arc::clone(node), part, source }
    }
}

impl<K, V, R, U> Processor<K, V> for TableNode<K, V, R, U>
where
    K: Send + 'static,
    V: 'static,
    R: Clone + Send + 'static,
    U: TableUpdate<K, V, R>,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        if self.key.is_null(key) {
            context.dropped.null_key += 1;
            return Ok(());
        }
        if self.nullable.as_ref().is_some_and(|codec| codec.is_null(value)) {
            context.dropped.null_value += 1;
            return Ok(());
        }
        self.encoded_key.clear();
        self.key.encode(key, &mut self.encoded_key).map_err(Self::unwritable(&self.node, RecordPart::Key))?;
        let id = self.locate()?;

        let forwards = !self.children.is_empty();
        let row = self.rows.get_mut(id);
        if forwards && !row.is_unsent() {
            let sent = if self.sends_old { row.value.clone().map(Box::new) } else { None };
            Rows::note_sent(row, sent);
        }
        let existed = row.value.is_some();
        let updated = if context.is_cautious() {
            let mut changed = row.value.clone();
            let updated = self.update.update(key, value, &mut changed);
            if updated.is_ok() {
                row.value = changed;
            }
            updated
        } else {
            context.row_at_risk = true;
            let updated = self.update.update(key, value, &mut row.value);
            context.row_at_risk = false;
            updated
        };
        refused(&self.node, updated)?;
        if !existed && row.value.is_none() {
            return Ok(());
        }
        row.timestamp_ms = self.update.timestamp(context.timestamp_ms(), existed.then_some(row.timestamp_ms));
        self.rows.mark_changed(id, forwards);
        context.mutated = true;
        Ok(())
    }

    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool {
        if table == self.number {
            call(self);
            return true;
        }
        self.children.with_table(table, call)
    }
}

impl<K, V, R, U> TaskTable for TableNode<K, V, R, U>
where
    K: Send + 'static,
    V: 'static,
    R: Clone + Send + 'static,
    U: TableUpdate<K, V, R>,
{
    fn flush(&mut self, context: &mut TaskContext, until: Option<Instant>) -> Result<bool, ProcessingError> {
        let unsent = self.rows.take_unsent();
        let mut looked = (0, Instant::now());
        for (index, &id) in unsent.iter().enumerate() {
            // After the first row, the second, the fourth …: a slow closure is noticed at once, and a fast one not slowed down.
            let look = index.is_power_of_two() || (index > 0 && index % ROWS_PER_LOOK == 0);
            if look {
                let now = Instant::now();
                context.forwarded(index - looked.0, now - looked.1);
                looked = (index, now);
                if until.is_some_and(|until| now >= until) {
                    self.rows.keep_unsent(unsent, index);
                    return Ok(false);
                }
            }
            let row = self.rows.get_mut(id);
            if row.value.is_none() && !row.was_sent() {
                // Made and deleted since the last time: nobody has to hear of it.
                continue;
            }
            self.key
                .decode_into(row.key(), &mut self.key_slot)
                .map_err(|source| ProcessingError::CorruptRow { store: Arc::clone(&self.store), source })?;
            let Some(key) = &self.key_slot else { continue };
            context.begin_row(row.timestamp_ms);
            // The value is lent to the change and comes back: no copy.
            let change = Change { new: row.value.take(), old: row.sent.take().map(|sent| *sent) };
            let sent = self.children.forward(key, &change, context);
            row.value = change.new;
            sent?;
        }
        context.forwarded(unsent.len() - looked.0, looked.1.elapsed());
        self.rows.give_unsent(unsent);
        Ok(true)
    }

    fn seal(&mut self, sealed: &mut Vec<SealedRow>) -> Result<(), ProcessingError> {
        sealed.reserve(self.rows.dirty_len());
        let Self { rows, row: codec, encoded_value, node, .. } = self;
        rows.seal(|row| {
            let value = match &row.value {
                Some(value) => {
                    encoded_value.clear();
                    codec.encode(value, encoded_value).map_err(Self::unwritable(node, RecordPart::Value))?;
                    Some(Bytes::copy_from_slice(encoded_value))
                }
                None => None,
            };
            let length = value.as_ref().map_or(0, Bytes::len);
            sealed.push(SealedRow { key: Bytes::copy_from_slice(row.key()), value, timestamp_ms: row.timestamp_ms });
            Ok(length)
        })
    }

    fn committed(&mut self) {
        self.rows.committed();
    }

    fn evict(&mut self, target_bytes: usize) {
        self.rows.evict(target_bytes);
    }
}
