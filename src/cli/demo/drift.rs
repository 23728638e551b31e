//! `matchpoint demo --drift`: what happens to the promise when the traffic changes, and who notices.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::{NAME, SUPPORTED, Story};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSource, ImageSources, Purpose};
use crate::cli::monitor::drift::rate_text;
use crate::cli::output::percent;
use crate::config::ServerConfig;
use crate::server;
use matchpoint_calibration::binomial::real;
use matchpoint_calibration::monitoring::strata::{Inclusion, Strata};
use matchpoint_client::Client;
use matchpoint_client::proto::calibration_settings::Target;
use matchpoint_client::proto::search_request::Query;
use matchpoint_client::proto::{
    Annotation, AuditedRate, CalibrationSettings, Decision, Evidence, GetDriftResponse,
    GroundTruth, LabelledQuery, SearchRequest, labelled_query,
};

/// Searches of a chapter.
const SEARCHES: usize = 240;
/// The traffic of a chapter.
struct Traffic {
    title: &'static str,
    says: &'static str,
    /// Strangers in ten searches.
    strangers: u64,
    /// Look-alikes in ten strangers.
    look_alikes: u64,
    /// Kinds of pictures that the camera takes.
    kinds: &'static [&'static str],
}

const SHARP: &[&str] = &["rotpersp", "photometric", "combo"];
const BLURRED: &[&str] = &["lowres"];
const USUAL: &[&str] = &["rotpersp", "photometric", "combo", "lowres", "hard"];

const CHAPTERS: [Traffic; 4] = [
    Traffic {
        title: "A quiet week",
        says: "A third of the searches show strangers, as in the calibration.",
        strangers: 3,
        look_alikes: 0,
        kinds: USUAL,
    },
    Traffic {
        title: "Strangers come more often",
        says: "Nine searches of ten. The accept rate falls: neither error rate changes.",
        strangers: 9,
        look_alikes: 0,
        kinds: USUAL,
    },
    Traffic {
        title: "The camera blurs",
        says: "What is enrolled is not recognised any more.",
        strangers: 3,
        look_alikes: 0,
        kinds: BLURRED,
    },
    Traffic {
        title: "Look-alikes arrive",
        says: "The lens is clean again. Three strangers of ten look like something that is enrolled.",
        strangers: 5,
        look_alikes: 3,
        kinds: SHARP,
    },
];

/// The result of a chapter.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chapter {
    title: &'static str,
    searches: usize,
    accept_share: f64,
    drift: GetDriftResponse,
}

/// The pictures that searches are sampled from.
struct PicturePool {
    known: Vec<ImageSource>,
    strangers: Vec<ImageSource>,
    /// Strangers' pictures that are nearest to what is enrolled.
    look_alikes: Vec<ImageSource>,
}

impl Story<'_> {
    /// Serves, lets the traffic change, annotates the sampled decisions, and reports what is then known.
    pub(super) async fn drift(&self) -> anyhow::Result<Vec<Chapter>> {
        let mut config = self.server_config()?;
        // Every decision is sampled: the story has a thousand searches, not a million.
        let every = Strata::usual();
        let rates = vec![Inclusion::ALWAYS; every.count()];
        config.monitoring.strata = Strata::new(every.edges().to_vec(), rates)?;
        self.keep_canaries()?;
        let metrics_at = self.start_metrics()?;
        let (client, stop) = self.start(config).await?;
        self.say(&format!(
            "3. Serve, and let the traffic change. Each search is recorded; here all are sampled, and their truth is known\n   to the demo, which reports it as a person would (`matchpoint audit`). Metrics: http://{metrics_at}/metrics\n"
        ));
        let pool = self.pool(&client).await?;
        let mut draws = StoryDraws(0);
        let mut chapters: Vec<Chapter> = Vec::new();
        for traffic in CHAPTERS {
            let chapter = self.chapter(&client, traffic, &pool, &mut draws);
            chapters.push(chapter.await?);
        }
        self.recalibrate(&client, &pool).await?;
        let [.., last] = CHAPTERS;
        let again = Traffic {
            title: "The same traffic again, after recalibrating",
            says: "A new operating point, with evidence of its own.",
            ..last
        };
        let chapter = self.chapter(&client, again, &pool, &mut draws);
        chapters.push(chapter.await?);
        stop.send(()).unwrap_or_default();
        Ok(chapters)
    }

    /// The queries of the calibration, whose truth is known.
    fn keep_canaries(&self) -> anyhow::Result<()> {
        let queries = self.examples.join("calibrate.csv");
        let folder = &self.demo.deployment;
        self.command(&[&"canaries", &"set", folder, &queries], Exit::Done)?;
        Ok(())
    }

    async fn start(&self, config: ServerConfig) -> anyhow::Result<(Client, oneshot::Sender<()>)> {
        let listeners = server::Listeners::open(&config)?;
        let address = listeners.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = config.clone();
        tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server::serve(listeners, &serving, move || server::load(&config), stopped).await
        });
        let client = Client::connect(&address.to_string()).await?;
        client.wait_until_ready().await?;
        Ok((client, stop))
    }

    /// All pictures whose labels are known. A search shows which strangers are look-alikes.
    async fn pool(&self, client: &Client) -> anyhow::Result<PicturePool> {
        let gallery = ImageSources::read(&self.examples.join("gallery.csv"), Purpose::Enrol)?;
        // With a filter that accepts everything: filtered searches count in no rate.
        let apart = |image| SearchRequest {
            filter: "label != nothing".to_owned(),
            ..request(image)
        };
        let mut pool = PicturePool {
            known: Vec::new(),
            strangers: Vec::new(),
            look_alikes: Vec::new(),
        };
        for file in ["calibrate.csv", "evaluate.csv"] {
            for source in ImageSources::read(&self.examples.join(file), Purpose::Search)?.items {
                let known = gallery.items.iter().any(|item| item.label == source.label);
                let request = apart(std::fs::read(&source.path)?);
                let found = client.search(request, None).await?;
                if known {
                    pool.known.push(source);
                } else if found.decision() == Decision::Accept {
                    pool.look_alikes.push(source);
                } else {
                    pool.strangers.push(source);
                }
            }
        }
        if pool.look_alikes.is_empty() {
            let message = "the sample has no look-alikes any more; was it changed?";
            return Err(fail(Exit::Internal, message));
        }
        Ok(pool)
    }

    async fn chapter(
        &self,
        client: &Client,
        traffic: Traffic,
        pool: &PicturePool,
        draws: &mut StoryDraws,
    ) -> anyhow::Result<Chapter> {
        self.say(&format!("   {}. {}\n", traffic.title, traffic.says));
        let mut accepted = 0_u32;
        let mut reports = Vec::new();
        for _ in 0..SEARCHES {
            let Some((source, told)) = draws.search(&traffic, pool) else {
                let message = "the sample lacks pictures of a kind; was it changed?";
                return Err(fail(Exit::Internal, message));
            };
            let image = std::fs::read(&source.path)?;
            let found = client.search(request(image), None).await?;
            accepted += u32::from(found.decision() == Decision::Accept);
            reports.push(Annotation {
                decision_id: found.decision_id,
                ground_truth: Some(told),
                annotator: "demo".to_owned(),
                ..Annotation::default()
            });
        }
        for refused in client.annotate(NAME, reports).await? {
            refused.map_err(|reason| fail(Exit::Internal, reason))?;
        }
        let chapter = Chapter {
            title: traffic.title,
            searches: SEARCHES,
            accept_share: f64::from(accepted) / real(SEARCHES as u64),
            drift: client.drift(NAME, "").await?,
        };
        self.say(&chapter_text(&chapter));
        tokio::time::sleep(Duration::from_secs(self.demo.pause)).await;
        Ok(chapter)
    }

    /// With current queries: those of the calibration, and the look-alikes among the strangers.
    async fn recalibrate(&self, client: &Client, pool: &PicturePool) -> anyhow::Result<()> {
        self.say(
            "4. Recalibrate, with the look-alikes among the strangers, for the same target.\n",
        );
        let mut sources =
            ImageSources::read(&self.examples.join("calibrate.csv"), Purpose::Search)?;
        let is_new = |label: &str| pool.look_alikes.iter().any(|one| one.label == label);
        sources.items.retain(|source| !is_new(&source.label));
        let queries = sources.items.iter().chain(&pool.look_alikes).map(|source| {
            let image = std::fs::read(&source.path)?;
            Ok(LabelledQuery {
                id: source.id.clone(),
                label: source.label.clone(),
                query: Some(labelled_query::Query::Image(image.into())),
                metadata: source.metadata.clone().into_iter().collect(),
            })
        });
        let queries: Vec<LabelledQuery> = queries.collect::<std::io::Result<_>>()?;
        let [far, confidence] = SUPPORTED;
        let settings = CalibrationSettings {
            deployment: NAME.to_owned(),
            target: Some(Target::TargetFar(far.parse()?)),
            confidence: confidence.parse()?,
            ..CalibrationSettings::default()
        };
        let ended = client.calibrate(settings, tokio_stream::iter(queries));
        let point = ended.await?.result?.operating_point.unwrap_or_default();
        let frr = point.frr.unwrap_or_default();
        self.say(&format!(
            "   threshold {:.4}; FRR at calibration {} [{} .. {} at {}], {} searches of {} labels\n",
            point.threshold,
            percent(frr.rate),
            percent(frr.lower),
            percent(frr.upper),
            percent(frr.confidence),
            frr.trials,
            frr.labels,
        ));
        Ok(())
    }
}

fn request(image: Vec<u8>) -> SearchRequest {
    SearchRequest {
        deployment: NAME.to_owned(),
        query: Some(Query::Image(image.into())),
        limit: 2,
        ..SearchRequest::default()
    }
}

fn chapter_text(chapter: &Chapter) -> String {
    let drift = &chapter.drift;
    let alarm = |evidence: Option<Evidence>, recent: Option<AuditedRate>| {
        let Some(evidence) = evidence.filter(|evidence| evidence.alarm) else {
            return "no alarm";
        };
        if recent.is_some_and(|recent| recent.upper < evidence.limit) {
            "ALARM of before; it stays while this operating point decides"
        } else {
            "ALARM"
        }
    };
    let traffic = match &drift.traffic {
        None => "not compared".to_owned(),
        Some(found) if found.alarm => {
            let first = found.shares.first().map(|share| share.name.as_str());
            format!(
                "ALARM, not like the calibration: {}",
                first.unwrap_or_default()
            )
        }
        Some(_) => "like the calibration, as far as that shows".to_owned(),
    };
    let rows = [
        ("accepted", percent(chapter.accept_share)),
        ("searches", traffic),
        (
            "FAR lately",
            format!(
                "{}: {}",
                rate_text(drift.far_recent),
                alarm(drift.far_evidence, drift.far_recent)
            ),
        ),
        (
            "FRR lately",
            format!(
                "{}: {}",
                rate_text(drift.frr_recent),
                alarm(drift.frr_evidence, drift.frr_recent)
            ),
        ),
    ];
    crate::cli::output::table(&rows)
}

/// splitmix64 (Steele, Lea and Flood 2014): the same story each time.
struct StoryDraws(u64);

impl StoryDraws {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % count.max(1)
    }

    /// A picture of this traffic, and what it shows.
    fn search<'a>(
        &mut self,
        traffic: &Traffic,
        pool: &'a PicturePool,
    ) -> Option<(&'a ImageSource, GroundTruth)> {
        let known = traffic.strangers <= self.below(10);
        let from = if known {
            &pool.known
        } else if self.below(10) < traffic.look_alikes {
            &pool.look_alikes
        } else {
            &pool.strangers
        };
        let taken = |source: &&ImageSource| {
            let kind = source.metadata.get("kind");
            kind.is_none_or(|kind| traffic.kinds.contains(&kind.as_str()))
        };
        let fit: Vec<&ImageSource> = from.iter().filter(taken).collect();
        let drawn = usize::try_from(self.below(fit.len() as u64)).unwrap_or(0);
        let source = fit.get(drawn).copied()?;
        let told = if known {
            GroundTruth::label(source.label.clone())
        } else {
            GroundTruth::stranger(String::new())
        };
        Some((source, told))
    }
}
