//! TLS: the server's certificate, and the authority of its clients'.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

use super::error::IdentityError;
use crate::config::TlsFiles;
use crate::files::read_file;

/// Accepts TLS with the certificates in the files.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, IdentityError> {
    let (chain, key) = (certificates(&files.certificate)?, private_key(&files.key)?);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|cause| wrong(&files.certificate, &cause))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|cause| wrong(path, &cause))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|cause| wrong(path, &cause))?)
        }
    };
    // It refuses a key that belongs to another certificate.
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|cause| wrong(&files.certificate, &cause))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The same certificates for connections that speak HTTP/1.1.
pub(super) fn of_pages(tls: &TlsAcceptor) -> TlsAcceptor {
    let mut config = ServerConfig::clone(tls.config());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|cause| wrong(path, &cause))?;
    if found.is_empty() {
        return Err(wrong(path, &"it holds no certificate in PEM"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    // The cause does not quote the file.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|cause| wrong(path, &cause))
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    read_file(path).map_err(|cause| IdentityError::Io {
        path: path.to_owned(),
        cause,
    })
}

fn wrong(path: &Path, cause: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Content {
        path: path.to_owned(),
        problem: format!("cannot be used: {cause}"),
    }
}

/// The names of a client's certificate: its URIs and DNS names, and `sha256:` with the digest of the whole
/// certificate.
#[must_use]
pub fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let mut names: Vec<String> = parsed
        .map(|parsed| {
            let names = parsed.valid_uri_names().chain(parsed.valid_dns_names());
            names.map(ToOwned::to_owned).collect()
        })
        .unwrap_or_default();
    let digest = base16ct::lower::encode_string(&Sha256::digest(certificate));
    names.push(format!("sha256:{digest}"));
    names
}
