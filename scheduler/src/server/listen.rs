//! Opening the three listeners: agents (TLS), operators (loopback HTTP), administrators (a socket file).

use super::{ServerError, admin::AdminService, operators, state::App};
use crate::config::{Config, Paths};
use bulkhead_proto::v1::admin_server::AdminServer;
use nix::sys::socket::{Backlog, listen};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use std::{
    io,
    net::{self, SocketAddr},
    os::unix::{self, fs::PermissionsExt},
    path::Path,
    sync::Arc,
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};

/// Connections that may wait to be taken.
const BACKLOG: i32 = 1024;

/// The listening sockets, open before the process gives up what opens them.
pub struct Doors {
    pub agents: net::TcpListener,
    pub operators: net::TcpListener,
    pub admin: unix::net::UnixListener,
}

impl Doors {
    /// Opens all three.
    pub fn open(config: &Config) -> Result<Doors, ServerError> {
        Ok(Doors {
            agents: tcp(config.server.listen)?,
            operators: tcp(config.server.operators)?,
            admin: admin_socket(&config.paths().admin_socket())?,
        })
    }

    /// The issuer of tokens: what was configured, else the agents' own address.
    pub fn issuer(&self, config: &Config) -> io::Result<String> {
        Ok(match config.server.issuer.as_str() {
            "" => format!("https://{}", self.agents.local_addr()?),
            given => given.to_string(),
        })
    }

    /// Writes the file that says where everything is to be reached, whole or not at all.
    pub fn announce(&self, config: &Config) -> Result<(), ServerError> {
        let paths = config.paths();
        let (agents, operators) = (self.agents.local_addr()?, self.operators.local_addr()?);
        let endpoints = json!({
            "agents": format!("https://{agents}"),
            "operators": format!("http://{operators}"),
            "admin": paths.admin_socket(),
            "ca": paths.ca_cert(),
            "issuer": self.issuer(config)?,
        });
        let path = paths.endpoints();
        let draft = path.with_extension("json.new");
        std::fs::write(&draft, format!("{endpoints:#}\n"))?;
        std::fs::rename(&draft, &path)?;
        tracing::info!(%agents, %operators, "listening");
        Ok(())
    }
}

/// A listening socket, or an error that names its address.
fn tcp(address: SocketAddr) -> Result<net::TcpListener, ServerError> {
    let open = || {
        let listener = net::TcpListener::bind(address)?;
        // Again, for a longer queue than the standard library's.
        listen(&listener, Backlog::new(BACKLOG)?)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| ServerError::Listen {
        address: address.to_string(),
        source,
    })
}

/// The socket file, for this process's own user and root.
fn admin_socket(path: &Path) -> Result<unix::net::UnixListener, ServerError> {
    let open = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = unix::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| ServerError::Listen {
        address: path.display().to_string(),
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
pub fn admin(app: App, listener: unix::net::UnixListener) -> io::Result<JoinHandle<()>> {
    let listener = UnixListener::from_std(listener)?;
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
