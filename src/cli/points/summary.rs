//! An operating point in a few words, for people who have to explain it.

use super::served_point;
use crate::cli::output::in_words::{OfMany, rests_on};
use crate::cli::output::{Shown, percent, wrapped};
use crate::server::{measured_rate, review_band};
use matchpoint_calibration::operating_point::Content;
use matchpoint_client::proto::{MeasuredRate, OperatingPoint};

/// The most important facts of an operating point, local or on a server.
pub(crate) struct PointInWords {
    /// Its id, and whether it is active.
    pub(crate) heading: String,
    accepts_from: Option<f32>,
    goal: String,
    /// What a person reviews, if anything.
    review: Option<String>,
    /// The promised FAR, and its confidence; `None` if none is promised.
    promised_far: Option<[f64; 2]>,
    far: Option<MeasuredRate>,
    frr: Option<MeasuredRate>,
    held_out_far: Option<MeasuredRate>,
    held_out_frr: Option<MeasuredRate>,
    /// What it is valid for.
    valid_for: String,
}

impl PointInWords {
    pub(crate) fn of(heading: String, content: &Content) -> Self {
        let promised = content.promise.filter(|_| content.policy.certifies());
        let (held_out, band) = (content.held_out.as_ref(), content.review.as_ref());
        // A promise for groups needs the words of the goal.
        let plain = content.worst_group.is_none();
        let accepts = (!content.threshold.accepts_nothing()).then(|| content.threshold.get());
        Self {
            heading,
            accepts_from: accepts,
            goal: content.goal(),
            review: band
                .map(|band| served_point::review(&review_band(band), content.threshold.get())),
            promised_far: promised.filter(|_| plain).map(|promise| {
                // With growth, the requested FAR holds at the larger size, and a lower one today.
                let grown = content.growth.as_ref().map(|growth| growth.target_far);
                let far = grown.unwrap_or(promise.target.far());
                [far, promise.target.confidence().get()]
            }),
            far: content.measured.far.as_ref().map(measured_rate),
            frr: content.measured.frr.as_ref().map(measured_rate),
            held_out_far: held_out
                .and_then(|rates| rates.far.as_ref())
                .map(measured_rate),
            held_out_frr: held_out
                .and_then(|rates| rates.frr.as_ref())
                .map(measured_rate),
            valid_for: format!("up to {} items", content.covered_items()),
        }
    }

    pub(crate) fn of_served(heading: String, point: &OperatingPoint) -> Self {
        let asked = point.growth_target_far.or(point.target_far);
        let promised = asked.zip(point.confidence);
        Self {
            heading,
            // No score is above 1.
            accepts_from: (point.threshold <= 1.0).then_some(point.threshold),
            goal: served_point::goal(point),
            review: point
                .review
                .as_ref()
                .map(|band| served_point::review(band, point.threshold)),
            promised_far: promised.filter(|_| point.certified).map(<[f64; 2]>::from),
            far: point.far,
            frr: point.frr,
            held_out_far: point.held_out_far,
            held_out_frr: point.held_out_frr,
            valid_for: format!("up to {} items", served_point::covered_items(point)),
        }
    }

    /// At most seven lines.
    pub(crate) fn text(&self) -> String {
        let threshold = self.accepts_from.map_or_else(
            || "accepts nothing, since a stranger scores as high as a score can".to_owned(),
            |score| format!("accepts from score {score:.4}"),
        );
        let heading = format!(
            "{}: {threshold}; valid for {}",
            self.heading, self.valid_for
        );
        let mut text = wrapped(&heading, "");
        let mut say = |line: String| text.push_str(&wrapped(&line, "  "));
        let target = self.promised_far.map(|[far, _]| far);
        let many = target.map_or_else(OfMany::default, OfMany::that_shows);
        match self.promised_far {
            Some([far, confidence]) => say(format!(
                "Promised, at {} confidence: of {} strangers at most {} get in",
                percent(confidence),
                many.all(),
                many.part(far)
            )),
            None => say(format!("It {}", self.goal)),
        }
        if let Some(far) = &self.far {
            say(format!(
                "Of {} strangers {} got in here ({})",
                many.all(),
                many.part(far.rate),
                rests_on(far)
            ));
        }
        let known = OfMany::default();
        match &self.frr {
            Some(frr) => say(format!(
                "Of {} known things {} were turned away, or taken for another ({})",
                known.all(),
                known.part(frr.rate),
                rests_on(frr)
            )),
            None => say("How many known things are turned away is not known".to_owned()),
        }
        if let Some(review) = &self.review {
            say(format!("Review: {review}"));
        }
        match (&self.held_out_far, &self.held_out_frr) {
            (Some(far), Some(frr)) => say(format!(
                "With labels that had no part in choosing: FAR {}, FRR {}",
                percent(far.rate),
                percent(frr.rate)
            )),
            (Some(far), None) => say(format!(
                "With labels that had no part in choosing: FAR {} ({})",
                percent(far.rate),
                rests_on(far)
            )),
            (None, Some(frr)) => say(format!(
                "With labels that had no part in choosing: FRR {} ({})",
                percent(frr.rate),
                rests_on(frr)
            )),
            (None, None) => say(
                "No labels are left that had no part in choosing: judge it with others (matchpoint evaluate)"
                    .to_owned(),
            ),
        }
        text
    }
}

/// Names a new operating point, and whether it is active.
pub(crate) fn heading(id: &str, active: bool) -> String {
    if active {
        format!("{id} decides now")
    } else {
        format!("{id} (dry run, not saved)")
    }
}

/// What to do next, and where the other figures are.
pub(crate) fn next(active: bool, then: &str, shown: Shown) -> String {
    let next = if active {
        format!("next: {then}")
    } else {
        "next: the same without --dry-run saves it and lets it decide".to_owned()
    };
    let hint = shown.hint();
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    format!("{next}{hint}\n")
}
