//! A server of our own on this machine, and one who interrupts, for tests.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::{Event, Watcher};

/// What the client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// What the server says.
pub struct Says {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends only this much of the body and hangs up.
    pub cut: Option<usize>,
}

impl Says {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The body as a file server gives it: ranges and If-Range honoured.
    pub fn file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        let etag = format!("\"{etag}\"");
        let wanted = asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let fresh = asked.headers.get("if-range").is_none_or(|seen| *seen == etag);
        match wanted.filter(|_| fresh) {
            Some(from) if from >= body.len() => Self::new(416, ""),
            Some(from) => Self::new(206, &body[from..])
                .with("content-range", format!("bytes {from}-{}/{}", body.len() - 1, body.len()))
                .with("etag", etag),
            None => Self::new(200, body).with("etag", etag),
        }
    }
}

/// Serves until dropped by the process; remembers every request.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Asked, usize) -> Says + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, handler) = (Arc::clone(&asked), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                std::thread::spawn(move || answer(stream, &log, &*handler));
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn asked_for(&self, part: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path.contains(part)).collect()
    }
}

/// One request per connection.
fn answer(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, handler: &(dyn Fn(&Asked, usize) -> Says + Send + Sync)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { return };
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned())))
        .collect();
    let asked = Asked { path, headers };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.iter().filter(|other| other.path == asked.path).count() - 1
    };
    let says = handler(&asked, before);
    let mut head =
        format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n", says.status, says.body.len());
    for (name, value) in &says.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let sent = &says.body[..says.cut.unwrap_or(says.body.len()).min(says.body.len())];
    let _ = stream.write_all((head + "\r\n").as_bytes()).and_then(|()| stream.write_all(sent));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Read until the client hangs up, so that closing does not reset what it has not read yet.
    let _ = stream.read_to_end(&mut Vec::new());
}

pub fn sha(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn body(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Stops a download once its first bytes have come.
#[derive(Debug, Default)]
pub struct Interrupting(bool);

impl Watcher for Interrupting {
    fn event(&mut self, event: Event<'_>) {
        self.0 |= matches!(event, Event::Advanced { done: 1.., .. });
    }

    fn interrupted(&self) -> bool {
        self.0
    }
}
