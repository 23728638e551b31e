//! Where Qdrant is, and by which key it is asked.

use std::fmt;
use std::net::IpAddr;

use tonic::codegen::http::uri::Authority;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Uri;

use crate::QdrantError;

/// The port of Qdrant's gRPC.
const PORT: u16 = 6334;

/// The nodes of a Qdrant, and the key.
#[derive(Clone)]
pub struct QdrantAddress {
    pub(crate) nodes: Vec<Uri>,
    pub(crate) key: Option<MetadataValue<Ascii>>,
}

impl fmt::Debug for QdrantAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QdrantAddress({})", self.shown())
    }
}

impl QdrantAddress {
    /// Reads addresses that are separated by commas. Beyond this machine they have to be encrypted, and a key is
    /// needed: whoever reaches Qdrant without one can replace what it proposes.
    ///
    /// # Errors
    /// Returns an error if an address cannot be used, or if the key is missing or cannot be sent.
    pub fn parse(urls: &str, key: Option<&str>) -> Result<Self, QdrantError> {
        let refuse = |problem: String| QdrantError::Address { problem };
        let nodes: Result<Vec<Uri>, QdrantError> = urls.split(',').map(node).collect();
        let nodes = nodes?;
        let key = key.map(|key| key.trim().parse::<MetadataValue<Ascii>>());
        let mut key = key
            .transpose()
            .map_err(|_odd| refuse("the key has characters that no header takes".to_owned()))?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        let far = nodes.iter().find(|node| !is_loopback(node));
        if let Some(far) = far.filter(|far| far.scheme_str() != Some("https")) {
            let problem = format!("{far} is beyond this machine, and not encrypted: use https");
            return Err(refuse(problem));
        }
        if let Some(far) = far.filter(|_| key.as_ref().is_none_or(MetadataValue::is_empty)) {
            let problem = format!(
                "{far} is beyond this machine, and there is no key: set qdrant_api_key_file, and the same key in Qdrant (service.api_key)"
            );
            return Err(refuse(problem));
        }
        Ok(Self { nodes, key })
    }

    /// Hosts and ports.
    #[must_use]
    pub fn shown(&self) -> String {
        let nodes = self.nodes.iter().filter_map(Uri::authority);
        let nodes: Vec<&str> = nodes.map(Authority::as_str).collect();
        nodes.join(",")
    }

    /// Whether a node is on another machine.
    pub(crate) fn is_far(&self) -> bool {
        self.nodes.iter().any(|node| !is_loopback(node))
    }
}

fn node(text: &str) -> Result<Uri, QdrantError> {
    let text = text.trim();
    let refuse = |problem: &str| QdrantError::Address {
        problem: format!("`{text}` {problem}"),
    };
    let uri: Uri = text.parse().map_err(|_odd| refuse("is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse("does not begin with http:// or https://"));
    }
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| refuse("names no host"))?;
    if uri
        .authority()
        .is_some_and(|named| named.as_str().contains('@'))
    {
        return Err(refuse("has a user, which Qdrant does not know"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(refuse("has a path"));
    }
    let port = uri.port_u16().unwrap_or(PORT);
    let scheme = uri.scheme_str().unwrap_or_default();
    let whole = format!("{scheme}://{host}:{port}");
    whole.parse().map_err(|_odd| refuse("is no address"))
}

fn is_loopback(node: &Uri) -> bool {
    let host = node.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_refused_by_what_is_wrong_with_it() {
        for (urls, key, problem) in [
            ("localhost:6334", None, "does not begin with http"),
            ("", None, "is no address"),
            ("http://127.0.0.1,http://q:6334", Some("k"), "not encrypted"),
            ("https://q", None, "there is no key"),
            ("https://q", Some(""), "there is no key"),
            ("http://127.0.0.1:6334/collections", None, "has a path"),
            ("http://a:b@127.0.0.1", None, "has a user"),
            ("http://127.0.0.1", Some("a\u{7}"), "no header takes"),
        ] {
            let said = QdrantAddress::parse(urls, key).unwrap_err().to_string();
            assert!(said.contains(problem), "{urls}: {said}");
        }
        let address = QdrantAddress::parse(" https://q-1, http://[::1]:7 ", Some("secret\n"));
        let address = address.unwrap();
        assert_eq!(address.shown(), "q-1:6334,[::1]:7");
        assert!(!format!("{address:?}").contains("secret"));
        assert!(address.is_far());
    }
}
