//! A loopback TCP proxy that can cut connections, refuse new ones, and stop or delay bytes, in one direction or in both.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use crate::wait;

const CHUNK: usize = 16 * 1024;
/// Chunks that a direction holds back before it stops reading: what a network and its buffers would hold.
const HELD: usize = 256;
/// Time within which a stopped link notices that it flows again; bounds how long a cut takes.
const IDLE_LOOK: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target: requests.
    ToTarget,
    /// From the target to the client: answers.
    ToClient,
}

/// What the link does now.
#[derive(Debug, Default)]
struct Link {
    /// New connections are closed at once.
    refuses: AtomicBool,
    /// Bytes wait, with connections open: a partition, not a reset.
    silent_to_target: AtomicBool,
    silent_to_client: AtomicBool,
    /// Bytes of connections that this process opened wait; 0: of none.
    silent_to_process: AtomicU32,
    /// Bytes to the target arrive this much later.
    delay_ms: AtomicU64,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Connection>>,
}

/// A connection that passes bytes.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// It is one of the process that nothing passes for.
    silent: Arc<AtomicBool>,
    /// Says that it is cut to whoever holds bytes back, by being dropped.
    _uncut: [mpsc::Sender<Infallible>; 2],
}

/// A proxy in front of one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: Arc<Link>,
}

impl Proxy {
    /// Listens on `host` (port 0: a free one) and passes all to `target`.
    pub fn start(host: &str, port: u16, target: &str) -> Self {
        let listener = TcpListener::bind((host, port)).unwrap();
        let address = listener.local_addr().unwrap();
        let link = Arc::new(Link::default());
        let target = target.to_owned();
        let accepting = Arc::clone(&link);
        thread::Builder::new()
            .name("proxy".into())
            .spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if !accepting.refuses.load(Ordering::SeqCst) {
                        // A target that is away is a closed connection, as without a proxy.
                        if let Ok(server) = TcpStream::connect(&target) {
                            accepting.join(client, server);
                        }
                    }
                }
            })
            .unwrap();
        Self { address, link }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and refuses new ones until [`Proxy::mend`].
    pub fn cut(&self) {
        self.link.refuses.store(true, Ordering::SeqCst);
        for Connection { client, server, .. } in self.link.open.lock().unwrap().drain().map(|(_, open)| open) {
            // One that is closed already is as cut as it gets.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Holds all bytes back until [`Proxy::mend`]; connections stay open.
    pub fn silence(&self) {
        self.silence_one(Direction::ToTarget);
        self.silence_one(Direction::ToClient);
    }

    /// Holds the bytes of one direction back until [`Proxy::mend`]; the other direction flows.
    pub fn silence_one(&self, direction: Direction) {
        self.link.silent(direction).store(true, Ordering::SeqCst);
    }

    /// Holds the bytes of one process's connections back, in both directions, until [`Proxy::mend`]: the link between two.
    pub fn silence_for(&self, process: u32) {
        self.link.silent_to_process.store(process, Ordering::SeqCst);
        let ports = ports_of(process);
        for connection in self.link.open.lock().unwrap().values() {
            let port = connection.client.peer_addr().map_or(0, |address| address.port());
            connection.silent.store(ports.contains(&port), Ordering::SeqCst);
        }
    }

    /// Every request arrives this much later: latency, while as much may be under way as before.
    pub fn delay(&self, by: Duration) {
        self.link.delay_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Passes everything again.
    pub fn mend(&self) {
        self.link.delay_ms.store(0, Ordering::SeqCst);
        self.link.silent_to_process.store(0, Ordering::SeqCst);
        self.link.silent_to_target.store(false, Ordering::SeqCst);
        self.link.silent_to_client.store(false, Ordering::SeqCst);
        self.link.refuses.store(false, Ordering::SeqCst);
    }
}

impl Link {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (Ok(client_read), Ok(server_read)) = (client.try_clone(), server.try_clone()) else { return };
        let (Ok(client_kept), Ok(server_kept)) = (client.try_clone(), server.try_clone()) else { return };
        let [(uncut_to_target, cut_to_target), (uncut_to_client, cut_to_client)] = [mpsc::channel(), mpsc::channel()];
        let silent = Arc::new(AtomicBool::new(false));
        let connection = Connection {
            client: client_kept,
            server: server_kept,
            silent: Arc::clone(&silent),
            _uncut: [uncut_to_target, uncut_to_client],
        };
        let port = connection.client.peer_addr().map_or(0, |address| address.port());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap().insert(id, connection);
        // One that is opened while the process is held back.
        match self.silent_to_process.load(Ordering::SeqCst) {
            0 => {}
            process => silent.store(ports_of(process).contains(&port), Ordering::SeqCst),
        }
        let directions = [
            (client_read, server, Direction::ToTarget, cut_to_target),
            (server_read, client, Direction::ToClient, cut_to_client),
        ];
        for (from, to, direction, cut) in directions {
            let (link, silent) = (Arc::clone(self), Arc::clone(&silent));
            thread::spawn(move || {
                link.pump(from, to, direction, silent, cut);
                link.open.lock().unwrap().remove(&id);
            });
        }
    }

    fn silent(&self, direction: Direction) -> &AtomicBool {
        match direction {
            Direction::ToTarget => &self.silent_to_target,
            Direction::ToClient => &self.silent_to_client,
        }
    }

    /// Reads until the end; a second thread writes each chunk when it is due.
    fn pump(
        self: &Arc<Self>,
        mut from: TcpStream,
        to: TcpStream,
        direction: Direction,
        silent: Arc<AtomicBool>,
        cut: mpsc::Receiver<Infallible>,
    ) {
        let (chunks, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(HELD);
        let link = Arc::clone(self);
        let writer = thread::spawn(move || link.write(to, direction, &silent, &due, &cut));
        let mut bytes = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let delay = match direction {
                Direction::ToTarget => Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)),
                Direction::ToClient => Duration::ZERO,
            };
            if chunks.send((Instant::now() + delay, bytes[..length].to_vec())).is_err() {
                break;
            }
        }
        drop(chunks);
        writer.join().unwrap();
        // The other direction may have closed both already.
        let _ = from.shutdown(Shutdown::Both);
    }

    fn write(
        &self,
        mut to: TcpStream,
        direction: Direction,
        silent: &AtomicBool,
        due: &mpsc::Receiver<(Instant, Vec<u8>)>,
        cut: &mpsc::Receiver<Infallible>,
    ) {
        for (at, chunk) in due {
            let early = at.saturating_duration_since(Instant::now());
            if cut.recv_timeout(early) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
            wait::hold_while(IDLE_LOOK, || {
                let of_process = silent.load(Ordering::SeqCst) && self.silent_to_process.load(Ordering::SeqCst) != 0;
                of_process || self.silent(direction).load(Ordering::SeqCst)
            });
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Local ports of a process's TCP connections over IPv4; none of a process that is gone.
fn ports_of(process: u32) -> HashSet<u16> {
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = columns.get(1)?.split_once(':')?;
        sockets.contains(*columns.get(9)?).then(|| u16::from_str_radix(port, 16).unwrap())
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut bytes = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut bytes) {
                        stream.write_all(&bytes[..length]).unwrap();
                    }
                });
            }
        });
        address
    }

    #[test]
    fn passes_holds_back_and_cuts() {
        let proxy = Proxy::start("127.0.0.1", 0, &echo().to_string());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut bytes = [0; 4];
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");

        proxy.silence();
        stream.write_all(b"held").unwrap();
        assert!(stream.read_exact(&mut bytes).is_err());
        proxy.mend();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"held");

        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        proxy.silence_one(Direction::ToClient);
        stream.write_all(b"back").unwrap();
        assert!(stream.read_exact(&mut bytes).is_err(), "the answer is held back");
        proxy.mend();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"back");

        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        for (process, held) in [(other.id(), false), (std::process::id(), true)] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            proxy.silence_for(process);
            stream.write_all(b"one?").unwrap();
            let mut later = TcpStream::connect(proxy.address()).unwrap();
            later.write_all(b"two?").unwrap();
            for stream in [&mut stream, &mut later] {
                let limit = Duration::from_millis(if held { 200 } else { 10_000 });
                stream.set_read_timeout(Some(limit)).unwrap();
                assert_eq!(stream.read_exact(&mut bytes).is_err(), held, "process {process}");
            }
        }
        other.kill().unwrap();
        other.wait().unwrap();
        proxy.mend();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one?");

        proxy.cut();
        assert!(matches!(stream.read(&mut bytes), Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address()).unwrap();
        assert!(matches!(refused.read(&mut bytes), Ok(0) | Err(_)));
    }
}
