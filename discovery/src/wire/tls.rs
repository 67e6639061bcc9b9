//! TLS through rustls, set up from librdkafka's properties.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject as _},
    server::ParsedCertificate,
};

use super::security::{PemSource, TlsSettings};

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{property}: cannot read {path}: {source}")]
    Read {
        /// The property that names the file.
        property: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// PEM was expected.
    #[error("{property}: expected {expected} in PEM, got {reason} (an encrypted key has to be decrypted first)")]
    Pem {
        /// The property.
        property: &'static str,
        /// What was looked for.
        expected: &'static str,
        /// What was found.
        reason: String,
    },
    /// The system has no trust anchors.
    #[error("no trusted certificates found on this system: install ca-certificates or set ssl.ca.location")]
    NoRoots,
    /// rustls refuses the certificate or the key.
    #[error("the client certificate or its key cannot be used: {0}")]
    Client(#[source] rustls::Error),
    /// rustls refuses the protocol versions; a defect.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// The client side of TLS, as the settings ask for it.
pub(super) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = if settings.verify_chain && settings.verify_host {
        builder.with_root_certificates(roots(settings)?)
    } else {
        let roots = if settings.verify_chain { Some(roots(settings)?) } else { None };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(LaxVerifier { roots, provider }))
    };
    let config = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(&read("ssl.certificate.location", certificate)?, "ssl.certificate.location")?;
            let key = PrivateKeyDer::from_pem_slice(&read("ssl.key.location", key)?)
                .map_err(|error| bad_pem("ssl.key.location", "a private key", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Client)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, TlsError> {
    let mut found = Vec::new();
    if let Some(location) = &settings.ca_location {
        for file in ca_files(location)? {
            found.extend(certificates(&read("ssl.ca.location", &PemSource::File(file))?, "ssl.ca.location")?);
        }
    }
    if let Some(text) = &settings.ca_pem {
        found.extend(certificates(text.as_bytes(), "ssl.ca.pem")?);
    }
    if settings.ca_location.is_none() && settings.ca_pem.is_none() {
        found.extend(rustls_native_certs::load_native_certs().certs);
    }
    let mut roots = RootCertStore::empty();
    // System stores hold a few certificates that are too old to parse; the others are of use.
    roots.add_parsable_certificates(found);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// `ssl.ca.location` is a file, or a directory of them.
fn ca_files(location: &Path) -> Result<Vec<PathBuf>, TlsError> {
    let unreadable = |source| TlsError::Read { property: "ssl.ca.location", path: location.to_owned(), source };
    if !location.is_dir() {
        return Ok(vec![location.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in location.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(property: &'static str, source: &PemSource) -> Result<Vec<u8>, TlsError> {
    match source {
        PemSource::Text(text) => Ok(text.as_bytes().to_vec()),
        PemSource::File(path) => {
            std::fs::read(path).map_err(|source| TlsError::Read { property, path: path.clone(), source })
        }
    }
}

fn certificates(bytes: &[u8], property: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_pem(property, "certificates", &error))?;
    if found.is_empty() { Err(bad_pem(property, "certificates", &pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn bad_pem(property: &'static str, expected: &'static str, error: &pem::Error) -> TlsError {
    TlsError::Pem { property, expected, reason: format!("{error:?}") }
}

/// Checks less than rustls does, where the settings ask for it: the chain but not the host
/// (`ssl.endpoint.identification.algorithm=none`), or nothing (`enable.ssl.certificate.verification=false`).
#[derive(Debug)]
struct LaxVerifier {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for LaxVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
