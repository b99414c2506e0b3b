//! libpq's `sslmode` on rustls.
//!
//! `allow`, `prefer` and `require` accept any certificate; `verify-ca` wants one that `sslrootcert` vouches for,
//! `verify-full` also the right name. A certificate that itself is in `sslrootcert` is accepted: what
//! `openssl req -x509` makes is refused by the usual rules, and libpq takes it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{ErrorKind, PgError, Result};

pub(crate) fn ssl_mode(options: &BTreeMap<String, String>) -> Result<SslMode> {
    match options.get("sslmode").map_or("prefer", String::as_str) {
        "disable" => Ok(SslMode::Disable),
        "allow" | "prefer" | "" => Ok(SslMode::Prefer),
        "require" | "verify-ca" | "verify-full" => Ok(SslMode::Require),
        other => Err(refused(format!(
            "sslmode \"{other}\" is unknown; use disable, prefer, require, verify-ca or verify-full"
        ))),
    }
}

pub(crate) fn connector(options: &BTreeMap<String, String>) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match options.get("sslmode").map(String::as_str) {
        Some(mode @ ("verify-ca" | "verify-full")) => verifying(options, mode == "verify-full", provider.clone())?,
        _ => Arc::new(AcceptAny(provider.clone())),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(format!("cannot set up TLS: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (options.get("sslcert"), options.get("sslkey")) {
        (Some(cert), Some(key)) => {
            let chain = certificates(Path::new(cert))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                refused(format!("cannot use the key {key} (sslkey): {e}; it must be an unencrypted PEM file"))
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| refused(format!("cannot use the certificate {cert} (sslcert) with its key: {e}")))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn verifying(
    options: &BTreeMap<String, String>,
    names: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let anchors = match options.get("sslrootcert").map(String::as_str) {
        Some("system") => rustls_native_certs::load_native_certs().certs,
        Some(file) => certificates(Path::new(file))?,
        None => {
            return Err(refused("sslmode verify-ca and verify-full need sslrootcert, the file with the CA".to_owned()));
        }
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(anchors.iter().cloned());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| refused(format!("sslrootcert holds no usable certificate: {e}")))?;
    Ok(Arc::new(Verifying { chain, anchors, names }))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |e: &dyn std::fmt::Display| refused(format!("cannot read the certificates in {}: {e}", file.display()));
    let certs: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(|e| bad(&e))?
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| bad(&e))?;
    if certs.is_empty() { Err(bad(&"there is none")) } else { Ok(certs) }
}

fn refused(message: String) -> PgError {
    PgError::new(ErrorKind::Refused, message)
}

#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Verifying {
    chain: Arc<WebPkiServerVerifier>,
    anchors: Vec<CertificateDer<'static>>,
    names: bool,
}

impl ServerCertVerifier for Verifying {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        if self.anchors.iter().any(|a| a.as_ref() == end_entity.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        match self.chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
