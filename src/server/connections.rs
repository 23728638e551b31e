//! A connection before it carries calls: encrypted if the server has a certificate, and with the identity
//! of the other end.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use tonic::codegen::http::Request;

use crate::console::SignedIn;
use crate::identity::{TlsAcceptor, names_of};

/// The byte stream of a connection.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection, encrypted or not.
pub(super) type Connection = Box<dyn Wire>;

/// The address that a client has its shares by: one or, for IPv6, a network, because a client that has one of its
/// addresses has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(super) fn of(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
    /// The names in its certificate; `None` without one.
    pub(super) certificate: Option<Arc<[String]>>,
}

/// A call of the console, with the address of the person.
pub(super) fn of_console<B>(mut request: Request<B>) -> Request<B> {
    let address = request.extensions().get::<SignedIn>();
    if let Some(address) = address.map(|signed_in| signed_in.address) {
        request.extensions_mut().insert(Peer {
            address,
            certificate: None,
        });
    }
    request
}

/// Starts TLS on an accepted connection, if there is a certificate, within a time limit; returns the
/// identity of the other end.
pub(super) async fn begin(
    stream: Connection,
    address: SocketAddr,
    tls: Option<Arc<TlsAcceptor>>,
    longest: Duration,
) -> io::Result<(Connection, Peer)> {
    let mut peer = Peer {
        address,
        certificate: None,
    };
    let Some(tls) = tls else {
        return Ok((stream, peer));
    };
    let begun = tokio::time::timeout(longest, tls.accept(stream)).await;
    let stream = begun.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    peer.certificate = shown.map(|one| names_of(one).into());
    Ok((Box::new(stream), peer))
}
