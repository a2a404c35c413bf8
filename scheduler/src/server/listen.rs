//! Opening the three listeners: agents (TLS), operators (loopback HTTP), administrators (a socket file).

use super::{ServerError, admin::AdminService, operators, state::App};
use crate::config::Paths;
use bulkhead_proto::v1::admin_server::AdminServer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};

/// A listening socket, or an error that names its address.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen {
            address: address.to_string(),
            source,
        })
}

/// TLS 1.3 only, HTTP/2 first.
pub fn tls(paths: &Paths) -> Result<TlsAcceptor, ServerError> {
    let fail = |path: &Path, message: String| ServerError::Tls {
        path: path.into(),
        message,
    };
    let (cert, key) = (paths.server_cert(), paths.server_key());
    let chain = CertificateDer::pem_file_iter(&cert)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(|e| fail(&cert, e.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|e| fail(&key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(|e| fail(&cert, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The admin API on its socket file, for this process's own user and root.
pub fn admin(app: App) -> Result<JoinHandle<()>, ServerError> {
    let path = app.config.paths().admin_socket();
    let failed = |source: io::Error| ServerError::Listen {
        address: path.display().to_string(),
        source,
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let own = nix::unistd::geteuid().as_raw();
    let connections =
        UnixListenerStream::new(listener).filter(move |connection| match connection {
            Ok(stream) => is_operator(stream, own),
            Err(_) => true,
        });
    let service = AdminServer::new(AdminService { app });
    Ok(tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(connections)
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin socket failed");
        }
    }))
}

fn is_operator(stream: &UnixStream, own: u32) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// The operators' port, until the process ends: metrics stay readable while requests drain.
pub async fn operators(app: App, listener: TcpListener) {
    if let Err(error) = axum::serve(listener, operators::routes(app)).await {
        tracing::error!(%error, "the operators' port failed");
    }
}

/// Where everything is to be reached.
pub fn endpoints(app: &App, agents: &TcpListener, operators: &TcpListener) -> io::Result<Value> {
    let paths = app.config.paths();
    Ok(json!({
        "agents": format!("https://{}", agents.local_addr()?),
        "operators": format!("http://{}", operators.local_addr()?),
        "admin": paths.admin_socket(),
        "ca": paths.ca_cert(),
        "issuer": app.issuer,
    }))
}

/// Writes the endpoints file, whole or not at all.
pub fn write_endpoints(app: &App, endpoints: &Value) -> io::Result<()> {
    let path = app.config.paths().endpoints();
    let draft = path.with_extension("json.new");
    std::fs::write(&draft, format!("{endpoints:#}\n"))?;
    std::fs::rename(&draft, &path)?;
    tracing::info!(agents = %endpoints["agents"], operators = %endpoints["operators"], "listening");
    Ok(())
}
