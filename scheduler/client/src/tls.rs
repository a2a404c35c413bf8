//! Connections of an agent: TLS 1.3 only, trusting exactly one authority.
//!
//! tonic's own TLS cannot pin the version, so the handshake is made here and tonic is handed the
//! finished stream. The machine's store of authorities is never consulted.

use crate::error::ClientError;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use std::{io, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long a connection may take to be made, handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is spoken inside the connection.
#[derive(Clone, Copy, Debug)]
pub enum Alpn {
    Http1,
    Http2,
}

/// One server, and whom to trust for it.
#[derive(Clone)]
pub struct Server {
    host: String,
    port: u16,
    name: ServerName<'static>,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Server {
    /// From the issuer's URL and the authority's certificate.
    pub fn new(url: &str, ca_pem: &str) -> Result<Server, ClientError> {
        let (host, port) = parse(url).map_err(|message| ClientError::Field {
            field: "issuer",
            message,
        })?;
        let name = ServerName::try_from(host.clone()).map_err(|e| ClientError::Field {
            field: "issuer",
            message: e.to_string(),
        })?;
        let config = config(ca_pem).map_err(|message| ClientError::Field {
            field: "ca_pem",
            message,
        })?;
        let connector = |alpn: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Ok(Server {
            http1: connector(b"http/1.1"),
            http2: connector(b"h2"),
            host,
            port,
            name,
        })
    }

    /// `HOST:PORT`, for people and for the `host` header.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// A new connection.
    pub async fn connect(&self, alpn: Alpn) -> io::Result<TlsStream<TcpStream>> {
        let connector = match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
        };
        let dial = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            connector.connect(self.name.clone(), tcp).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dial)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

fn parse(url: &str) -> Result<(String, u16), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("{url}: it must begin with https://"));
    }
    let host = uri.host().ok_or_else(|| format!("{url}: no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

fn config(ca_pem: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("no certificate in PEM: {e}"))?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> String {
        rcgen::generate_simple_self_signed(["localhost".into()])
            .unwrap()
            .cert
            .pem()
    }

    #[test]
    fn addresses_are_taken_from_the_issuer() {
        let at = |url| Server::new(url, &ca()).unwrap().authority();
        assert_eq!(at("https://127.0.0.1:8443"), "127.0.0.1:8443");
        assert_eq!(at("https://[::1]:8443"), "[::1]:8443");
        assert_eq!(at("https://bulkhead.example"), "bulkhead.example:443");
    }

    #[test]
    fn plain_http_and_missing_authorities_are_refused() {
        let refused = |url, ca: &str| Server::new(url, ca).err().unwrap().to_string();
        assert!(refused("http://127.0.0.1:1", &ca()).contains("https://"));
        assert!(refused("https://127.0.0.1:1", "").contains("ca_pem"));
    }
}
