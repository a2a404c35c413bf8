//! HTTP/1.1 by hand over plain sockets: one request a connection, and an answer that may break off.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// Longest head of a request that is read, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request, as far as it matters here.
pub struct Request {
    /// HEAD: no body is wanted.
    head_only: bool,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What is sent.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so much of the body.
    pub cut: Option<usize>,
}

/// A reply without headers of its own.
pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: body.into(),
        cut: None,
    }
}

impl Reply {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

/// Makes the answers.
pub type Answers = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A server on a port of its own, until the value goes.
pub struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(tls: Option<Arc<ServerConfig>>, answers: Answers) -> Server {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, answers) = (tls.clone(), answers.clone());
                // Whoever hangs up early is what some tests are about.
                std::thread::spawn(move || drop(serve(stream, tls, &answers)));
            }
        });
        Server {
            address,
            ended,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, answers: &Answers) -> io::Result<()> {
    match tls {
        None => exchange(stream, answers),
        Some(tls) => {
            let session = ServerConnection::new(tls).map_err(io::Error::other)?;
            exchange(StreamOwned::new(session, stream), answers)
        }
    }
}

fn exchange(mut stream: impl Read + Write, answers: &Answers) -> io::Result<()> {
    let Some(request) = read(&mut stream)? else {
        return Ok(());
    };
    let reply = answers(&request);
    let mut head = format!("HTTP/1.1 {} -\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", reply.body.len());
    stream.write_all(head.as_bytes())?;
    if !request.head_only {
        let sent = reply.cut.unwrap_or(usize::MAX).min(reply.body.len());
        stream.write_all(&reply.body[..sent])?;
    }
    stream.flush()
}

fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX || stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next(), first.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Some(Request {
        head_only: method == Some("HEAD"),
        path: path.into(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
    }))
}
