//! The usual TLS settings, made from PEM.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};

/// Whose signature makes a peer's certificate good.
#[derive(Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// The authorities that the operating system trusts.
    ///
    /// The environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::NoRoots`] when the system has none.
    pub fn system() -> Result<Self, TlsConfigError> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "cannot read some of the system's certificates");
        }
        Self::new(found.certs, true)
    }

    /// The certificates in `pem`, one or more.
    ///
    /// # Errors
    ///
    /// When `pem` is not PEM, or contains no certificate, or a broken one.
    pub fn pem(pem: &[u8]) -> Result<Self, TlsConfigError> {
        Self::new(certificates(pem)?, false)
    }

    fn new(
        certificates: Vec<CertificateDer<'static>>,
        skip_broken: bool,
    ) -> Result<Self, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            match roots.add(certificate) {
                // Systems come with oddities that their administrators do not know.
                Err(error) if skip_broken => {
                    tracing::debug!(%error, "ignoring one of the system's certificates");
                }
                result => result?,
            }
        }
        if roots.is_empty() {
            return Err(TlsConfigError::NoRoots);
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} certificates)", self.0.len())
    }
}

/// A client's settings: servers are trusted that show a certificate by `roots`.
pub fn client_config(roots: Roots) -> ClientConfigBuilder {
    ClientConfigBuilder {
        roots,
        identity: None,
    }
}

/// See [`client_config`].
#[derive(Debug)]
pub struct ClientConfigBuilder {
    roots: Roots,
    identity: Option<Identity>,
}

impl ClientConfigBuilder {
    /// Shows this certificate to servers that ask for one: its chain, the
    /// client's own first, and the private key, both in PEM.
    ///
    /// # Errors
    ///
    /// When either is not PEM or holds no certificate, or no key.
    pub fn with_identity(
        mut self,
        cert_chain_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, TlsConfigError> {
        self.identity = Some(Identity::new(cert_chain_pem, key_pem)?);
        Ok(self)
    }

    /// The settings, for any number of connectors.
    ///
    /// # Errors
    ///
    /// When the key does not belong to the certificate, or is of an unknown kind.
    pub fn build(self) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.0);
        Ok(Arc::new(match self.identity {
            Some(identity) => config.with_client_auth_cert(identity.chain, identity.key)?,
            None => config.with_no_client_auth(),
        }))
    }
}

/// A server's settings: what it shows to clients, its certificate's chain, its
/// own first, and its private key, both in PEM.
///
/// # Errors
///
/// When either is not PEM or holds no certificate, or no key.
pub fn server_config(
    cert_chain_pem: &[u8],
    key_pem: &[u8],
) -> Result<ServerConfigBuilder, TlsConfigError> {
    Ok(ServerConfigBuilder {
        identity: Identity::new(cert_chain_pem, key_pem)?,
        client_roots: None,
    })
}

/// See [`server_config`].
#[derive(Debug)]
pub struct ServerConfigBuilder {
    identity: Identity,
    client_roots: Option<Roots>,
}

impl ServerConfigBuilder {
    /// Lets in only clients that show a certificate by `roots`.
    ///
    /// Acceptors find it in [`TlsInfo::peer_certificates`].
    ///
    /// [`TlsInfo::peer_certificates`]: rsocket_core::transport::TlsInfo::peer_certificates
    #[must_use]
    pub fn with_client_auth(mut self, roots: Roots) -> Self {
        self.client_roots = Some(roots);
        self
    }

    /// The settings, for any number of listeners.
    ///
    /// # Errors
    ///
    /// When the key does not belong to the certificate, or is of an unknown kind.
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let config = match self.client_roots {
            Some(roots) => config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.0, provider()).build()?,
            ),
            None => config.with_no_client_auth(),
        };
        let Identity { chain, key } = self.identity;
        Ok(Arc::new(config.with_single_cert(chain, key)?))
    }
}

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// What should be certificates in PEM is not.
    #[error("no certificate in PEM")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// What should be a private key in PEM is not.
    #[error("no private key in PEM")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// There is nobody to trust.
    #[error("no trusted certificates")]
    NoRoots,
    /// The parts do not fit together, or are of a kind that is not supported.
    #[error("unusable certificate or key")]
    Unusable(#[from] rustls::Error),
    /// Clients cannot be checked against these roots.
    #[error("cannot check clients by these roots")]
    ClientRoots(#[from] VerifierBuilderError),
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(cert_chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsConfigError> {
        Ok(Self {
            chain: certificates(cert_chain_pem)?,
            key: PrivateKeyDer::from_pem_slice(key_pem).map_err(TlsConfigError::Key)?,
        })
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    use rustls::pki_types::pem::Error;

    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsConfigError::Certificate)?;
    if found.is_empty() {
        return Err(TlsConfigError::Certificate(Error::NoItemsFound));
    }
    Ok(found)
}

/// Named here, so that it does not matter what else the program links.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
