//! What a calibration request asks for, as settings of the domain.

use tonic::Status;

use super::convert::invalid;
use crate::deployment::{CalibrationSettings, Query, RemedyChoice};
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{Assured, ThresholdSettings, refuse_mutual_mates};
use matchpoint_calibration::stated_target::StatedTarget;
use matchpoint_client::proto;

/// The confidence of a calibration by default.
const CONFIDENCE_DEFAULT: f64 = 0.95;

pub(in crate::server) fn labelled_query(
    query: Option<proto::labelled_query::Query>,
) -> Result<Query, Status> {
    use proto::labelled_query::Query as Message;
    match query {
        Some(Message::Image(bytes)) => Ok(Query::Image(bytes)),
        Some(Message::Embedding(vector)) => Ok(Query::Embedding(vector.values)),
        None => Err(invalid("query is required: set image or embedding")),
    }
}

/// The settings of a calibration, checked before any work is done.
pub(in crate::server) fn calibration_settings(
    settings: &proto::CalibrationSettings,
) -> Result<CalibrationSettings, Status> {
    use proto::calibration_settings::Target as Message;
    let refused = |cause: CalibrationError| invalid(&cause.to_string());
    let confidence = confidence(settings);
    let stated = match &settings.target {
        Some(Message::TargetFar(rate)) => StatedTarget::Far {
            rate: *rate,
            estimated: settings.estimated,
        },
        Some(Message::TargetFrr(rate)) => StatedTarget::Frr(*rate),
        Some(Message::EqualError(true)) => StatedTarget::EqualError,
        Some(Message::Cost(cost)) => StatedTarget::Cost {
            false_accept: cost.false_accept,
            false_reject: cost.false_reject,
            prior_mated: cost.prior_mated,
        },
        Some(Message::EqualError(false)) | None => {
            return Err(invalid(
                "target is required: set target_far, target_frr, equal_error to true, or cost",
            ));
        }
    };
    let target = stated.checked(confidence).map_err(refused)?;
    let has_far = matches!(
        target,
        CalibrationTarget::Far(_) | CalibrationTarget::FarEstimated(_)
    );
    if 0 < settings.grow_to_items && !has_far {
        return Err(refused(CalibrationError::GrowthWithoutTargetFar));
    }
    if settings.estimated && !has_far {
        return Err(invalid("estimated goes with target_far only"));
    }
    let review = review(settings, target)?;
    if settings.gallery_as_queries {
        refuse_mutual_mates(target, review).map_err(refused)?;
    }
    Ok(CalibrationSettings {
        threshold: ThresholdSettings {
            target,
            seed: settings.seed,
            grow_to_items: Some(settings.grow_to_items).filter(|items| 0 < *items),
            assured: Assured {
                labels_as_they_are: settings.labels_as_they_are,
                strangers_are_distinct: settings.strangers_are_distinct,
            },
            worst_group_of: worst_group_of(settings, target)?,
            review,
        },
        remedy: remedy(settings)?,
        margin_factor: match settings.margin_factor {
            Some(factor) => MarginFactor::new(factor)
                .map_err(|cause| invalid(&format!("margin_factor cannot be used: {cause}")))?,
            None => MarginFactor::DEFAULT,
        },
        leaves_room: true,
    })
}

fn confidence(settings: &proto::CalibrationSettings) -> f64 {
    if settings.confidence == 0.0 {
        CONFIDENCE_DEFAULT
    } else {
        settings.confidence
    }
}

fn worst_group_of(
    settings: &proto::CalibrationSettings,
    target: CalibrationTarget,
) -> Result<Option<String>, Status> {
    let column = Some(settings.worst_group_of.clone()).filter(|column| !column.is_empty());
    let has_far = matches!(target, CalibrationTarget::Far(_));
    if column.is_some() && !has_far {
        let cause = CalibrationError::GroupsWithoutTargetFar;
        return Err(invalid(&cause.to_string()));
    }
    Ok(column)
}

fn review(
    settings: &proto::CalibrationSettings,
    target: CalibrationTarget,
) -> Result<Option<TargetFrr>, Status> {
    let Some(frr) = settings.review_frr else {
        return Ok(None);
    };
    if target.far().is_none() {
        let cause = CalibrationError::ReviewWithoutTargetFar;
        return Err(invalid(&cause.to_string()));
    }
    let unseen = TargetFrr::new(frr, confidence(settings));
    let unseen = unseen.map_err(|cause| invalid(&format!("review_frr cannot be used: {cause}")))?;
    Ok(Some(unseen))
}

fn remedy(settings: &proto::CalibrationSettings) -> Result<RemedyChoice, Status> {
    use proto::Remedy as Message;
    let asked = Message::try_from(settings.remedy)
        .map_err(|cause| invalid(&format!("remedy is not one of Remedy: {cause}")))?;
    Ok(match asked {
        Message::Unspecified | Message::None => RemedyChoice::None,
        Message::ZNorm => RemedyChoice::Named(Remedy::ZNorm),
        Message::TNorm => RemedyChoice::Named(Remedy::TNorm),
        Message::SNorm => RemedyChoice::Named(Remedy::SNorm),
        Message::AsNorm => RemedyChoice::Named(Remedy::AsNorm),
        Message::Margin => RemedyChoice::Named(Remedy::Margin),
        Message::AsNormMargin => RemedyChoice::Named(Remedy::AsNormMargin),
        Message::Measured => RemedyChoice::Measured,
    })
}
