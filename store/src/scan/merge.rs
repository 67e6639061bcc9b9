//! Merges the layers of a table, newest first, into one page of live rows.

use bytes::Bytes;

use super::ScanPage;
use crate::{error::StoreError, row::Row};

/// A sorted run of keys, walked in the scan's direction. An entry hides those of the same key in the layers behind it.
pub(crate) trait Layer {
    /// The key at which the layer stands; `None` at its end.
    fn key(&self) -> Option<&[u8]>;
    /// The row there; `None` for a deleted one.
    fn row(&self) -> Result<Option<Row>, StoreError>;
    /// Goes on to the next key.
    fn advance(&mut self) -> Result<(), StoreError>;
}

/// How much one page holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLimits {
    /// Most rows.
    pub rows: usize,
    /// Most bytes of keys and values; a first row that is larger comes all the same, so that a scan goes on.
    pub bytes: usize,
}

impl PageLimits {
    /// Whether a page with so many rows and bytes is full.
    pub(crate) fn reached(self, rows: usize, bytes: usize) -> bool {
        rows >= self.rows || (rows > 0 && bytes >= self.bytes)
    }
}

/// The first page over `layers`, newest first.
pub(crate) fn merge(
    layers: &mut [Box<dyn Layer + '_>],
    reverse: bool,
    limits: PageLimits,
) -> Result<ScanPage, StoreError> {
    let mut page = ScanPage::default();
    let mut bytes = 0;
    while let Some(winner) = next_layer(layers, reverse) {
        let Some(key) = layers[winner].key().map(Bytes::copy_from_slice) else { break };
        if let Some(row) = layers[winner].row()? {
            if limits.reached(page.rows.len(), bytes) {
                page.more = true;
                break;
            }
            bytes += key.len() + row.value.len();
            page.rows.push((key.clone(), row));
        }
        for layer in layers.iter_mut() {
            if layer.key() == Some(&key[..]) {
                layer.advance()?;
            }
        }
    }
    Ok(page)
}

/// The layer with the next key; of several with the same key, the newest.
fn next_layer(layers: &[Box<dyn Layer + '_>], reverse: bool) -> Option<usize> {
    let mut best: Option<(usize, &[u8])> = None;
    for (at, layer) in layers.iter().enumerate() {
        let Some(key) = layer.key() else { continue };
        let sooner = match best {
            None => true,
            Some((_, best)) if reverse => key > best,
            Some((_, best)) => key < best,
        };
        if sooner {
            best = Some((at, key));
        }
    }
    best.map(|(at, _)| at)
}
