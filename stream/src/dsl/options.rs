//! What operations can be told: codecs, names, kinds of stores.

use std::sync::Arc;

use holdfast_store::StoreKind;

use crate::codec::{Codec, HasCodec, NoKey, NoKeyCodec, SharedCodec};

/// A codec that was named, or the type's own for want of another.
#[derive(Clone)]
pub(super) enum CodecChoice<T> {
    Given(SharedCodec<T>),
    Default(SharedCodec<T>),
}

impl<T: 'static> CodecChoice<T> {
    fn given(codec: impl Codec<Value = T>) -> Self {
        Self::Given(Arc::new(codec))
    }

    /// What was named, else what is carried along, else the type's own.
    pub(super) fn resolve(&self, carried: Option<&SharedCodec<T>>) -> SharedCodec<T> {
        match (self, carried) {
            (Self::Default(_), Some(carried)) => Arc::clone(carried),
            (Self::Given(codec) | Self::Default(codec), _) => Arc::clone(codec),
        }
    }
}

impl<T: HasCodec> CodecChoice<T> {
    fn own() -> Self {
        Self::Default(T::codec())
    }
}

/// How a topic is read.
pub struct Consumed<K, V> {
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
    pub(super) name: Option<String>,
}

impl<K: 'static, V: 'static> Consumed<K, V> {
    /// With these codecs.
    pub fn with(key: impl Codec<Value = K>, value: impl Codec<Value = V>) -> Self {
        Self { key: Arc::new(key), value: Arc::new(value), name: None }
    }

    /// Names the source node.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }
}

impl<V: 'static> Consumed<NoKey, V> {
    /// Values with this codec, keys ignored, null keys taken.
    pub fn values(value: impl Codec<Value = V>) -> Self {
        Self { key: Arc::new(NoKeyCodec), value: Arc::new(value), name: None }
    }
}

impl<K: HasCodec, V: HasCodec> Default for Consumed<K, V> {
    /// With the types' own codecs.
    fn default() -> Self {
        Self { key: K::codec(), value: V::codec(), name: None }
    }
}

/// How a topic is written.
pub struct Produced<K, V> {
    pub(super) key: CodecChoice<K>,
    pub(super) value: CodecChoice<V>,
    pub(super) name: Option<String>,
}

impl<K: 'static, V: 'static> Produced<K, V> {
    /// With these codecs.
    pub fn with(key: impl Codec<Value = K>, value: impl Codec<Value = V>) -> Self {
        Self { key: CodecChoice::given(key), value: CodecChoice::given(value), name: None }
    }

    /// Names the sink node.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }
}

impl<V: 'static> Produced<NoKey, V> {
    /// Values with this codec, keys null.
    pub fn values(value: impl Codec<Value = V>) -> Self {
        Self::with(NoKeyCodec, value)
    }
}

impl<K: HasCodec, V: HasCodec> Default for Produced<K, V> {
    /// With the codecs carried along, or the types' own.
    fn default() -> Self {
        Self { key: CodecChoice::own(), value: CodecChoice::own(), name: None }
    }
}

/// How a grouping is repartitioned.
pub struct Grouped<K, V> {
    pub(super) key: CodecChoice<K>,
    pub(super) value: CodecChoice<V>,
    pub(super) name: Option<String>,
}

impl<K: 'static, V: 'static> Grouped<K, V> {
    /// With these codecs.
    pub fn with(key: impl Codec<Value = K>, value: impl Codec<Value = V>) -> Self {
        Self { key: CodecChoice::given(key), value: CodecChoice::given(value), name: None }
    }

    /// Names the repartition topic (`<name>-repartition`), and the node that chooses the key.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }
}

impl<K: HasCodec, V: HasCodec> Default for Grouped<K, V> {
    /// With the codecs carried along, or the types' own.
    fn default() -> Self {
        Self { key: CodecChoice::own(), value: CodecChoice::own(), name: None }
    }
}

/// How a stream is repartitioned.
pub struct Repartitioned<K, V> {
    pub(super) key: CodecChoice<K>,
    pub(super) value: CodecChoice<V>,
    pub(super) name: Option<String>,
    pub(super) partitions: Option<i32>,
}

impl<K: 'static, V: 'static> Repartitioned<K, V> {
    /// With these codecs.
    pub fn with(key: impl Codec<Value = K>, value: impl Codec<Value = V>) -> Self {
        Self { key: CodecChoice::given(key), value: CodecChoice::given(value), name: None, partitions: None }
    }

    /// Names the topic (`<name>-repartition`).
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets the number of partitions; otherwise it is that of the widest topic upstream.
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

impl<K: HasCodec, V: HasCodec> Default for Repartitioned<K, V> {
    /// With the codecs carried along, or the types' own.
    fn default() -> Self {
        Self { key: CodecChoice::own(), value: CodecChoice::own(), name: None, partitions: None }
    }
}

/// How a table is kept.
pub struct Materialized<V> {
    pub(super) name: Option<String>,
    pub(super) value: CodecChoice<V>,
    pub(super) kind: StoreKind,
    pub(super) changelog: bool,
}

impl<V: HasCodec> Materialized<V> {
    /// In a store of this name, which clients can ask for.
    pub fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }
}

impl<V: 'static> Materialized<V> {
    /// In a store of this name, its values with this codec.
    pub fn with(name: &str, value: impl Codec<Value = V>) -> Self {
        Self {
            name: Some(name.to_owned()),
            value: CodecChoice::given(value),
            kind: StoreKind::Persistent,
            changelog: true,
        }
    }

    /// Keeps rows in memory only.
    pub fn in_memory(mut self) -> Self {
        self.kind = StoreKind::InMemory;
        self
    }

    /// Writes no changelog: the rows are lost with the disk.
    pub fn without_changelog(mut self) -> Self {
        self.changelog = false;
        self
    }
}

impl<V: HasCodec> Default for Materialized<V> {
    /// In a store with a generated name, on disk, with a changelog. Clients cannot ask for it.
    fn default() -> Self {
        Self { name: None, value: CodecChoice::own(), kind: StoreKind::Persistent, changelog: true }
    }
}
