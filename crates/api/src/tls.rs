//! How members' certificates are checked (`spec/cli.md §1.3`).
//!
//! The system's certificate store is read at the first handshake that needs it: most deployments
//! never do, and an image without such a store must not fail before.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::options::{ClientError, ClientOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// The root certificates, or why there are none.
type Roots = Result<(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>), String>;

struct PeerVerifier {
    check: Check,
    provider: Arc<CryptoProvider>,
    roots: OnceLock<Roots>,
}

pub(crate) fn client_config(options: &ClientOptions) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let check = match (options.insecure, &options.certfile) {
        (false, _) => Check::ChainAndName,
        (true, None) => Check::Nothing,
        (true, Some(_)) => Check::Chain,
    };
    let roots = OnceLock::new();
    if let Some(cacert) = &options.cacert
        && check != Check::Nothing
    {
        let verifier = verifier(&provider, read_certificates(cacert)?).map_err(|problem| bad_file(cacert, problem))?;
        let _ = roots.set(Ok(verifier));
    }
    let verifier = Arc::new(PeerVerifier { check, provider: provider.clone(), roots });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::Options(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match &options.certfile {
        None => Ok(builder.with_no_client_auth()),
        Some(certfile) => {
            let certificates = read_certificates(certfile)?;
            let keyfile = options.keyfile.as_ref().unwrap_or(certfile);
            let key = PrivateKeyDer::from_pem_file(keyfile).map_err(|e| bad_key(keyfile, &e))?;
            builder.with_client_auth_cert(certificates, key).map_err(|e| {
                bad_file(keyfile, format!("does not fit the client certificate in {}: {e}", certfile.display()))
            })
        }
    }
}

fn bad_file(path: &Path, problem: impl fmt::Display) -> ClientError {
    ClientError::Options(format!("{} {problem}", path.display()))
}

fn bad_key(path: &Path, error: &rustls::pki_types::pem::Error) -> ClientError {
    let encrypted = std::fs::read_to_string(path).is_ok_and(|text| text.contains("ENCRYPTED"));
    if encrypted {
        let hint = "holds an encrypted private key, which is not supported; decrypt it with `openssl pkey` and protect the file by its mode";
        bad_file(path, hint)
    } else {
        bad_file(path, format!("cannot be used as a private key: {error}"))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|e| bad_file(path, format!("cannot be used as a certificate file: {e}")))?;
    if certificates.is_empty() {
        return Err(bad_file(path, "holds no certificate"));
    }
    Ok(certificates)
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>), String> {
    let mut roots = RootCertStore::empty();
    // A certificate this library cannot use as an anchor, among others it can, is no reason to refuse them.
    let (used, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if used == 0 {
        return Err("holds no usable certificate".into());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map(|verifier| (verifier, certificates))
        .map_err(|e| e.to_string())
}

impl PeerVerifier {
    fn roots(&self) -> Result<&(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>), rustls::Error> {
        self.roots
            .get_or_init(|| {
                let loaded = rustls_native_certs::load_native_certs();
                verifier(&self.provider, loaded.certs).map_err(|_| {
                    "this system has no certificate store: set ctl.cacert (or restapi.cafile) to the certificate authority of the members".into()
                })
            })
            .as_ref()
            .map_err(|problem| rustls::Error::General(problem.clone()))
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let (webpki, anchors) = self.roots()?;
        // A self-signed certificate that is itself the anchor: the library calls it a CA used as an
        // end entity, although nothing can be more trusted.
        if anchors.iter().any(|anchor| anchor == end_entity) {
            if self.check == Check::ChainAndName {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last: with this error the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Chain => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("check", &self.check).finish_non_exhaustive()
    }
}
