//! Nodes that make other records: map, map_values, flat_map, flat_map_values, select_key. Their closures may fail.

use std::sync::Arc;

use super::{Children, Processor, TaskContext, stateless::refused, tables_are_below};
use crate::errors::{BoxError, ProcessingError};

/// One record in, one out, key and value new.
pub(crate) struct Map<F, KR, VR> {
    pub(crate) node: Arc<str>,
    pub(crate) map: Arc<F>,
    pub(crate) children: Children<KR, VR>,
}

impl<K, V, KR, VR, F> Processor<K, V> for Map<F, KR, VR>
where
    F: Fn(&K, &V) -> Result<(KR, VR), BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let (key, value) = refused(&self.node, (self.map)(key, value))?;
        self.children.forward(&key, &value, context)
    }

    tables_are_below!();
}

/// One record in, one out, the key kept.
pub(crate) struct MapValues<F, K, VR> {
    pub(crate) node: Arc<str>,
    pub(crate) map: Arc<F>,
    pub(crate) children: Children<K, VR>,
}

impl<K, V, VR, F> Processor<K, V> for MapValues<F, K, VR>
where
    F: Fn(&K, &V) -> Result<VR, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let value = refused(&self.node, (self.map)(key, value))?;
        self.children.forward(key, &value, context)
    }

    tables_are_below!();
}

/// One record in, any number out.
pub(crate) struct FlatMap<F, KR, VR> {
    pub(crate) node: Arc<str>,
    pub(crate) map: Arc<F>,
    pub(crate) children: Children<KR, VR>,
}

impl<K, V, KR, VR, I, F> Processor<K, V> for FlatMap<F, KR, VR>
where
    I: IntoIterator<Item = (KR, VR)>,
    F: Fn(&K, &V) -> Result<I, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for (key, value) in refused(&self.node, (self.map)(key, value))? {
            self.children.forward(&key, &value, context)?;
        }
        Ok(())
    }

    tables_are_below!();
}

/// One record in, any number out, the key kept.
pub(crate) struct FlatMapValues<F, K, VR> {
    pub(crate) node: Arc<str>,
    pub(crate) map: Arc<F>,
    pub(crate) children: Children<K, VR>,
}

impl<K, V, VR, I, F> Processor<K, V> for FlatMapValues<F, K, VR>
where
    I: IntoIterator<Item = VR>,
    F: Fn(&K, &V) -> Result<I, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for value in refused(&self.node, (self.map)(key, value))? {
            self.children.forward(key, &value, context)?;
        }
        Ok(())
    }

    tables_are_below!();
}

/// One record in, the same value out under another key.
pub(crate) struct SelectKey<F, KR, V> {
    pub(crate) node: Arc<str>,
    pub(crate) select: Arc<F>,
    pub(crate) children: Children<KR, V>,
}

impl<K, V, KR, F> Processor<K, V> for SelectKey<F, KR, V>
where
    F: Fn(&K, &V) -> Result<KR, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let key = refused(&self.node, (self.select)(key, value))?;
        self.children.forward(&key, value, context)
    }

    tables_are_below!();
}
