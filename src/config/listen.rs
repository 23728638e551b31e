//! The addresses that a server answers on.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::SettingReader;

/// Where calls are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// On a port.
    Network(SocketAddr),
    /// On a socket in the file system: `unix:/PATH`.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let Some(path) = text.strip_prefix("unix:") else {
            return port_address(text).map(Self::Network).ok_or(());
        };
        // As in gRPC, with and without the slashes of an empty host.
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        let is_file = path.is_absolute() && path.file_name().is_some();
        is_file.then(|| Self::Unix(path.to_owned())).ok_or(())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address and port; `localhost` is this machine's own address of IPv4.
fn port_address(text: &str) -> Option<SocketAddr> {
    let Some(port) = text.strip_prefix("localhost:") else {
        return text.parse().ok();
    };
    let port = port.parse().ok()?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

impl SettingReader {
    pub(super) fn listen(&mut self) -> Option<ListenAddress> {
        let wanted = "an address and port, such as 0.0.0.0:50051 or localhost:50051, or unix:/PATH";
        self.parse("listen", wanted)
    }

    pub(super) fn console_listen(&mut self) -> Option<Option<SocketAddr>> {
        if self.text("console_listen").is_none() {
            return Some(None);
        }
        self.port_address("console_listen", "such as 127.0.0.1:50080")
    }

    pub(super) fn metrics_listen(&mut self) -> Option<Option<SocketAddr>> {
        if self.text("metrics_listen").as_deref() == Some("off") {
            return Some(None);
        }
        self.port_address("metrics_listen", "such as 0.0.0.0:9464, or `off`")
    }

    fn port_address(&mut self, key: &str, example: &str) -> Option<Option<SocketAddr>> {
        let address = self.text(key).and_then(|text| port_address(&text));
        if address.is_none() {
            self.mistake(key, &format!("an address and port, {example}"));
        }
        address.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_the_network_of_this_machine_or_of_its_files() {
        for (text, means) in [
            ("[::1]:7", "[::1]:7"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("localhost:50051", "127.0.0.1:50051"),
            ("unix:/run/shop.sock", "unix:/run/shop.sock"),
            ("unix:///run/shop.sock", "unix:/run/shop.sock"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), means);
        }
        for wrong in [
            "",
            "nowhere",
            "localhost",
            "localhost:",
            "localhost:70000",
            "example.org:1",
            "unix:",
            "unix:/",
            "unix:shop.sock",
            "unix://shop.sock",
            "/run/shop.sock",
        ] {
            assert_eq!(wrong.parse::<ListenAddress>(), Err(()), "{wrong}");
        }
    }
}
