//! TLS to the servers.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use surus_store::{StoreError, StoreResult};
use tokio_rustls::TlsConnector;

use crate::options::TlsFiles;

fn refused(text: impl Into<String>) -> StoreError {
    StoreError::Refused(text.into())
}

fn certificates(key: &str, pem: &str) -> StoreResult<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(refused(format!("the file in `zookeeper.{key}` holds no PEM certificate"))),
        Err(e) => Err(refused(format!("the file in `zookeeper.{key}` cannot be used as a certificate file: {e}"))),
    }
}

pub(crate) fn connector(files: &TlsFiles) -> StoreResult<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(e.to_string()))?;
    let builder = if files.verify {
        let mut roots = RootCertStore::empty();
        let (trusted, source) = match &files.ca_pem {
            Some(pem) => (certificates("cacert", pem)?, "the file in `zookeeper.cacert`"),
            None => (rustls_native_certs::load_native_certs().certs, "this system's certificate store"),
        };
        let (used, _) = roots.add_parsable_certificates(trusted);
        if used == 0 {
            return Err(refused(format!("{source} holds no usable certificate: set `zookeeper.cacert`")));
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    };
    let config = match (&files.cert_pem, &files.key_pem) {
        (None, None) => builder.with_no_client_auth(),
        (None, Some(_)) => return Err(refused("`zookeeper.key` needs the certificate it belongs to: set `cert`")),
        (Some(cert), key) => {
            // As for Patroni, the key may be in the file of the certificate.
            let pem = key.as_ref().unwrap_or(cert);
            if pem.contains("ENCRYPTED") {
                return Err(refused(
                    "`zookeeper.key` holds an encrypted private key, which is not supported; decrypt it with `openssl \
                     pkey`, protect the file by its mode, and remove `key_password`",
                ));
            }
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|e| refused(format!("`zookeeper.key` cannot be used as a private key: {e}")))?;
            builder
                .with_client_auth_cert(certificates("cert", cert)?, key)
                .map_err(|e| refused(format!("`zookeeper.key` does not fit `zookeeper.cert`: {e}")))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// `verify: false`.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
