//! The floor: a bare tonic server with the same TLS and the same message, which answers at once.
//!
//! It is this program again, in a process of its own. It knows no tokens, no tenants and no log.

use crate::{
    Failure,
    again::{self, Again},
};
use bulkhead_proto::v1::{
    EmbedRequest, EmbedResponse, Embedding, GenerateRequest, GenerateResponse, ListModelsRequest,
    ListModelsResponse, Receipt, Usage,
    inference_server::{Inference, InferenceServer},
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{ffi::OsStr, path::Path, sync::Arc};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Response, Status};

/// Numbers of its vectors, as many as the null model's.
const DIMENSIONS: usize = 8;

/// Starts one with the certificate of the server whose data folder this is.
pub async fn start(data: &Path) -> Result<Again, Failure> {
    Again::start([OsStr::new("echo"), data.join("tls").as_os_str()]).await
}

/// Lives an echo's life: until it is killed, or whoever started it is gone.
pub async fn live(tls: &Path) -> Result<(), Failure> {
    let tls = acceptor(tls)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    again::announce(listener.local_addr()?);
    let routes = tonic::service::Routes::new(InferenceServer::new(Answering));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, routes) = (tls.clone(), routes.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(routes);
            // Its errors are the peer's, who hears of them.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn acceptor(folder: &Path) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<Vec<_>, _>>()?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

struct Answering;

#[tonic::async_trait]
impl Inference for Answering {
    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let texts = request.into_inner().texts.len();
        Ok(Response::new(EmbedResponse {
            embeddings: vec![
                Embedding {
                    values: vec![0.5; DIMENSIONS],
                    ..Embedding::default()
                };
                texts
            ],
            usage: Some(Usage::default()),
            receipt: Some(Receipt {
                request_id: "req_00000000000000000000000000000000".into(),
                ..Receipt::default()
            }),
        }))
    }

    type GenerateStream = tokio_stream::Empty<Result<GenerateResponse, Status>>;

    async fn generate(
        &self,
        _: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        Err(Status::new(Code::Unimplemented, "the echo embeds alone"))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(ListModelsResponse::default()))
    }
}
