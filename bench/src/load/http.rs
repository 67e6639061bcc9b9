//! The least HTTP/1.1 client: one kept-alive connection, GET, bodies with a length. What the generator does not spend, the
//! server under measurement has.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Ask;
use crate::error::{Error, Result};

/// Longest head of an answer.
const MAX_HEAD: usize = 16 << 10;

/// A connection that asks for paths with one prefix.
#[derive(Debug)]
pub(crate) struct Get {
    stream: TcpStream,
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Get {
    pub(crate) async fn connect(address: SocketAddr, prefix: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            prefix: format!("GET {prefix}").into_bytes(),
            suffix: format!(" HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes(),
            request: Vec::new(),
            buffer: Vec::with_capacity(MAX_HEAD),
        })
    }

    /// Asks with this behind the key.
    pub(crate) fn with_query(mut self, query: &str) -> Self {
        self.suffix.splice(0..0, query.bytes());
        self
    }

    /// Status and body.
    pub(crate) async fn get(&mut self, rest_of_path: &str) -> Result<(u16, Vec<u8>)> {
        self.request.clear();
        for part in [&*self.prefix, rest_of_path.as_bytes(), &*self.suffix] {
            self.request.extend_from_slice(part);
        }
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let head = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Error::other("the server closed the connection"));
            }
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Error::other(format!("the answer's head is longer than {MAX_HEAD} bytes")));
            }
        };
        let (status, length) = parse(&self.buffer[..head])?;
        while self.buffer.len() < head + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Error::other("the server closed the connection inside a body"));
            }
        }
        Ok((status, self.buffer[head..head + length].to_vec()))
    }
}

impl Ask for Get {
    async fn ask(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.get(key).await? {
            (200, body) => Ok(Some(body)),
            (404, _) => Ok(None),
            (status, body) => Err(Error::other(format!("{status} for {key}: {}", String::from_utf8_lossy(&body)))),
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Status and length of the body.
fn parse(head: &[u8]) -> Result<(u16, usize)> {
    let unreadable = || Error::other(format!("not an HTTP answer with a length: {}", String::from_utf8_lossy(head)));
    let text = std::str::from_utf8(head).map_err(|_| unreadable())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    status.zip(length).ok_or_else(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\nContent-Length: 12\r\n\r\n";
        assert_eq!(parse(head).unwrap(), (404, 12));
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
