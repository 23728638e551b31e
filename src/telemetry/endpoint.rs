//! The HTTP endpoint that Prometheus scrapes, and that probes ask: few paths, two methods.
//!
//! The exporter's own listener answers every path and method with all metrics, so that a probe of a wrong
//! path would pass as healthy.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::openmetrics;

/// Where the metrics are.
const PATH: &str = "/metrics";
/// Whether requests are answered, and whether the process is alive: for probes without gRPC over TLS. Each
/// by its own name and by the usual one of probes.
const READY: [&str; 2] = ["/ready", "/readyz"];
const LIVE: [&str; 2] = ["/live", "/healthz"];
/// The format that the exporter writes.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const WORDS: &str = "text/plain; charset=utf-8";

/// Simultaneous connections; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may take to send its request and read the answer; then it is closed. Clients that
/// do not read would otherwise keep every place, and nobody would see the alarms.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes; the smallest value that hyper allows.
const HEAD_BYTES_MAX: usize = 8192;
/// How often observations are moved into their histograms: until then they take memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Listens, and returns the task that answers until it is dropped.
pub(super) fn endpoint(
    address: SocketAddr,
    handle: PrometheusHandle,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = upkeep.tick() => handle.run_upkeep(),
                (place, accepted) = next(&listener, &places) => match accepted {
                    Ok((stream, _)) => {
                        let served = serve(stream, handle.clone(), CONNECTION_MAX);
                        tokio::spawn(async move {
                            served.await;
                            drop(place);
                        });
                    }
                    Err(cause) => {
                        tracing::warn!(%cause, "the metrics endpoint could not accept a connection");
                        // For example without free file descriptors: others need the time more.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    })
}

type AcceptedConnection = std::io::Result<(TcpStream, SocketAddr)>;
type ConnectionPermit = Option<tokio::sync::OwnedSemaphorePermit>;

/// The next connection, once there is a place for it.
fn next<'a>(
    listener: &'a TcpListener,
    places: &Arc<Semaphore>,
) -> impl Future<Output = (ConnectionPermit, AcceptedConnection)> + Send + 'a {
    let places = Arc::clone(places);
    async move {
        // The semaphore is never closed.
        let place = places.acquire_owned().await.ok();
        (place, listener.accept().await)
    }
}

/// Answers one request, and closes the connection within a limit of time.
fn serve(
    stream: TcpStream,
    handle: PrometheusHandle,
    longest: Duration,
) -> impl Future<Output = ()> + Send {
    let service = service_fn(move |request| {
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(answer(&request, handle).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(longest)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    async move {
        match tokio::time::timeout(longest, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => {
                tracing::debug!(%cause, "a connection to the metrics endpoint ended");
            }
            Err(_elapsed) => tracing::debug!("a connection to the metrics endpoint took too long"),
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    handle: PrometheusHandle,
) -> impl Future<Output = Response<Full<Bytes>>> + Send + use<> {
    let path = request.uri().path();
    let probed = if READY.contains(&path) {
        Some(super::is_ready())
    } else {
        LIVE.contains(&path).then(super::is_alive)
    };
    let here = path == PATH || probed.is_some();
    let is_open = openmetrics::is_asked_for(request.headers());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    async move {
        if !here {
            let text = "not found; the metrics are at /metrics\n";
            return response(StatusCode::NOT_FOUND, WORDS, text.into());
        }
        if !reads {
            let text = "this is read, by GET or HEAD\n";
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, WORDS, text.into());
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match probed {
            Some(true) => return response(StatusCode::OK, WORDS, "yes\n".into()),
            Some(false) => return response(StatusCode::SERVICE_UNAVAILABLE, WORDS, "no\n".into()),
            None => {}
        }
        // Tens of thousands of series take some time.
        #[expect(
            clippy::disallowed_methods,
            reason = "no work of a model; at most CONNECTIONS_MAX at once"
        )]
        let rendered = tokio::task::spawn_blocking(move || {
            let text = handle.render() + &super::states::rendered();
            match is_open {
                true => (openmetrics::FORMAT, openmetrics::of_text(&text)),
                false => (FORMAT, text),
            }
        });
        match rendered.await {
            Ok((format, text)) => response(StatusCode::OK, format, text.into()),
            Err(cause) => {
                tracing::error!(%cause, "the metrics could not be written");
                let text = "the metrics could not be written; the log has the cause\n";
                response(StatusCode::INTERNAL_SERVER_ERROR, WORDS, text.into())
            }
        }
    }
}

fn response(status: StatusCode, format: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let format = HeaderValue::from_static(format);
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn asked(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let line = match line.contains(" HTTP/1.1") {
            true => line.to_owned(),
            false => format!("{line} HTTP/1.1"),
        };
        let request = format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_metrics_are_at_one_path_and_are_only_read() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || metrics::counter!("seen").increment(3));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        tokio::spawn(endpoint(address, handle).unwrap());

        let found = asked(address, "GET /metrics").await;
        assert!(found.starts_with("HTTP/1.1 200 "), "{found}");
        assert!(
            found.contains("content-type: text/plain; version=0.0.4"),
            "{found}"
        );
        assert!(found.contains("seen 3\n"), "{found}");
        let open = asked(
            address,
            "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text",
        )
        .await;
        assert!(
            open.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"), "{open}");
        let headed = asked(address, "HEAD /metrics?name=x").await;
        assert!(
            headed.starts_with("HTTP/1.1 200 ") && !headed.contains("seen"),
            "{headed}"
        );
        for (line, status) in [
            ("GET /healthz", "200"),
            ("HEAD /healthz", "200"),
            ("GET /healthz/", "404"),
            ("GET /", "404"),
            ("GET /health", "404"),
            ("GET /metrics/", "404"),
            ("POST /nope", "404"),
            ("POST /metrics", "405"),
            ("POST /ready", "405"),
            ("GET /live", "200"),
            ("GET /ready/x", "404"),
            ("DELETE /metrics", "405"),
        ] {
            let answer = asked(address, line).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{line}: {answer}"
            );
            assert!(!answer.contains("seen"), "{line}: {answer}");
        }
        assert!(
            asked(address, "POST /metrics")
                .await
                .contains("allow: GET, HEAD")
        );
    }

    #[tokio::test]
    async fn a_connection_that_asks_and_does_not_read_is_closed() {
        let recorder = PrometheusBuilder::new().build_recorder();
        // More than the buffers of the two sockets hold.
        metrics::with_local_recorder(&recorder, || {
            for number in 0..400 {
                let name = format!("{number}{}", "x".repeat(50_000));
                metrics::counter!("seen", "name" => name).increment(1);
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let client = client.as_mut().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let asking = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(asking).await.unwrap();
        let served = serve(stream, recorder.handle(), Duration::from_secs(2));
        let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
        assert!(ended.is_ok());
    }
}
