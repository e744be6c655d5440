//! Certificates for tests of TLS, and the settings that they lead to.

use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rsocket_transport_tcp::tls::{
    self, Roots,
    rustls::{ClientConfig, ServerConfig},
};

/// A certificate authority that exists for one test.
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    pub(crate) fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            cert: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::pem(self.pem().as_bytes()).unwrap()
    }

    /// What a server needs that is `localhost`, and lets in only clients that
    /// `clients` vouches for, if given.
    pub(crate) fn server(&self, clients: Option<Roots>) -> Arc<ServerConfig> {
        let Identity { cert, key, .. } = self.issue("localhost");
        let config = tls::server_config(cert.as_bytes(), key.as_bytes()).unwrap();
        match clients {
            Some(roots) => config.with_client_auth(roots),
            None => config,
        }
        .build()
        .unwrap()
    }

    /// What a client needs that trusts this authority and shows `identity`.
    pub(crate) fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let config = tls::client_config(self.roots());
        match identity {
            Some(Identity { cert, key, .. }) => config
                .with_identity(cert.as_bytes(), key.as_bytes())
                .unwrap()
                .build()
                .unwrap(),
            None => config.build().unwrap(),
        }
    }
}
