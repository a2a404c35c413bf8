//! TLS 1.3 and nothing older, and never without.

use bulkhead_tests::{agent::random, http, options::Options, server::Server, wait::within};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A record of TLS begins with its type: 21 is an alert, 22 a handshake message.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Alert 70: the protocol version is not supported (RFC 8446, 6.2).
const FATAL_PROTOCOL_VERSION: [u8; 2] = [2, 70];

async fn says(server: &Server, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(http::authority(&server.endpoints().agents))
        .await
        .expect("a connection");
    stream.write_all(sent).await.expect("sent");
    let mut answer = vec![0; 64];
    let read = within(ANSWER_MAX, "an answer or the end", stream.read(&mut answer)).await;
    // A reset is an end too.
    answer.truncate(read.unwrap_or(0));
    answer
}

/// A ClientHello as a client that knows TLS 1.2 at most sends it (RFC 5246, 7.4.1.2). `openssl s_server`
/// answers the same bytes with a ServerHello.
fn client_hello_1_2() -> Vec<u8> {
    let length16 = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[..], bytes].concat()
    };
    let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &length16(bytes)].concat();
    let ecdhe_aead = [
        0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30, 0xcc, 0xa9, 0xcc, 0xa8,
    ];
    let extensions = [
        extension(10, &length16(&[0, 29, 0, 23, 0, 24])), // x25519, P-256, P-384
        extension(11, &[1, 0]),                           // uncompressed points
        extension(13, &length16(&[4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 7])),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &random(32),
        &[0], // no session
        &length16(&ecdhe_aead),
        &[1, 0], // no compression
        &length16(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [&[HANDSHAKE, 3, 1][..], &length16(&message)].concat()
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = Server::start(Options::null(0)).await;
    let answer = says(&server, &client_hello_1_2()).await;
    assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
    assert_eq!(
        answer.get(5..7),
        Some(&FATAL_PROTOCOL_VERSION[..]),
        "{answer:?}"
    );
}

#[tokio::test]
async fn plaintext_is_refused() {
    let server = Server::start(Options::null(0)).await;
    let http1 = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for sent in [&http1[..], &http2[..]] {
        let answer = says(&server, sent).await;
        assert!(matches!(answer.first(), None | Some(&ALERT)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_trusts_somebody_else_is_not_deceived() {
    let server = Server::start(Options::null(0)).await;
    let other = Server::start(Options::null(0)).await;
    let ca = std::fs::read_to_string(&other.endpoints().ca).expect("the authority");
    let error = http::connect_tls(&server.endpoints().agents, &ca, "h2").await;
    let error = error
        .expect_err("each server has an authority of its own")
        .to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn the_ports_of_operators_and_agents_do_not_mix() {
    let server = Server::start(Options::null(0)).await;
    let ca = std::fs::read_to_string(&server.endpoints().ca).expect("the authority");
    for path in ["/metrics", "/healthz", "/readyz"] {
        let page = http::get_tls(&server.endpoints().agents, &ca, path)
            .await
            .expect("an answer");
        assert_eq!(page.0, 404, "{path} is not for agents");
        let page = server.get(path).await.expect("an answer");
        assert_eq!(page.0, 200, "{path} is for operators");
    }
    let page = server.get("/oauth/token").await.expect("an answer");
    assert_eq!(page.0, 404, "tokens are not for operators");
}
