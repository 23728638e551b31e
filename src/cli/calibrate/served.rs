//! `matchpoint calibrate --server`: calibrates a deployment while it serves, with queries from this machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::input::image_sources::{ImageSource, ImageSources};
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::doubts;
use crate::cli::output::progress::SharedProgress;
use crate::cli::output::{self, Output, Shown, table};
use crate::cli::points::served_point::describe;
use crate::cli::points::summary::{self, PointInWords};
use crate::cli::points::text::refusal_text;
use crate::cli::runtime::single_threaded;
use crate::cli::server_address::ServerAddress;
use crate::deployment::{RefusedItem, RemedyChoice};
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::Refusal;
use matchpoint_calibration::strangers::EITHER_WAY;
use matchpoint_client::proto::calibration_settings::Target;
use matchpoint_client::proto::labelled_query::Query;
use matchpoint_client::proto::{
    CalibrateMetadata, CalibrateResponse, CalibrationSettings, CostModel, LabelledQuery,
    OperatingPoint, Remedy as RemedyMessage,
};
use matchpoint_client::{CalibrationEnd, Client, ClientError, Fault};

/// Bytes of a message in addition to its image.
const ENVELOPE_BYTES: u64 = 64 << 10;

/// A calibration to be run by a server.
pub(crate) struct ServedCalibration {
    pub(crate) settings: CalibrationSettings,
    /// The labelled queries; `None` if the gallery's own items are the queries.
    pub(crate) sources: Option<ImageSources>,
    pub(crate) shown: Shown,
}

/// The result, with the same JSON keys as that of a local calibration.
#[derive(Serialize)]
struct ServedReport {
    outcome: &'static str,
    operating_point: Option<String>,
    active: bool,
    etag: String,
    /// The operating point, as the server describes it.
    point: Option<OperatingPoint>,
    refusal: Option<Refusal>,
    failed: Vec<RefusedItem>,
    left_out: LeftOut,
    /// The server's findings about the queries.
    queries: CalibrateMetadata,
}

impl ServedCalibration {
    pub(crate) fn run(self, server: &ServerAddress) -> anyhow::Result<Exit> {
        let (shown, name) = (self.shown, self.settings.deployment.clone());
        let report = single_threaded()?.block_on(self.ask(server))?;
        Output::new(shown.json).result(&report, |report| text(report, &name, shown))?;
        Ok(match (&report.refusal, report.failed.is_empty()) {
            (Some(_), _) => Exit::Underpowered,
            (None, false) => Exit::SomeFailed,
            (None, true) => Exit::Done,
        })
    }

    async fn ask(self, server: &ServerAddress) -> anyhow::Result<ServedReport> {
        let client = server.connect().await?;
        let sources = self.sources.unwrap_or_default();
        check_roles(&client, &self.settings.deployment, &sources).await?;
        let bytes_max = client.server_info().await?.message_bytes_max;
        let reading = Arc::new(Reading {
            progress: SharedProgress::new("search"),
            failed: Mutex::new(sources.refused),
            bytes_max: bytes_max.saturating_sub(ENVELOPE_BYTES),
        });
        let (shared, total) = (Arc::clone(&reading), sources.items.len() as u64);
        let numbered = (1..).zip(sources.items);
        let queries = numbered.filter_map(move |(number, source)| {
            shared.progress.at(number, total);
            shared.query(source)
        });
        let ended = client.calibrate(self.settings, tokio_stream::iter(queries));
        let CalibrationEnd { queries, result } = ended.await?;
        let mut failed = std::mem::take(&mut *reading.failed());
        if let Some(reading) = Arc::into_inner(reading) {
            reading.progress.finish();
        }
        failed.extend(queries.failed.iter().map(|one| RefusedItem {
            item: one.id.clone(),
            reason: one.reason.clone(),
        }));
        let report = ServedReport {
            outcome: "refused",
            operating_point: None,
            active: false,
            etag: String::new(),
            point: None,
            refusal: None,
            failed,
            left_out: sources.left_out,
            queries,
        };
        match result {
            Ok(response) => Ok(report.with(response)),
            Err(error) => {
                let refusal = Some(refusal(&error).ok_or(error)?);
                Ok(ServedReport { refusal, ..report })
            }
        }
    }
}

impl ServedReport {
    fn with(self, response: CalibrateResponse) -> Self {
        let point = response.operating_point.unwrap_or_default();
        Self {
            outcome: if point.certified {
                "certified"
            } else {
                "aimed at, not certified"
            },
            operating_point: Some(point.id.clone()),
            active: response.active,
            etag: response.etag,
            point: Some(point),
            ..self
        }
    }
}

/// Queries being sent, each read from disk when the server takes it.
struct Reading {
    progress: SharedProgress,
    failed: Mutex<Vec<RefusedItem>>,
    bytes_max: u64,
}

impl Reading {
    fn query(&self, source: ImageSource) -> Option<LabelledQuery> {
        let image = match crate::files::read_file(&source.path) {
            Ok(image) if image.len() as u64 <= self.bytes_max => image,
            Ok(image) => {
                let (bytes, most) = (image.len(), self.bytes_max);
                self.fail(
                    source.id,
                    format!("it has {bytes} bytes; the server takes {most}"),
                );
                return None;
            }
            Err(cause) => {
                self.fail(source.id, format!("cannot be read: {cause}"));
                return None;
            }
        };
        Some(LabelledQuery {
            id: source.id,
            label: source.label,
            query: Some(Query::Image(image.into())),
            metadata: source.metadata.into_iter().collect(),
        })
    }

    fn fail(&self, item: String, reason: String) {
        self.failed().push(RefusedItem { item, reason });
    }

    fn failed(&self) -> MutexGuard<'_, Vec<RefusedItem>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares the roles of a list with the enrolled labels, because the server does not know the roles.
async fn check_roles(
    client: &Client,
    deployment: &str,
    sources: &ImageSources,
) -> anyhow::Result<()> {
    if sources.items.iter().all(|item| item.role.is_none()) {
        return Ok(());
    }
    match client.labels(deployment).await {
        Ok(labels) => sources.refuse_contradictions(|label| labels.contains(label)),
        Err(ClientError::Refused {
            fault: Fault::Caller,
            ..
        }) => {
            output::error(
                "note: whether the roles of the list agree with what is enrolled was not looked at, which takes a key with the scope enrol",
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The refusal in an error; `None` if the server failed for a reason other than the data.
fn refusal(error: &ClientError) -> Option<Refusal> {
    let ClientError::Refused {
        reason: Some(reason),
        details,
        message,
        ..
    } = error
    else {
        return None;
    };
    let known = [
        "CALIBRATION_UNDERPOWERED",
        "CALIBRATION_UNATTAINABLE",
        "STRANGERS_UNNAMED",
    ];
    let reason = known.into_iter().find(|known| known == reason)?;
    let number = |key: &str| details.get(key).and_then(|number| number.parse().ok());
    Some(Refusal {
        reason,
        independent_trials: number("trials_present"),
        needed: number("trials_needed"),
        best_supported: None,
        message: message.clone(),
    })
}

/// Converts the target to a message.
pub(crate) fn wanted(target: CalibrationTarget) -> (Target, Option<f64>) {
    match target {
        CalibrationTarget::Far(far) | CalibrationTarget::FarEstimated(far) => {
            (Target::TargetFar(far.far()), Some(far.confidence().get()))
        }
        CalibrationTarget::Frr(frr) => (Target::TargetFrr(frr.frr()), Some(frr.confidence().get())),
        CalibrationTarget::EqualError => (Target::EqualError(true), None),
        CalibrationTarget::Cost(model) => {
            let costs = model.costs();
            let cost = CostModel {
                false_accept: costs.false_accept,
                false_reject: costs.false_reject,
                prior_mated: costs.prior_mated.get(),
            };
            (Target::Cost(cost), None)
        }
    }
}

/// Converts the remedy to a message.
pub(crate) fn remedy(choice: &RemedyChoice) -> RemedyMessage {
    match choice {
        RemedyChoice::None | RemedyChoice::Named(Remedy::None) => RemedyMessage::None,
        RemedyChoice::Named(Remedy::ZNorm) => RemedyMessage::ZNorm,
        RemedyChoice::Named(Remedy::TNorm) => RemedyMessage::TNorm,
        RemedyChoice::Named(Remedy::SNorm) => RemedyMessage::SNorm,
        RemedyChoice::Named(Remedy::AsNorm) => RemedyMessage::AsNorm,
        RemedyChoice::Named(Remedy::Margin) => RemedyMessage::Margin,
        RemedyChoice::Named(Remedy::AsNormMargin) => RemedyMessage::AsNormMargin,
        RemedyChoice::Measured => RemedyMessage::Measured,
    }
}

fn text(report: &ServedReport, name: &str, shown: Shown) -> String {
    let mut text = String::new();
    if let Some(refusal) = &report.refusal {
        text.push_str(&refusal_text(refusal));
    }
    if let Some(point) = &report.point {
        let heading = summary::heading(&point.id, report.active);
        text.push_str(&PointInWords::of_served(heading, point).text());
    }
    text.push_str(&output::failed(&report.failed, shown.verbose));
    let listed = report.queries.failed.len() as u64;
    if listed < report.queries.failed_total {
        let more = report.queries.failed_total - listed;
        text.push_str(&format!("failed: and {more} more\n"));
    }
    text.push_str(&warnings(&report.queries));
    if shown.verbose {
        text.push_str(&table(&report.left_out.rows()));
        text.push_str(&report.point.as_ref().map_or_else(String::new, describe));
    }
    if report.refusal.is_none() {
        let watch = format!(
            "matchpoint drift report --deployment {name} says whether it is kept in service"
        );
        text.push_str(&summary::next(report.active, &watch, shown));
    }
    text
}

/// The reasons why the trials count for less than they seem, with an example of each.
fn warnings(of: &CalibrateMetadata) -> String {
    let mut found = Vec::new();
    if let Some(first) = of.alike_labels.first() {
        found.push(format!(
            "{} labels are suspiciously like another (the first: {} and {}); is each a thing of its own?",
            of.alike_labels_total, first.label, first.other_label
        ));
    }
    if let Some(first) = of.gallery_duplicates.first() {
        found.push(format!(
            "{} of the queries are pictures in the gallery, or nearly (the first: {} of {} is item {} of {}); under the same label they are no trials, and under another one of the two is wrong",
            of.gallery_duplicates_total, first.id, first.label, first.item_id, first.item_label
        ));
    }
    if let Some(first) = of.query_duplicates.first() {
        let count = of.query_duplicates_total;
        found.push(doubts::repeated(count, &first.first_id, &first.id));
    }
    if let Some(first) = of.stranger_near_duplicates.first() {
        found.push(format!(
            "{} queries of strangers are nearly those of strangers of other labels (the first: {} of {} and {} of {}); the labels may be wrong, or one stranger: a certified FAR holds with each as a stranger and with those that share a picture as one; --strangers-are-distinct says that all are different things",
            of.stranger_near_duplicates_total,
            first.first_id,
            first.first_label,
            first.id,
            first.label
        ));
    }
    if let Some(unnamed) = &of.unnamed_strangers {
        found.push(format!(
            "{} pictures show strangers whom nobody named, and count as {}; --strangers-are-distinct says that each shows another one",
            unnamed.pictures, unnamed.strangers
        ));
    }
    if let Some(crowded) = &of.crowded_strangers {
        let groups = crowded.groups.iter();
        let mut groups: Vec<(&[String], u64)> = groups
            .map(|group| (&group.labels[..], group.labels_total))
            .collect();
        if groups.is_empty() {
            // An older server names only two labels.
            groups.push((&crowded.example_labels, crowded.example_labels.len() as u64));
        }
        found.push(format!(
            "{} labels of strangers may be {}: they are nearer to each other than strangers come to the gallery; {EITHER_WAY}; {}",
            crowded.labels,
            crowded.strangers,
            doubts::what_to_do_about(&groups)
        ));
    }
    if 0 < of.strangers_not_compared_total {
        found.push(doubts::not_compared(of.strangers_not_compared_total));
    }
    found
        .iter()
        .map(|what| output::wrapped(what, "warning: "))
        .collect()
}
