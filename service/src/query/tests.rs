//! The router against a model: scans in both directions, batches, whatever the cursor.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_stream::codec::{I64, Json, Utf8};
use proptest::prelude::*;

use super::{
    Consistency, QueryError, QueryLimits, ReadOptions, ScanRequest,
    testing::{FakeView, PARTITIONS},
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn view_of(rows: &BTreeMap<Vec<u8>, String>) -> Arc<FakeView> {
    let view = FakeView::new();
    view.fill("Words", 0, rows.iter().map(|(key, value)| (key.as_slice(), value.as_str())));
    view
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xff_u8), any::<u8>()], 0..4)
}

fn rows() -> impl Strategy<Value = BTreeMap<Vec<u8>, String>> {
    proptest::collection::btree_map(key(), "[0-9]{0,9}", 0..60)
}

/// Reads pages until there is no cursor.
async fn read_all(view: &Arc<FakeView>, limits: QueryLimits, mut request: ScanRequest) -> Vec<(Vec<u8>, String)> {
    let queries = view.queries_with(limits);
    let mut seen = Vec::new();
    loop {
        let page = queries.scan("Words", &request, &ReadOptions::default()).await.unwrap();
        assert!(page.rows.len() <= request.limit.unwrap());
        seen.extend(
            page.rows.into_iter().map(|(key, row)| (key.to_vec(), String::from_utf8(row.value.to_vec()).unwrap())),
        );
        let Some(cursor) = page.cursor else { return seen };
        request.cursor = Some(cursor);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn scans_are_those_of_an_ordered_map(
        rows in rows(),
        (a, b) in (proptest::option::of(key()), proptest::option::of(key())),
        prefix in proptest::option::of(key()),
        reverse: bool,
        limit in 1..20_usize,
        max_scan_bytes in 1..400_usize,
    ) {
        let (from, to) = match (a, b) {
            (Some(a), Some(b)) if a > b => (Some(b), Some(a)),
            other => other,
        };
        let request = match prefix {
            Some(prefix) => ScanRequest { prefix: Some(prefix), ..ScanRequest::default() },
            None => ScanRequest { from, to, ..ScanRequest::default() },
        };
        let request = ScanRequest { reverse, limit: Some(limit), ..request };
        let bound = |key: &Option<Vec<u8>>| key.clone().map_or(Bound::Unbounded, Bound::Included);
        let mut expected: Vec<(Vec<u8>, String)> = rows
            .range((bound(&request.from), bound(&request.to)))
            .filter(|(key, _)| request.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix)))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if reverse {
            expected.reverse();
        }
        let limits = QueryLimits { max_scan_bytes, ..QueryLimits::default() };
        let seen = block_on(read_all(&view_of(&rows), limits, request));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn batches_are_single_gets_in_order(rows in rows(), keys in proptest::collection::vec(key(), 0..80)) {
        let view = view_of(&rows);
        let queries = view.queries();
        let asked = keys.iter().map(|key| Ok(Bytes::copy_from_slice(key))).collect();
        let answers = block_on(queries.batch_get("Words", asked, &ReadOptions::default()));
        let answers: Vec<_> = answers.unwrap().into_iter().map(|outcome| outcome.unwrap().value).collect();
        prop_assert_eq!(answers.len(), keys.len());
        for (key, answer) in keys.iter().zip(answers) {
            let expected = rows.get(key).map(|value| value.as_bytes().to_vec());
            prop_assert_eq!(answer.map(|row| row.value.to_vec()), expected);
        }
    }

    #[test]
    fn wild_cursors_are_errors(text in ".{0,80}") {
        let queries = FakeView::new().queries();
        let request = ScanRequest { cursor: Some(text), ..ScanRequest::default() };
        let refused = block_on(queries.scan("Words", &request, &ReadOptions::default()));
        prop_assert!(matches!(refused, Err(QueryError::Cursor(_))));
    }
}

#[test]
fn values_come_typed() {
    block_on(async {
        let view = FakeView::new();
        view.fill("Words", 0, [(&b"apple"[..], "[1,2]"), (b"pear", "{}")]);
        let store = view.queries().typed_with("Words", Utf8, Json::<Vec<i32>>::default());
        let options = ReadOptions::default();
        assert_eq!(store.get(&"apple".to_owned(), &options).await.unwrap().value, Some(vec![1, 2]));
        assert_eq!(store.get(&"none".to_owned(), &options).await.unwrap().value, None);
        let unreadable = store.get(&"pear".to_owned(), &options).await.unwrap_err();
        assert!(matches!(unreadable, QueryError::Value { .. }), "{unreadable}");

        view.fill("Numbers", 1, [(&7_i64.to_be_bytes()[..], "70"), (&(-7_i64).to_be_bytes()[..], "-70")]);
        let numbers = view.queries().typed_with("Numbers", I64, Json::<i64>::default());
        assert_eq!(numbers.get(&-7, &options).await.unwrap().value, Some(-70));
        let (rows, cursor) = numbers.scan(&ScanRequest::default(), &options).await.unwrap();
        assert_eq!((rows, cursor), (vec![(7, 70), (-7, -70)], None), "in the order of the key's bytes");
    });
}

#[test]
fn a_strong_read_waits_for_a_heartbeat_that_was_sent_after_it() {
    block_on(async {
        let view = FakeView::new();
        view.fill("Words", 0, [(&b"apple"[..], "1")]);
        let queries = view.queries();
        let options = ReadOptions { timeout: Some(Duration::from_secs(20)), ..ReadOptions::strong() };
        let asked = Instant::now();
        let mut read = tokio::spawn(async move { queries.get("Words", b"apple", &options).await });
        let deadline = asked + Duration::from_secs(10);
        // Each look is a heartbeat that was sent and answered.
        let mut heartbeats = 0;
        let answer = loop {
            assert!(Instant::now() < deadline);
            view.set_confirmed(Some(Instant::now()));
            heartbeats += 1;
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(10), &mut read).await {
                break read.unwrap().unwrap();
            }
        };
        assert!(heartbeats >= 1);
        assert!(answer.value.is_some() && answer.served.staleness.unwrap() < asked.elapsed());
    });
}

#[test]
fn a_strong_read_of_a_copy_whose_membership_is_over_is_refused_without_waiting() {
    block_on(async {
        let options = ReadOptions { timeout: Some(Duration::from_secs(3600)), ..ReadOptions::strong() };
        let refused = |view: &Arc<FakeView>| {
            let (queries, options) = (view.queries(), options.clone());
            async move {
                let read = queries.get("Words", b"apple", &options);
                let refused = tokio::time::timeout(Duration::from_secs(60), read).await.unwrap().unwrap_err();
                assert!(refused.elsewhere_may_help(), "{refused}");
            }
        };
        // Before it came, and while it waits; with the next membership, and with none.
        let view = FakeView::new();
        view.next_membership();
        refused(&view).await;
        let view = FakeView::new();
        view.set_confirmed(None);
        refused(&view).await;
        let view = FakeView::new();
        tokio::join!(refused(&view), async {
            tokio::task::yield_now().await;
            view.next_membership();
        });
    });
}

#[test]
fn scans_at_once_are_bounded() {
    block_on(async {
        let view = FakeView::new();
        let queries = view.queries_with(QueryLimits { max_concurrent_scans: 1, ..QueryLimits::default() });
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let slow = {
            let queries = queries.clone();
            tokio::spawn(async move {
                let read = move || {
                    let _ = began.send(());
                    held.recv()
                };
                queries.on_pool(Duration::from_secs(20), read).await
            })
        };
        begun.await.unwrap();
        let options = ReadOptions { timeout: Some(Duration::from_millis(20)), ..ReadOptions::default() };
        let refused = queries.scan("Words", &ScanRequest::default(), &options).await.unwrap_err();
        assert!(matches!(refused, QueryError::Busy { limit: 1, .. }), "{refused}");
        // Look-ups do not wait for scans.
        assert!(queries.get("Words", b"apple", &options).await.is_ok());
        drop(hold);
        assert!(slow.await.unwrap().is_ok());
        assert!(queries.scan("Words", &ScanRequest::default(), &ReadOptions::default()).await.is_ok());
    });
}

#[test]
fn errors_name_what_was_expected() {
    block_on(async {
        let view = FakeView::new();
        let queries = view.queries_with(QueryLimits { max_key_bytes: 4, ..QueryLimits::default() });
        let any = ReadOptions { consistency: Consistency::Any, ..ReadOptions::default() };
        let error = queries.get("Words", b"12345", &any).await.unwrap_err();
        assert_eq!(error.to_string(), "a key may be at most 4 bytes, got 5");
        let error = queries.get("Nope", b"1", &any).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no store \"Nope\" to query; there are: Numbers, Words");
        let error = queries.key_from_text(&queries.store("Numbers").unwrap(), "x").unwrap_err();
        assert!(error.to_string().starts_with("the key of store Numbers must be i64: "), "{error}");
        let (store, partition) = ("Words", PARTITIONS - 1);
        view.close(store, partition);
        let error = queries.scan("Words", &ScanRequest::default(), &any).await.unwrap_err();
        assert!(error.to_string().contains("restoring"), "{error}");
    });
}
