//! The server side of HTTPS. Loaded whole on start, on every reload and when the files change; what does not load
//! leaves the certificate in use as it is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use surus_config::{RestTls, VerifyClient};
use tracing::warn;

use super::validity::Validity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("restapi.{setting}: {path} cannot be used: {problem}")]
    File { setting: &'static str, path: PathBuf, problem: String },
    #[error("restapi.{0}")]
    Setting(String),
}

/// What is in the files.
#[derive(Hash)]
pub struct Contents {
    certfile: Vec<u8>,
    keyfile: Option<Vec<u8>>,
    cafile: Option<Vec<u8>>,
}

impl Contents {
    pub fn read(files: &RestTls) -> Result<Contents, TlsError> {
        let read = |setting: &'static str, path: &PathBuf| {
            std::fs::read(path).map_err(|e| TlsError::File { setting, path: path.clone(), problem: e.to_string() })
        };
        let authorities = files.cafile.as_ref().filter(|_| files.verify_client != VerifyClient::None);
        Ok(Contents {
            certfile: read("certfile", &files.certfile)?,
            keyfile: files.keyfile.as_ref().map(|path| read("keyfile", path)).transpose()?,
            cafile: authorities.map(|path| read("cafile", path)).transpose()?,
        })
    }
}

/// What is in the files now; on a thread of its own, since a disk may take its time.
pub async fn read(files: Option<RestTls>) -> Result<Option<Contents>, TlsError> {
    let Some(files) = files else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || Contents::read(&files)).await;
    read.unwrap_or_else(|e| Err(TlsError::Setting(format!("certfile: reading the files broke: {e}")))).map(Some)
}

/// Tells whether the files hold what they held before.
pub fn fingerprint(found: &Result<Option<Contents>, TlsError>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match found {
        Ok(contents) => contents.hash(&mut hasher),
        Err(e) => e.to_string().hash(&mut hasher),
    }
    hasher.finish()
}

#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ServerConfig>,
    /// Of the certificate that clients are shown.
    pub validity: Option<Arc<Validity>>,
}

/// The TLS configuration of the server.
pub fn load(files: &RestTls, contents: &Contents) -> Result<Tls, TlsError> {
    let chain = certificates("certfile", &files.certfile, &contents.certfile)?;
    let validity = Validity::of_chain(&files.certfile, &chain)
        .map_err(|e| warn!("restapi.certfile: {}: until when it is good cannot be read: {e}", files.certfile.display()))
        .ok();
    let key = private_key(files, contents)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Setting(format!("certfile: {e}")))?;
    let builder = match files.verify_client {
        VerifyClient::None => builder.with_no_client_auth(),
        verify => {
            let roots = Arc::new(authorities(files, contents)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if verify == VerifyClient::Optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|e| TlsError::Setting(format!("cafile: {e}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|e| TlsError::File {
        setting: "certfile",
        path: files.certfile.clone(),
        problem: format!("the certificate and the key do not make a pair a server can use: {e}"),
    })?;
    Ok(Tls { config: Arc::new(config), validity: validity.map(Arc::new) })
}

fn certificates(setting: &'static str, path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |problem: String| TlsError::File { setting, path: path.to_owned(), problem };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|e| fail(describe(&e)))?;
    if found.is_empty() {
        return Err(fail("it contains no certificate in PEM form".into()));
    }
    Ok(found)
}

fn private_key(files: &RestTls, contents: &Contents) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (setting, path, text) = match (&files.keyfile, &contents.keyfile) {
        (Some(path), Some(text)) => ("keyfile", path, text),
        _ => ("certfile", &files.certfile, &contents.certfile),
    };
    let fail = |problem: String| TlsError::File { setting, path: path.clone(), problem };
    PrivateKeyDer::from_pem_slice(text).map_err(|e| {
        let sealed = String::from_utf8_lossy(text).contains("ENCRYPTED");
        fail(match (&e, sealed) {
            (_, true) => "the private key is encrypted, which is not supported; write it decrypted, readable by its \
                          owner alone: openssl pkey -in KEY -out KEY.plain"
                .into(),
            (pem::Error::NoItemsFound, _) => "it contains no private key in PEM form".into(),
            _ => describe(&e),
        })
    })
}

fn authorities(files: &RestTls, contents: &Contents) -> Result<RootCertStore, TlsError> {
    let (Some(path), Some(text)) = (&files.cafile, &contents.cafile) else {
        return Err(TlsError::Setting(
            "verify_client needs restapi.cafile: the authority that client certificates are signed by".into(),
        ));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("cafile", path, text)? {
        roots.add(certificate).map_err(|e| TlsError::File {
            setting: "cafile",
            path: path.to_owned(),
            problem: e.to_string(),
        })?;
    }
    Ok(roots)
}

fn describe(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(e) => e.to_string(),
        other => format!("it is no valid PEM: {other:?}"),
    }
}
