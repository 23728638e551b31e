//! The addresses that a server answers on.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::error::ServeError;
use crate::config::ServerConfig;

/// Connections that wait to be accepted, as the standard library has it.
pub(super) const BACKLOG: u32 = 1024;

/// What a server listens on: for calls, and for the pages of the console if it has one.
#[derive(Debug)]
pub struct Listeners {
    /// Of the gRPC service.
    pub calls: TcpListener,
    /// Of the console.
    pub pages: Option<TcpListener>,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Calls, by gRPC.
    Calls,
    /// Requests of browsers.
    Pages,
}

impl From<TcpListener> for Listeners {
    fn from(calls: TcpListener) -> Self {
        Self { calls, pages: None }
    }
}

impl Listeners {
    /// Opens the addresses of a configuration.
    ///
    /// # Errors
    /// One of them is taken, or not ours.
    pub fn open(config: &ServerConfig) -> Result<Self, ServeError> {
        Self::beside(listen(config.listen)?, config)
    }

    /// The address of calls, with that of the console beside it.
    pub(super) fn beside(calls: TcpListener, config: &ServerConfig) -> Result<Self, ServeError> {
        let pages = config.console_listen.map(listen).transpose()?;
        Ok(Self { calls, pages })
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> (Carries, io::Result<(TcpStream, SocketAddr)>) {
        let Some(pages) = &self.pages else {
            return (Carries::Calls, self.calls.accept().await);
        };
        tokio::select! {
            accepted = self.calls.accept() => (Carries::Calls, accepted),
            accepted = pages.accept() => (Carries::Pages, accepted),
        }
    }
}

/// Takes the address that the server will answer on. Connections to it are refused until it is listened on.
///
/// # Errors
/// The address is taken, or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpSocket, ServeError> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // As for every server: connections of the one before may still be closing.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bound().map_err(|cause| ServeError::Listen { address, cause })
}

/// Opens the address that the server will answer on.
///
/// # Errors
/// The address is taken, or not ours.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listening = bind(address)?.listen(BACKLOG);
    listening.map_err(|cause| ServeError::Listen { address, cause })
}

/// Says where calls are answered, and of whom.
///
/// # Errors
/// The system does not know the address.
pub fn announce(listeners: &Listeners, config: &ServerConfig) -> io::Result<()> {
    let tls = config.access.tls.as_ref();
    tracing::info!(
        address = %listeners.calls.local_addr()?,
        version = env!("CARGO_PKG_VERSION"),
        tls = tls.is_some(),
        client_certificates = tls.is_some_and(|tls| tls.client_ca.is_some()),
        keys = config.access.keys_file.is_some(),
        "listening"
    );
    if let Some(pages) = &listeners.pages {
        tracing::info!(address = %pages.local_addr()?, "console");
    }
    Ok(())
}
