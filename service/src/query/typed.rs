//! The typed way to ask: for the routes of an application, which know the types of their stores.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use holdfast_stream::codec::{Codec, HasCodec, SharedCodec};

use super::{Answer, Queries, QueryError, ReadOptions, ScanRequest, StoreInfo};

/// One store with its codecs: keys and values as Rust values.
pub struct StoreQueries<K, V> {
    queries: Queries,
    store: Arc<str>,
    key: SharedCodec<K>,
    value: SharedCodec<V>,
}

/// A page of typed rows and the cursor behind them.
pub type TypedPage<K, V> = (Vec<(K, V)>, Option<String>);

impl<K, V> Clone for StoreQueries<K, V> {
    fn clone(&self) -> Self {
        Self {
            queries: self.queries.clone(),
            store: Arc::clone(&self.store),
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
        }
    }
}

impl<K, V> fmt::Debug for StoreQueries<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreQueries").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Queries {
    /// A store by its name, with the codecs that its types name.
    ///
    /// The codecs must be those of the topology; the name is looked up at every question.
    pub fn typed<K: HasCodec, V: HasCodec>(&self, store: impl Into<Arc<str>>) -> StoreQueries<K, V> {
        StoreQueries { queries: self.clone(), store: store.into(), key: K::codec(), value: V::codec() }
    }

    /// A store by its name, with codecs given.
    pub fn typed_with<K, V>(
        &self,
        store: impl Into<Arc<str>>,
        key: impl Codec<Value = K>,
        value: impl Codec<Value = V>,
    ) -> StoreQueries<K, V> {
        StoreQueries { queries: self.clone(), store: store.into(), key: Arc::new(key), value: Arc::new(value) }
    }
}

impl<K: 'static, V: 'static> StoreQueries<K, V> {
    /// The value of `key`; `None` when there is no such key.
    pub async fn get(&self, key: &K, options: &ReadOptions) -> Result<Answer<Option<V>>, QueryError> {
        let info = self.queries.store(&self.store)?;
        let mut bytes = Vec::with_capacity(32);
        self.key.encode(key, &mut bytes).map_err(|source| QueryError::Key {
            store: info.name.clone(),
            format: self.key.name(),
            problem: source.to_string(),
        })?;
        let Answer { value: row, served } = self.queries.get_in(&info, &bytes, options).await?;
        let value = row.map(|row| self.decode_value(&info, &row.value)).transpose()?;
        Ok(Answer { value, served })
    }

    /// One page of a scan. Bounds are key bytes; see [`Queries::scan`].
    pub async fn scan(&self, request: &ScanRequest, options: &ReadOptions) -> Result<TypedPage<K, V>, QueryError> {
        let info = self.queries.store(&self.store)?;
        let page = self.queries.scan(&self.store, request, options).await?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for (key, row) in &page.rows {
            let key = self.key.decode(key).map_err(|source| unreadable(&info, self.key.name(), &source))?;
            rows.push((key, self.decode_value(&info, &row.value)?));
        }
        Ok((rows, page.cursor))
    }

    fn decode_value(&self, info: &StoreInfo, bytes: &Bytes) -> Result<V, QueryError> {
        self.value.decode(bytes).map_err(|source| unreadable(info, self.value.name(), &source))
    }
}

fn unreadable(info: &StoreInfo, format: String, source: &holdfast_stream::codec::CodecError) -> QueryError {
    QueryError::Value { store: info.name.clone(), format, problem: source.to_string() }
}
