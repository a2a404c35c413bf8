//! One question to the hub: a GET, its redirects, and its answer piece by piece.
//!
//! TLS 1.3, and the authorities that this machine trusts. The token goes to the endpoint's own origin and
//! to no other, however the hub redirects; no header of it is ever shown. Every wait has an end, and
//! nothing is held that was not asked for: a body is read as its reader takes it.

use super::{HubError, url::Url};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header, response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::ServerName;
use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Most redirects of one question; the hub's own are two.
const REDIRECTS_MAX: usize = 5;
/// Longest token, bytes.
const TOKEN_BYTES_MAX: usize = 512;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until a connection is made, handshake included.
    pub connect: Duration,
    /// Until the answer begins, and between any two pieces of it.
    pub read: Duration,
    /// Before a first retry; each further one waits twice as long.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            pause: Duration::from_millis(500),
        }
    }
}

/// Who asks, and whom.
pub struct Web {
    endpoint: Url,
    token: Option<HeaderValue>,
    tls: OnceLock<TlsConnector>,
    pub limits: Limits,
}

/// An answer whose body is still to come.
pub struct Answer {
    /// Where it came from, after all redirects.
    pub url: Url,
    pub head: response::Parts,
    /// The SHA-256 that the endpoint itself said on the way, if it did.
    pub linked: Option<String>,
    body: Incoming,
    limits: Limits,
}

impl Web {
    /// Asks `endpoint`, and shows it `token`.
    pub fn new(endpoint: &Url, token: Option<&str>, limits: Limits) -> Result<Web, HubError> {
        Ok(Web {
            endpoint: endpoint.clone(),
            token: token.map(bearer).transpose()?,
            tls: OnceLock::new(),
            limits,
        })
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for a file from byte `from` on, and follows redirects. Any final status is an answer.
    pub async fn get(&self, url: &Url, from: u64) -> Result<Answer, HubError> {
        let mut url = url.clone();
        let mut linked = None;
        for _ in 0..=REDIRECTS_MAX {
            let (head, body) = self.ask(&url, from).await?;
            if url.same_origin(&self.endpoint) {
                linked = sha256_in(&head.headers).or(linked);
            }
            if !is_redirect(head.status) {
                return Ok(Answer {
                    url,
                    head,
                    linked,
                    body,
                    limits: self.limits,
                });
            }
            let odd = |what: String| HubError::Odd {
                host: url.authority(),
                what: format!("a redirect that is not followed: {what}"),
            };
            let to = head.headers.get(header::LOCATION);
            let to = to.and_then(|to| to.to_str().ok());
            let to = to.ok_or_else(|| odd("it says not where".into()))?;
            url = url.join(to).map_err(odd)?;
        }
        Err(HubError::Odd {
            host: self.endpoint.authority(),
            what: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    async fn ask(&self, url: &Url, from: u64) -> Result<(response::Parts, Incoming), HubError> {
        let host = url.authority();
        let unreachable = |what: String| HubError::Unreachable {
            host: host.clone(),
            what,
        };
        let request = self
            .request(url, from)
            .map_err(|e| unreachable(e.to_string()))?;
        let tls = match url.https {
            true => Some(self.tls()?),
            false => None,
        };
        let dialled = timeout(self.limits.connect, dial(url, tls)).await;
        let stream = dialled
            .map_err(|_| unreachable(format!("no connection in {:?}", self.limits.connect)))?
            .map_err(|e| unreachable(e.to_string()))?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the exchange: when `sender` and the body go, so does the task.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let answered = timeout(self.limits.read, exchange).await;
        let response = answered
            .map_err(|_| HubError::Silent {
                host: host.clone(),
                seconds: self.limits.read.as_secs(),
            })?
            .map_err(|e| HubError::Cut {
                host: host.clone(),
                what: e.to_string(),
            })?;
        Ok(response.into_parts())
    }

    fn request(&self, url: &Url, from: u64) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(url.target())
            .header(header::HOST, url.authority())
            .header(header::ACCEPT_ENCODING, "identity")
            .header(
                header::USER_AGENT,
                concat!("bulkhead/", env!("CARGO_PKG_VERSION")),
            );
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self
            .token
            .as_ref()
            .filter(|_| url.same_origin(&self.endpoint))
        {
            request = request.header(header::AUTHORIZATION, token);
        }
        request.body(Empty::new())
    }

    /// Made when it is first needed: reading the machine's authorities takes some milliseconds.
    fn tls(&self) -> Result<TlsConnector, HubError> {
        match self.tls.get() {
            Some(tls) => Ok(tls.clone()),
            None => {
                let tls = connector()?;
                Ok(self.tls.get_or_init(|| tls).clone())
            }
        }
    }
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        let host = self.url.authority();
        loop {
            let frame = timeout(self.limits.read, self.body.frame()).await;
            let frame = frame.map_err(|_| HubError::Silent {
                host: host.clone(),
                seconds: self.limits.read.as_secs(),
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => {
                    let what = e.to_string();
                    return Err(HubError::Cut { host, what });
                }
                // Trailers are nobody's.
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// All of a body that has to be small.
    pub async fn all(mut self, bytes_max: usize) -> Result<Vec<u8>, HubError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > bytes_max {
                return Err(HubError::Odd {
                    host: self.url.authority(),
                    what: format!("it is longer than {bytes_max} bytes"),
                });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The hub's own word on what a large file hashes to.
fn sha256_in(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get("x-linked-etag")?.to_str().ok()?;
    let tag = tag.trim_start_matches("W/").trim_matches('"');
    super::listing::is_hex(tag, 64).then(|| tag.to_owned())
}

fn bearer(token: &str) -> Result<HeaderValue, HubError> {
    let wrong = || HubError::Setting {
        name: "HF_TOKEN",
        what: "it is no token; take one from the settings of your account on the hub".into(),
    };
    let token = token.trim();
    let good = token.len() <= TOKEN_BYTES_MAX && token.bytes().all(|b| b.is_ascii_graphic());
    if !good || token.is_empty() {
        return Err(wrong());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

fn connector() -> Result<TlsConnector, HubError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first();
        return Err(HubError::Roots(
            why.map_or(String::new(), |why| format!(" ({why})")),
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| HubError::Roots(format!(" ({e})")))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection, whichever kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn dial(url: &Url, tls: Option<TlsConnector>) -> io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, tcp).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, net::TcpListener};

    const SHORT: Limits = Limits {
        connect: Duration::from_secs(10),
        read: Duration::from_millis(200),
        pause: Duration::ZERO,
    };

    /// What a server that says `sent` and then nothing more leads to.
    async fn asked(sent: &'static [u8]) -> Result<Vec<u8>, HubError> {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", socket.local_addr().unwrap())).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = socket.accept().unwrap();
            io::Write::write_all(&mut stream, sent).unwrap();
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let web = Web::new(&url, None, SHORT).unwrap();
        let answer = match web.get(&url, 0).await {
            Ok(answer) => answer.all(100).await,
            Err(error) => Err(error),
        };
        drop(web);
        tokio::task::spawn_blocking(|| server.join().unwrap())
            .await
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn a_hub_that_falls_silent_is_waited_for_so_long_and_no_longer() {
        for silent in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        ] {
            let error = asked(silent).await.unwrap_err();
            assert!(matches!(error, HubError::Silent { .. }), "{error}");
            assert!(error.passes(), "it may be asked again");
        }
    }

    #[tokio::test]
    async fn what_is_no_http_or_too_long_is_an_error() {
        let error = asked(b"SSH-2.0\r\n\r\n").await.unwrap_err();
        assert!(matches!(error, HubError::Cut { .. }), "{error}");
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n\
            0123456789012345678901234567890123456789012345678901234567890123456789\
            0123456789012345678901234567890";
        let error = asked(long).await.unwrap_err();
        assert!(error.to_string().contains("longer than 100"), "{error}");
    }

    #[test]
    fn the_token_is_in_nothing_that_is_shown() {
        let token = bearer(" hf_secret\n").unwrap();
        assert_eq!(token.as_bytes(), b"Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        for bad in ["", "a b", "a\u{0}", "ä", &"x".repeat(513)] {
            let error = bearer(bad).unwrap_err().to_string();
            assert!(error.starts_with("HF_TOKEN"), "{error}");
        }
    }
}
