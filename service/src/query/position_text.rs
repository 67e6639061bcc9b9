//! A position as text, in headers and parameters: `items-0:42,items-1:7` (topic-partition:last offset reflected).

use std::{fmt::Write, sync::Arc};

use holdfast_types::Position;

use super::QueryError;

/// Most entries that a request may name.
const MAX_ENTRIES: usize = 1024;

/// Appends `position` to `out`.
pub fn write(position: &Position, out: &mut String) {
    for (index, (topic, partition, offset)) in position.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "{topic}-{partition}:{offset}");
    }
}

/// `position` as text.
pub fn format(position: &Position) -> String {
    let mut out = String::with_capacity(32);
    write(position, &mut out);
    out
}

/// Reads [`format`]'s text.
pub fn parse(text: &str) -> Result<Position, QueryError> {
    let error = |entry: &str| {
        QueryError::parameter("min_position", "topic-partition:offset entries with commas between (items-0:42)", entry)
    };
    let mut position = Position::new();
    for (index, entry) in text.split(',').enumerate() {
        if index == MAX_ENTRIES {
            return Err(error("more than 1024 entries"));
        }
        let (place, offset) = entry.rsplit_once(':').ok_or_else(|| error(entry))?;
        let (topic, partition) = place.rsplit_once('-').ok_or_else(|| error(entry))?;
        let partition: u32 = partition.parse().map_err(|_| error(entry))?;
        let partition = i32::try_from(partition).map_err(|_| error(entry))?;
        let offset: i64 = offset.parse().map_err(|_| error(entry))?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if topic.is_empty() || topic.len() > 249 || !topic.bytes().all(legal) || offset < 0 {
            return Err(error(entry));
        }
        position.advance(&Arc::from(topic), partition, offset);
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["items-0:42", "a-b-c-1:0,items-0:42,items-1:7"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "items", "items-0", "items:0", "-0:1", "items-x:1", "items-0:-1", "a b-0:1", ","] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn wild_text_never_panics(text in ".{0,64}") {
            let _ = parse(&text);
        }
    }
}
