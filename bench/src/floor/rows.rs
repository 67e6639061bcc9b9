//! Rows in RocksDB as a hand-written service keeps them: a column family per table, no log of its own.

use std::path::{Path, PathBuf};

use clap::Args;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyRef, DB, DBCompressionType, DBPinnableSlice, IteratorMode, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::{
    error::{Error, Result},
    workload::{Expected, Topology, WorkloadFlags},
};

const BLOCK_CACHE_BYTES: usize = 256 << 20;
const WRITE_BUFFER_BYTES: usize = 64 << 20;

/// Flags of the floors that answer look-ups.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeFlags {
    /// Address to listen on
    #[arg(long)]
    pub(crate) listen: std::net::SocketAddr,
    /// Directory of the rows; filled with the stock per sku unless it exists
    #[arg(long)]
    pub(crate) state_dir: PathBuf,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}

/// A database with a family per table.
pub(crate) struct Rows {
    db: DB,
    write: WriteOptions,
    read: ReadOptions,
}

impl Rows {
    pub(crate) fn open(path: &Path, tables: &[&str]) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.increase_parallelism(2);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_compression_type(DBCompressionType::Lz4);
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        blocks.set_bloom_filter(10.0, false);
        options.set_block_based_table_factory(&blocks);
        let families = tables.iter().map(|table| (*table, options.clone()));
        let db = DB::open_cf_with_opts(&options, path, families)?;
        // The changelog is the log: a lost row is restored from there.
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self { db, write, read: ReadOptions::default() })
    }

    pub(crate) fn table(&self, name: &str) -> Result<ColumnFamilyRef<'_>> {
        self.db.cf_handle(name).ok_or_else(|| Error::other(format!("the database has no table {name}")))
    }

    /// Writes rows in the order of their keys, which RocksDB takes several times faster than any other.
    pub(crate) fn write(&self, table: &str, rows: &mut [(Box<[u8]>, Vec<u8>)]) -> Result<()> {
        rows.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let table = self.table(table)?;
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put_cf(&table, &key, &value);
        }
        Ok(self.db.write_opt(batch, &self.write)?)
    }

    pub(crate) fn get(
        &self,
        table: &impl rocksdb::AsColumnFamilyRef,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>> {
        Ok(self.db.get_pinned_cf_opt(table, key, &self.read)?)
    }

    /// Hands every row of a table to `visit`.
    pub(crate) fn each(&self, table: &str, mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for row in self.db.iterator_cf(&self.table(table)?, IteratorMode::Start) {
            let (key, value) = row?;
            visit(&key, &value);
        }
        Ok(())
    }

    /// Adds whole files of sorted rows.
    pub(crate) fn ingest(&self, table: &str, files: &[PathBuf]) -> Result<()> {
        Ok(self.db.ingest_external_file_cf(&self.table(table)?, files.to_vec())?)
    }
}

/// The table that the serving floors answer from: the JSON that the service has in `ItemStock`.
pub(crate) const ITEMS: &str = "ItemStock";

/// Opens the rows that the workload leads to, and writes them before if they are not there yet.
pub(crate) fn served(flags: &ServeFlags) -> Result<Rows> {
    let exists = flags.state_dir.exists();
    let rows = Rows::open(&flags.state_dir, &[ITEMS])?;
    if !exists {
        let expected = Expected::new(Topology::Both, &flags.workload);
        let mut all: Vec<_> = expected
            .skus()
            .map(|(sku, stock)| {
                let json = format!(r#"{{"itemID":"{sku}","currentStock":{stock}}}"#);
                (sku.into_bytes().into_boxed_slice(), json.into_bytes())
            })
            .collect();
        rows.write(ITEMS, &mut all)?;
        rows.db.flush_cf(&rows.table(ITEMS)?)?;
    }
    Ok(rows)
}
