//! What was drawn and told of an operating point, and what follows from it.

use super::DeploymentError;
use crate::calibration::decision::Decision;
use crate::calibration::operating_point::OperatingPoint;
use crate::calibration::rates::Confidence;
use crate::journal::entry::{Label, Row, Sampling, Truth as SaidTruth};
use crate::journal::read::Reader;
use crate::monitoring::audit::{AcceptFeedback, AuditRow, Truth};
use crate::monitoring::drift::{Drift, Limits, Seen};
use crate::monitoring::strata::{Inclusion, Strata};

/// How labelling keeps up with what is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Labelling {
    /// When the latest label of a drawn decision was given.
    pub(super) latest_ms: Option<u64>,
    /// Drawn decisions that were made after it.
    pub(super) since: u64,
}

/// How an operating point does in service, with `items` in the gallery.
pub(super) fn drift(
    reader: &Reader,
    point: &OperatingPoint,
    (strata, since_ms, delta): (&Strata, u64, f64),
    items: u64,
) -> Result<(Drift, Labelling), DeploymentError> {
    let told = Told::of(reader, point.id(), since_ms)?;
    let seen = Seen {
        strata,
        rows: &told.rows,
        feedback: told.feedback,
        gallery: (items, point.content().valid_to_items()),
    };
    let drift = Drift::new(&seen, Limits::of(point, delta), Confidence::DISPLAY)?;
    Ok((drift, told.labelling()))
}

/// What was drawn and told of an operating point.
struct Told {
    rows: Vec<AuditRow>,
    /// When the decisions of the rows were made.
    made_ms: Vec<u64>,
    latest_label_ms: Option<u64>,
    feedback: AcceptFeedback,
}

impl Told {
    fn of(reader: &Reader, point: &str, since_ms: u64) -> Result<Self, DeploymentError> {
        let mut told = Self {
            rows: Vec::new(),
            made_ms: Vec::new(),
            latest_label_ms: None,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
        };
        reader.audited(point, since_ms, |row| told.take(&row))?;
        Ok(told)
    }

    fn take(&mut self, row: &Row) {
        let accepted = row.entry.decision == Decision::Accept;
        let truth_of = |label: Option<&Label>| truth(row, label?);
        let told = truth_of(row.label.as_ref());
        let unasked = if let Some(drawn) = drawn(row, accepted, told) {
            self.rows.push(drawn);
            self.made_ms.push(row.entry.id.unix_ms());
            let said_ms = row.label.as_ref().map(|label| label.unix_ms);
            self.latest_label_ms = self.latest_label_ms.max(said_ms);
            truth_of(row.feedback.as_ref())
        } else {
            told
        };
        if accepted {
            match unasked {
                Some(Truth::MatedRight) => self.feedback.right += 1,
                Some(Truth::MatedWrong | Truth::NonMated) => self.feedback.wrong += 1,
                None => {}
            }
        }
    }

    fn labelling(&self) -> Labelling {
        let latest_ms = self.latest_label_ms;
        let after = |made: &&u64| latest_ms.is_none_or(|latest| latest < **made);
        Labelling {
            latest_ms,
            since: self.made_ms.iter().filter(after).count() as u64,
        }
    }
}

fn drawn(row: &Row, accepted: bool, truth: Option<Truth>) -> Option<AuditRow> {
    let sampling = row.entry.sampling.filter(Sampling::sampled)?;
    Some(AuditRow {
        stratum: usize::from(sampling.stratum()),
        accepted,
        inclusion: Inclusion::new(sampling.probability()).ok()?,
        truth,
    })
}

/// `None` also where nobody can tell.
fn truth(row: &Row, label: &Label) -> Option<Truth> {
    let best = row.entry.best.as_ref();
    match &label.truth {
        SaidTruth::Mated { label } if best.is_some_and(|best| best.label == *label) => {
            Some(Truth::MatedRight)
        }
        SaidTruth::Mated { .. } => Some(Truth::MatedWrong),
        SaidTruth::NonMated => Some(Truth::NonMated),
        SaidTruth::Unusable => None,
    }
}
