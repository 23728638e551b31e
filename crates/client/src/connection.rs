//! A connection to a server: searches, and what became of them.

use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::proto;
use super::proto::retrieval_service_client::RetrievalServiceClient;
use super::proto::server_service_client::ServerServiceClient;

/// Larger than any answer: a thousand matches with all their metadata.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a Matchpoint server.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    retrieval: RetrievalServiceClient<Channel>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error("`{address}` is not an address; write http://HOST:PORT")]
    Address {
        /// What was written.
        address: String,
    },
    /// Nobody answers.
    #[error("no server answers at {address}: {cause}; start one with `matchpoint serve`")]
    Unreachable {
        /// The address.
        address: String,
        /// The system's reason.
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
        /// What happened.
        message: String,
    },
}

/// Whose fault it is that a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was asked is wrong, or not to be had in the present state.
    Request,
    /// What was asked for is not there.
    Missing,
    /// What the server stores is damaged.
    Data,
    /// The server itself failed.
    Server,
    /// The server is not to be had now, or not for this caller.
    Moment,
}

/// The answer to a search, as a client sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Found {
    /// `ACCEPT`, `REJECT` or `UNDECIDED`.
    pub decision: String,
    /// The threshold, unless undecided.
    pub threshold: Option<f32>,
    /// The score held against it, unless undecided; 0 where nothing was found.
    pub decision_score: Option<f32>,
    /// How that score was made, where it is not the similarity of the best match.
    pub adjustment: Option<String>,
    /// The operating point, unless undecided.
    pub operating_point: Option<String>,
    /// The false accept rate promised or aimed at per search; `None` without one, or undecided.
    pub target_far: Option<f64>,
    /// The false reject rate promised per search; `None` without one, or undecided.
    pub target_frr: Option<f64>,
    /// The confidence of that; `None` where nothing is promised or aimed at.
    pub confidence: Option<f64>,
    /// Whether the false accept rate is promised, and not only aimed at.
    pub certified: bool,
    /// Whether the promise covers the gallery's present size.
    pub within_calibrated_size: bool,
    /// Why nothing was decided.
    pub undecided_reason: Option<String>,
    /// The nearest items: label, id, score, best first.
    pub matches: Vec<FoundMatch>,
    /// Id of the decision.
    pub decision_id: String,
    /// The gallery's state.
    pub generation: u64,
    /// Items in the gallery.
    pub gallery_items: u64,
    /// The model's fingerprint.
    pub model_fingerprint: String,
    /// The server's time for the request, in seconds.
    pub server_seconds: f64,
    /// Of that, decoding and resizing.
    pub decode_seconds: f64,
    /// Of that, running the model.
    pub inference_seconds: f64,
    /// Of that, searching.
    pub search_seconds: f64,
}

/// A deployment, as a client sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Served {
    /// The model's name.
    pub model: String,
    /// Which of its precisions.
    pub precision: String,
    /// Its fingerprint.
    pub model_fingerprint: String,
    /// Items in the gallery.
    pub gallery_items: u64,
    /// The operating point that decides; empty where none does.
    pub operating_point: String,
}

/// What a client asks of a search, beside the image.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name of the deployment; may be empty where the server has one.
    pub deployment: String,
    /// How many matches to return; 0 for ten.
    pub limit: u32,
    /// Whether to compare with every item.
    pub exact: bool,
    /// Which items may be found; empty for all.
    pub filter: String,
    /// Whether to return the best item of each label.
    pub one_per_label: bool,
    /// The least similarity of a match that is returned.
    pub min_score: Option<f32>,
    /// How long the answer may take; the server is told.
    pub timeout: Option<Duration>,
}

/// One match, as a client sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FoundMatch {
    /// The item's label.
    pub label: String,
    /// The item's id.
    pub id: String,
    /// Cosine similarity.
    pub score: f32,
    /// What was enrolled with it.
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// Not an address, or nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        let with_scheme = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(with_scheme)
            .map_err(|_cause| ClientError::Address {
                address: address.to_owned(),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|cause| ClientError::Unreachable {
                address: address.to_owned(),
                cause: innermost(&cause),
            })?;
        Ok(Self::over(channel))
    }

    /// Uses a connection that is there already.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        let retrieval = RetrievalServiceClient::new(channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Self { channel, retrieval }
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until the server answers requests.
    ///
    /// # Errors
    /// It cannot be asked, or ends before.
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
            if answer.status() == tonic_health::pb::health_check_response::ServingStatus::Serving {
                return Ok(());
            }
        }
        let cause = "the server ended before it was ready".to_owned();
        Err(ClientError::Unreachable {
            address: String::new(),
            cause,
        })
    }

    /// Has the server open what a deployment's path leads to now; gives the fingerprints of the
    /// models before and after.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at; nothing has changed then.
    pub async fn reload(
        &self,
        deployment: &str,
        undecided_allowed: bool,
    ) -> Result<[Served; 2], ClientError> {
        let request = proto::ReloadDeploymentRequest {
            deployment: deployment.to_owned(),
            undecided_allowed,
        };
        let mut server = ServerServiceClient::new(self.channel.clone());
        let answer = server.reload_deployment(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok([answer.previous, answer.deployment].map(|one| {
            let one = one.unwrap_or_default();
            Served {
                model: one.model_name,
                precision: one.precision,
                model_fingerprint: one.model_fingerprint,
                gallery_items: one.gallery_items,
                operating_point: one.operating_point_id,
            }
        }))
    }

    /// Searches for an image.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn search(&self, asked: &Asked, image: Vec<u8>) -> Result<Found, ClientError> {
        let Asked {
            deployment,
            limit,
            exact,
            filter,
            one_per_label,
            min_score,
            timeout,
        } = asked.clone();
        let request = proto::SearchRequest {
            deployment,
            query: Some(proto::search_request::Query::Image(image.into())),
            limit,
            exact,
            filter,
            one_per_label,
            min_score,
            ef: 0,
        };
        // Without this, an image that is larger than the default could not be sent.
        let mut retrieval = self.retrieval.clone().max_encoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(request);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let answer = retrieval
            .search(request)
            .await
            .map_err(|status| refused(&status))?;
        Ok(found(answer.into_inner()))
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
        Code::Ok
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::Unauthenticated => Fault::Moment,
    }
}

pub(super) fn refused(status: &tonic::Status) -> ClientError {
    let details = status.get_error_details();
    ClientError::Refused {
        code: format!("{:?}", status.code()),
        fault: fault(status.code()),
        reason: details.error_info().map(|info| info.reason.clone()),
        message: status.message().to_owned(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

fn found(answer: proto::SearchResponse) -> Found {
    let decision = answer.decision();
    let decided = decision != proto::Decision::Undecided;
    let basis = answer.basis.unwrap_or_default();
    let timings = answer.timings.unwrap_or_default();
    let undecided_reason = (!decided).then(|| {
        basis
            .undecided_reason()
            .as_str_name()
            .replace("UNDECIDED_REASON_", "")
    });
    let known = |share: f64| Some(share).filter(|share| decided && 0.0 < *share);
    Found {
        decision: decision.as_str_name().replace("DECISION_", ""),
        threshold: decided.then_some(basis.threshold),
        decision_score: decided.then_some(basis.decision_score),
        adjustment: Some(basis.adjustment.clone()).filter(|how| !how.is_empty()),
        operating_point: decided.then_some(basis.operating_point_id),
        target_far: known(basis.target_far),
        target_frr: known(basis.target_frr),
        confidence: known(basis.confidence),
        certified: basis.certified,
        within_calibrated_size: basis.within_calibrated_size,
        undecided_reason,
        matches: answer
            .matches
            .into_iter()
            .map(|one| FoundMatch {
                label: one.label,
                id: one.id,
                score: one.score,
                metadata: one.metadata.into_iter().collect(),
            })
            .collect(),
        decision_id: answer.decision_id,
        generation: answer.generation,
        gallery_items: answer.gallery_items,
        model_fingerprint: answer.model_fingerprint,
        server_seconds: timings.total_seconds,
        decode_seconds: timings.decode_seconds,
        inference_seconds: timings.inference_seconds,
        search_seconds: timings.search_seconds,
    }
}
