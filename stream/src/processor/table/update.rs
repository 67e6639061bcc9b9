//! What one record does to one row: count, aggregate, reduce, a table's own topic, and the same over a table's changes.

use std::{marker::PhantomData, sync::Arc};

use crate::{codec::Change, errors::BoxError};

/// How a record changes a row. One instance serves all tasks.
pub(crate) trait TableUpdate<K, V, R>: Send + Sync {
    /// Changes `row` (`None`: there is none). An error leaves it as it was.
    fn update(&self, key: &K, value: &V, row: &mut Option<R>) -> Result<(), BoxError>;

    /// The row's new time stamp: the latest of all records that made it.
    fn timestamp(&self, record_ms: i64, row_ms: Option<i64>) -> i64 {
        row_ms.map_or(record_ms, |row_ms| row_ms.max(record_ms))
    }
}

/// Counts records.
pub(crate) struct CountUpdate;

impl<K, V> TableUpdate<K, V, i64> for CountUpdate {
    #[inline]
    fn update(&self, _key: &K, _value: &V, row: &mut Option<i64>) -> Result<(), BoxError> {
        let count = row.get_or_insert(0);
        *count = count.checked_add(1).ok_or("a count beyond i64")?;
        Ok(())
    }
}

/// Lets closures change an aggregate.
pub(crate) struct AggregateUpdate<I, A> {
    pub(crate) initial: I,
    pub(crate) add: A,
}

impl<K, V, R, I, A> TableUpdate<K, V, R> for AggregateUpdate<I, A>
where
    I: Fn() -> R + Send + Sync,
    A: Fn(&mut R, &K, &V) -> Result<(), BoxError> + Send + Sync,
{
    #[inline]
    fn update(&self, key: &K, value: &V, row: &mut Option<R>) -> Result<(), BoxError> {
        match row {
            Some(aggregate) => (self.add)(aggregate, key, value),
            None => {
                // Only what a record was added to becomes a row.
                let mut aggregate = (self.initial)();
                (self.add)(&mut aggregate, key, value)?;
                *row = Some(aggregate);
                Ok(())
            }
        }
    }
}

/// Combines values into one of the same type; the first is taken as it is.
pub(crate) struct ReduceUpdate<F>(pub(crate) F);

impl<K, V, F> TableUpdate<K, V, V> for ReduceUpdate<F>
where
    V: Clone,
    F: Fn(&V, &V) -> Result<V, BoxError> + Send + Sync,
{
    fn update(&self, _key: &K, value: &V, row: &mut Option<V>) -> Result<(), BoxError> {
        *row = Some(match row {
            Some(held) => (self.0)(held, value)?,
            None => value.clone(),
        });
        Ok(())
    }
}

/// A table's topic: each record is the row, a null deletes it. The row's time stamp is the record's.
pub(crate) struct SourceUpdate;

impl<K, V: Clone + Send + Sync> TableUpdate<K, Option<V>, V> for SourceUpdate {
    fn update(&self, _key: &K, value: &Option<V>, row: &mut Option<V>) -> Result<(), BoxError> {
        row.clone_from(value);
        Ok(())
    }

    fn timestamp(&self, record_ms: i64, _row_ms: Option<i64>) -> i64 {
        record_ms
    }
}

/// An aggregate over a table's changes: the old value is subtracted, the new one added.
pub(crate) struct TableAggregateUpdate<I, A, S, V> {
    pub(crate) initial: I,
    pub(crate) add: A,
    pub(crate) subtract: S,
    pub(crate) value: PhantomData<fn(V)>,
}

impl<K, V, R, I, A, S> TableUpdate<K, Change<V>, R> for TableAggregateUpdate<I, A, S, V>
where
    R: Clone,
    I: Fn() -> R + Send + Sync,
    A: Fn(&mut R, &K, &V) -> Result<(), BoxError> + Send + Sync,
    S: Fn(&mut R, &K, &V) -> Result<(), BoxError> + Send + Sync,
{
    fn update(&self, key: &K, change: &Change<V>, row: &mut Option<R>) -> Result<(), BoxError> {
        match (&change.old, &change.new, row) {
            (Some(old), Some(new), Some(aggregate)) => {
                // On a copy, so that a refused addition does not leave a subtraction behind.
                let mut changed = aggregate.clone();
                (self.subtract)(&mut changed, key, old)?;
                (self.add)(&mut changed, key, new)?;
                *aggregate = changed;
            }
            (Some(old), None, Some(aggregate)) => (self.subtract)(aggregate, key, old)?,
            (None, Some(new), Some(aggregate)) => (self.add)(aggregate, key, new)?,
            (_, Some(new), row) => {
                let mut aggregate = (self.initial)();
                (self.add)(&mut aggregate, key, new)?;
                *row = Some(aggregate);
            }
            // Nothing to subtract from: Kafka Streams ignores it too.
            (_, None, _) => {}
        }
        Ok(())
    }
}

/// A reduce over a table's changes.
pub(crate) struct TableReduceUpdate<A, S> {
    pub(crate) add: A,
    pub(crate) subtract: S,
}

impl<K, V, A, S> TableUpdate<K, Change<V>, V> for TableReduceUpdate<A, S>
where
    V: Clone,
    A: Fn(&V, &V) -> Result<V, BoxError> + Send + Sync,
    S: Fn(&V, &V) -> Result<V, BoxError> + Send + Sync,
{
    fn update(&self, _key: &K, change: &Change<V>, row: &mut Option<V>) -> Result<(), BoxError> {
        let rest = match (&change.old, &*row) {
            (Some(old), Some(held)) => Some((self.subtract)(held, old)?),
            (_, held) => held.clone(),
        };
        *row = match (&change.new, rest) {
            (Some(new), Some(rest)) => Some((self.add)(&rest, new)?),
            (Some(new), None) => Some(new.clone()),
            (None, rest) => rest,
        };
        Ok(())
    }
}

/// Shared by every task's node.
impl<K, V, R, U: TableUpdate<K, V, R> + ?Sized> TableUpdate<K, V, R> for Arc<U> {
    #[inline]
    fn update(&self, key: &K, value: &V, row: &mut Option<R>) -> Result<(), BoxError> {
        (**self).update(key, value, row)
    }

    fn timestamp(&self, record_ms: i64, row_ms: Option<i64>) -> i64 {
        (**self).timestamp(record_ms, row_ms)
    }
}
