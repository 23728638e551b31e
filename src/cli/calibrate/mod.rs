//! `matchpoint calibrate`: chooses a threshold that keeps a promise, or refuses.

mod analysis_text;
pub(super) mod evaluate;
mod fitted_labels;
pub(super) mod labelled_search;
mod menu;
mod run;
mod served;
mod target_flags;
mod vectors;

use std::path::PathBuf;
use std::sync::Arc;

use self::fitted_labels::{FittedFlags, refuse_fitted};
use self::labelled_search::{CacheFlags, Probes};
use self::menu::MenuReport;
use self::run::{CalibrationRequest, Strangers, calibrate, searched, text};
use self::served::ServedCalibration;
use self::target_flags::TargetFlags;
use self::vectors::{MenuSettings, VectorFlags, VectorSettings};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSources, Purpose};
use crate::cli::input::listing::ExcludeFlags;
use crate::cli::output::alike::{self, AssuredFlags};
use crate::cli::output::doubts::Doubts;
use crate::cli::output::file::OutputFile;
use crate::cli::output::pictures::Pictures;
use crate::cli::output::{Shown, ShownFlags};
use crate::cli::server_address::{ServerChoice, name_of};
use crate::config::{EngineConfig, EngineFlags, ProcessEnvironment};
use crate::deployment::{CalibrationSettings, Deployment, DeploymentError, RemedyChoice};
use crate::telemetry;
use matchpoint_calibration::analysis::consistency::Band;
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::analysis::{AnalysisScope, BAND_POINTS};
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::menu::{Menu, MenuRequest};
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{ThresholdSettings, VectorRequest, refuse_mutual_mates};
use matchpoint_calibration::recording::Recording;
use matchpoint_client::proto;
use matchpoint_gallery::Access;

/// Choose a threshold that keeps what it promises, or refuse
///
/// Searches for every labelled query. Queries of labels that are not enrolled are strangers. With
/// --target-far, one query of each stranger label, chosen blindly, counts as an independent trial,
/// and the exact binomial test on these gives the lowest threshold whose false accept rate is at
/// most the target, at the confidence asked for. --target-frr does the same for false rejects, with
/// queries of enrolled labels. --equal-error and --min-cost promise nothing. The operating point is
/// saved in the deployment with the searches it was made from, and made the active one.
///
/// Without queries of your own, --gallery-as-queries lets each enrolled item search for the others.
/// Enrolled labels as strangers are not quite independent (look-alikes are mutual), so such a
/// target is aimed at, not certified; every output says so. So it is with --strangers all.
///
/// Without a target, it prints what there is to choose from, with what to type next, and changes
/// nothing: for FARs from 0.1 to 30 % the threshold, whether it is certified, the FRR, and how many
/// labels a certificate takes.
///
/// If the labels are too few for the target, nothing is changed, the command says how many it
/// takes, and ends with exit code 5.
///
/// With --embeddings, any model's vectors are calibrated without a deployment: see `--labels`.
///
/// With --server, a deployment is calibrated while it serves, and the next request is decided by the new
/// operating point; what needs more than the searches (the report, pairs) takes the deployment's folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint calibrate shop --queries labelled.csv
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01 --server http://127.0.0.1:50051
  matchpoint calibrate shop --queries labelled/ --target-far 0.001 --confidence 0.99 --dry-run
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01 --grow-to 100000
  matchpoint calibrate shop --queries labelled.csv --target-far 0.05 --remedy measured
  matchpoint calibrate shop --queries labelled.csv --target-far 0.05 --worst-group-of camera
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01 --review-frr 0.2
  matchpoint calibrate shop --gallery-as-queries --equal-error --dry-run --report report.html
  matchpoint calibrate --embeddings vectors.npy --labels rows.csv --target-far 0.01")]
pub(crate) struct Calibrate {
    /// The deployment's folder; its name, with --server
    #[arg(required_unless_present = "embeddings", conflicts_with = "embeddings")]
    deployment: Option<PathBuf>,
    #[command(flatten)]
    server: ServerChoice,
    /// Labelled queries: a folder, a .csv, a .tsv or a .jsonl file, or - for a list on
    /// standard input, as for `build`; of a list with a
    /// column role, the rows of the roles query and unknown
    #[arg(long, value_name = "SOURCE", conflicts_with = "embeddings",
        required_unless_present_any = ["gallery_as_queries", "embeddings"])]
    queries: Option<PathBuf>,
    /// Let each item of the gallery be a query, left out of its own search
    #[arg(long, conflicts_with_all = ["queries", "embeddings"])]
    gallery_as_queries: bool,
    #[command(flatten)]
    exclude: ExcludeFlags,
    /// Seed of all random choices: one query for each label, folds, bootstraps
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    cache: CacheFlags,
    /// The model's folder, if it is not the recorded one
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    model: Option<PathBuf>,
    /// Change nothing, only say what would come out
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shown: ShownFlags,
    #[command(flatten, next_help_heading = "Target")]
    target: TargetFlags,
    /// Tighten the target now for a gallery that will grow to so many items
    #[arg(long, value_name = "ITEMS", help_heading = "Target",
        value_parser = clap::value_parser!(u64).range(1..))]
    grow_to: Option<u64>,
    /// With --target-far: certify it for the strangers of each value of this metadata column by
    /// themselves, and not only for all of them together
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "target_far",
        conflicts_with = "estimated",
        help_heading = "Target"
    )]
    worst_group_of: Option<String>,
    /// The score that is compared with the threshold, in place of the similarity
    #[arg(long, value_enum, default_value_t = RemedyFlag::None, conflicts_with = "embeddings",
        help_heading = "Target")]
    remedy: RemedyFlag,
    /// How much of the best of another label a margin takes off: above 0 to 1
    #[arg(long, value_name = "FACTOR", default_value_t = MarginFactor::DEFAULT.get(),
        conflicts_with = "embeddings", help_heading = "Target", hide_short_help = true)]
    margin_factor: f64,
    /// Which queries stand for strangers
    #[arg(long, value_enum, default_value_t = Strangers::NeverEnrolled, conflicts_with = "embeddings",
        help_heading = "Which queries count")]
    strangers: Strangers,
    #[command(flatten, next_help_heading = "Which queries count")]
    assured: AssuredFlags,
    #[command(flatten, next_help_heading = "Which queries count")]
    fitted: FittedFlags,
    /// Write a report with charts to this HTML file, or to - for standard output
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "server",
        help_heading = "Report"
    )]
    report: Option<PathBuf>,
    /// The images of the gallery, as they were given to `build`: the report shows them
    #[arg(
        long,
        value_name = "SOURCE",
        requires = "report",
        conflicts_with = "embeddings",
        help_heading = "Report"
    )]
    pictures: Option<PathBuf>,
    /// Look at no more pairs than this, and leave pairwise figures out if there are more
    /// [default: 200 million for a deployment, 20 billion for vectors]
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with = "server",
        help_heading = "Report",
        hide_short_help = true
    )]
    pairs_max: Option<u64>,
    /// The range of thresholds that OPIS is measured over, by pairwise FAR
    #[arg(long, value_names = ["LOW", "HIGH"], num_args = 2, default_values_t = [0.01, 0.1],
        conflicts_with = "server", help_heading = "Report", hide_short_help = true)]
    opis_band: Vec<f64>,
    /// How many thresholds of that range are taken, evenly
    #[arg(long, value_name = "COUNT", default_value_t = BAND_POINTS, conflicts_with = "server",
        help_heading = "Report", hide_short_help = true,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=10_000))]
    opis_points: usize,
    #[command(flatten, next_help_heading = "Vectors made elsewhere")]
    arrays: VectorFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The default limit on pairs that are analysed for a deployment, which takes some seconds.
const DEPLOYMENT_PAIRS_MAX: u64 = 200_000_000;

/// What is compared with the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RemedyFlag {
    /// The similarity of the best match
    None,
    /// Normalised by how the item scores against a cohort of the gallery
    ZNorm,
    /// Normalised by how the query does
    TNorm,
    /// Normalised by both
    SNorm,
    /// Normalised by both, against the nearest quarter of the cohort
    AsNorm,
    /// Less a part of the similarity of the best of another label
    Margin,
    /// The same, in units of as-norm
    AsNormMargin,
    /// Nothing, margin, as-norm or both: the one with the lowest FRR, of four thresholds that are
    /// certified together
    Measured,
}

impl Calibrate {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        if let Some(server) = self.server.instead_of(&self.engine)? {
            return self.served()?.run(&server);
        }
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        self.check_band()?;
        let file = OutputFile::at(self.report.as_deref())?;
        let Some(target) = self.target.target()? else {
            return self.menu(file.as_ref(), &engine);
        };
        let settings = CalibrationSettings {
            threshold: ThresholdSettings {
                target,
                seed: self.seed,
                grow_to_items: self.grow_to,
                assured: self.assured.assured(),
                worst_group_of: self.worst_group_of.clone(),
                review: self.target.review()?,
            },
            remedy: self.remedy_choice(),
            margin_factor: self.margin_factor()?,
            leaves_room: true,
        };
        self.refuse_mutual_mates(target)?;
        let Some(folder) = &self.deployment else {
            let scope = self.scope(VectorRequest::PAIRS_MAX);
            let wanted = VectorSettings {
                settings: settings.threshold,
                scope,
            };
            return self.arrays.run(
                &wanted,
                &self.fitted,
                file.as_ref(),
                self.shown(file.is_some()),
            );
        };
        let access = labelled_search::access(self.dry_run);
        let sources = self.sources()?;
        let pictures = self.pictures()?;
        let scope = self.scope(DEPLOYMENT_PAIRS_MAX);
        let deployment = labelled_search::open(folder, self.model.clone(), access, &engine)?;
        self.check_labels(sources.as_ref(), &deployment)?;
        let request = CalibrationRequest {
            pictures: &pictures,
            scope,
            deployment: &Arc::new(deployment),
            sources: sources.as_ref(),
            settings,
            strangers: self.strangers,
            without_fitted: self.fitted.without_fitted,
            dry_run: self.dry_run,
            engine: &engine,
            cache: self.cache,
        };
        let (report, page) = calibrate(&request)?;
        let output = OutputFile::output(file.as_ref(), self.shown.json);
        let shown = self.shown(file.is_some());
        output.result(&report, |report| text(report, folder, shown))?;
        if let Some(file) = file {
            file.write_page(output, &page)?;
        }
        Ok(match (&report.refusal, report.failed.is_empty()) {
            (Some(_), _) => Exit::Underpowered,
            (None, false) => Exit::SomeFailed,
            (None, true) => Exit::Done,
        })
    }
}

impl Calibrate {
    fn shown(&self, has_report: bool) -> Shown {
        Shown {
            json: self.shown.json,
            verbose: self.shown.verbose,
            has_report,
        }
    }

    /// Makes the request to a server.
    fn served(self) -> anyhow::Result<ServedCalibration> {
        let Some(target) = self.target.target()? else {
            let message = "with --server a target is needed: --target-far, --target-frr, --equal-error or --min-cost";
            return Err(fail(Exit::Usage, message));
        };
        self.refuse_mutual_mates(target)?;
        let shown = self.shown(false);
        let deployment = self.deployment.as_deref().map_or(Ok(""), name_of)?;
        let sources = self.sources()?;
        if let (Some(sources), Some(list)) = (&sources, &self.fitted.fitted_on) {
            let labels = alike::labels_of(sources);
            refuse_fitted(list, &labels, self.assured.labels.spellings())?;
        }
        let assured = self.assured.assured();
        let review_frr = self.target.review()?.map(TargetFrr::frr);
        let (wanted, confidence) = served::wanted(target);
        let settings = proto::CalibrationSettings {
            deployment: deployment.to_owned(),
            target: Some(wanted),
            confidence: confidence.unwrap_or_default(),
            estimated: matches!(target, CalibrationTarget::FarEstimated(_)),
            strangers: match self.strangers {
                Strangers::NeverEnrolled => proto::Strangers::NeverEnrolled,
                Strangers::All => proto::Strangers::All,
            }
            .into(),
            seed: self.seed,
            gallery_as_queries: self.gallery_as_queries,
            grow_to_items: self.grow_to.unwrap_or_default(),
            validate_only: self.dry_run,
            operation_id: String::new(),
            remedy: served::remedy(&self.remedy_choice()).into(),
            labels_as_they_are: assured.labels_as_they_are,
            strangers_are_distinct: assured.strangers_are_distinct,
            margin_factor: Some(self.margin_factor()?.get()),
            worst_group_of: self.worst_group_of.unwrap_or_default(),
            review_frr,
            without_cache: self.cache.no_cache,
        };
        Ok(ServedCalibration {
            settings,
            sources,
            shown,
        })
    }

    fn refuse_mutual_mates(&self, target: CalibrationTarget) -> anyhow::Result<()> {
        if self.gallery_as_queries {
            let refused = refuse_mutual_mates(target, self.target.review()?);
            refused.map_err(|cause| fail(Exit::Usage, cause.to_string()))?;
        }
        Ok(())
    }

    /// Checks the labels before any image is embedded.
    fn check_labels(
        &self,
        sources: Option<&ImageSources>,
        deployment: &Deployment,
    ) -> anyhow::Result<()> {
        let enrolled = deployment.view().labels();
        let labels = match sources {
            Some(found) => alike::labels_of(found),
            None => enrolled.iter().map(String::as_str).collect(),
        };
        if let Some(fitted_on) = &self.fitted.fitted_on {
            refuse_fitted(fitted_on, &labels, self.assured.labels.spellings())?;
        }
        alike::check(&labels, &enrolled, self.assured.labels)?;
        Ok(())
    }

    fn sources(&self) -> anyhow::Result<Option<ImageSources>> {
        let queries = self.queries.as_ref();
        let read =
            queries.map(|queries| ImageSources::read_but(queries, Purpose::Search, &self.exclude));
        read.transpose()
    }

    /// Shows the possible targets, and changes nothing.
    fn menu(&self, page: Option<&OutputFile>, engine: &EngineConfig) -> anyhow::Result<Exit> {
        if self.remedy != RemedyFlag::None || self.grow_to.is_some() {
            let message = "--remedy and --grow-to take a target: --target-far, --target-frr, --equal-error or --min-cost";
            return Err(fail(Exit::Usage, message));
        }
        let (confidence, seed) = (self.target.confidence(), self.seed);
        let assured = self.assured.assured();
        let Some(folder) = &self.deployment else {
            let wanted = MenuSettings {
                confidence,
                seed,
                assured,
            };
            return self.arrays.menu(&wanted, &self.fitted, page, self.shown);
        };
        let sources = self.sources()?;
        let model = self.model.clone();
        let deployment = labelled_search::open(folder, model, Access::ReadOnly, engine)?;
        self.check_labels(sources.as_ref(), &deployment)?;
        let deployment = Arc::new(deployment);
        let Probes {
            gathered, failed, ..
        } = searched(
            &deployment,
            sources.as_ref(),
            self.strangers,
            engine,
            self.cache,
        )?
        .but_fitted(self.fitted.without_fitted)?;
        assured
            .spellings(&gathered.alike())
            .map_err(DeploymentError::from)?;
        let counted = assured
            .counts_once()
            .then(|| gathered.counted_once())
            .flatten();
        let counted = counted.as_ref().unwrap_or(&gathered);
        let recording = Recording::new(counted.searches.clone())?;
        let recording = recording.with_repeats(counted.repeats.clone());
        let named = gathered.unnamed.is_none() || assured.strangers_are_distinct;
        let alike = gathered.alike();
        let report = MenuReport {
            outcome: "menu",
            menu: Menu::of(
                recording.trials(),
                MenuRequest {
                    confidence,
                    seed,
                    named,
                    gallery_items: Some(gathered.view().len() as u64),
                },
            )?,
            next: self.next(&folder.display().to_string()),
            failed,
            doubts: Doubts {
                alike: &alike,
                copies: &gathered.copies,
                repeated: &gathered.repeated,
                near_copies: &gathered.near_copies,
                unnamed: gathered.unnamed.as_ref(),
                crowded: gathered.crowded.as_ref(),
                not_compared: gathered.not_compared,
            },
        };
        menu::show(deployment.name(), &report, page, self.shown)
    }

    /// The next command, without its target.
    fn next(&self, deployment: &str) -> String {
        let queries = self.queries.as_ref();
        let queries = queries.map_or_else(
            || "--gallery-as-queries".to_owned(),
            |queries| format!("--queries {}", queries.display()),
        );
        let all = if self.strangers == Strangers::All {
            " --strangers all"
        } else {
            ""
        };
        format!("matchpoint calibrate {deployment} {queries}{all}")
    }

    /// The pictures for a report.
    fn pictures(&self) -> anyhow::Result<Pictures> {
        let mut pictures = Pictures::default();
        if let Some(images) = &self.pictures {
            pictures.add(&ImageSources::read(images, Purpose::Enrol)?);
        }
        Ok(pictures)
    }

    fn margin_factor(&self) -> anyhow::Result<MarginFactor> {
        MarginFactor::new(self.margin_factor).map_err(|cause| fail(Exit::Usage, cause.to_string()))
    }

    fn remedy_choice(&self) -> RemedyChoice {
        match self.remedy {
            RemedyFlag::None => RemedyChoice::None,
            RemedyFlag::ZNorm => RemedyChoice::Named(Remedy::ZNorm),
            RemedyFlag::TNorm => RemedyChoice::Named(Remedy::TNorm),
            RemedyFlag::SNorm => RemedyChoice::Named(Remedy::SNorm),
            RemedyFlag::AsNorm => RemedyChoice::Named(Remedy::AsNorm),
            RemedyFlag::Margin => RemedyChoice::Named(Remedy::Margin),
            RemedyFlag::AsNormMargin => RemedyChoice::Named(Remedy::AsNormMargin),
            RemedyFlag::Measured => RemedyChoice::Measured,
        }
    }

    fn check_band(&self) -> anyhow::Result<()> {
        match self.opis_band.as_slice() {
            [low, high] if 0.0 < *low && low < high && *high < 1.0 => Ok(()),
            _ => Err(fail(
                Exit::Usage,
                "--opis-band takes two FARs, the lower first, each above 0 and below 1",
            )),
        }
    }

    /// Which pairs are analysed, unless flags say otherwise.
    fn scope(&self, pairs_max: u64) -> AnalysisScope {
        let band = match self.opis_band.as_slice() {
            [far_low, far_high] => Band {
                far_low: *far_low,
                far_high: *far_high,
            },
            // clap makes sure that there are two values.
            _ => Band::default(),
        };
        AnalysisScope {
            pairs_max: self.pairs_max.unwrap_or(pairs_max),
            band,
            band_points: self.opis_points,
        }
    }
}
