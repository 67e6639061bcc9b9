//! Names of nodes and stores, as Kafka Streams generates and allows them.

/// Prefixes of generated names (`KStreamImpl`, `KTableImpl`, `KGroupedStreamImpl`, `KGroupedTableImpl`).
pub(crate) mod prefix {
    pub(crate) const BRANCH: &str = "KSTREAM-BRANCH-";
    pub(crate) const FILTER: &str = "KSTREAM-FILTER-";
    pub(crate) const FLAT_MAP: &str = "KSTREAM-FLATMAP-";
    pub(crate) const FLAT_MAP_VALUES: &str = "KSTREAM-FLATMAPVALUES-";
    pub(crate) const FOR_EACH: &str = "KSTREAM-FOREACH-";
    pub(crate) const KEY_SELECT: &str = "KSTREAM-KEY-SELECT-";
    pub(crate) const MAP: &str = "KSTREAM-MAP-";
    pub(crate) const MAP_VALUES: &str = "KSTREAM-MAPVALUES-";
    pub(crate) const MERGE: &str = "KSTREAM-MERGE-";
    pub(crate) const PEEK: &str = "KSTREAM-PEEK-";
    pub(crate) const REPARTITION: &str = "KSTREAM-REPARTITION-";
    pub(crate) const SINK: &str = "KSTREAM-SINK-";
    pub(crate) const SOURCE: &str = "KSTREAM-SOURCE-";
    pub(crate) const STREAM_AGGREGATE: &str = "KSTREAM-AGGREGATE-";
    pub(crate) const STREAM_REDUCE: &str = "KSTREAM-REDUCE-";
    pub(crate) const TABLE_AGGREGATE: &str = "KTABLE-AGGREGATE-";
    pub(crate) const TABLE_FILTER: &str = "KTABLE-FILTER-";
    pub(crate) const TABLE_MAP_VALUES: &str = "KTABLE-MAPVALUES-";
    pub(crate) const TABLE_REDUCE: &str = "KTABLE-REDUCE-";
    pub(crate) const TABLE_SELECT: &str = "KTABLE-SELECT-";
    pub(crate) const TABLE_SOURCE: &str = "KTABLE-SOURCE-";
    pub(crate) const TABLE_TO_STREAM: &str = "KTABLE-TOSTREAM-";
}

/// The longest name of a node or topic, as Kafka's `Named` and `Topic` have it.
pub(crate) const MAX_NAME_LENGTH: usize = 249;

/// Whether Kafka takes `name` for a topic, and Kafka Streams for a node.
pub(crate) fn is_legal(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && name != "."
        && name != ".."
}

/// Whether `name` matches `KSTREAM.*-[0-9]{10}`: a repartition with such a name gives its nodes generated names too.
pub(crate) fn is_generated(name: &str) -> bool {
    name.starts_with("KSTREAM")
        && name
            .rsplit_once('-')
            .is_some_and(|(_, digits)| digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_and_generated_names() {
        for good in ["a", "counts-store", "a.b_c-D9"] {
            assert!(is_legal(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(!is_legal(bad), "{bad}");
        }
        assert!(is_generated("KSTREAM-AGGREGATE-STATE-STORE-0000000003"));
        assert!(!is_generated("KSTREAM-AGGREGATE-STATE-STORE-000000003"));
        assert!(!is_generated("counts-0000000003"));
    }
}
