//! Damaged files: whatever byte is flipped, wherever a file is torn, a row is right, or reading it is an error that names
//! the place and the way out; it is never silently wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{APPLICATION, MIB, change, changelog, input, next_input, spec};
use holdfast_store::{
    AppliedBatch, CheckpointDelta, MemoryBudget, RowChange, ScanRange, StateDirectory, StoreKind, TaskStore,
    TaskStoreSpec,
};
use holdfast_types::{Clock, SystemClock};

const BATCHES: i64 = 80;
const ROWS_PER_BATCH: i64 = 200;
const KEYS: usize = 600;
/// Damages of each kind of file.
const TRIALS: u64 = 8;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn two_stores() -> TaskStoreSpec {
    spec(&[("counts", StoreKind::Persistent), ("names", StoreKind::Persistent)])
}

fn open(root: &Path) -> Result<Arc<TaskStore>, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let directory = StateDirectory::open(root, APPLICATION).map_err(|error| error.to_string())?;
    // So small that there are several files of each kind; rows are flushed when the test says so.
    let budget = MemoryBudget::with_max_replay(64 * MIB, Duration::from_secs(3600));
    TaskStore::open(&directory, &budget, &two_stores(), None, &clock).map_err(|error| error.to_string())
}

/// The changes of batch `number` in a store: every seventh is a deletion. The second store changes little, so that its rows
/// stay in RocksDB's logs long after the first one's were moved to files.
fn changes(number: i64, store: i64) -> Vec<RowChange> {
    (0..if store == 0 { ROWS_PER_BATCH } else { ROWS_PER_BATCH / 20 })
        .map(|row| {
            let at = (number * ROWS_PER_BATCH + row) * 2 + store;
            let value = format!("{at:->1600}");
            // Some keys change often, some once: what a hole takes away does not come back by itself.
            let key = format!("key-{:04}", Random(u64::try_from(at).unwrap()).below(KEYS));
            change(key.as_bytes(), (at % 7 != 0).then_some(value.as_bytes()), at)
        })
        .collect()
}

/// What both stores hold after the first `batches`.
fn model(batches: i64) -> [Rows; 2] {
    [0, 1].map(|store| {
        let mut rows = Rows::new();
        for change in (0..batches).flat_map(|number| changes(number, store)) {
            match change.value {
                Some(value) => rows.insert(change.key.to_vec(), value.to_vec()),
                None => rows.remove(&change.key[..]),
            };
        }
        rows
    })
}

/// A state directory with files and a log of rows, left as a killed process leaves it.
fn image(root: &Path) {
    write(root, 0..BATCHES / 4);
    // Opened again, RocksDB makes files of what the log has.
    write(root, BATCHES / 4..BATCHES);
}

fn write(root: &Path, batches: std::ops::Range<i64>) {
    let store = open(root).unwrap();
    assert_eq!(next_input(&store), batches.start);
    for number in batches {
        apply(&store, number);
        store.flush().unwrap();
    }
}

fn apply(store: &TaskStore, number: i64) {
    let checkpoint = CheckpointDelta {
        changelog: ["counts", "names"].map(|name| (changelog(name), number + 1)).to_vec(),
        input: vec![(input(), number + 1)],
        stream_time_ms: Some(number),
        applied_at_ms: Some(1_000_000),
    };
    store.apply(AppliedBatch { rows: vec![changes(number, 0), changes(number, 1)], checkpoint }).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The files of a kind, in order.
fn files(root: &Path, kind: &str) -> Vec<PathBuf> {
    let application = root.join(APPLICATION);
    let database = application.join("0_0/rocksdb");
    let of = |matches: &dyn Fn(&str) -> bool| {
        let mut found: Vec<_> = fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| matches(path.file_name().unwrap().to_str().unwrap()));
        found.sort();
        found
    };
    match kind {
        "process.json" => vec![application.join(kind)],
        "task.json" => vec![application.join("0_0").join(kind)],
        "CURRENT" => vec![database.join(kind)],
        "MANIFEST" => of(&|name| name.starts_with("MANIFEST")),
        ending => of(&|name| name.ends_with(ending)),
    }
}

/// A generator that needs no crate (splitmix64): the same seed damages the same bytes.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Flips a byte of a file, or tears the file off; answers what was done.
fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let at = random.below(bytes.len());
    let done = if random.below(2) == 0 && !bytes.is_empty() {
        bytes[at] ^= u8::try_from(1 + random.below(255)).unwrap();
        format!("byte {at} of {} flipped", bytes.len())
    } else {
        // A file system tears at its pages as readily as anywhere.
        let at = if random.below(2) == 0 { at / 4096 * 4096 } else { at };
        let done = format!("torn after {at} of {} bytes", bytes.len());
        bytes.truncate(at);
        done
    };
    fs::write(path, bytes).unwrap();
    done
}

/// An error has to say where, and what to do.
fn assert_helps(error: &str, root: &Path, what: &str) {
    assert!(error.contains(&root.display().to_string()), "{what}: the error names no path: {error}");
    let way_out = ["move the task's directory away", "holdfast reset", "point state_dir", "move it away"];
    assert!(way_out.iter().any(|way| error.contains(way)), "{what}: the error names no way out: {error}");
}

/// Applies what the changelog has beyond the checkpoint, and then reads everything in every way: rows are those of the
/// model, or errors. (Before, rows may be ahead of the checkpoint; nobody is shown them.) Answers the number of errors.
fn check(store: &TaskStore, root: &Path, model: &[Rows; 2], what: &str) -> usize {
    let at = next_input(store);
    assert!((0..=BATCHES).contains(&at), "{what}: a checkpoint that never was: {at}");
    (at..BATCHES).for_each(|number| apply(store, number));
    let mut errors = 0;
    let mut failed = |error: holdfast_store::StoreError| {
        assert_helps(&error.to_string(), root, what);
        errors += 1;
    };
    for (index, rows) in model.iter().enumerate() {
        let keys: Vec<Vec<u8>> = (0..KEYS).map(|key| format!("key-{key:04}").into_bytes()).collect();
        for key in &keys {
            match store.table(index).get(key) {
                Ok(row) => assert_eq!(row.map(|row| row.value.to_vec()), rows.get(key).cloned(), "{what}: {key:?}"),
                Err(error) => failed(error),
            }
        }
        let asked: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        match store.table(index).get_many(&asked) {
            Ok(found) => {
                for (key, row) in keys.iter().zip(found) {
                    assert_eq!(row.map(|row| row.value.to_vec()), rows.get(key).cloned(), "{what}: {key:?} of many");
                }
            }
            Err(error) => failed(error),
        }
        match store.table(index).scan(&ScanRange::all(), usize::MAX, usize::MAX) {
            Ok(page) => {
                let found: Rows = page.rows.into_iter().map(|(key, row)| (key.to_vec(), row.value.to_vec())).collect();
                assert!(found == *rows, "{what}: a scan found {} rows of {}", found.len(), rows.len());
            }
            Err(error) => failed(error),
        }
    }
    errors
}

/// Opens a damaged copy and reads everything in it; answers how it went.
fn outcome(root: &Path, model: &[Rows; 2], what: &str) -> &'static str {
    match open(root) {
        Err(error) => {
            assert_helps(&error, root, what);
            "refused"
        }
        Ok(store) => {
            let found = next_input(&store);
            match check(&store, root, model, what) {
                0 if found == BATCHES => "whole",
                0 => "an earlier checkpoint",
                _ => "errors for some rows",
            }
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_micros())
    });
    eprintln!("damaged files: HOLDFAST_SEED={seed}");
    seed
}

fn trials(usual: u64) -> u64 {
    if std::env::var_os("HOLDFAST_SOAK").is_some() { usual * 50 } else { usual }
}

#[test]
fn a_damaged_file_never_makes_a_wrong_row() {
    let seed = seed();
    let mut random = Random(seed);
    let good = tempfile::tempdir().unwrap();
    image(good.path());
    let model = model(BATCHES);
    for kind in [".sst", ".log", "MANIFEST", "CURRENT", "task.json", "process.json"] {
        assert!(!files(good.path(), kind).is_empty(), "no file of the kind {kind}");
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        for trial in 0..trials(TRIALS) {
            let root = tempfile::tempdir().unwrap();
            copy(good.path(), root.path());
            let files = files(root.path(), kind);
            let file = &files[random.below(files.len())];
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let done = damage(file, &mut random);
            let what = format!("seed {seed}, trial {trial}: {name}, {done}");
            *outcomes.entry(outcome(root.path(), &model, &what)).or_default() += 1;
        }
        eprintln!("{kind}: {outcomes:?}");
    }
}

/// Where records end in a file of RocksDB's log format: blocks of 32 KiB, each fragment behind a header of 7 bytes with its
/// length in the fifth and sixth.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 * 1024;
    const HEADER: usize = 7;
    let mut ends = Vec::new();
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        if BLOCK - at % BLOCK < HEADER {
            at += BLOCK - at % BLOCK;
            continue;
        }
        let (length, kind) = (usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]])), bytes[at + 6]);
        at += HEADER + length;
        // A whole record, or the last of its fragments.
        if matches!(kind, 1 | 4) && at <= bytes.len() {
            ends.push(at);
        }
    }
    ends
}

#[test]
fn a_log_torn_between_its_records_never_makes_a_wrong_row() {
    let mut random = Random(seed());
    let good = tempfile::tempdir().unwrap();
    image(good.path());
    let model = model(BATCHES);
    for kind in [".log", "MANIFEST"] {
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        for file in files(good.path(), kind) {
            let bytes = fs::read(&file).unwrap();
            let mut ends = record_ends(&bytes);
            ends.insert(0, 0);
            let most = usize::try_from(trials(TRIALS)).unwrap();
            while ends.len() > most {
                ends.remove(random.below(ends.len()));
            }
            for end in ends {
                let root = tempfile::tempdir().unwrap();
                copy(good.path(), root.path());
                let path = root.path().join(file.strip_prefix(good.path()).unwrap());
                fs::write(&path, &bytes[..end]).unwrap();
                let what = format!("{} torn after {end} of {} bytes", path.display(), bytes.len());
                *outcomes.entry(outcome(root.path(), &model, &what)).or_default() += 1;
            }
        }
        eprintln!("{kind}: {outcomes:?}");
    }
}

#[test]
fn a_record_of_the_manifest_that_claims_to_be_longer_than_the_file_is_noticed() {
    let good = tempfile::tempdir().unwrap();
    image(good.path());
    let model = model(BATCHES);
    let manifest = files(good.path(), "MANIFEST").into_iter().find(|path| !path.ends_with("MANIFEST.noted")).unwrap();
    let bytes = fs::read(&manifest).unwrap();
    let mut starts = record_ends(&bytes);
    starts.insert(0, 0);
    starts.pop();
    for start in starts.into_iter().rev().take(usize::try_from(trials(TRIALS)).unwrap()) {
        let root = tempfile::tempdir().unwrap();
        copy(good.path(), root.path());
        // RocksDB takes it for one that was being written when the process ended, and forgets it and all after it.
        let mut damaged = bytes.clone();
        damaged[start + 5] |= 0x40;
        fs::write(root.path().join(manifest.strip_prefix(good.path()).unwrap()), damaged).unwrap();
        assert_eq!(outcome(root.path(), &model, &format!("the length at {start}")), "refused");
    }
}
