//! Monitors whether a deployment keeps its promise in service: which decisions are sampled, annotations,
//! the resulting rates, canaries, and a shadow deployment.
//!
//! It sees the deployment through [`Observed`] and receives each decision; its code does not depend on
//! deployments.

mod alarms;
mod annotations;
mod audit_evaluation;
mod canaries;
mod canary_list;
mod canary_round;
mod change_log;
mod counted_strata;
mod drift_report;
mod enrolment;
mod error;
mod gauges;
mod growth_history;
mod label_history;
mod labelled_sample;
mod left_out;
mod left_out_round;
mod lookalikes;
mod observed;
mod recorder;
mod rejected_searches;
mod resets;
mod review_evidence;
mod sampling_budget;
mod sampling_design;
mod shadow_report;
mod shadow_runner;
mod traffic_comparison;
mod watch;
mod watcher;

pub use annotations::{AnnotatedDecision, AnnotationReport, RefusedReport, ReportedTruth};
pub use audit_evaluation::recorded_decisions;
pub use canaries::{CanaryAnswer, CanarySearch};
pub use canary_list::{
    CANARIES_MAX, CANARIES_PER_ITEM, CanariesSet, CanarySelection, KeptGallery, NewCanary,
};
pub use canary_round::CanaryRound;
pub use drift_report::PointInService;
pub use error::MonitorError;
pub use labelled_sample::{LabelledDecision, QueryContent, labelled_sample};
pub use left_out::left_out_sample;
pub use left_out_round::{LeftOutItem, LeftOutRound};
pub use lookalikes::{Lookalike, OtherItem};
pub use observed::{DecisionRecord, MatchRecord, Observed};
pub use recorder::check_histories;
pub use rejected_searches::{RejectedSearch, RejectedSearches, kept_picture, rejected_searches};
pub use resets::DriftReset;
pub use shadow_report::{
    SHADOW_LATEST_MAX, ShadowAbout, ShadowDecision, ShadowDisagreement, ShadowReport,
};
pub use shadow_runner::{ShadowDeployment, ShadowOpening, ShadowRunner, ShadowTicket};
pub use traffic_comparison::TrafficInService;
pub use watch::Monitor;
