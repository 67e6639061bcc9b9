//! Task directories that are torn, foreign, newer, too old or half made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Home, MIB, batch, change, next_input, one_store, put, value};
use holdfast_store::{
    AppliedBatch, CheckpointDelta, DirectoryError, MemoryBudget, OpenError, Opened, ScanRange, StateDirectory,
    StoreKind, TaskStore, TaskStoreSpec,
};
use holdfast_types::TaskId;
use uuid::Uuid;

fn task_path(home: &Home) -> PathBuf {
    home.directory.path().join("0_0")
}

/// A home whose task has a row and is closed.
fn filled() -> Home {
    let home = Home::new();
    let store = home.open(&one_store());
    assert_eq!(store.opened(), Opened::Fresh);
    put(&store, "a", "1", 1);
    store.close().unwrap();
    home
}

fn refused(home: &Home, spec: &TaskStoreSpec) -> DirectoryError {
    match home.try_open(spec, None) {
        Err(OpenError::Directory(error)) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_directory_is_used_again() {
    let home = filled();
    let store = home.open(&one_store());
    assert_eq!(store.opened(), Opened::Reused);
    assert_eq!((value(&store, "a").as_deref(), next_input(&store)), (Some("1"), 1));
    assert_eq!(home.directory.tasks().unwrap(), [TaskId::new(0, 0)]);
}

#[test]
fn another_topology_is_refused() {
    let home = filled();
    let error = refused(&home, &TaskStoreSpec { fingerprint: "f2".to_owned(), ..one_store() });
    assert!(matches!(error, DirectoryError::ChangedTopology { .. }), "{error}");
    // Nothing was touched: the right topology still finds its rows.
    assert_eq!(value(&home.open(&one_store()), "a").as_deref(), Some("1"));
}

#[test]
fn torn_parts_are_refused_and_left_alone() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("half of task.json", |task| fs::write(task.join("task.json"), b"{\"format_version\":1,").unwrap()),
        ("no task.json", |task| fs::remove_file(task.join("task.json")).unwrap()),
        ("a wild CURRENT", |task| fs::write(task.join("rocksdb/CURRENT"), b"wild").unwrap()),
        ("no manifest", |task| {
            for entry in fs::read_dir(task.join("rocksdb")).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
                    fs::remove_file(path).unwrap();
                }
            }
        }),
        ("a wild file of rows", |task| {
            let files = fs::read_dir(task.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path());
            let rows: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
            assert!(!rows.is_empty());
            for path in rows {
                fs::write(path, b"wild").unwrap();
            }
        }),
    ];
    for (damage, apply) in damages {
        let home = filled();
        // Opened once more, so that the log has become files.
        home.open(&one_store()).close().unwrap();
        apply(&task_path(&home));
        let error = refused(&home, &one_store());
        assert!(matches!(error, DirectoryError::Torn { .. }), "{damage}: {error}");
        assert!(task_path(&home).join("rocksdb").exists(), "{damage}");
        // The way out.
        home.directory.discard_task(TaskId::new(0, 0)).unwrap();
        assert_eq!(home.open(&one_store()).opened(), Opened::Fresh, "{damage}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let home = filled();
    let file = task_path(&home).join("task.json");
    let json = fs::read_to_string(&file).unwrap().replace("\"format_version\": 1", "\"format_version\": 2");
    fs::write(&file, json).unwrap();
    let error = refused(&home, &one_store());
    assert!(matches!(error, DirectoryError::Newer { found: 2, .. }), "{error}");
}

#[test]
fn a_database_in_the_wrong_place_is_refused() {
    let (home, other) = (filled(), filled());
    fs::remove_dir_all(task_path(&home).join("rocksdb")).unwrap();
    copy(&task_path(&other).join("rocksdb"), &task_path(&home).join("rocksdb"));
    let error = refused(&home, &one_store());
    assert!(matches!(error, DirectoryError::Foreign { .. }), "{error}");
    // The whole directory of another application.
    let away = StateDirectory::open(home.root.path(), "another").unwrap();
    copy(&task_path(&other), &away.path().join("0_0"));
    let opened = TaskStore::open(&away, &home.budget, &one_store(), None, &home.clock);
    assert!(matches!(opened, Err(OpenError::Directory(DirectoryError::Foreign { .. }))), "{opened:?}");
}

#[test]
fn an_older_copy_is_as_good_as_its_checkpoint() {
    let home = filled();
    let copied = home.root.path().join("copy");
    copy(&task_path(&home), &copied);
    let store = home.open(&one_store());
    put(&store, "a", "2", 2);
    store.close().unwrap();
    fs::remove_dir_all(task_path(&home)).unwrap();
    copy(&copied, &task_path(&home));
    let store = home.open(&one_store());
    assert_eq!((value(&store, "a").as_deref(), next_input(&store)), (Some("1"), 1));
}

#[test]
fn a_removed_database_is_restored_from_zero() {
    let home = filled();
    fs::remove_dir_all(task_path(&home).join("rocksdb")).unwrap();
    let store = home.open(&one_store());
    assert_eq!((store.opened(), next_input(&store)), (Opened::Fresh, 0));
}

#[test]
fn a_directory_older_than_its_changelog_keeps_deletions_is_emptied() {
    let home = filled();
    let age = Duration::from_secs(100);
    home.manual.advance(age);
    let store = home.try_open(&one_store(), Some(age)).unwrap();
    assert_eq!(store.opened(), Opened::Reused);
    store.close().unwrap();
    home.manual.advance(Duration::from_millis(1));
    let store = home.try_open(&one_store(), Some(age)).unwrap();
    assert_eq!(store.opened(), Opened::Expired { age_ms: 100_001 });
    assert_eq!((value(&store, "a"), next_input(&store)), (None, 0));
    put(&store, "b", "1", 1);
    store.close().unwrap();
    assert!(!task_path(&home).join("rocksdb.expired").exists());
    let store = home.open(&one_store());
    assert_eq!((value(&store, "a"), value(&store, "b").as_deref()), (None, Some("1")));
}

#[test]
fn positions_alone_are_kept_too() {
    let home = Home::new();
    let store = home.open(&one_store());
    store.apply(batch(Vec::new(), 7)).unwrap();
    store.close().unwrap();
    assert_eq!(next_input(&home.open(&one_store())), 7);
}

#[test]
fn a_clear_lasts() {
    let home = Home::new();
    let store = home.open(&one_store());
    let rows = (0..1000).map(|at| change(format!("{at}").as_bytes(), Some(b"v"), at)).collect();
    store.apply(batch(rows, 1)).unwrap();
    store.flush().unwrap();
    put(&store, "in memory", "1", 2);
    store.clear().unwrap();
    let empty = |store: &TaskStore| store.table(0).scan(&ScanRange::all(), 1, 1).unwrap().rows.is_empty();
    assert!(empty(&store));
    drop(store);
    let store = home.open(&one_store());
    assert!(empty(&store));
    assert_eq!(store.checkpoint(), Default::default());
    put(&store, "a", "1", 1);
    store.flush().unwrap();
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_recreated_changelog_is_refused_until_the_task_is_discarded() {
    let from = |topic_id| {
        let mut spec = one_store();
        spec.stores[0].changelog.as_mut().unwrap().topic_id = Some(Uuid::from_u128(topic_id));
        spec
    };
    let home = filled();
    home.open(&from(1)).close().unwrap();
    let error = refused(&home, &from(2));
    assert!(matches!(error, DirectoryError::TopicRecreated { .. }), "{error}");
    // Without an id, the caller may find out by other means, and clear.
    let store = home.open(&one_store());
    store.clear().unwrap();
    store.close().unwrap();
    assert_eq!(home.open(&from(2)).opened(), Opened::Reused);
    let error = refused(&home, &from(3));
    assert!(matches!(error, DirectoryError::TopicRecreated { .. }), "{error}");
    home.directory.discard_task(TaskId::new(0, 0)).unwrap();
    assert_eq!(home.open(&from(3)).opened(), Opened::Fresh);
}

#[test]
fn a_store_in_memory_is_restored_whole() {
    let home = Home::new();
    let spec = common::spec(&[("counts", StoreKind::Persistent), ("volatile", StoreKind::InMemory)]);
    let store = home.open(&spec);
    let checkpoint = CheckpointDelta {
        changelog: vec![(common::changelog("counts"), 3), (common::changelog("volatile"), 3)],
        ..CheckpointDelta::default()
    };
    let row = || vec![change(b"a", Some(b"1"), 2)];
    store.apply(AppliedBatch { rows: vec![row(), row()], checkpoint }).unwrap();
    assert_eq!(store.checkpoint().changelog.len(), 2);
    assert!(home.budget.usage().in_memory_store_bytes > 0);
    store.close().unwrap();
    let store = home.open(&spec);
    assert_eq!(store.checkpoint().changelog.into_keys().collect::<Vec<_>>(), [common::changelog("counts")]);
    assert!(store.table(0).get(b"a").unwrap().is_some());
    assert!(store.table(1).get(b"a").unwrap().is_none());
}

#[test]
fn a_temporary_store_needs_no_directory() {
    let budget = MemoryBudget::new(64 * MIB);
    let store = TaskStore::temporary(&budget, &one_store());
    put(&store, "a", "1", 1);
    put(&store, "b", "1", 2);
    store.apply(batch(vec![change(b"a", None, 3)], 3)).unwrap();
    assert_eq!(store.flush().unwrap().rows, 0);
    assert_eq!((value(&store, "a"), value(&store, "b").as_deref()), (None, Some("1")));
    assert_eq!((next_input(&store), store.table(0).approximate_rows()), (3, 1));
    store.clear().unwrap();
    assert_eq!(value(&store, "b"), None);
    drop(store);
    assert_eq!(budget.usage().total_bytes(), 0);
}

#[test]
fn an_abandoned_store_lets_go_and_forgets_what_was_in_memory() {
    let home = filled();
    let store = home.open(&one_store());
    put(&store, "a", "2", 2);
    store.abandon();
    assert_eq!(home.budget.usage().memory_table_bytes, 0);
    let again = home.open(&one_store());
    assert_eq!((value(&again, "a").as_deref(), next_input(&again)), (Some("1"), 1));
    drop(again);
    drop(store);
}

#[test]
fn two_tasks_share_a_budget() {
    let home = Home::new();
    let stores: Vec<_> =
        (0..2).map(|partition| home.open(&TaskStoreSpec { task: TaskId::new(0, partition), ..one_store() })).collect();
    let before = home.budget.usage();
    for store in &stores {
        put(store, "a", "1", 1);
    }
    assert!(home.budget.usage().memory_table_bytes > before.memory_table_bytes);
    home.budget.record_metrics();
    for store in stores {
        store.close().unwrap();
    }
    home.budget.record_metrics();
    let usage = home.budget.usage();
    assert_eq!((usage.memory_table_bytes, usage.write_buffer_bytes), (0, 0));
}
