//! What a task's directory says it is, and whether that is what the task needs. Kept twice: in `task.json` and inside the
//! database, so that a database put into the wrong directory is found out.

use std::{collections::BTreeMap, path::Path};

use holdfast_types::{ProcessId, StoreName, TaskId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DirectoryError, FORMAT_VERSION, file};
use crate::spec::TaskStoreSpec;

/// Identity of a task's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskIdentity {
    pub(crate) format_version: u32,
    pub(crate) application_id: String,
    /// Who made it; another process may use it (a volume that moved), so this only tells its story.
    pub(crate) process_id: ProcessId,
    pub(crate) task: TaskId,
    pub(crate) fingerprint: String,
    /// Drawn when the directory is made: ties `task.json` and database together.
    pub(crate) directory_id: Uuid,
    /// Topic id of each store's changelog, as far as the broker told.
    pub(crate) changelog_topic_ids: BTreeMap<StoreName, Uuid>,
}

impl TaskIdentity {
    /// A new directory's identity.
    pub(crate) fn new(application_id: &str, process_id: ProcessId, spec: &TaskStoreSpec) -> Self {
        let mut identity = Self {
            format_version: FORMAT_VERSION,
            application_id: application_id.to_owned(),
            process_id,
            task: spec.task,
            fingerprint: spec.fingerprint.clone(),
            directory_id: Uuid::new_v4(),
            changelog_topic_ids: BTreeMap::new(),
        };
        identity.learn_topic_ids(spec);
        identity
    }

    /// Reads the identity inside a database.
    pub(crate) fn decode(path: &Path, json: &[u8]) -> Result<Self, DirectoryError> {
        file::parse_versioned(path, json)
    }

    /// The bytes inside a database.
    pub(crate) fn encode(&self, path: &Path) -> Result<Vec<u8>, DirectoryError> {
        serde_json::to_vec(self).map_err(|error| DirectoryError::Io {
            operation: "encode",
            path: path.to_owned(),
            source: error.into(),
        })
    }

    /// Whether a directory with this identity, found in `path`, is what `spec` of `application_id` needs.
    pub(crate) fn check(&self, path: &Path, application_id: &str, spec: &TaskStoreSpec) -> Result<(), DirectoryError> {
        let owner = |application: &str, task| format!("task {task} of application {application}");
        if self.application_id != application_id || self.task != spec.task {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
                expected: owner(application_id, spec.task),
                found: owner(&self.application_id, self.task),
            });
        }
        if self.fingerprint != spec.fingerprint {
            return Err(DirectoryError::ChangedTopology {
                path: path.to_owned(),
                expected: spec.fingerprint.clone(),
                found: self.fingerprint.clone(),
            });
        }
        for store in &spec.stores {
            let Some(changelog) = &store.changelog else { continue };
            let (Some(found), Some(&expected)) = (changelog.topic_id, self.changelog_topic_ids.get(&store.name)) else {
                continue;
            };
            if found != expected {
                return Err(DirectoryError::TopicRecreated {
                    path: path.to_owned(),
                    changelog: changelog.partition.clone(),
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    /// Whether the identity inside the database, found in `path`, is that of this directory.
    pub(crate) fn check_database(&self, path: &Path, inside: &Self) -> Result<(), DirectoryError> {
        if inside.directory_id == self.directory_id {
            return Ok(());
        }
        let made = |identity: &Self| {
            format!(
                "directory {} (task {} of application {}, process {})",
                identity.directory_id, identity.task, identity.application_id, identity.process_id
            )
        };
        Err(DirectoryError::Foreign { path: path.to_owned(), expected: made(self), found: made(inside) })
    }

    /// Takes over topic ids that were not known; answers whether there were any.
    pub(crate) fn learn_topic_ids(&mut self, spec: &TaskStoreSpec) -> bool {
        let known = self.changelog_topic_ids.len();
        for store in &spec.stores {
            if let Some(id) = store.changelog.as_ref().and_then(|changelog| changelog.topic_id) {
                self.changelog_topic_ids.entry(store.name.clone()).or_insert(id);
            }
        }
        self.changelog_topic_ids.len() > known
    }
}
