//! The addresses that a server listens on.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use super::connections::Connection;
use super::error::ServeError;
use crate::config::{ListenAddress, ServerConfig};

/// Connections that wait to be accepted, as the standard library has it.
const BACKLOG: u32 = 1024;
/// The permissions of a socket file: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// The address recorded for a caller that connects through a socket file, who is on this machine.
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The listening sockets of a server: for calls, and for the console if there is one.
#[derive(Debug)]
pub struct Listeners {
    /// Of the gRPC service.
    pub calls: CallListener,
    /// Of the console.
    pub pages: Option<TcpListener>,
}

/// The socket for calls.
#[derive(Debug)]
pub enum CallListener {
    /// A network address.
    Network(TcpListener),
    /// A socket in the file system; its file is removed together with it.
    Unix(UnixListener, SocketFile),
}

/// An address that is bound but not listened on yet.
#[derive(Debug)]
pub enum BoundAddress {
    /// Connections are refused until it is listened on.
    Network(TcpSocket),
    /// A path in the file system. There is no file until it is listened on, because a file that refuses
    /// connections looks like one left by a killed server.
    Unix(PathBuf),
}

/// The file of a socket, which is removed when this is dropped, unless it was replaced.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: [u64; 2],
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// gRPC calls.
    Calls,
    /// gRPC calls through the file system, which are unencrypted because nobody else can read them.
    LocalCalls,
    /// HTTP requests of browsers.
    Pages,
}

/// A connection that was accepted.
pub(super) struct NewConnection {
    pub(super) stream: Connection,
    pub(super) address: SocketAddr,
    pub(super) carries: Carries,
}

impl Listeners {
    /// Opens the addresses of a configuration.
    ///
    /// # Errors
    /// Returns an error if an address is in use or cannot be bound.
    pub fn open(config: &ServerConfig) -> Result<Self, ServeError> {
        Self::beside(bind(&config.listen)?, config)
    }

    /// The bound address of calls, together with that of the console.
    pub(super) fn beside(calls: BoundAddress, config: &ServerConfig) -> Result<Self, ServeError> {
        let calls = calls.listen().map_err(failed(&config.listen))?;
        let pages = config.console_listen.map(|address| {
            let listening = bind_port(address).and_then(|socket| socket.listen(BACKLOG));
            listening.map_err(failed(&address))
        });
        let pages = pages.transpose()?;
        Ok(Self { calls, pages })
    }

    /// The network address for calls.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.calls {
            CallListener::Network(listener) => listener.local_addr(),
            CallListener::Unix(..) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<NewConnection> {
        let Some(pages) = &self.pages else {
            return self.calls.accept().await;
        };
        tokio::select! {
            accepted = self.calls.accept() => accepted,
            accepted = accept(pages, Carries::Pages) => accepted,
        }
    }
}

impl CallListener {
    async fn accept(&self) -> io::Result<NewConnection> {
        match self {
            Self::Network(listener) => accept(listener, Carries::Calls).await,
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(NewConnection {
                    stream: Box::new(stream),
                    address: LOCAL,
                    carries: Carries::LocalCalls,
                })
            }
        }
    }
}

async fn accept(listener: &TcpListener, carries: Carries) -> io::Result<NewConnection> {
    let (stream, address) = listener.accept().await?;
    // Otherwise an answer would wait for the client's delayed acknowledgement, 40 ms.
    drop(stream.set_nodelay(true));
    Ok(NewConnection {
        stream: Box::new(stream),
        address,
        carries,
    })
}

impl BoundAddress {
    /// The network address, with the port that the system chose.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Network(socket) => socket.local_addr(),
            Self::Unix(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn listen(self) -> io::Result<CallListener> {
        match self {
            Self::Network(socket) => socket.listen(BACKLOG).map(CallListener::Network),
            Self::Unix(path) => {
                remove_stale(&path)?;
                let socket = UnixSocket::new_stream()?;
                socket.bind(&path)?;
                let file = SocketFile::at(path)?;
                // This is done before listening, so that nobody can connect with the default permissions.
                fs::set_permissions(&file.path, Permissions::from_mode(SOCKET_MODE))?;
                Ok(CallListener::Unix(socket.listen(BACKLOG)?, file))
            }
        }
    }
}

/// Removes a socket file that a killed server left: one that nobody answers on, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("there is a file, and it is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) | Err(_) => {}
    }
    let answered = std::os::unix::net::UnixStream::connect(path);
    if answered.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        fs::remove_file(path)?;
    }
    Ok(())
}

impl SocketFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        let device_and_inode = identity(&path)?;
        Ok(Self {
            path,
            device_and_inode,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.device_and_inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<[u64; 2]> {
    let found = fs::symlink_metadata(path)?;
    Ok([found.dev(), found.ino()])
}

fn failed(address: &dyn std::fmt::Display) -> impl FnOnce(io::Error) -> ServeError {
    let address = address.to_string();
    move |cause| ServeError::Listen { address, cause }
}

/// Binds the address that the server will answer on.
///
/// # Errors
/// Returns an error if the address is in use or cannot be bound.
pub fn bind(address: &ListenAddress) -> Result<BoundAddress, ServeError> {
    match address {
        ListenAddress::Network(port) => {
            let socket = bind_port(*port).map_err(failed(address))?;
            Ok(BoundAddress::Network(socket))
        }
        ListenAddress::Unix(path) => Ok(BoundAddress::Unix(path.clone())),
    }
}

fn bind_port(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Allowed because connections of the previous process may still be closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Logs where calls are answered, and whose.
///
/// # Errors
/// Returns an error if the system does not know the address.
pub fn announce(listeners: &Listeners, config: &ServerConfig) -> Result<(), ServeError> {
    let tls = config.access.tls.as_ref();
    let address = match &listeners.calls {
        CallListener::Network(listener) => {
            let address = listener.local_addr().map_err(failed(&config.listen))?;
            ListenAddress::Network(address)
        }
        CallListener::Unix(..) => config.listen.clone(),
    };
    tracing::info!(
        %address,
        version = env!("CARGO_PKG_VERSION"),
        tls = tls.is_some(),
        client_certificates = tls.is_some_and(|tls| tls.client_ca.is_some()),
        keys = config.access.keys_file.is_some(),
        tokens = config.access.tokens.is_some(),
        "listening"
    );
    if let Some(pages) = &listeners.pages {
        let address = pages.local_addr().map_err(failed(&"the console"))?;
        tracing::info!(%address, "console");
        if !config.monitoring.images {
            tracing::warn!(
                "who labels in the console will see no pictures: they are kept with `audit_images = true`"
            );
        }
    }
    Ok(())
}
