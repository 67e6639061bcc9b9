//! A REST client of one instance.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use reqwest::{Client, Method, RequestBuilder, header::HeaderValue};
use serde_json::{Value, json};

use crate::block_on;

/// Longer than any deadline of the service's own: a test sees the service's error, not the client's.
const LIMIT: Duration = Duration::from_secs(20);

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    // The workspace's reqwest speaks TLS and asks for a provider even where none is used; a second one changes nothing.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(LIMIT).build().unwrap()
});

/// Shows redirects instead of following them.
static UNFOLLOWED: LazyLock<Client> = LazyLock::new(|| {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none()).build().unwrap()
});

/// Answers of one instance's public listener.
#[derive(Clone, Debug)]
pub struct Rest {
    address: String,
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("expected JSON, got status {} and {:?}: {e}", self.status, self.body))
    }

    /// A header's text, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(&name.to_lowercase()).map_or("", String::as_str)
    }

    /// Itself, if the status is the expected one.
    #[track_caller]
    pub fn expect_status(self, expected: u16) -> Self {
        assert_eq!(self.status, expected, "expected status {expected}, got {} with {}", self.status, self.body);
        self
    }
}

impl Rest {
    /// A client of `host:port`.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// GET; `Err` when there is no HTTP answer.
    pub fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        block_on(self.request(Method::GET, path, None))
    }

    /// GET with a request id of the caller's own.
    #[track_caller]
    pub fn fetch_as(&self, request_id: &str, path: &str) -> Answer {
        let request = CLIENT.get(format!("http://{}{path}", self.address)).header("x-request-id", request_id);
        block_on(answer(request)).unwrap_or_else(|e| panic!("GET {path} at {}: {e:?}", self.address))
    }

    /// GET that must be answered; a redirect is the answer.
    #[track_caller]
    pub fn fetch_unfollowed(&self, path: &str) -> Answer {
        let request = UNFOLLOWED.get(format!("http://{}{path}", self.address));
        block_on(answer(request)).unwrap_or_else(|e| panic!("GET {path} at {}: {e:?}", self.address))
    }

    /// GET that must be answered.
    #[track_caller]
    pub fn fetch(&self, path: &str) -> Answer {
        self.get(path).unwrap_or_else(|e| panic!("GET {path} at {}: {e:?}", self.address))
    }

    /// POST of JSON that must be answered.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).unwrap_or_else(|e| panic!("POST {path} at {}: {e:?}", self.address))
    }

    /// POST of JSON; `Err` when there is no HTTP answer.
    pub fn try_post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        block_on(self.request(Method::POST, path, Some(body.to_string())))
    }

    /// POST without a body, with one header, that must be answered.
    #[track_caller]
    pub fn post_with(&self, path: &str, (name, value): (&str, &str)) -> Answer {
        let request = CLIENT.post(format!("http://{}{path}", self.address)).header(name, value);
        block_on(answer(request)).unwrap_or_else(|e| panic!("POST {path} at {}: {e:?}", self.address))
    }

    /// Any request, for tests that run several at once on [`crate::runtime`].
    pub async fn request(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, reqwest::Error> {
        let mut request = CLIENT.request(method, format!("http://{}{path}", self.address));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        answer(request).await
    }

    /// The lab's `GET /api/v1/stores/inventory/{store}`: the stock by sku, `None` for no such store.
    #[track_caller]
    pub fn store_stock(&self, store: &str) -> Option<BTreeMap<String, i64>> {
        let result = self.lab(&format!("/api/v1/stores/inventory/{}", encode(store)))?;
        assert_eq!(result["storeName"], store, "the row of another store");
        Some(stock(&result))
    }

    /// The lab's `GET /api/v1/items/{item}`: the stock over all stores, `None` for no such item.
    #[track_caller]
    pub fn item_stock(&self, item: &str) -> Option<i64> {
        let result = self.lab(&format!("/api/v1/items/{}", encode(item)))?;
        assert_eq!(result["itemID"], item, "the row of another item");
        Some(result["currentStock"].as_i64().unwrap())
    }

    #[track_caller]
    fn lab(&self, path: &str) -> Option<Value> {
        let answer = self.fetch(path);
        match answer.status {
            200 => Some(answer.json()["result"].clone()),
            404 => None,
            _ => panic!("GET {path}: {} {}", answer.status, answer.body),
        }
    }

    /// All rows of a store through the scan, page by page: key as text → value.
    #[track_caller]
    pub fn scan(&self, store: &str, page: usize) -> Vec<(String, Value)> {
        self.try_scan(store, page).unwrap_or_else(|refused| panic!("a scan of {store} was refused: {refused:?}"))
    }

    /// [`Rest::scan`]; an answer that is not 200 where a page is refused.
    #[track_caller]
    pub fn try_scan(&self, store: &str, page: usize) -> Result<Vec<(String, Value)>, Answer> {
        let mut rows = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let mut path = format!("/v1/stores/{store}/keys?limit={page}");
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", encode(cursor)));
            }
            let answer = self.fetch(&path);
            if answer.status != 200 {
                return Err(answer);
            }
            let answer = answer.json();
            let found = answer["rows"].as_array().unwrap_or_else(|| panic!("no rows in {answer}"));
            assert!(found.len() <= page, "{} rows on a page of {page}", found.len());
            rows.extend(found.iter().map(|row| (key_text(&row["key"]), row["value"].clone())));
            match answer["cursor"].as_str() {
                Some(next) if !next.is_empty() => cursor = Some(next.to_owned()),
                _ => return Ok(rows),
            }
        }
    }

    /// Several keys at once: key → value, `None` where there is no such key.
    #[track_caller]
    pub fn batch(&self, store: &str, keys: &[String]) -> Vec<(String, Option<Value>)> {
        let answer = self.post(&format!("/v1/stores/{store}/keys:batch"), &json!({ "keys": keys }));
        let answer = answer.expect_status(200).json();
        let results = answer["results"].as_array().unwrap_or_else(|| panic!("no results in {answer}"));
        assert_eq!(results.len(), keys.len(), "one outcome for each key: {answer}");
        let outcome = |result: &Value| match result["code"].as_str() {
            Some("OK") => (key_text(&result["key"]), Some(result["value"].clone())),
            Some("NOT_FOUND") => (key_text(&result["key"]), None),
            _ => panic!("no outcome: {result}"),
        };
        results.iter().map(outcome).collect()
    }

    /// The value of one sample in `/metrics`, summed over its labels; `None` if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metric(&self.fetch("/metrics").expect_status(200).body, name, labels)
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Ok(Answer { status, headers, body: answer.text().await? })
}

/// The sum of a metric's samples that carry all of `labels`, in Prometheus' text format.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
        let wanted = |(key, value): &(&str, &str)| series_labels.contains(&format!("{key}=\"{value}\""));
        if series_name == name && labels.iter().all(wanted) {
            *found.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(f64::NAN);
        }
    }
    found
}

/// A stock map out of a store aggregate.
pub fn stock(value: &Value) -> BTreeMap<String, i64> {
    let stock = value["stock"].as_object().unwrap_or_else(|| panic!("no stock in {value}"));
    stock.iter().map(|(sku, quantity)| (sku.clone(), quantity.as_i64().unwrap())).collect()
}

/// A key as text, whether the answer carries it as a string or as a number.
fn key_text(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

/// Percent-encodes a path segment or a query value.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
