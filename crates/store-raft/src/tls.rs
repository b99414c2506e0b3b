//! Mutual TLS: each end shows a certificate that the configured authority vouches for.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::StartError;
use crate::handshake::Transport;
use crate::options::TlsOptions;

#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    pub fn load(options: &TlsOptions) -> Result<Tls, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&options.certfile)?;
        let key = PrivateKeyDer::from_pem_file(&options.keyfile)
            .map_err(|e| bad(&options.keyfile, &format!("no usable private key: {e}")))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&options.cafile)? {
            roots.add(authority).map_err(|e| bad(&options.cafile, &e.to_string()))?;
        }
        let roots = Arc::new(roots);
        let pair = |e: rustls::Error| bad(&options.certfile, &format!("certificate and key do not fit: {e}"));
        let versions = |e: rustls::Error| StartError::Tls(e.to_string());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| bad(&options.cafile, &e.to_string()))?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(server)), connector: TlsConnector::from(Arc::new(client)) })
    }

    pub async fn accept(&self, tcp: Box<dyn Transport>) -> std::io::Result<Box<dyn Transport>> {
        Ok(Box::new(self.acceptor.accept(tcp).await?))
    }

    pub async fn connect(&self, addr: &str, tcp: Box<dyn Transport>) -> std::io::Result<Box<dyn Transport>> {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => ServerName::IpAddress(ip.into()),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?,
        };
        Ok(Box::new(self.connector.connect(name, tcp).await?))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let all = read.map_err(|e| bad(path, &e.to_string()))?;
    if all.is_empty() {
        return Err(bad(path, "it holds no certificate in PEM form"));
    }
    Ok(all)
}

fn bad(path: &Path, reason: &str) -> StartError {
    StartError::Tls(format!("{} cannot be used: {reason}", path.display()))
}
