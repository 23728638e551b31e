//! A connection to a server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use super::credentials::{Credentials, KeyHeader};
use super::proto::health::HealthCheckRequest;
use super::proto::health::health_check_response::ServingStatus;
use super::proto::health::health_client::HealthClient;
use super::proto::retrieval_service_client::RetrievalServiceClient;
use super::proto::server_service_client::ServerServiceClient;
use super::proto::{
    DeploymentInfo, GetServerInfoRequest, GetServerInfoResponse, ReloadDeploymentRequest,
    ReloadShadowRequest, SearchRequest, SearchResponse, ShadowInfo,
};

/// Larger than any answer: a thousand matches with all their metadata.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After so much silence during a call the server is asked whether it is there, and has so long to answer.
const SILENCE: Duration = Duration::from_secs(10);
const ANSWER_TO_PING: Duration = Duration::from_secs(5);

/// A connection that sends the client's key with each call.
pub(super) type KeyedChannel = InterceptedService<Channel, KeyHeader>;

/// A connection to a Matchpoint server.
#[derive(Clone, Debug)]
pub struct Client {
    channel: KeyedChannel,
    retrieval: RetrievalServiceClient<KeyedChannel>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error(
        "`{address}` is not an address; write http://HOST:PORT, https://HOST:PORT or unix:/PATH"
    )]
    Address {
        /// What was written.
        address: String,
    },
    /// The credentials cannot be sent.
    #[error("{problem}")]
    Credentials {
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody answers.
    #[error("no server answers at {address}: {cause}; {}", if address.starts_with("https:") {
        "name the authority of its certificate, or start one with `matchpoint serve`"
    } else {
        "start one with `matchpoint serve`"
    })]
    Unreachable {
        /// The address.
        address: String,
        /// The system's reason.
        cause: String,
    },
    /// The connection ended before the answer came.
    #[error(
        "the connection to the server broke before it answered ({cause}); whether it did what was asked for is not known"
    )]
    Broken {
        /// What was noticed.
        cause: String,
    },
    /// The server answered with an error.
    #[error("the server answers {code}{}: {message}", reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Refused {
        /// The gRPC code.
        code: String,
        /// Whose fault it is.
        fault: Fault,
        /// The machine-readable reason.
        reason: Option<String>,
        /// Values that belong to the reason, such as `trials_needed`.
        details: HashMap<String, String>,
        /// What happened.
        message: String,
        /// In how many milliseconds to come back, if the server says so.
        retry_after_ms: Option<NonZeroU32>,
    },
}

/// Whose fault it is that a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong, or impossible in the present state.
    Request,
    /// What was requested does not exist.
    Missing,
    /// What the server stores is damaged.
    Data,
    /// The server itself failed.
    Server,
    /// The server does not know this caller, or does not let it do this.
    Caller,
    /// The server is not available now.
    Moment,
}

impl ClientError {
    /// The machine-readable reason, if the server gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => reason.as_deref(),
            Self::Address { .. }
            | Self::Credentials { .. }
            | Self::Unreachable { .. }
            | Self::Broken { .. } => None,
        }
    }
}

impl Client {
    /// Connects to a server that requires no credentials.
    ///
    /// # Errors
    /// Not an address, or nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        Self::connect_as(address, &Credentials::default()).await
    }

    /// Connects to a server: encrypted if the address begins with `https://`.
    ///
    /// # Errors
    /// Not an address, nobody answers there, or the server's certificate is not trusted, or a key would
    /// leave this machine unencrypted.
    pub async fn connect_as(address: &str, credentials: &Credentials) -> Result<Self, ClientError> {
        let is_file = address.starts_with("unix:");
        let with_scheme = if is_file || address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(with_scheme)
            .map_err(|_cause| ClientError::Address {
                address: address.to_owned(),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            // Without these a call to a server that is cut off waits for as long as the system tries.
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(ANSWER_TO_PING)
            .tcp_nodelay(true);
        let refused = |problem: String| ClientError::Credentials { problem };
        let encrypted = endpoint.uri().scheme_str() == Some("https");
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        if !encrypted && credentials.is_secret() && !is_file && !is_this_machine(&host) {
            return Err(refused(format!(
                "what proves who you are is not sent to {host} unencrypted; write https://"
            )));
        }
        let endpoint = if encrypted {
            let tls = endpoint.tls_config(credentials.tls());
            tls.map_err(|cause| refused(innermost(&cause)))?
        } else {
            endpoint
        };
        let unsendable = || refused("the key holds characters that no key has".to_owned());
        let header = credentials.header().ok_or_else(unsendable)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|cause| ClientError::Unreachable {
                address: address.to_owned(),
                cause: innermost(&cause),
            })?;
        Ok(Self::with(channel, header))
    }

    /// Uses an existing connection.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self::with(channel, KeyHeader::none())
    }

    fn with(channel: Channel, header: KeyHeader) -> Self {
        let channel = InterceptedService::new(channel, header);
        let retrieval = RetrievalServiceClient::new(channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Self { channel, retrieval }
    }

    pub(super) fn channel(&self) -> KeyedChannel {
        self.channel.clone()
    }

    /// Waits until the server answers requests.
    ///
    /// # Errors
    /// It cannot be reached, or ends before.
    pub async fn wait_until_ready(&self) -> Result<(), ClientError> {
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let mut health = HealthClient::new(self.channel.clone());
        let watched = health
            .watch(request)
            .await
            .map_err(|status| refused(&status))?;
        let mut statuses = watched.into_inner();
        while let Some(answer) = statuses
            .message()
            .await
            .map_err(|status| refused(&status))?
        {
            if answer.status() == ServingStatus::Serving {
                return Ok(());
            }
        }
        let cause = "the server ended before it was ready".to_owned();
        Err(ClientError::Unreachable {
            address: String::new(),
            cause,
        })
    }

    /// Whether a service of the server is serving: `""` for requests, `liveness` for the process.
    ///
    /// # Errors
    /// The server knows no such service, or does not answer within `timeout`.
    pub async fn is_serving(&self, service: &str, timeout: Duration) -> Result<bool, ClientError> {
        let mut request = tonic::Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        request.set_timeout(timeout);
        let answer = HealthClient::new(self.channel.clone()).check(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(answer.status() == ServingStatus::Serving)
    }

    /// What the server is, and what it serves.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn server_info(&self) -> Result<GetServerInfoResponse, ClientError> {
        let mut server = ServerServiceClient::new(self.channel.clone());
        let answer = server.get_server_info(GetServerInfoRequest {}).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Makes the server open what a deployment's path leads to now; returns the deployment before and
    /// after.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails; nothing has changed then.
    pub async fn reload(
        &self,
        deployment: &str,
        allow_undecided: bool,
        expect_state: &str,
    ) -> Result<[DeploymentInfo; 2], ClientError> {
        self.reload_step(ReloadDeploymentRequest {
            deployment: deployment.to_owned(),
            allow_undecided,
            expect_state: expect_state.to_owned(),
            ..ReloadDeploymentRequest::default()
        })
        .await
    }

    /// Makes the server do one step of that; returns the deployment before and after, or the prepared one.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails; nothing has changed then.
    pub async fn reload_step(
        &self,
        request: ReloadDeploymentRequest,
    ) -> Result<[DeploymentInfo; 2], ClientError> {
        let mut server = ServerServiceClient::new(self.channel.clone());
        let answer = server.reload_deployment(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok([answer.previous, answer.deployment].map(Option::unwrap_or_default))
    }

    /// Makes the server open the shadow deployment that the link beside a deployment's path leads to now;
    /// `None` if nothing is compared.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails; nothing has changed then.
    pub async fn reload_shadow(&self, deployment: &str) -> Result<Option<ShadowInfo>, ClientError> {
        let request = ReloadShadowRequest {
            deployment: deployment.to_owned(),
        };
        let mut server = ServerServiceClient::new(self.channel.clone());
        let answer = server.reload_shadow(request).await;
        Ok(answer
            .map_err(|status| refused(&status))?
            .into_inner()
            .shadow)
    }

    /// Searches. With a `timeout`, the server gets it as the deadline.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn search(
        &self,
        request: SearchRequest,
        timeout: Option<Duration>,
    ) -> Result<SearchResponse, ClientError> {
        // Without this, an image larger than the default limit could not be sent.
        let mut retrieval = self.retrieval.clone().max_encoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(request);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let answer = retrieval.search(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }
}

fn fault(code: Code) -> Fault {
    match code {
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted => Fault::Request,
        Code::NotFound => Fault::Missing,
        Code::DataLoss => Fault::Data,
        Code::Internal | Code::Unknown => Fault::Server,
        Code::PermissionDenied | Code::Unauthenticated => Fault::Caller,
        Code::Ok
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Unavailable => Fault::Moment,
    }
}

pub(super) fn refused(status: &tonic::Status) -> ClientError {
    // What a server answers has no cause here.
    if let Some(cause) = std::error::Error::source(status) {
        return ClientError::Broken {
            cause: innermost(cause),
        };
    }
    let details = status.get_error_details();
    let info = details.error_info();
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
    let retry_after_ms = retry_after.and_then(|after| u32::try_from(after.as_millis()).ok());
    ClientError::Refused {
        code: format!("{:?}", status.code()),
        fault: fault(status.code()),
        reason: info.map(|info| info.reason.clone()),
        details: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_after_ms: retry_after_ms.and_then(NonZeroU32::new),
    }
}

/// Whether a host is certainly this machine.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
