//! A client's credentials, and the authorities that it trusts.

use std::fmt;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Request, Status};

/// A client's credentials, and the servers that it trusts. `Debug` shows none of them.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The authorities that may have issued the server's certificate, in PEM; `None` for those of the
    /// system.
    pub server_ca: Option<Vec<u8>>,
    /// The client's own certificate.
    pub certificate: Option<ClientCertificate>,
    /// The key that is sent with each call.
    pub key: Option<String>,
}

/// A client's certificate and its private key, in PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, and its chain.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Whether there is a secret in it.
    pub(super) fn is_secret(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.server_ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.certificate {
            Some(own) => tls.identity(Identity::from_pem(&own.certificate, &own.key)),
            None => tls,
        }
    }

    /// What adds the key to calls; `None` if the key cannot be in a header.
    pub(super) fn header(&self) -> Option<KeyHeader> {
        let Some(key) = &self.key else {
            return Some(KeyHeader(None));
        };
        let mut value = MetadataValue::try_from(format!("Bearer {key}")).ok()?;
        value.set_sensitive(true);
        Some(KeyHeader(Some(value)))
    }
}

/// Adds the key to each call.
#[derive(Clone)]
pub(super) struct KeyHeader(Option<MetadataValue<Ascii>>);

impl KeyHeader {
    pub(super) fn none() -> Self {
        Self(None)
    }
}

impl fmt::Debug for KeyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHeader")
    }
}

impl Interceptor for KeyHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_credentials_is_shown() {
        let credentials = Credentials {
            key: Some("mp_canary".to_owned()),
            ..Credentials::default()
        };
        let header = credentials.header().unwrap();
        assert!(!format!("{credentials:?}{header:?}").contains("canary"));
        let sent = header.clone().call(Request::new(())).unwrap();
        assert!(!format!("{sent:?}").contains("canary"), "{sent:?}");
        assert_eq!(
            sent.metadata().get("authorization").unwrap(),
            "Bearer mp_canary"
        );
        let odd = Credentials {
            key: Some("mp_\n".to_owned()),
            ..Credentials::default()
        };
        assert!(odd.header().is_none());
    }
}
