//! Directories that are, and are not, what a task needs.

use std::collections::BTreeSet;

use holdfast_types::{ManualClock, StoreName, TopicPartition};

use super::*;
use crate::spec::{ChangelogSpec, StoreKind, StoreSpec, TaskStoreSpec};

fn spec(task: TaskId, fingerprint: &str, topic_id: Option<Uuid>) -> TaskStoreSpec {
    let changelog = ChangelogSpec { partition: TopicPartition::new("app-counts-changelog", task.partition), topic_id };
    let store = StoreSpec { name: StoreName::from("counts"), kind: StoreKind::Persistent, changelog: Some(changelog) };
    TaskStoreSpec { task, fingerprint: fingerprint.to_owned(), stores: vec![store] }
}

/// The name of the error's variant, and a check that it names a path below `root` and a way out.
fn kind(root: &Path, error: &DirectoryError) -> &'static str {
    let text = error.to_string();
    assert!(text.contains(&root.display().to_string()), "{text}");
    let (kind, way_out) = match error {
        DirectoryError::Locked { .. } => ("locked", "stop it"),
        DirectoryError::InUse { .. } => ("in use", "close"),
        DirectoryError::Foreign { .. } => ("foreign", "move it away"),
        DirectoryError::ChangedTopology { .. } => ("changed topology", "holdfast reset"),
        DirectoryError::TopicRecreated { .. } => ("topic recreated", "holdfast reset"),
        DirectoryError::Newer { .. } => ("newer", "run the newer version"),
        DirectoryError::Torn { .. } => ("torn", "move the task's directory away"),
        DirectoryError::IllegalApplicationId { .. } => ("illegal", "expected"),
        DirectoryError::Io { .. } => ("io", "cannot"),
    };
    assert!(text.contains(way_out), "{text}");
    kind
}

#[test]
fn an_identity_is_checked_field_by_field() {
    let root = Path::new("/state");
    let (task, id, other) = (TaskId::new(0, 3), Uuid::from_u128(1), Uuid::from_u128(2));
    let process = ProcessId(Uuid::from_u128(9));
    let known = TaskIdentity::new("app", process, &spec(task, "f1", Some(id)));
    let unknown = TaskIdentity::new("app", process, &spec(task, "f1", None));
    for (identity, application, wanted, outcome) in [
        (&known, "app", spec(task, "f1", Some(id)), None),
        (&known, "app", spec(task, "f1", None), None),
        (&unknown, "app", spec(task, "f1", Some(id)), None),
        (&known, "other", spec(task, "f1", Some(id)), Some("foreign")),
        (&known, "app", spec(TaskId::new(0, 4), "f1", Some(id)), Some("foreign")),
        (&known, "app", spec(task, "f2", Some(id)), Some("changed topology")),
        (&known, "app", spec(task, "f1", Some(other)), Some("topic recreated")),
    ] {
        let found = identity.check(&root.join("task.json"), application, &wanted);
        assert_eq!(found.err().map(|error| kind(root, &error)), outcome, "{wanted:?}");
    }
    let mut learned = unknown.clone();
    assert!(learned.learn_topic_ids(&spec(task, "f1", Some(id))));
    assert!(!learned.learn_topic_ids(&spec(task, "f1", Some(id))));
    assert_eq!(learned.changelog_topic_ids, known.changelog_topic_ids);
}

#[test]
fn two_holders_are_refused_and_the_first_is_named() {
    let root = tempfile::tempdir().unwrap();
    let held = StateDirectory::open(root.path(), "app").unwrap();
    let error = StateDirectory::open(root.path(), "app").unwrap_err();
    assert_eq!(kind(root.path(), &error), "locked");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())));
    assert_eq!(kind(root.path(), &StateDirectory::reset(root.path(), "app").unwrap_err()), "locked");
    StateDirectory::open(root.path(), "another application").unwrap();
    let process_id = held.process_id();
    drop(held);
    assert_eq!(StateDirectory::open(root.path(), "app").unwrap().process_id(), process_id, "kept over restarts");
}

#[test]
fn an_application_id_must_name_one_directory() {
    for wrong in ["", ".", "..", "a/b", "a\\b"] {
        let opened = StateDirectory::open(Path::new("/nowhere"), wrong);
        assert!(matches!(opened, Err(DirectoryError::IllegalApplicationId { .. })), "{wrong:?}");
    }
}

#[test]
fn transactional_ids_are_never_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let directory = StateDirectory::open(root.path(), "app").unwrap();
    assert_eq!(directory.note_transactional_ids(&ids(&["b", "a"])).unwrap(), ids(&["a", "b"]));
    drop(directory);
    let directory = StateDirectory::open(root.path(), "app").unwrap();
    assert_eq!(directory.note_transactional_ids(&ids(&["c"])).unwrap(), ids(&["a", "b", "c"]));
    assert_eq!(directory.note_transactional_ids(&[]).unwrap(), ids(&["a", "b", "c"]));
}

#[test]
fn a_process_file_that_is_not_ours_is_refused() {
    let good = |version: u32, application: &str| {
        format!(
            r#"{{"format_version":{version},"application_id":"{application}","process_id":"{}","transactional_ids":[]}}"#,
            Uuid::from_u128(1)
        )
    };
    for (json, outcome) in [
        (good(FORMAT_VERSION, "app"), None),
        (good(FORMAT_VERSION, "other"), Some("foreign")),
        (good(FORMAT_VERSION + 1, "app"), Some("newer")),
        (format!(r#"{{"format_version":{},"other":"shape"}}"#, FORMAT_VERSION + 1), Some("newer")),
        (String::new(), Some("torn")),
        (good(FORMAT_VERSION, "app")[..40].to_owned(), Some("torn")),
    ] {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("app")).unwrap();
        let file = root.path().join("app").join(PROCESS_FILE);
        fs::write(&file, &json).unwrap();
        let opened = StateDirectory::open(root.path(), "app");
        assert_eq!(opened.err().map(|error| kind(root.path(), &error)), outcome, "{json}");
        assert_eq!(fs::read_to_string(&file).unwrap(), json, "left as it was");
    }
}

#[test]
fn unassigned_tasks_expire_and_others_stay() {
    let root = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(root.path(), "app").unwrap();
    let clock = ManualClock::at(1000);
    let [kept, open, idle, again] = [0, 1, 2, 3].map(|partition| TaskId::new(0, partition));
    for task in [kept, idle, again] {
        drop(TaskDirectory::open(&directory, &spec(task, "f1", None), 0).unwrap());
    }
    let held = TaskDirectory::open(&directory, &spec(open, "f1", None), 0).unwrap();
    let remove = || directory.remove_unassigned(&BTreeSet::from([kept]), Duration::from_millis(100), &clock).unwrap();
    assert_eq!(remove(), [], "the time starts with the first look");
    clock.advance(Duration::from_millis(60));
    drop(TaskDirectory::open(&directory, &spec(again, "f1", None), 0).unwrap());
    assert_eq!(remove(), []);
    clock.advance(Duration::from_millis(60));
    assert_eq!(remove(), [idle], "what was used in between starts anew");
    assert_eq!(directory.tasks().unwrap(), [kept, open, again]);
    drop(held);
    // A kill in the middle of a removal leaves a directory under another name.
    fs::create_dir(root.path().join("app").join("0_9.removing")).unwrap();
    clock.advance(Duration::from_millis(60));
    assert_eq!(remove(), [again]);
    assert_eq!(directory.tasks().unwrap(), [kept, open]);
    assert!(!root.path().join("app").join("0_9.removing").exists());
}

#[test]
fn a_task_is_discarded_only_while_closed() {
    let root = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(root.path(), "app").unwrap();
    let task = TaskId::new(0, 0);
    let held = TaskDirectory::open(&directory, &spec(task, "f1", None), 0).unwrap();
    assert_eq!(kind(root.path(), &directory.discard_task(task).unwrap_err()), "in use");
    drop(held);
    directory.discard_task(task).unwrap();
    directory.discard_task(task).unwrap();
    assert_eq!(directory.tasks().unwrap(), []);
}

#[test]
fn a_reset_removes_everything_of_one_application() {
    let root = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(root.path(), "app").unwrap();
    drop(TaskDirectory::open(&directory, &spec(TaskId::new(0, 0), "f1", None), 0).unwrap());
    let before = directory.process_id();
    drop(directory);
    drop(StateDirectory::open(root.path(), "other").unwrap());
    assert_eq!(StateDirectory::reset(root.path(), "app").unwrap(), [TaskId::new(0, 0)]);
    assert!(!root.path().join("app").exists());
    assert!(root.path().join("other").exists());
    // Pointed at a directory of somebody else's.
    fs::create_dir(root.path().join("other").join("photos")).unwrap();
    assert_eq!(kind(root.path(), &StateDirectory::reset(root.path(), "other").unwrap_err()), "foreign");
    assert!(root.path().join("other").join(PROCESS_FILE).exists());
    assert_eq!(StateDirectory::reset(root.path(), "app").unwrap(), []);
    assert_ne!(StateDirectory::open(root.path(), "app").unwrap().process_id(), before);
}
