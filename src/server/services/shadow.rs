//! Opens shadow deployments, and reports on them.

use std::path::Path;
use std::sync::Arc;

use tonic::Status;

use crate::deployment::{Deployment, DeploymentError, Models};
use crate::monitor::{SHADOW_LATEST_MAX, ShadowAbout, ShadowDecision, ShadowReport};
use crate::server::messages::convert::{self, truth};
use crate::server::registry::{Registry, ServedState};
use crate::server::status::from_error;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::shadow::ShadowMatch;
use matchpoint_client::proto::ground_truth::Truth as Shown;
use matchpoint_client::proto::{
    GetShadowRequest, GetShadowResponse, GroundTruth, LabelAgreement, ReloadShadowRequest,
    ReloadShadowResponse, ShadowCount, ShadowDisagreement, ShadowInfo, ShadowOutcome,
    ShadowSkipped,
};

/// Disagreements that are returned by default.
const LATEST_USUAL: usize = 20;

/// Opens the shadows of all deployments in a separate thread. Nothing waits for them, and if one cannot be
/// opened, everything else is still served.
pub(in crate::server) fn open_all(loaded: &ServedState, share: f64) {
    let models = || loaded.models().map(|models| models.beside());
    let each = loaded.deployments.iter().filter_map(|(name, one)| {
        let place = loaded.places.get(name)?;
        Some((Arc::clone(one), place.clone(), models().ok()?))
    });
    let each: Vec<_> = each.collect();
    let open = move || {
        for (deployment, place, models) in each {
            open_if_any(&deployment, &place, models, share);
        }
    };
    let opening = std::thread::Builder::new().name("shadows".to_owned());
    if let Err(error) = opening.spawn(open) {
        tracing::warn!(%error, "shadow deployments are not opened");
    }
}

/// Opens the shadow of a deployment, if there is one that is not open yet, and logs the result.
fn open_if_any(deployment: &Deployment, place: &Path, models: Models, share: f64) {
    if deployment.shadow().is_there() {
        return;
    }
    match deployment.shadow().open(place, models, share) {
        Ok(found) => report(deployment, found.as_ref()),
        Err(error) => {
            tracing::warn!(%error, deployment = deployment.name(), "the shadow deployment cannot be opened; nothing is compared");
        }
    }
}

fn report(deployment: &Deployment, found: Option<&ShadowAbout>) {
    if let Some(about) = found {
        tracing::info!(
            deployment = deployment.name(),
            path = %about.path.display(),
            model = about.model,
            precision = about.precision,
            operating_point = about.operating_point.as_deref().unwrap_or("none"),
            share = about.share,
            "compared with a shadow deployment from now on"
        );
    }
}

/// Answers `ReloadShadow`.
pub(in crate::server) async fn reload(
    registry: &Registry,
    share: f64,
    request: ReloadShadowRequest,
) -> Result<ReloadShadowResponse, Status> {
    let deployment = registry.find(&request.deployment)?;
    let loaded = registry.loaded()?;
    let place = loaded.places.get(deployment.name()).cloned();
    let place = place.ok_or_else(|| Status::internal("internal error"))?;
    let open = move || {
        let found = deployment.shadow().open(&place, beside(loaded)?, share)?;
        report(&deployment, found.as_ref());
        Ok(found)
    };
    let found: Result<_, DeploymentError> = registry.heavy(open).await?;
    let found = found.map_err(|error| from_error(&error))?;
    Ok(ReloadShadowResponse {
        shadow: found.map(info),
    })
}

/// Ends the shadow of a deployment that is being replaced. It keeps only the models, so that the deployment can
/// close.
pub(in crate::server) fn end(
    previous: &Deployment,
    loaded: Arc<ServedState>,
) -> Result<Models, DeploymentError> {
    previous.shadow().end();
    beside(loaded)
}

/// Opens the shadow of a deployment that has replaced another one. Blocks.
pub(in crate::server) fn succeed(
    deployment: &Deployment,
    place: &Path,
    models: Result<Models, DeploymentError>,
    share: f64,
) {
    if let Ok(models) = models {
        open_if_any(deployment, place, models, share);
    }
}

/// Takes the models only and drops the rest of the loaded state, so that a replaced deployment can close.
fn beside(loaded: Arc<ServedState>) -> Result<Models, DeploymentError> {
    let models = loaded.models()?.beside();
    drop(loaded);
    Ok(models)
}

/// Answers `GetShadow`.
pub(in crate::server) async fn get(
    registry: &Registry,
    request: GetShadowRequest,
) -> Result<GetShadowResponse, Status> {
    let deployment = registry.find(&request.deployment)?;
    let limit = match usize::try_from(request.limit) {
        Ok(0) => LATEST_USUAL,
        Ok(limit) if limit <= SHADOW_LATEST_MAX => limit,
        Ok(_) | Err(_) => {
            let problem = format!(
                "limit is {}; it must be 1 to {SHADOW_LATEST_MAX}",
                request.limit
            );
            return Err(convert::invalid(&problem));
        }
    };
    let read = move || deployment.shadow().report(limit);
    let report = registry.heavy(read).await?;
    let report = report.map_err(|error| from_error(&error))?;
    Ok(report.map(shadow_response).unwrap_or_default())
}

fn info(about: ShadowAbout) -> ShadowInfo {
    ShadowInfo {
        model_name: about.model,
        model_fingerprint: about.fingerprint,
        precision: about.precision,
        execution_provider: about.execution_provider,
        operating_point_id: about.operating_point.unwrap_or_default(),
        gallery_items: about.gallery_items as u64,
        generation: about.generation,
        share: about.share,
    }
}

fn shadow_response(report: ShadowReport) -> GetShadowResponse {
    let counts = &report.counts;
    let interval = counts.interval();
    let latest = report
        .latest
        .into_iter()
        .map(|(one, said)| (one, said.map(truth)))
        .map(|(one, said)| ShadowDisagreement {
            decision_id: one.id.to_string(),
            live: Some(outcome(one.live, said.as_ref())),
            shadow: Some(outcome(one.shadow, said.as_ref())),
            label_agreement: agreement(one.best).into(),
            ground_truth: said,
        });
    let skipped = report
        .skipped
        .into_iter()
        .map(|(reason, count)| ShadowSkipped {
            reason: reason.to_owned(),
            count,
        });
    GetShadowResponse {
        shadow: Some(info(report.about)),
        counts: counts
            .seen()
            .map(|(pair, count)| ShadowCount {
                live: convert::decision(pair.live).into(),
                shadow: convert::decision(pair.shadow).into(),
                label_agreement: agreement(pair.best).into(),
                count,
            })
            .collect(),
        compared: counts.compared(),
        disagreements: counts.disagreements(),
        disagreement_lower: interval.map(|interval| interval.lower),
        disagreement_upper: interval.map(|interval| interval.upper),
        skipped: skipped.collect(),
        latest: latest.collect(),
    }
}

fn outcome(of: ShadowDecision, said: Option<&GroundTruth>) -> ShadowOutcome {
    ShadowOutcome {
        decision: convert::decision(of.decision).into(),
        correct: correct(&of, said),
        score: Some(of.score).filter(|_| !of.item.is_empty()),
        matched_label: of.label,
        matched_item_id: of.item,
        decision_score: of.decision_score,
    }
}

/// Whether an outcome is right, given what the query showed; `None` if that is not known or the outcome is
/// UNDECIDED.
fn correct(of: &ShadowDecision, said: Option<&GroundTruth>) -> Option<bool> {
    let accepted = match of.decision {
        Decision::Accept => true,
        Decision::Reject => false,
        Decision::Undecided => return None,
    };
    match said?.truth.as_ref()? {
        Shown::Label(label) => Some(accepted && of.label == *label),
        Shown::NotEnrolled(_) => Some(!accepted),
        Shown::Unusable(_) => None,
    }
}

fn agreement(best: ShadowMatch) -> LabelAgreement {
    match best {
        ShadowMatch::Same => LabelAgreement::Same,
        ShadowMatch::Other => LabelAgreement::Other,
        ShadowMatch::Missing => LabelAgreement::Missing,
        ShadowMatch::Nothing => LabelAgreement::Nothing,
    }
}
