//! What a connection is before it carries calls: encrypted where the server has a certificate, and who is at
//! the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use tonic::codegen::http::Request;

use crate::console::SignedIn;
use crate::identity::{TlsAcceptor, names_of};

/// A connection, encrypted or not.
#[derive(Debug)]
pub(super) enum Connection {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
    /// The names in its certificate; `None` without one.
    pub(super) certificate: Option<Arc<[String]>>,
}

/// A call of the console, with the address that the person is at.
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

/// Begins TLS on what was accepted, if there is a certificate, within so long.
pub(super) async fn begin(
    stream: TcpStream,
    tls: Option<Arc<TlsAcceptor>>,
    longest: Duration,
) -> io::Result<Connection> {
    let Some(tls) = tls else {
        return Ok(Connection::Plain(stream));
    };
    let begun = tokio::time::timeout(longest, tls.accept(stream)).await;
    let stream = begun.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Connection::Encrypted(Box::new(stream)))
}

impl Connection {
    /// Who is at the other end, at this address.
    pub(super) fn peer(&self, address: SocketAddr) -> Peer {
        let certificate = match self {
            Self::Plain(_) => None,
            Self::Encrypted(stream) => {
                let (_, tls) = stream.get_ref();
                let shown = tls.peer_certificates().and_then(<[_]>::first);
                shown.map(|one| names_of(one).into())
            }
        };
        Peer {
            address,
            certificate,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Encrypted(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
