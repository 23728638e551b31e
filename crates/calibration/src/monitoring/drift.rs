//! Judges whether the promise is kept, from labels, evidence and feedback together, and says so in words.

use super::MonitoringError;
use super::audit::{AcceptFeedback, AuditSample, AuditedRate, AuditedRates, Tighter};
use super::cusum::Onset;
use super::observed::{AuditWindow, GalleryToday};
use super::plain_sample::Recalibration;
use super::reviews::ReviewsInService;
use super::sequential::{Bet, EProcess, ErrorSide, LIMIT_MAX, Null};
use super::shared_causes::SharedCause;
use crate::binomial::real;
use crate::certify::TargetFar;
use crate::operating_point::OperatingPoint;
use crate::promised::{PromisedRate, PromisedTarget};
use crate::rates::{Confidence, Interval, Rate, percent};
use crate::standing::PromiseToday;

/// The limit that a watched rate is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The highest rate allowed, and the probability of a false alarm.
    pub null: Null,
    /// True if the limit is the target of the operating point; false if it is the upper end of the interval
    /// that the calibration measured.
    pub target: bool,
}

/// The limits for the rates of an operating point; `None` if a rate has no known limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromisedLimits {
    /// The limit for the FAR.
    pub far: Option<Limit>,
    /// The limit for the FAR in a gallery that has grown, if growth was allowed for; `None` if it is the same.
    pub far_grown: Option<Limit>,
    /// The limit for the FRR.
    pub frr: Option<Limit>,
}

impl PromisedLimits {
    /// The limits of an operating point: its target, or, for a rate without one, the upper end of the
    /// interval that the calibration measured. For each rate, the probability of a false alarm is at most
    /// `delta`. They are what answers promise: if growth was allowed for, the tighter target of today until the
    /// gallery has grown, and from then on the one that was asked for at the larger size.
    #[must_use]
    pub fn of(point: &OperatingPoint, delta: f64) -> Self {
        let content = point.content();
        let target = |rate: f64| (rate, true);
        let measured = |rate: &Rate| (rate.interval.upper, false);
        let far = content.target_far().map(TargetFar::far);
        let grown = content.growth.map(|growth| growth.target_far);
        let frr = content.frr_certificate().map(|found| found.target.frr());
        let null = |(limit, target)| {
            Null::new(limit, delta)
                .ok()
                .map(|null| Limit { null, target })
        };
        Self {
            far: far
                .map(target)
                .or_else(|| content.measured.far.as_ref().map(measured))
                .and_then(null),
            far_grown: grown.map(target).and_then(null),
            frr: frr
                .map(target)
                .or_else(|| content.measured.frr.as_ref().map(measured))
                .and_then(null),
        }
    }

    /// The limits that answers promise now, in a gallery that has grown or not.
    #[must_use]
    pub fn now(self, grown: bool) -> Self {
        Self {
            far: self.far_grown.filter(|_| grown).or(self.far),
            ..self
        }
    }

    /// The limit for the FAR now, with those of the decisions in `seen`.
    fn watched_far(self, seen: &AuditWindow<'_>) -> Option<WatchedLimit> {
        let grown = seen.rows.iter().map(|row| row.grown).chain([seen.grown]);
        let all = grown.filter_map(|grown| self.now(grown).far);
        all.map(WatchedLimit::of).reduce(WatchedLimit::with)
    }
}

/// What a rate is compared with: the limits of all decisions that it was estimated from.
#[derive(Clone, Copy, Debug)]
struct WatchedLimit {
    lowest: f64,
    highest: f64,
    target: bool,
}

impl WatchedLimit {
    fn of(limit: Limit) -> Self {
        let value = limit.null.limit();
        Self {
            lowest: value,
            highest: value,
            target: limit.target,
        }
    }

    fn with(self, other: Self) -> Self {
        Self {
            lowest: self.lowest.min(other.lowest),
            highest: self.highest.max(other.highest),
            target: self.target && other.target,
        }
    }

    /// The limit in words.
    fn held(self) -> String {
        if !self.target {
            return format!(
                "the upper end of what calibration measured, {}",
                percent(self.lowest)
            );
        }
        if self.lowest < self.highest {
            return format!(
                "its target of {} until the gallery had grown, and {} since",
                percent(self.lowest),
                percent(self.highest)
            );
        }
        format!("its target of {}", percent(self.lowest))
    }
}

/// The subject of a finding: a rate, or something else that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingSubject {
    /// The false accept rate.
    Far,
    /// The false reject rate.
    Frr,
    /// A suspected rise of the FAR or the FRR.
    Rise,
    /// Sampled decisions that wait for a label.
    Audit,
    /// Canaries: searches whose truth is known in advance.
    Canary,
    /// Items added and removed since the calibration.
    Gallery,
    /// Feedback of users on accepts.
    Feedback,
    /// Whether searches look like those of the calibration.
    Traffic,
    /// The share of searches that go to a person.
    Review,
}

impl FindingSubject {
    /// The subject for an error of this side.
    #[must_use]
    pub fn of(side: ErrorSide) -> Self {
        match side {
            ErrorSide::FalseAccept => Self::Far,
            ErrorSide::FalseReject => Self::Frr,
        }
    }

    /// The name used in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Far => "far",
            Self::Frr => "frr",
            Self::Rise => "rise",
            Self::Audit => "audit",
            Self::Canary => "canary",
            Self::Gallery => "gallery",
            Self::Feedback => "feedback",
            Self::Traffic => "traffic",
            Self::Review => "review",
        }
    }
}

/// The judgement of a finding, from harmless to urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftVerdict {
    /// Information that needs no action.
    Note,
    /// The data show that the promise is kept.
    Kept,
    /// The data do not suffice for a judgement.
    Unknown,
    /// Action is advisable before the promise is broken.
    Warning,
    /// The promise is broken. The probability of a false alarm is at most the stated one.
    Broken,
}

impl DriftVerdict {
    /// The name used in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// One fact that is known, or is not known, with advice.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The subject of the finding.
    pub subject: FindingSubject,
    /// The judgement.
    pub verdict: DriftVerdict,
    /// The finding, in a sentence or two.
    pub says: String,
    /// The advice; empty if there is nothing to do.
    pub next: String,
}

/// The number of latest sampled decisions that count as recent.
pub const RECENT: usize = 250;

/// Everything that is known about an operating point in service.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftAssessment {
    /// The limits that the rates are compared with.
    pub limits: PromisedLimits,
    /// The rates, estimated from labels of sampled decisions.
    pub rates: AuditedRates,
    /// The rates estimated from the latest [`RECENT`] sampled decisions only, because the cause of an alarm
    /// may have begun long after the operating point became active.
    pub recent: AuditedRates,
    /// The evidence that the FAR is above its limit.
    pub far_evidence: Option<EProcess>,
    /// The evidence that the FRR is above its limit.
    pub frr_evidence: Option<EProcess>,
    /// When the FAR rose above its limit.
    pub far_onset: Onset,
    /// When the FRR rose above its limit.
    pub frr_onset: Onset,
    /// When the first and the last sampled decision were made, in milliseconds since 1970-01-01 UTC; `None`
    /// if there are none.
    pub sampled_unix_ms: Option<[u64; 2]>,
    /// The number of sampled decisions that nobody can label. They wait for no label.
    pub unusable: u64,
    /// Feedback on accepts that users gave without being asked.
    pub feedback: AcceptFeedback,
    /// The share of searches that go to a person; `None` without a review band.
    pub reviews: Option<ReviewsInService>,
    /// Labels and conditions with more labelled errors than chance explains.
    pub groups: Vec<SharedCause>,
    /// Whether the labels suffice to certify the target again; `None` if the operating point has no target.
    pub recalibration: Option<Recalibration>,
    /// The findings in words, the most urgent first.
    pub findings: Vec<Finding>,
}

impl DriftAssessment {
    /// Adds findings and sorts them again.
    pub fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.findings
            .sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    }

    /// Adds what errors have in common. If a rate is too high or the gallery too large, it also adds whether
    /// the labels suffice for a new calibration.
    pub fn advise(&mut self, groups: Vec<SharedCause>, recalibration: Option<Recalibration>) {
        // Only the most urgent finding that calls for a calibration gets this advice, so that it is not
        // repeated.
        let mut left = recalibration;
        for finding in &mut self.findings {
            let of = |group: &&SharedCause| finding.subject == FindingSubject::of(group.side);
            let mut advice: Vec<String> = groups.iter().filter(of).map(SharedCause::says).collect();
            let calls_for_it = matches!(
                finding.subject,
                FindingSubject::Far | FindingSubject::Frr | FindingSubject::Gallery
            ) && DriftVerdict::Warning <= finding.verdict;
            if calls_for_it {
                advice.extend(left.take().map(|recalibration| recalibration.says()));
            }
            for sentence in advice {
                if !finding.next.is_empty() {
                    finding.next.push(' ');
                }
                finding.next.push_str(&sentence);
            }
        }
        self.groups = groups;
        self.recalibration = recalibration;
    }

    /// The number, from 1, of the sampled decision at which a rise began, if an alarm or the CUSUM reports
    /// one; the later one if both rates rise. `None` otherwise.
    #[must_use]
    pub fn rise_began_at(&self) -> Option<u64> {
        let rates = [
            (self.far_evidence, self.far_onset),
            (self.frr_evidence, self.frr_onset),
        ];
        let rises = rates.into_iter().filter_map(|(evidence, onset)| {
            let alarm = evidence.is_some_and(|found| found.alarm_at.is_some());
            let sum = onset.cusum?;
            sum.began_at.filter(|_| alarm || sum.suspects())
        });
        rises.max()
    }

    /// Assesses the decisions in `seen`, with intervals at `confidence`.
    ///
    /// # Errors
    /// Returns an error if a row belongs to another design.
    pub fn new(
        seen: &AuditWindow<'_>,
        limits: PromisedLimits,
        confidence: Confidence,
    ) -> Result<Self, MonitoringError> {
        let rows = seen.representative_rows();
        let audit = AuditSample {
            strata: seen.strata,
            rows,
            counted: seen.counted,
        };
        let rates = audit.rates(confidence)?;
        let late = rows.len().saturating_sub(RECENT);
        let lately = AuditSample {
            rows: rows.get(late..).unwrap_or_default(),
            counted: None,
            ..audit
        };
        let recent = lately.rates(confidence)?;
        let (far_evidence, far_onset) = evidence(seen, limits, ErrorSide::FalseAccept)?;
        let (frr_evidence, frr_onset) = evidence(seen, limits, ErrorSide::FalseReject)?;
        let [far_limit, frr_limit] = [limits.watched_far(seen), limits.frr.map(WatchedLimit::of)];
        let limits = limits.now(seen.grown);
        let watched = |subject, rate, recent, limit, evidence| WatchedRate {
            subject,
            rate,
            recent,
            limit,
            evidence,
            labelled: rates.labelled,
            sampled: rates.sampled,
            since: since(seen.reset),
        };
        let far = watched(
            FindingSubject::Far,
            rates.far,
            recent.far,
            far_limit,
            far_evidence,
        );
        let mut findings = vec![
            with_a_stricter_threshold(far.finding(), &lately, limits.far, confidence)?,
            watched(
                FindingSubject::Frr,
                rates.frr,
                recent.frr,
                frr_limit,
                frr_evidence,
            )
            .finding(),
        ];
        findings.extend(suspicion("FAR", far_evidence, far_onset));
        findings.extend(suspicion("FRR", frr_evidence, frr_onset));
        findings.extend(seen.gallery.into_iter().flat_map(gallery));
        findings.extend(crowded_out(seen));
        findings.extend(waiting(&rates, seen.unusable));
        findings.extend(feedback(seen.feedback, confidence));
        findings.extend(seen.reviews.as_ref().and_then(for_people));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        Ok(Self {
            limits,
            rates,
            recent,
            far_evidence,
            frr_evidence,
            far_onset,
            frr_onset,
            sampled_unix_ms: ends(seen.unix_ms),
            unusable: seen.unusable,
            feedback: seen.feedback,
            reviews: seen.reviews,
            groups: Vec::new(),
            recalibration: None,
            findings,
        })
    }
}

/// The finding that the journal had no room for sampled decisions that waited for a label.
fn crowded_out(seen: &AuditWindow<'_>) -> Option<Finding> {
    let before = seen.rows.get(..seen.representative_from)?;
    let labelled = before.iter().filter(|row| row.truth.is_some()).count();
    (!before.is_empty()).then(|| Finding {
        subject: FindingSubject::Audit,
        verdict: DriftVerdict::Warning,
        says: format!(
            "Sampled decisions were removed before anybody labelled them, because the journal had no room. Rates count only decisions made after the last of these, since earlier labels may not represent the others; alarms count the {labelled} earlier labels too."
        ),
        next: "Raise `journal_bytes_max`, or label sooner; see whether one client searches near the threshold far more than it used to.".to_owned(),
    })
}

/// Names the moment from which decisions are counted.
fn since(reset: bool) -> &'static str {
    if reset {
        "since the latest reset"
    } else {
        "since the operating point decides"
    }
}

/// The finding about the share of searches that go to a person.
fn for_people(found: &ReviewsInService) -> Option<Finding> {
    Some(Finding {
        subject: FindingSubject::Review,
        verdict: found
            .strays
            .map_or(DriftVerdict::Note, |_| DriftVerdict::Warning),
        says: found.says()?,
        next: found.next().to_owned(),
    })
}

/// The first and the last of these times.
fn ends(times: &[u64]) -> Option<[u64; 2]> {
    let (first, last) = times.first().zip(times.last())?;
    Some([*first, *last])
}

/// Adds the rates of a stricter threshold to a finding that the FAR is too high.
fn with_a_stricter_threshold(
    mut finding: Finding,
    lately: &AuditSample<'_>,
    limit: Option<Limit>,
    confidence: Confidence,
) -> Result<Finding, MonitoringError> {
    let Some(limit) = limit.filter(|_| DriftVerdict::Warning <= finding.verdict) else {
        return Ok(finding);
    };
    let says = match lately.tighter(limit.null.limit(), confidence)? {
        Some(Tighter { by, far, frr }) => format!(
            " By the labels of the latest {RECENT} sampled decisions a threshold {by} higher would keep it: FAR {}, FRR {}. That is an estimate, chosen after looking; only a calibration can promise.",
            shown(&far),
            frr.as_ref().map_or_else(|| "not known".to_owned(), shown),
        ),
        None => format!(
            " By the labels of the latest {RECENT} sampled decisions no stratum's edge above the threshold is shown to keep it."
        ),
    };
    finding.next.push_str(&says);
    Ok(finding)
}

/// The evidence that a rate is above its limit, and when it rose.
fn evidence(
    seen: &AuditWindow<'_>,
    limits: PromisedLimits,
    side: ErrorSide,
) -> Result<(Option<EProcess>, Onset), MonitoringError> {
    let [far_raised, frr_raised] = seen.raised;
    let (limit, grown, raised) = match side {
        ErrorSide::FalseAccept => (limits.far, limits.far_grown, far_raised),
        ErrorSide::FalseReject => (limits.frr, None, frr_raised),
    };
    let Some(limit) = limit else {
        return Ok((None, Onset::default()));
    };
    let bet = Bet::new(limit.null, side, seen.strata);
    let bet = bet.with_grown(grown.map(|limit| limit.null));
    let mut process = bet.settle(seen.rows.iter().copied())?;
    let onset = Onset::of(&bet, seen, &process)?;
    if raised {
        // The alarm was raised by decisions that are no longer kept, so its position is unknown: 0.
        process.alarm_at.get_or_insert(0);
    }
    Ok((Some(process), onset))
}

/// Everything that is known about the FAR or about the FRR.
struct WatchedRate {
    subject: FindingSubject,
    rate: Option<AuditedRate>,
    recent: Option<AuditedRate>,
    limit: Option<WatchedLimit>,
    evidence: Option<EProcess>,
    labelled: u64,
    sampled: u64,
    since: &'static str,
}

/// The number of labels to ask for if there are none yet.
const LABELS_TO_BEGIN: u64 = 100;

impl WatchedRate {
    fn finding(&self) -> Finding {
        let (verdict, says, next) = self.judged();
        Finding {
            subject: self.subject,
            verdict,
            says,
            next,
        }
    }

    fn judged(&self) -> (DriftVerdict, String, String) {
        let name = match self.subject {
            FindingSubject::Frr => "FRR",
            FindingSubject::Far
            | FindingSubject::Rise
            | FindingSubject::Audit
            | FindingSubject::Canary
            | FindingSubject::Gallery
            | FindingSubject::Feedback
            | FindingSubject::Traffic
            | FindingSubject::Review => "FAR",
        };
        let Some(limit) = self.limit else {
            let says = format!(
                "The operating point promises no {name}, and its calibration measured none whose interval ends below {}, so nothing can be exceeded.",
                percent(LIMIT_MAX)
            );
            return (DriftVerdict::Note, says, String::new());
        };
        let held = limit.held();
        if let Some(evidence) = self.evidence.filter(|evidence| evidence.alarm_at.is_some()) {
            return (
                DriftVerdict::Broken,
                self.broken(name, &held, &evidence),
                self.remedy(),
            );
        }
        let Some(rate) = self.rate else {
            let says = format!(
                "The {name} is not known: none of the labels of {} sampled decisions counts for it.",
                self.sampled
            );
            let next = if self.sampled == 0 {
                "Wait for traffic, or sample more of it (`audit_sampling_rates`).".to_owned()
            } else {
                format!(
                    "Label about {LABELS_TO_BEGIN} of the decisions that wait (`matchpoint audit list`)."
                )
            };
            return (DriftVerdict::Unknown, says, next);
        };
        let measured = shown(&rate);
        if rate.upper <= limit.lowest {
            let says = format!("The {name} is {measured}: below {held}.");
            return (DriftVerdict::Kept, says, String::new());
        }
        if limit.highest < rate.lower {
            let says = format!(
                "The {name} is {measured}, which looks higher than {held}; the evidence is not yet enough for an alarm."
            );
            let next = "Label more of the decisions that wait near the threshold.".to_owned();
            return (DriftVerdict::Warning, says, next);
        }
        let says = format!(
            "The {name} is {measured}; the labels do not show yet whether it is below {held}."
        );
        (
            DriftVerdict::Unknown,
            says,
            self.more_labels(&rate, limit.lowest),
        )
    }

    fn broken(&self, name: &str, held: &str, evidence: &EProcess) -> String {
        let rate = self
            .rate
            .as_ref()
            .map_or_else(|| "not known".to_owned(), shown);
        let recent = self.recent.as_ref().map_or_else(
            || format!("not known of the latest {RECENT} sampled decisions"),
            |recent| format!("{} of the latest {RECENT} sampled decisions", shown(recent)),
        );
        let raised = match evidence.alarm_at {
            None | Some(0) => "by decisions that are no longer kept".to_owned(),
            Some(at) => format!("at sampled decision {at} of {}", evidence.observations),
        };
        format!(
            "The {name} exceeds {held}: an alarm that is false with a probability of at most {} was raised {raised}. The rate is {recent}, and {rate} {}.",
            percent((-evidence.ln_e_alarm).exp()),
            self.since,
        )
    }

    fn remedy(&self) -> String {
        match self.subject {
            FindingSubject::Frr => "See which labels and conditions the labelled rejects have in common (camera, light, new pictures of enrolled labels); then recalibrate with queries of today, or enrol newer pictures.",
            FindingSubject::Far | FindingSubject::Rise | FindingSubject::Audit | FindingSubject::Canary | FindingSubject::Gallery | FindingSubject::Feedback | FindingSubject::Traffic
            | FindingSubject::Review => "Stop acting on accepts near the threshold, or activate a stricter operating point; look at the labelled false accepts, then recalibrate with strangers of today.",
        }
        .to_owned()
    }

    /// How many more labels would be needed, given that an interval's width is inversely proportional to the
    /// square root of the number of labels.
    fn more_labels(&self, rate: &AuditedRate, limit: f64) -> String {
        let (width, room) = (rate.upper - rate.estimate, limit - rate.estimate);
        let factor = (width / room).powi(2);
        if !(0.0 < room && factor.is_finite()) {
            return "Label more of the decisions that wait near the threshold.".to_owned();
        }
        let more = (real(self.labelled) * (factor - 1.0)).ceil();
        format!(
            "If the rate is what it seems, about {more:.0} more labels would show it to be below."
        )
    }
}

/// A rate with its interval, as text.
#[must_use]
pub fn shown(rate: &AuditedRate) -> String {
    format!(
        "{} ({} to {}, from {} labels)",
        percent(rate.estimate),
        percent(rate.lower),
        percent(rate.upper),
        rate.at_risk
    )
}

/// What the CUSUM says as long as there is no alarm.
fn suspicion(name: &str, evidence: Option<EProcess>, onset: Onset) -> Option<Finding> {
    let alarm = evidence.is_some_and(|found| found.alarm_at.is_some());
    let sum = onset.cusum.filter(|_| !alarm)?;
    let began = sum.began_at.filter(|_| sum.suspects())?;
    Some(Finding {
        subject: FindingSubject::Rise,
        verdict: DriftVerdict::Note,
        says: format!(
            "A rise of the {name} is suspected since sampled decision {began} (CUSUM: fast, and without a guarantee; a false one comes about once in 1,000 sampled decisions, or less often)."
        ),
        next: "Label what waits; the evidence decides.".to_owned(),
    })
}

/// The findings about changes of the gallery and what they do to the promise.
fn gallery(today: GalleryToday<'_>) -> Vec<Finding> {
    let finding = |verdict, says: String, next: &str| Finding {
        subject: FindingSubject::Gallery,
        verdict,
        says,
        next: next.to_owned(),
    };
    let promise = today.promise;
    let Some(coverage) = promise.coverage else {
        let problem = today
            .problem
            .unwrap_or("the list of its items was not kept");
        return vec![finding(
            DriftVerdict::Warning,
            format!(
                "How much of today's gallery the calibration covers is not known ({problem}), so nothing is promised of it."
            ),
            "Recalibrate.",
        )];
    };
    let mut findings = Vec::new();
    if 0 < coverage.added() {
        let covers = format!(
            "The calibration covers {} of today's gallery: {} of its {} items were added or changed since{}",
            percent(coverage.share()),
            coverage.added(),
            coverage.items,
            in_which(&promise),
        );
        let rates_of_mates = promise.target_far.is_none() && !today.promised.is_empty();
        findings.push(if rates_of_mates {
            finding(DriftVerdict::Note, format!("{covers}."), "")
        } else if promise.within_calibrated_size() {
            let room = promise.covered_items.saturating_sub(promise.extent);
            let says = format!("{covers}. There is room for {room} more.");
            finding(DriftVerdict::Note, says, "")
        } else {
            let says = format!("{covers}. That is more than it leaves room for, so the promise has ended.");
            finding(
                DriftVerdict::Warning,
                says,
                "Recalibrate on today's gallery, with room to grow if it goes on (`matchpoint calibrate --grow-to`).",
            )
        });
    }
    // That one too many was added is said above.
    let outgrown =
        |one: &&PromisedTarget| one.rate == PromisedRate::Far && !promise.within_calibrated_size();
    let others = today.promised.iter().filter(|one| !outgrown(one));
    findings.extend(others.filter_map(|one| {
        let why = one.ended.as_ref()?;
        let says = format!("The promise {} has ended: {why}.", one.describe());
        Some(finding(
            DriftVerdict::Warning,
            says,
            "Recalibrate on today's gallery.",
        ))
    }));
    findings
}

/// Names the bound on the FAR in today's gallery, if there is one.
fn in_which(promise: &PromiseToday) -> String {
    let Some(bound) = promise.far_bound else {
        return String::new();
    };
    let target = promise
        .target_far
        .map(|target| format!(" (target {})", percent(target)));
    format!(
        ", and the FAR is at most {}{} if they are like those before",
        percent(bound),
        target.unwrap_or_default()
    )
}

fn waiting(rates: &AuditedRates, unusable: u64) -> Option<Finding> {
    let waiting = rates.sampled.saturating_sub(rates.labelled + unusable);
    let nobody = match unusable {
        0 => String::new(),
        _ => format!(", {unusable} show what nobody can tell"),
    };
    (0 < waiting).then(|| Finding {
        subject: FindingSubject::Audit,
        verdict: DriftVerdict::Note,
        says: format!(
            "{} of {} sampled decisions have a label{nobody}; {waiting} wait.",
            rates.labelled, rates.sampled
        ),
        next: "`matchpoint audit list` shows them.".to_owned(),
    })
}

fn feedback(feedback: AcceptFeedback, confidence: Confidence) -> Option<Finding> {
    let (share, Interval { lower, upper, .. }) = feedback.precision(confidence)?;
    Some(Finding {
        subject: FindingSubject::Feedback,
        verdict: DriftVerdict::Note,
        says: format!(
            "Of {} accepts on which somebody gave feedback unasked, {} were right ({} to {}): a precision of that feedback, and no FAR.",
            share.trials(),
            percent(share.estimate()),
            percent(lower),
            percent(upper)
        ),
        next: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::audit::{AuditRow, SearchTruth};
    use super::super::strata::{Inclusion, Strata};
    use super::*;
    use crate::coverage::Coverage;
    use crate::operating_point::{GrowthAllowed, PointPlan};
    use crate::policy::CalibrationTarget;
    use crate::trials::{NonMatedSearch, StrangerOrigin, Trials};
    use matchpoint_vector::Similarity;

    fn limits() -> PromisedLimits {
        let limit = |limit, target| {
            let null = Null::new(limit, 0.05).unwrap();
            Some(Limit { null, target })
        };
        PromisedLimits {
            far: limit(0.01, true),
            far_grown: None,
            frr: limit(0.1, false),
        }
    }

    fn rows(counts: &[(usize, Option<SearchTruth>, usize)]) -> Vec<AuditRow> {
        let strata = Strata::usual();
        let of = |&(stratum, truth, count): &(usize, Option<SearchTruth>, usize)| {
            let row = AuditRow {
                grown: false,
                stratum,
                accepted: strata.accepts(stratum).unwrap(),
                inclusion: strata.inclusion(stratum).unwrap(),
                truth,
            };
            std::iter::repeat_n(row, count)
        };
        counts.iter().flat_map(of).collect()
    }

    fn drift(counts: &[(usize, Option<SearchTruth>, usize)]) -> DriftAssessment {
        drift_after(counts, [false, false])
    }

    fn drift_after(
        counts: &[(usize, Option<SearchTruth>, usize)],
        raised: [bool; 2],
    ) -> DriftAssessment {
        let seen = AuditWindow {
            representative_from: 0,
            grown: false,
            raised,
            reset: false,
            strata: &Strata::usual(),
            rows: &rows(counts),
            counted: None,
            reviews: None,
            unix_ms: &[],
            sampling_hashes: &[],
            cases: &[],
            unusable: 0,
            feedback: AcceptFeedback { right: 9, wrong: 1 },
            gallery: Some(GalleryToday {
                promise: promise(Coverage {
                    calibrated: 100,
                    kept: 80,
                    items: 129,
                }),
                promised: &[],
                problem: None,
            }),
        };
        DriftAssessment::new(&seen, limits(), Confidence::DISPLAY).unwrap()
    }

    /// A promise that covers 25 more items.
    fn promise(coverage: Coverage) -> PromiseToday {
        PromiseToday {
            coverage: Some(coverage),
            items: coverage.items,
            extent: coverage.extent(),
            covered_items: 125,
            target_far: Some(0.05),
            far_bound: coverage.far_bound(0.04).ok(),
            grown: false,
            certified: coverage.extent() <= 125,
            target_frr: None,
            frr_bound: None,
            unseen: None,
        }
    }

    #[test]
    fn a_decision_that_nobody_can_label_waits_for_no_label() {
        let rates = AuditedRates {
            far: None,
            frr: None,
            false_discovery: None,
            sampled: 10,
            labelled: 7,
            decisions: 10.0,
        };
        let said = |unusable| waiting(&rates, unusable).map(|found| found.says);
        let some = "7 of 10 sampled decisions have a label, 2 show what nobody can tell; 1 wait.";
        assert_eq!(said(2).as_deref(), Some(some));
        assert_eq!(said(3), None);
        let none = "7 of 10 sampled decisions have a label; 3 wait.";
        assert_eq!(said(0).as_deref(), Some(none));
    }

    #[test]
    fn what_the_calibration_covers_is_said_with_what_it_means_for_the_promise() {
        let of = |kept: u64, added: u64| {
            let promise = promise(Coverage {
                calibrated: 100,
                kept,
                items: kept + added,
            });
            gallery(GalleryToday {
                promise,
                promised: &[],
                problem: None,
            })
        };
        assert_eq!(of(100, 0), []);
        // Removed items do not weaken a bound on the FAR.
        assert_eq!(of(60, 0), []);
        let [within] = &of(100, 20)[..] else { panic!() };
        assert_eq!(within.verdict, DriftVerdict::Note);
        assert_eq!(
            within.says,
            "The calibration covers 83.3 % of today's gallery: 20 of its 120 items were added or changed since, and the FAR is at most 4.78 % (target 5 %) if they are like those before. There is room for 5 more."
        );
        let [beyond] = &of(62, 38)[..] else { panic!() };
        assert_eq!(beyond.verdict, DriftVerdict::Warning);
        assert!(
            beyond.says.contains("covers 62 % of today's gallery"),
            "{beyond:?}"
        );
        assert!(beyond.next.contains("Recalibrate"), "{beyond:?}");
        let unknown = GalleryToday {
            promise: PromiseToday {
                coverage: None,
                ..promise(Coverage {
                    calibrated: 100,
                    kept: 100,
                    items: 100,
                })
            },
            promised: &[],
            problem: Some("calibrated-items/00ff.items: its checksum does not match its content"),
        };
        let [unknown] = &gallery(unknown)[..] else {
            panic!()
        };
        assert!(
            unknown.says.contains("00ff.items: its checksum"),
            "{unknown:?}"
        );
    }

    #[test]
    fn each_promise_that_has_ended_is_named_with_what_ended_it() {
        let ended = |rate, ended: Option<&str>| PromisedTarget {
            rate,
            target: 0.1,
            confidence: Confidence::DISPLAY,
            bound: None,
            foreseen: false,
            ended: ended.map(ToOwned::to_owned),
        };
        let promised = [
            ended(PromisedRate::Far, None),
            ended(PromisedRate::Frr, Some("2 items are gone")),
            ended(PromisedRate::Review, Some("2 items are gone")),
        ];
        let of = |items, target_far| {
            let coverage = Coverage {
                calibrated: 100,
                kept: 98,
                items,
            };
            gallery(GalleryToday {
                promise: PromiseToday {
                    target_far,
                    ..promise(coverage)
                },
                promised: &promised,
                problem: None,
            })
        };
        let says: Vec<String> = of(98, Some(0.1)).into_iter().map(|one| one.says).collect();
        assert_eq!(
            says,
            [
                "The promise FRR <= 10 % has ended: 2 items are gone.",
                "The promise FRR without a review <= 10 % has ended: 2 items are gone.",
            ]
        );
        // What was added ends no promise that says nothing of strangers.
        let [added, ..] = &of(200, None)[..] else {
            panic!()
        };
        assert_eq!(added.verdict, DriftVerdict::Note);
        assert!(!added.says.contains("has ended"), "{added:?}");
    }

    fn verdict(drift: &DriftAssessment, subject: FindingSubject) -> &Finding {
        let mut of = drift.findings.iter().filter(|f| f.subject == subject);
        of.next().unwrap()
    }

    #[test]
    fn without_labels_nothing_is_known_and_nothing_is_zero() {
        let found = drift(&[(0, None, 50), (3, None, 20)]);
        assert_eq!(found.rates.far, None);
        let far = verdict(&found, FindingSubject::Far);
        assert_eq!(far.verdict, DriftVerdict::Unknown);
        assert!(far.says.contains("not known"), "{far:?}");
        let waiting = verdict(&found, FindingSubject::Audit);
        assert!(waiting.says.contains("70 wait"), "{waiting:?}");
        assert_eq!(
            verdict(&found, FindingSubject::Gallery).verdict,
            DriftVerdict::Warning
        );
        let unasked = verdict(&found, FindingSubject::Feedback);
        assert!(unasked.says.contains("and no FAR"), "{unasked:?}");
    }

    #[test]
    fn accepted_strangers_raise_the_alarm_of_the_far_and_not_that_of_the_frr() {
        let found = drift(&[
            (0, Some(SearchTruth::NonMated), 5),
            (2, Some(SearchTruth::NonMated), 20),
            (3, Some(SearchTruth::NonMated), 25),
            (4, Some(SearchTruth::MatedRight), 100),
        ]);
        let far = verdict(&found, FindingSubject::Far);
        assert_eq!(far.verdict, DriftVerdict::Broken);
        assert!(far.says.contains("its target of 1 %"), "{far:?}");
        assert_eq!(found.findings.first(), Some(far));
        assert_ne!(
            verdict(&found, FindingSubject::Frr).verdict,
            DriftVerdict::Broken
        );
    }

    /// The FAR of 15 % among 400 labelled strangers of which every decision is sampled, and of 3 %.
    const FAR_15: [usize; 2] = [340, 60];
    const FAR_3: [usize; 2] = [388, 12];

    /// What is found of strangers in galleries that have grown or not, one after the other, if 2 % are promised today,
    /// and 20 % once the gallery has grown.
    fn drift_while_growing(strangers: &[(bool, [usize; 2])]) -> DriftAssessment {
        drift_with_gap(strangers, 0)
    }

    /// The same if decisions before this row were removed before anybody labelled them.
    fn drift_with_gap(
        strangers: &[(bool, [usize; 2])],
        representative_from: usize,
    ) -> DriftAssessment {
        let limit = |limit| {
            let null = Null::new(limit, 0.05).unwrap();
            Some(Limit { null, target: true })
        };
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let of = |&(grown, [rejected, accepted]): &(bool, [usize; 2])| {
            // One accept in each part of them.
            let all = rejected + accepted;
            (0..all).map(move |place| {
                let accepted = place * accepted / all != (place + 1) * accepted / all;
                AuditRow {
                    grown,
                    stratum: usize::from(accepted),
                    accepted,
                    inclusion: Inclusion::ALWAYS,
                    truth: Some(SearchTruth::NonMated),
                }
            })
        };
        let rows: Vec<AuditRow> = strangers.iter().flat_map(of).collect();
        let seen = AuditWindow {
            representative_from,
            grown: strangers.last().unwrap().0,
            raised: [false; 2],
            reset: false,
            strata: &strata,
            rows: &rows,
            counted: None,
            reviews: None,
            unix_ms: &[],
            sampling_hashes: &[],
            cases: &[],
            unusable: 0,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
            gallery: None,
        };
        let limits = PromisedLimits {
            far: limit(0.02),
            far_grown: limit(0.2),
            frr: None,
        };
        DriftAssessment::new(&seen, limits, Confidence::DISPLAY).unwrap()
    }

    #[test]
    fn rates_are_of_what_represents_the_searches_and_alarms_of_all_labels() {
        let before = [(false, FAR_15)];
        let of_all = drift_while_growing(&[before[0], (false, FAR_3)]);
        assert_eq!(of_all.rates.far.unwrap().errors, 72);
        let with_gap = drift_with_gap(&[before[0], (false, FAR_3)], 400);
        assert_eq!(with_gap.rates.far.unwrap().errors, 12);
        assert_eq!(with_gap.far_evidence, of_all.far_evidence);
        assert_eq!(
            verdict(&with_gap, FindingSubject::Audit).verdict,
            DriftVerdict::Warning
        );
        // Once all that is left was labelled first, nothing is known.
        let nothing_since = drift_with_gap(&[(false, [400, 0])], 400);
        assert_eq!(nothing_since.rates.far, None);
        let far = verdict(&nothing_since, FindingSubject::Far);
        assert_eq!(far.verdict, DriftVerdict::Unknown, "{far:?}");
    }

    #[test]
    fn each_decision_is_held_against_the_far_that_its_own_answer_promised() {
        let far = |found: &DriftAssessment| {
            let limit = found.limits.far.unwrap().null.limit();
            let finding = verdict(found, FindingSubject::Far);
            (limit, finding.verdict, finding.says.clone())
        };
        let today = far(&drift_while_growing(&[(false, FAR_15)]));
        assert_eq!((today.0, today.1), (0.02, DriftVerdict::Broken));
        assert!(today.2.contains("its target of 2 %: "), "{}", today.2);
        let grown = far(&drift_while_growing(&[(true, FAR_15)]));
        assert_eq!((grown.0, grown.1), (0.2, DriftVerdict::Kept));
        assert!(
            grown.2.ends_with("below its target of 20 %."),
            "{}",
            grown.2
        );
        // A gallery that grows, and a rate that grows with it as far as was promised, break no promise. But all rows
        // together say nothing of the tighter one, so it is not called kept.
        let both = drift_while_growing(&[(false, [396, 4]), (true, FAR_15)]);
        assert_eq!(both.far_evidence.unwrap().alarm_at, None);
        let both = far(&both);
        assert_eq!((both.0, both.1), (0.2, DriftVerdict::Unknown));
        assert!(
            both.2
                .contains("of 2 % until the gallery had grown, and 20 % since"),
            "{}",
            both.2
        );
    }

    #[test]
    fn an_item_that_is_enrolled_takes_no_evidence_back() {
        let before = drift_while_growing(&[(false, FAR_15)]);
        let after = drift_while_growing(&[(false, FAR_15), (true, FAR_3)]);
        let alarm_at = |found: &DriftAssessment| found.far_evidence.unwrap().alarm_at;
        assert!(alarm_at(&before).is_some());
        assert_eq!(alarm_at(&after), alarm_at(&before));
        // Nor is what was promised of the larger gallery held against the one that is small again.
        let smaller = drift_while_growing(&[(true, FAR_15), (false, [398, 2])]);
        assert_eq!(alarm_at(&smaller), None);
        let limit = smaller.limits.far.map(|far| far.null.limit());
        assert_eq!(limit, Some(0.02));
    }

    #[test]
    fn with_room_to_grow_the_limit_is_the_tighter_target_until_the_gallery_has_grown() {
        let strangers = (0_u8..100).map(|i| NonMatedSearch {
            label: format!("s{i}"),
            probe: format!("q{i}"),
            top_score: Similarity::new(f32::from(i) / 100.0),
            origin: StrangerOrigin::NeverEnrolled,
        });
        let trials = Trials::new(Vec::new(), strangers.collect()).unwrap();
        let target = CalibrationTarget::Far(TargetFar::new(0.1, 0.9).unwrap());
        let point = |growth| {
            let plan = PointPlan {
                growth,
                ..PointPlan::small(target)
            };
            PromisedLimits::of(&OperatingPoint::calibrated(&trials, plan).unwrap(), 0.05)
        };
        let limit = |limits: PromisedLimits, grown| {
            let far = limits.now(grown).far.unwrap();
            assert!(far.target);
            far.null.limit()
        };
        let room = GrowthAllowed {
            items: 400,
            target_far: 0.6,
        };
        let limits = point(Some(room));
        assert_eq!((limit(limits, false), limit(limits, true)), (0.1, 0.6));
        let limits = point(None);
        assert_eq!((limit(limits, false), limit(limits, true)), (0.1, 0.1));
    }

    #[test]
    fn an_alarm_stays_when_the_decisions_that_raised_it_are_gone() {
        let calm = [(0, Some(SearchTruth::NonMated), 5)];
        let found = drift_after(&calm, [true, false]);
        let far = verdict(&found, FindingSubject::Far);
        assert_eq!(far.verdict, DriftVerdict::Broken);
        assert!(far.says.contains("no longer kept"), "{far:?}");
        assert_ne!(
            verdict(&found, FindingSubject::Frr).verdict,
            DriftVerdict::Broken
        );
        assert_ne!(
            verdict(&drift(&calm), FindingSubject::Far).verdict,
            DriftVerdict::Broken
        );
    }

    #[test]
    fn a_far_that_is_too_high_comes_with_the_threshold_that_would_keep_it() {
        let next = |accepted: usize| {
            let found = drift(&[
                (0, Some(SearchTruth::NonMated), 170),
                (accepted, Some(SearchTruth::NonMated), 40),
                (5, Some(SearchTruth::MatedRight), 40),
            ]);
            let far = found.findings.into_iter();
            let mut far = far.filter(|finding| finding.subject == FindingSubject::Far);
            far.next().unwrap().next
        };
        assert!(
            next(3).contains("a threshold 0.05 higher would keep it: FAR 0 %"),
            "{}",
            next(3)
        );
        assert!(
            next(4).contains("a threshold 0.15 higher would keep it"),
            "{}",
            next(4)
        );
        assert!(next(5).contains("no stratum's edge"), "{}", next(5));
    }

    #[test]
    fn a_rate_whose_interval_is_below_its_limit_is_kept() {
        let found = drift(&[
            (0, Some(SearchTruth::NonMated), 200),
            (3, Some(SearchTruth::MatedRight), 400),
            (4, Some(SearchTruth::MatedRight), 400),
            (5, Some(SearchTruth::MatedRight), 100),
        ]);
        let far = verdict(&found, FindingSubject::Far);
        assert_eq!(far.verdict, DriftVerdict::Kept, "{far:?}");
        let frr = verdict(&found, FindingSubject::Frr);
        assert!(frr.says.contains("calibration measured"), "{frr:?}");
    }
}
