//! Draws a score on a line that shows from where on scores are accepted. The drawing uses attributes only,
//! because the policy of the pages allows no style in markup.

use maud::{Markup, html};

use super::words::score;

/// The line that scores are drawn on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoreScale {
    low: f32,
    high: f32,
    threshold: Option<f32>,
}

impl ScoreScale {
    /// A scale from 0 to 1, or larger if a value needs it.
    pub(super) fn of(scores: impl Iterator<Item = f32>, threshold: Option<f32>) -> Self {
        let finite = scores.chain(threshold).filter(|score| score.is_finite());
        let (low, high) = finite.fold((0.0_f32, 1.0_f32), |(low, high), score| {
            let low = if score < low { score } else { low };
            (low, if high < score { score } else { high })
        });
        Self {
            low,
            high,
            threshold,
        }
    }

    /// The position of a score, in percent of the line.
    fn place(&self, score: f32) -> String {
        let along = (score - self.low) / (self.high - self.low);
        format!("{:.2}%", 100.0 * along.clamp(0.0, 1.0))
    }

    /// The line with one score on it.
    pub(super) fn draw(&self, value: f32) -> Markup {
        let accepted = self.threshold.map(|threshold| threshold <= value);
        let class = match accepted {
            Some(true) => "score accepted",
            Some(false) => "score",
            None => "score undecided",
        };
        let said = match self.threshold {
            Some(threshold) => format!("{}; accepted from {} on", score(value), score(threshold)),
            None => score(value),
        };
        html! {
            svg.scale width="100%" height="20" role="img" aria-label=(said) {
                rect.track x="0" y="9" width="100%" height="2" {}
                @if let Some(threshold) = self.threshold {
                    @let from = self.place(threshold);
                    line.reach x1=(from) x2="100%" y1="10" y2="10" {}
                    line.threshold x1=(from) x2=(from) y1="2" y2="18" {}
                }
                circle class=(class) cx=(self.place(value)) cy="10" r="5" {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_holds_what_is_drawn_on_it() {
        let scale = ScoreScale::of([-0.5, 0.5].into_iter(), Some(1.5));
        assert_eq!(scale.place(-0.5), "0.00%");
        assert_eq!(scale.place(0.5), "50.00%");
        assert_eq!(scale.place(9.0), "100.00%");
        let drawn = scale.draw(0.5).into_string();
        assert!(drawn.contains("accepted from 1.5000 on") && !drawn.contains("style="));
        let unknown = ScoreScale::of(std::iter::once(f32::NAN), None);
        assert_eq!(unknown.place(0.5), "50.00%");
    }
}
