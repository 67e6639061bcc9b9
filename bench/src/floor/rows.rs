//! Rows in RocksDB as a hand-written service keeps them: a column family per table, no log of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyRef, DB, DBCompressionType, DBPinnableSlice, IteratorMode, Options,
    ReadOptions, WriteBatch, WriteOptions,
};
use tokio::{task, time};

use crate::{
    error::{Error, Result, other},
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
    /// Other rows to write beside the look-ups, a second
    #[arg(long, default_value_t = 0)]
    pub(crate) write_rate: u32,
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

/// Rows that are written beside look-ups: as many names as the stream of records has that a service works through.
const WRITTEN: u64 = 1_000;
/// Time between two batches of them, as between two commits.
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// Opens the rows that the workload leads to, and writes them before if they are not there yet; others are written from then on,
/// if any are to be. To be called on a runtime.
pub(crate) fn served(flags: &ServeFlags) -> Result<Arc<Rows>> {
    let exists = flags.state_dir.exists();
    let rows = Rows::open(&flags.state_dir, &[ITEMS])?;
    if !exists {
        let expected = Expected::new(Topology::Both, &flags.workload);
        let mut all: Vec<_> = expected.skus().map(|(sku, stock)| item(&sku, stock)).collect();
        rows.write(ITEMS, &mut all)?;
        rows.db.flush_cf(&rows.table(ITEMS)?)?;
    }
    let rows = Arc::new(rows);
    if flags.write_rate > 0 {
        // It ends with the process.
        tokio::spawn(write_beside(Arc::clone(&rows), f64::from(flags.write_rate)));
    }
    Ok(rows)
}

/// Writes rows at a rate; those that are asked for keep their values.
async fn write_beside(rows: Arc<Rows>, rate: f64) {
    let (began, mut written, mut batches) = (Instant::now(), 0_u64, time::interval(WRITE_EVERY));
    loop {
        batches.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        let (rows, numbers) = (Arc::clone(&rows), written..due);
        written = due;
        // Beside the threads that answer, as a commit is.
        let wrote = task::spawn_blocking(move || {
            let row = |number: u64| item(&format!("Extra_{}", number % WRITTEN), number as i64);
            rows.write(ITEMS, &mut numbers.map(row).collect::<Vec<_>>())
        });
        if let Err(error) = wrote.await.map_err(other).flatten() {
            // Without it the measurement would be of something else.
            eprintln!("holdfast-bench: no rows could be written: {error}");
            std::process::exit(2);
        }
    }
}

fn item(sku: &str, stock: i64) -> (Box<[u8]>, Vec<u8>) {
    let json = format!(r#"{{"itemID":"{sku}","currentStock":{stock}}}"#);
    (sku.as_bytes().into(), json.into_bytes())
}
