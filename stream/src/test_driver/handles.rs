//! Typed handles on a driver's topics and stores.

use std::sync::Arc;

use holdfast_store::Table;

use super::driver::{DriverError, RawRecord, TopologyTestDriver, all_rows};
use crate::{
    codec::{CodecError, SharedCodec},
    processor::Header,
};

/// A topic to pipe records into.
pub struct TestInputTopic<K, V> {
    pub(super) driver: TopologyTestDriver,
    pub(super) topic: Arc<str>,
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
}

impl<K: 'static, V: 'static> TestInputTopic<K, V> {
    /// Pipes a record with the driver's time.
    pub fn pipe(&self, key: impl Into<K>, value: impl Into<V>) -> Result<(), DriverError> {
        self.pipe_at(key, value, self.driver.wall_clock_ms())
    }

    /// Pipes a record with this time stamp.
    pub fn pipe_at(&self, key: impl Into<K>, value: impl Into<V>, timestamp_ms: i64) -> Result<(), DriverError> {
        self.send(Some(key.into()), Some(value.into()), timestamp_ms, Vec::new())
    }

    /// Pipes a record with headers.
    pub fn pipe_with_headers(
        &self,
        key: impl Into<K>,
        value: impl Into<V>,
        headers: Vec<Header>,
    ) -> Result<(), DriverError> {
        self.send(Some(key.into()), Some(value.into()), self.driver.wall_clock_ms(), headers)
    }

    /// Pipes a record without a key.
    pub fn pipe_value(&self, value: impl Into<V>) -> Result<(), DriverError> {
        self.send(None, Some(value.into()), self.driver.wall_clock_ms(), Vec::new())
    }

    /// Pipes a record without a value.
    pub fn pipe_tombstone(&self, key: impl Into<K>) -> Result<(), DriverError> {
        self.send(Some(key.into()), None, self.driver.wall_clock_ms(), Vec::new())
    }

    fn send(
        &self,
        key: Option<K>,
        value: Option<V>,
        timestamp_ms: i64,
        headers: Vec<Header>,
    ) -> Result<(), DriverError> {
        let record = RawRecord {
            topic: Arc::clone(&self.topic),
            key: encode(&self.key, key.as_ref())?,
            value: encode(&self.value, value.as_ref())?,
            timestamp_ms,
            headers,
        };
        self.driver.pipe(record)
    }
}

fn encode<T>(codec: &SharedCodec<T>, value: Option<&T>) -> Result<Option<bytes::Bytes>, CodecError>
where
    T: 'static,
{
    let Some(value) = value.filter(|value| !codec.is_null(value)) else { return Ok(None) };
    let mut out = Vec::new();
    codec.encode(value, &mut out)?;
    Ok(Some(out.into()))
}

/// A record that a topology wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRecord<K, V> {
    /// The key; `None` for a null.
    pub key: Option<K>,
    /// The value; `None` for a tombstone.
    pub value: Option<V>,
    /// Time stamp.
    pub timestamp_ms: i64,
    /// Headers.
    pub headers: Vec<Header>,
}

/// A topic to read results from.
pub struct TestOutputTopic<K, V> {
    pub(super) driver: TopologyTestDriver,
    pub(super) topic: Arc<str>,
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
}

impl<K: 'static, V: 'static> TestOutputTopic<K, V> {
    /// The next record, if there is one.
    pub fn read(&self) -> Result<Option<TestRecord<K, V>>, DriverError> {
        let Some(record) = self.driver.next_output(&self.topic) else { return Ok(None) };
        Ok(Some(TestRecord {
            key: record.key.map(|bytes| self.key.decode(&bytes)).transpose()?,
            value: record.value.map(|bytes| self.value.decode(&bytes)).transpose()?,
            timestamp_ms: record.timestamp_ms,
            headers: record.headers,
        }))
    }

    /// All records not read yet.
    pub fn read_all(&self) -> Result<Vec<TestRecord<K, V>>, DriverError> {
        let mut records = Vec::new();
        while let Some(record) = self.read()? {
            records.push(record);
        }
        Ok(records)
    }

    /// Keys and values of all records not read yet.
    #[expect(clippy::type_complexity, reason = "pairs, as tests compare them")]
    pub fn read_key_values(&self) -> Result<Vec<(Option<K>, Option<V>)>, DriverError> {
        Ok(self.read_all()?.into_iter().map(|record| (record.key, record.value)).collect())
    }

    /// Values of all records not read yet, tombstones left out.
    pub fn read_values(&self) -> Result<Vec<V>, DriverError> {
        Ok(self.read_all()?.into_iter().filter_map(|record| record.value).collect())
    }
}

/// A store, as clients see it: committed rows.
pub struct TestStore<K, V> {
    pub(super) table: Arc<Table>,
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
}

impl<K: 'static, V: 'static> TestStore<K, V> {
    /// The value of `key`.
    pub fn get(&self, key: impl Into<K>) -> Result<Option<V>, DriverError> {
        Ok(self.get_with_timestamp(key)?.map(|(value, _)| value))
    }

    /// The value of `key`, and its time stamp.
    pub fn get_with_timestamp(&self, key: impl Into<K>) -> Result<Option<(V, i64)>, DriverError> {
        let mut bytes = Vec::new();
        self.key.encode(&key.into(), &mut bytes)?;
        match self.table.get(&bytes)? {
            Some(row) => Ok(Some((self.value.decode(&row.value)?, row.timestamp_ms))),
            None => Ok(None),
        }
    }

    /// All rows, in the order of the keys' bytes.
    pub fn all(&self) -> Result<Vec<(K, V)>, DriverError> {
        let mut rows = Vec::new();
        for (key, row) in all_rows(&self.table)? {
            rows.push((self.key.decode(&key)?, self.value.decode(&row.value)?));
        }
        Ok(rows)
    }
}
