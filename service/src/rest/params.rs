//! What a request's line and headers say: path segments and parameters as bytes, decoded once, unknown ones refused.

use std::borrow::Cow;

use holdfast_proto::error::{Code, Failure};
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::{headers, problem::Problem};
use crate::query::{OptionsBuilder, Queries, QueryError, ReadOptions, StoreInfo};

/// The parameters of a request, split into read options and those that the route takes.
#[derive(Debug)]
pub struct Params<'a> {
    options: OptionsBuilder,
    own: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Params<'a> {
    /// Reads headers, then the query string, which wins. Parameters other than the options and `known` are refused, and so
    /// are repeated ones.
    pub fn read(parts: &'a Parts, known: &[&str]) -> Result<Self, QueryError> {
        let mut params = Self { options: OptionsBuilder::default(), own: Vec::new() };
        headers::options(&parts.headers, &mut params.options)?;
        let Some(query) = parts.uri.query().filter(|query| !query.is_empty()) else { return Ok(params) };
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode_parameter(name, name)?, decode_parameter(name, value)?);
            if seen.contains(&name) {
                return Err(QueryError::parameter(name.into_owned(), "at most one", "several"));
            }
            if known.contains(&&*name) {
                params.own.push((name.clone(), value));
            } else if !params.options.set(&name, &value)? {
                let known = known.join(", ");
                let expected = format!("a parameter of this path ({known}) or a read option");
                return Err(QueryError::parameter(name.into_owned(), &expected, "another name"));
            }
            seen.push(name);
        }
        Ok(params)
    }

    /// The value of one of the route's own parameters.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.own.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter that must be there.
    pub fn require(&self, name: &str) -> Result<&str, QueryError> {
        self.get(name).ok_or_else(|| QueryError::parameter(name, "a value", "none"))
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, QueryError> {
        let parse = |text: &str| text.parse().map_err(|_| QueryError::parameter(name, "a number in range", text));
        self.get(name).map(parse).transpose()
    }

    /// `true` or `false`; a name without a value is true.
    pub fn flag(&self, name: &str) -> Result<bool, QueryError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => Err(QueryError::parameter(name, "true or false", other)),
        }
    }

    /// The read options.
    pub fn options(&mut self, queries: &Queries) -> Result<ReadOptions, QueryError> {
        std::mem::take(&mut self.options).build(queries.limits())
    }
}

/// `+` is a space in a query string, as browsers and `curl --data-urlencode` write it.
fn decode_parameter<'a>(name: &str, text: &'a str) -> Result<Cow<'a, str>, QueryError> {
    let text: Cow<'a, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    if !text.contains('%') {
        return Ok(text);
    }
    match decode(&text) {
        Ok(decoded) => Ok(Cow::Owned(decoded)),
        Err(problem) => Err(QueryError::parameter(name, "percent-encoded UTF-8", problem)),
    }
}

/// Text from percent-encoded text, strictly: a `%` that encodes nothing, or bytes that are not UTF-8, are errors rather than
/// another key.
fn decode(text: &str) -> Result<String, &'static str> {
    let bytes = text.as_bytes();
    let stray = |at: usize| !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && stray(at)) {
        return Err("a % without two hex digits");
    }
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| "bytes that are not UTF-8")
}

/// The decoded segment of a path, counted from 0 behind the leading slash.
///
/// Segments are taken from the raw path: `%2F` in a key is a slash of the key, not of the path.
pub fn segment(path: &str, index: usize) -> Result<Cow<'_, str>, &'static str> {
    let raw = path.split('/').nth(index + 1).unwrap_or_default();
    if raw.contains('%') { decode(raw).map(Cow::Owned) } else { Ok(Cow::Borrowed(raw)) }
}

/// The store that `/v1/stores/{store}/…` names.
pub fn store(parts: &Parts, queries: &Queries) -> Result<std::sync::Arc<StoreInfo>, Problem> {
    let name = segment(parts.uri.path(), 2).map_err(|problem| {
        Problem::new(Failure::new(Code::StoreNotFound, format!("the store's name has {problem}")))
    })?;
    Ok(queries.store(&name)?)
}

/// The key that `/v1/stores/{store}/keys/{key}` or `…/windows/{key}` names: its text and its bytes.
pub fn key<'a>(parts: &'a Parts, queries: &Queries, store: &StoreInfo) -> Result<(Cow<'a, str>, Vec<u8>), Problem> {
    let text = segment(parts.uri.path(), 4).map_err(|problem| QueryError::Key {
        store: store.name.clone(),
        format: store.key.name().to_owned(),
        problem: format!("expected percent-encoded UTF-8, got {problem}"),
    })?;
    let bytes = queries.key_from_text(store, &text)?;
    Ok((text, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_decode_strictly() {
        for (path, decoded) in [
            ("/v1/stores/S/keys/a%2Fb", Ok("a/b")),
            ("/v1/stores/S/keys/a%20b", Ok("a b")),
            ("/v1/stores/S/keys/a+b", Ok("a+b")),
            ("/v1/stores/S/keys/%E2%82%AC", Ok("€")),
            ("/v1/stores/S/keys/%25", Ok("%")),
            ("/v1/stores/S/keys/%2525", Ok("%25")),
            ("/v1/stores/S/keys/", Ok("")),
            ("/v1/stores/S/keys/%00", Ok("\0")),
            ("/v1/stores/S/keys/..%2f..", Ok("../..")),
            ("/v1/stores/S/keys/%", Err(())),
            ("/v1/stores/S/keys/%2", Err(())),
            ("/v1/stores/S/keys/%zz", Err(())),
            ("/v1/stores/S/keys/%ff", Err(())),
            ("/v1/stores/S/keys/%E2%82", Err(())),
        ] {
            assert_eq!(segment(path, 4).as_deref().map_err(|_| ()), decoded, "{path}");
        }
    }

    #[test]
    fn parameters_decode_and_unknown_or_repeated_ones_are_refused() {
        let read = |query: &str| {
            let (parts, ()) = http::Request::get(format!("/x?{query}")).body(()).unwrap().into_parts();
            Params::read(&parts, &["from", "limit", "reverse"])
                .map(|params| (params.get("from").map(str::to_owned), params.flag("reverse")))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("from=a%2Bb+c&limit=3").unwrap().0.as_deref(), Some("a+b c"));
        assert_eq!(read("from").unwrap().0.as_deref(), Some(""));
        assert!(read("reverse").unwrap().1.unwrap());
        assert!(read("reverse=1").unwrap().1.is_err());
        assert!(read("form=a").unwrap_err().contains("form"));
        assert!(read("from=a&from=b").unwrap_err().contains("from"));
        assert!(read("from=%ff").unwrap_err().contains("from"));
        assert!(read("consistency=any").is_ok());
        assert!(read("").is_ok());
    }
}
