//! Plain requests and TLS connections, with every choice in the caller's hand.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use std::{error::Error, io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Whatever went wrong on the way.
pub type Failure = Box<dyn Error + Send + Sync>;

/// `HOST:PORT` of a URL.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

/// A TLS 1.3 connection that trusts `ca_pem` alone and speaks `alpn`.
pub async fn connect_tls(url: &str, ca_pem: &str, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let authority = authority(url);
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect(authority).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// GET without TLS.
pub async fn get_plain(url: &str, path: &str) -> Result<(u16, String), Failure> {
    let stream = TcpStream::connect(authority(url)).await?;
    let request = http::Request::get(path).header("host", authority(url));
    exchange(stream, request.body(Full::default())?).await
}

/// GET over TLS.
pub async fn get_tls(url: &str, ca_pem: &str, path: &str) -> Result<(u16, String), Failure> {
    let stream = connect_tls(url, ca_pem, "http/1.1").await?;
    let request = http::Request::get(path).header("host", authority(url));
    exchange(stream, request.body(Full::default())?).await
}

/// POST of a form over TLS.
pub async fn post_form(
    url: &str,
    ca_pem: &str,
    path: &str,
    form: String,
) -> Result<(u16, String), Failure> {
    let stream = connect_tls(url, ca_pem, "http/1.1").await?;
    let request = http::Request::post(path)
        .header("host", authority(url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(form))?;
    exchange(stream, request).await
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Full<Bytes>>,
) -> Result<(u16, String), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the exchange: when `sender` goes, so does the task.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
