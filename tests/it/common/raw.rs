//! A client that does as a test says, and nothing by itself.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use matchpoint_client::proto::DESCRIPTORS;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::net::TcpStream;

/// Every call of our services, by its path.
pub fn calls() -> Vec<String> {
    let mut calls = Vec::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        // Health is asked without a key.
        let services = file.service.iter().filter(|one| one.name() != "Health");
        for service in services {
            for method in &service.method {
                let (package, service) = (file.package(), service.name());
                calls.push(format!("/{package}.{service}/{}", method.name()));
            }
        }
    }
    assert!(30 < calls.len());
    calls
}

/// Connects with a window of so many bytes for each answer.
pub async fn raw(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

pub type Answering = (h2::client::ResponseFuture, SendStream<Bytes>);

pub fn begin(client: &mut SendRequest<Bytes>, path: &str) -> Answering {
    let request = http::Request::post(format!("http://x{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    client.send_request(request, false).unwrap()
}

/// A message as it goes over the wire, or the beginning of one that claims to be longer.
pub fn framed(message: &[u8], length: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

/// The status of an answer: its code and its words.
pub async fn status(answer: h2::client::ResponseFuture) -> (i32, String) {
    let (head, body) = answer.await.unwrap().into_parts();
    let trailers = trailers(body).await;
    let of = |name: &str| {
        let value = head.headers.get(name).or_else(|| trailers.get(name));
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let code = of("grpc-status").unwrap().parse().unwrap();
    (code, of("grpc-message").unwrap_or_default())
}

async fn trailers(mut body: RecvStream) -> http::HeaderMap {
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    body.trailers().await.unwrap().unwrap_or_default()
}
