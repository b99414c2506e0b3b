//! How an agent's certificate is checked, and what it is shown.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use surus_store::StoreResult;

use crate::options::{ConsulOptions, refused};

pub(crate) fn client_config(options: &ConsulOptions, https: bool) -> StoreResult<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(e.to_string()))?;
    let builder = if options.verify {
        builder.with_root_certificates(roots(options, https)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    };
    match (&options.cert_pem, &options.key_pem) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (None, Some(_)) => Err(refused("a private key for Consul needs its certificate (`cert`)".to_owned())),
        (Some(cert), key) => {
            let certificates = certificates(cert, "cert")?;
            let key = PrivateKeyDer::from_pem_slice(key.as_ref().unwrap_or(cert).as_bytes()).map_err(|e| {
                refused(format!(
                    "the private key for Consul (`key`) cannot be used: {e}; an encrypted one has to be decrypted"
                ))
            })?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|e| refused(format!("the key for Consul (`key`) does not fit its certificate (`cert`): {e}")))
        }
    }
}

fn certificates(pem: &str, key: &str) -> StoreResult<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(refused(format!("the file for Consul's `{key}` holds no PEM certificate")));
    }
    Ok(found)
}

/// The system's store is not read for an agent that is spoken to in plain text: there may be none.
fn roots(options: &ConsulOptions, https: bool) -> StoreResult<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (found, from) = match &options.ca_pem {
        Some(pem) => (certificates(pem, "cacert")?, "the file for Consul's `cacert`"),
        None if https => (rustls_native_certs::load_native_certs().certs, "this system's certificate store"),
        None => return Ok(roots),
    };
    let (used, _) = roots.add_parsable_certificates(found);
    if used == 0 {
        return Err(refused(format!("{from} holds no usable certificate: set consul.cacert to Consul's authority")));
    }
    Ok(roots)
}

#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
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
