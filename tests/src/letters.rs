//! Dead letters as a person finds them: which record each tells of, and why it failed.

use std::collections::BTreeMap;

use crate::{
    consumer::{Record, read_committed},
    kafka::Kafka,
};

/// Prefix of KIP-1034's headers.
const HEADER: &str = "__streams.errors.";

/// A record's place: topic, partition, offset.
pub type Place = (String, i32, i64);

/// The dead letters of a topic by the place of the record that each tells of. Every header must be there, and a record must
/// have one letter only.
#[track_caller]
pub fn by_place(kafka: &Kafka, topic: &str) -> BTreeMap<Place, Record> {
    let mut letters = BTreeMap::new();
    for letter in read_committed(kafka, topic) {
        let text = |name: &str| {
            let found = letter.headers.iter().filter(|(key, _)| key.strip_prefix(HEADER) == Some(name)).count();
            assert_eq!(found, 1, "header {HEADER}{name} of a dead letter: {:?}", letter.headers);
            letter.header(&format!("{HEADER}{name}")).unwrap()
        };
        for name in ["exception", "message", "stacktrace"] {
            assert!(!text(name).is_empty(), "{name} of a dead letter is empty");
        }
        let place = (text("topic"), text("partition").parse().unwrap(), text("offset").parse().unwrap());
        if let Some(other) = letters.insert(place.clone(), letter) {
            panic!("two dead letters for {place:?}: {:?}", other.headers);
        }
    }
    letters
}

/// Why a record failed: the error's name, and its words.
pub fn reason(letter: &Record) -> (String, String) {
    let text = |name: &str| letter.header(&format!("{HEADER}{name}")).unwrap_or_default();
    (text("exception"), text("message"))
}
