//! `query`: a small client of the REST API. Answers go to standard output, everything else is one line on standard error.

use std::{io::Write, time::Duration};

use clap::ArgMatches;
use futures::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::{Failure, Invocation, args::READ_OPTIONS};

const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";
/// Longer than any deadline that the server takes, so that its answer says what happened.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(630);
/// Unreserved characters stay readable on the URL.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Runs `query …`.
pub(crate) fn query(invocation: &Invocation) -> Result<(), Failure> {
    let Some((name, flags)) = invocation.matches.subcommand() else {
        return Err(Failure::new("name a query: get, batch, scan, window, watch or route"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let query = Query::new(invocation, flags)?;
    runtime.block_on(async {
        match name {
            "get" => query.get().await,
            "batch" => query.batch().await,
            "scan" => query.scan().await,
            "window" => query.window().await,
            "watch" => query.watch().await,
            "route" => query.route().await,
            other => Err(Failure::new(format!("there is no query {other}"))),
        }
    })
}

struct Query<'a> {
    server: String,
    flags: &'a ArgMatches,
    client: Client,
}

impl<'a> Query<'a> {
    fn new(invocation: &Invocation, flags: &'a ArgMatches) -> Result<Self, Failure> {
        let server = flags.get_one::<String>("server").or_else(|| invocation.environment.get("HOLDFAST_SERVER"));
        let server = server.map_or(DEFAULT_SERVER, String::as_str).trim_end_matches('/');
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        // For https; when another provider of cryptography is installed already, that one is as good.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { server, flags, client })
    }

    fn text(&self, flag: &str) -> Option<&str> {
        self.flags.try_get_one::<String>(flag).ok().flatten().map(String::as_str)
    }

    fn switch(&self, flag: &str) -> bool {
        self.flags.try_get_one::<bool>(flag).ok().flatten().copied().unwrap_or(false)
    }

    fn key(&self) -> &str {
        self.text("key").unwrap_or_default()
    }

    fn store(&self) -> &str {
        self.text("store").unwrap_or_default()
    }

    /// `/v1/stores/{store}` and what follows, each segment encoded.
    fn store_path(&self, rest: &[&str]) -> String {
        let mut path = format!("{}/v1/stores/{}", self.server, encode(self.store()));
        for segment in rest {
            path.push('/');
            path.push_str(&encode(segment));
        }
        path
    }

    fn options(&self, request: RequestBuilder) -> RequestBuilder {
        let given = READ_OPTIONS.iter().filter_map(|name| self.text(name).map(|value| (*name, value)));
        request.query(&given.collect::<Vec<_>>())
    }

    /// Sends a request and answers the body's JSON as it came, or the problem as a failure.
    async fn ask(&self, request: RequestBuilder) -> Result<String, Failure> {
        let response = self.send(request.timeout(CLIENT_TIMEOUT)).await?;
        response.text().await.map_err(|error| self.unreachable(&error))
    }

    fn read(&self, answer: &str) -> Result<Value, Failure> {
        serde_json::from_str(answer)
            .map_err(|error| Failure::new(format!("{} answered something that is not JSON: {error}", self.server)))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = self.options(request).send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(problem(status, &body))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() { "it did not answer in time".to_owned() } else { root_cause(error) };
        Failure::new(format!(
            "cannot ask {}: {why}; is an instance listening there? (--server, HOLDFAST_SERVER)",
            self.server
        ))
    }

    async fn get(&self) -> Result<(), Failure> {
        let request = self.client.get(self.store_path(&["keys", self.key()]));
        write_line(&self.ask(request).await?)
    }

    async fn batch(&self) -> Result<(), Failure> {
        let keys: Vec<&String> = self.flags.get_many("key").into_iter().flatten().collect();
        let path = format!("{}/v1/stores/{}/keys:batch", self.server, encode(self.store()));
        let answer = self.ask(self.client.post(path).json(&json!({ "keys": keys }))).await?;
        write_line(&answer)?;
        let answer = self.read(&answer)?;
        let results = answer.get("results").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let with = |wanted: fn(&str) -> bool| {
            results.iter().filter(|result| result.get("code").and_then(Value::as_str).is_none_or(wanted)).count()
        };
        match (with(|code| code != "OK" && code != "NOT_FOUND"), with(|code| code == "NOT_FOUND")) {
            (0, 0) => Ok(()),
            (0, missing) => Err(Failure::not_found(format!("{missing} of {} keys do not exist", results.len()))),
            (failed, _) => Err(Failure::new(format!("{failed} of {} keys could not be read", results.len()))),
        }
    }

    async fn scan(&self) -> Result<(), Failure> {
        let mut cursor = self.text("cursor").map(str::to_owned);
        loop {
            let mut parameters: Vec<(&str, &str)> = Vec::new();
            for name in ["from", "to", "prefix", "limit"] {
                parameters.extend(self.text(name).map(|value| (name, value)));
            }
            if self.switch("reverse") {
                parameters.push(("reverse", "true"));
            }
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = self.ask(self.client.get(self.store_path(&["keys"])).query(&parameters)).await?;
            if !self.switch("all") {
                return write_line(&page);
            }
            let page = self.read(&page)?;
            for row in page.get("rows").and_then(Value::as_array).into_iter().flatten() {
                write_line(&row.to_string())?;
            }
            cursor = page.get("cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn window(&self) -> Result<(), Failure> {
        let bounds = ["from", "to"].into_iter().filter_map(|name| self.text(name).map(|value| (name, value)));
        let request = self.client.get(self.store_path(&["windows", self.key()]));
        write_line(&self.ask(request.query(&bounds.collect::<Vec<_>>())).await?)
    }

    /// Server-sent events: each `data:` line is a change.
    async fn watch(&self) -> Result<(), Failure> {
        let response = self.send(self.client.get(self.store_path(&["keys", self.key(), "watch"]))).await?;
        let mut stream = response.bytes_stream();
        let mut buffer = Vec::new();
        while let Some(chunk) = stream.next().await {
            buffer.extend_from_slice(&chunk.map_err(|error| self.unreachable(&error))?);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if let Some(data) = String::from_utf8_lossy(&line).trim_end().strip_prefix("data:") {
                    write_line(data.trim_start())?;
                }
            }
        }
        Err(Failure::new(format!("{} ended the watch", self.server)))
    }

    async fn route(&self) -> Result<(), Failure> {
        let request = self.client.get(format!("{}/v1/route", self.server));
        write_line(&self.ask(request.query(&[("store", self.store()), ("key", self.key())])).await?)
    }
}

fn encode(segment: &str) -> String {
    // A lone dot would be taken for "this folder" on the way.
    match segment {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(segment, SEGMENT).to_string(),
    }
}

/// What a problem document says, in one line.
fn problem(status: StatusCode, body: &str) -> Failure {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let code = text("code").map_or_else(|| status.to_string(), str::to_owned);
    let detail = text("detail").or_else(|| text("title")).map(str::to_owned).unwrap_or_else(|| one_line(body));
    let key = text("key").map(|key| format!(" (key {key:?})")).unwrap_or_default();
    let again = problem.get("retry_after_ms").and_then(Value::as_u64);
    let again = again.map(|ms| format!("; try again in {ms} ms")).unwrap_or_default();
    let message = format!("{code}: {detail}{key}{again}");
    if code == "NOT_FOUND" { Failure::not_found(message) } else { Failure::new(message) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A closed pipe (`… | head`) ends the command quietly enough: as a failure to write.
fn write_line(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        for (text, encoded) in [
            ("Store_1", "Store_1"),
            ("a/b", "a%2Fb"),
            ("a b", "a%20b"),
            ("..", "%2E%2E"),
            ("ü", "%C3%BC"),
            ("50%", "50%25"),
        ] {
            assert_eq!(encode(text), encoded);
        }
    }

    #[test]
    fn problems_are_one_line_and_tell_missing_keys_from_the_rest() {
        let body = r#"{"code":"NOT_FOUND","detail":"store S has no row for this key","key":"k"}"#;
        let missing = problem(StatusCode::NOT_FOUND, body);
        assert_eq!(
            (missing.status, missing.message.as_str()),
            (1, "NOT_FOUND: store S has no row for this key (key \"k\")")
        );
        let body = r#"{"code":"UNAVAILABLE","detail":"restoring","retry_after_ms":500}"#;
        let unavailable = problem(StatusCode::SERVICE_UNAVAILABLE, body);
        assert_eq!(
            (unavailable.status, unavailable.message.as_str()),
            (2, "UNAVAILABLE: restoring; try again in 500 ms")
        );
        let foreign = problem(StatusCode::NOT_FOUND, "<html>\n no such page </html>");
        assert_eq!((foreign.status, foreign.message.as_str()), (2, "404 Not Found: <html> no such page </html>"));
    }
}
