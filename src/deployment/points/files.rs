//! The files of a deployment's operating points: each with the searches that it was made from, its items, its
//! traffic and its cohort.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::deployment::DeploymentError;
use crate::deployment::calibration::calibrated::Calibrated;
use crate::deployment::folder::{Folder, OPERATING_POINTS};
use crate::files::{open_file, read_file, replace_file};
use matchpoint_calibration::adjustment::{Adjuster, Adjustment};
use matchpoint_calibration::cohort::Cohort;
use matchpoint_calibration::monitoring::traffic::TrafficReference;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::recording::Recording;
use matchpoint_gallery::item_set::ItemSet;

/// The folder of the searches that operating points were made from, by id of the operating point.
pub(in crate::deployment) const RECORDINGS: &str = "recordings";
/// The folder of the cohorts, by digest.
pub(in crate::deployment) const COHORTS: &str = "cohorts";
/// The folder of the items that operating points were calibrated on, by operating point: of one gallery, two
/// calibrations may have searched for different labels.
pub(in crate::deployment) const CALIBRATED_ITEMS: &str = "calibrated-items";
/// The folder of the descriptions of calibration queries, by operating point.
pub(in crate::deployment) const CALIBRATED_TRAFFIC: &str = "calibrated-traffic";
/// The highest size in bytes, for 32 directions of 8,192 components as text. A larger file was not written by
/// this program.
const CALIBRATED_TRAFFIC_BYTES_MAX: u64 = 1 << 23;
/// The highest size in bytes, for a thousand embeddings and labels. A larger file was not written by this
/// program.
const COHORT_BYTES_MAX: u64 = 1 << 28;
/// The highest size in bytes, for 32,768 checksums. A larger file was not written by this program.
const CALIBRATED_ITEMS_BYTES_MAX: u64 = 1 << 20;
/// The highest size in bytes, for millions of searches with 300 bytes each. A larger file was not written by
/// this program.
const RECORDING_BYTES_MAX: u64 = 1 << 30;

impl Folder {
    /// Every operating point, the oldest first, each verified against its id.
    ///
    /// # Errors
    /// Returns an error if an operating point is damaged or the disk fails.
    pub fn operating_points(&self) -> Result<Vec<OperatingPoint>, DeploymentError> {
        let folder = self.path().join(OPERATING_POINTS);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(DeploymentError::io(&folder, &cause)),
        };
        let mut points = Vec::new();
        for entry in entries {
            let path = entry
                .map_err(|cause| DeploymentError::io(&folder, &cause))?
                .path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with("op-") && name.ends_with(".json") {
                points.push(read_operating_point(&path)?);
            }
        }
        points.sort_by(|a, b| (&a.content().created, a.id()).cmp(&(&b.content().created, b.id())));
        Ok(points)
    }

    /// The active operating point, if there is one.
    ///
    /// # Errors
    /// Returns an error if the file is missing or damaged.
    pub fn active_operating_point(&self) -> Result<Option<OperatingPoint>, DeploymentError> {
        let Some(id) = &self.record().active_operating_point else {
            return Ok(None);
        };
        self.operating_point(id).map(Some)
    }

    /// One operating point.
    ///
    /// # Errors
    /// Returns an error if there is no operating point with this id or it is damaged.
    pub fn operating_point(&self, id: &str) -> Result<OperatingPoint, DeploymentError> {
        let unknown = || DeploymentError::OperatingPointNotFound { id: id.to_owned() };
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(unknown());
        }
        let path = self.operating_point_file(id);
        if !path.exists() {
            return Err(unknown());
        }
        read_operating_point(&path)
    }

    /// The operating point with this id, or the active one if no id is given.
    ///
    /// # Errors
    /// Returns an error if there is no operating point with this id, if none is active, or if it is damaged.
    pub fn operating_point_or_active(
        &self,
        id: Option<&str>,
    ) -> Result<OperatingPoint, DeploymentError> {
        let active = self.record().active_operating_point.as_deref();
        let none = || DeploymentError::OperatingPointNotFound {
            id: "(active)".to_owned(),
        };
        self.operating_point(id.or(active).ok_or_else(none)?)
    }

    /// Stores an operating point and the searches that it was made from, without activating it.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn add_operating_point(&self, calibrated: &Calibrated) -> Result<(), DeploymentError> {
        let Calibrated {
            point,
            recording,
            items,
            traffic,
            adjuster,
        } = calibrated;
        if let Some(cohort) = adjuster.as_ref().and_then(Adjuster::cohort) {
            self.add_cohort(cohort)?;
        }
        let folder = self.path().join(RECORDINGS);
        fs::create_dir_all(&folder).map_err(|cause| DeploymentError::io(&folder, &cause))?;
        let path = self.recording_file(point.id());
        let json = recording.to_json();
        let json = json.map_err(|cause| unwritable(&path, &cause))?;
        if RECORDING_BYTES_MAX < json.len() as u64 {
            return Err(DeploymentError::Argument {
                argument: "queries",
                problem: format!(
                    "take {} bytes as a record, and {RECORDING_BYTES_MAX} are the limit; use fewer, or shorter ids and metadata",
                    json.len()
                ),
            });
        }
        // Written first, so that an operating point never lacks the data that it was made from.
        replace_file(&path, &json)?;
        self.add_calibrated_items(point, items)?;
        self.add_calibrated_traffic(point.id(), traffic)?;
        let path = self.operating_point_file(point.id());
        let json = point.to_json().map_err(|cause| unwritable(&path, &cause))?;
        Ok(replace_file(&path, json.as_bytes())?)
    }

    /// Stores the items that an operating point was calibrated on.
    fn add_calibrated_items(
        &self,
        point: &OperatingPoint,
        items: &ItemSet,
    ) -> Result<(), DeploymentError> {
        let folder = self.path().join(CALIBRATED_ITEMS);
        fs::create_dir_all(&folder).map_err(|cause| DeploymentError::io(&folder, &cause))?;
        Ok(replace_file(
            &self.calibrated_items_file(point),
            &items.to_bytes(),
        )?)
    }

    /// The items that an operating point was calibrated on. Without them, its promise ends with the first
    /// change of the gallery.
    ///
    /// # Errors
    /// Returns an error that names the file if the list was not stored, is damaged, or belongs to another
    /// gallery.
    pub fn calibrated_items(&self, point: &OperatingPoint) -> Result<ItemSet, DeploymentError> {
        let path = self.calibrated_items_file(point);
        let mut bytes = Vec::new();
        open_file(&path)
            .and_then(|file| {
                file.take(CALIBRATED_ITEMS_BYTES_MAX)
                    .read_to_end(&mut bytes)
            })
            .map_err(|cause| DeploymentError::io(&path, &cause))?;
        let damaged = |problem: String| DeploymentError::Damaged {
            path: path.clone(),
            problem,
        };
        let items = ItemSet::from_bytes(&bytes).map_err(|problem| damaged(problem.to_owned()))?;
        if items.gallery_digest() == point.content().binding.gallery_digest {
            return Ok(items);
        }
        Err(damaged(format!(
            "it lists the items of another gallery than the one that {} was calibrated on; restore the file, or recalibrate",
            point.id()
        )))
    }

    /// Whether the items that an operating point was calibrated on were stored, damaged or not.
    #[must_use]
    pub fn keeps_calibrated_items(&self, point: &OperatingPoint) -> bool {
        self.calibrated_items_file(point).exists()
    }

    /// Stores the description of an operating point's queries.
    fn add_calibrated_traffic(
        &self,
        id: &str,
        traffic: &TrafficReference,
    ) -> Result<(), DeploymentError> {
        let folder = self.path().join(CALIBRATED_TRAFFIC);
        fs::create_dir_all(&folder).map_err(|cause| DeploymentError::io(&folder, &cause))?;
        let path = self.calibrated_traffic_file(id);
        let json = traffic.to_json(id);
        let json = json.map_err(|cause| unwritable(&path, &cause))?;
        Ok(replace_file(&path, &json)?)
    }

    /// The description of an operating point's queries; `None` if it was not stored.
    ///
    /// # Errors
    /// Returns an error that names the file if it is damaged, or belongs to another operating point.
    pub fn calibrated_traffic(
        &self,
        id: &str,
    ) -> Result<Option<TrafficReference>, DeploymentError> {
        let path = self.calibrated_traffic_file(id);
        let mut bytes = Vec::new();
        let read = open_file(&path).and_then(|file| {
            let mut limited = file.take(CALIBRATED_TRAFFIC_BYTES_MAX);
            limited.read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => {}
            // Operating points of earlier versions have none.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(DeploymentError::io(&path, &cause)),
        }
        TrafficReference::from_json(&bytes, id)
            .map(Some)
            .map_err(|problem| DeploymentError::Damaged { path, problem })
    }

    fn calibrated_traffic_file(&self, id: &str) -> PathBuf {
        self.path()
            .join(CALIBRATED_TRAFFIC)
            .join(format!("{id}.json"))
    }

    /// Stores a cohort under its digest.
    fn add_cohort(&self, cohort: &Cohort) -> Result<(), DeploymentError> {
        let folder = self.path().join(COHORTS);
        fs::create_dir_all(&folder).map_err(|cause| DeploymentError::io(&folder, &cause))?;
        let digest = cohort.digest()?;
        let path = self.cohort_file(&digest);
        Ok(replace_file(&path, &cohort.to_bytes()?)?)
    }

    /// The adjustment of scores for an operating point; `None` if the similarity is compared with its
    /// threshold.
    ///
    /// # Errors
    /// Returns an error if its cohort is missing or damaged, or if the disk fails.
    pub fn adjuster(&self, point: &OperatingPoint) -> Result<Option<Adjuster>, DeploymentError> {
        let (how, digest, margin) = match &point.content().adjustment {
            None => return Ok(None),
            Some(Adjustment::Margin { factor }) => return Ok(Some(Adjuster::margin(*factor))),
            Some(Adjustment::Normalised {
                how,
                cohort,
                margin,
                ..
            }) => (*how, cohort, *margin),
        };
        let path = self.cohort_file(digest);
        let damaged = |problem: String| DeploymentError::Damaged {
            path: path.clone(),
            problem,
        };
        if !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(damaged("its name is no digest".to_owned()));
        }
        let file = open_file(&path).map_err(|cause| DeploymentError::io(&path, &cause))?;
        let mut bytes = Vec::new();
        file.take(COHORT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|cause| DeploymentError::io(&path, &cause))?;
        let cohort = Cohort::parse(&bytes).map_err(|cause| damaged(cause.to_string()))?;
        if cohort.digest()? != *digest {
            return Err(damaged("its content is not what its name says".to_owned()));
        }
        let normalising = Adjuster::normalising(how, cohort)?;
        Ok(Some(match margin {
            Some(factor) => normalising.with_margin(factor),
            None => normalising,
        }))
    }

    /// The searches that an operating point was made from; `None` if they were not stored.
    ///
    /// # Errors
    /// Returns an error if there is no such operating point, if its recording is damaged, or if the disk fails.
    pub fn recording(&self, id: &str) -> Result<Option<Recording>, DeploymentError> {
        let point = self.operating_point(id)?;
        let path = self.recording_file(id);
        let damaged = |problem: String| DeploymentError::Damaged {
            path: path.clone(),
            problem,
        };
        match fs::metadata(&path) {
            Ok(metadata) if RECORDING_BYTES_MAX < metadata.len() => {
                return Err(damaged(format!(
                    "it has {} bytes, which no recording has",
                    metadata.len()
                )));
            }
            Ok(_) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(DeploymentError::io(&path, &cause)),
        }
        let json = read_file(&path).map_err(|cause| DeploymentError::io(&path, &cause))?;
        let recording = Recording::parse(&json).map_err(|cause| damaged(cause.to_string()))?;
        if recording.trials().digest() != point.content().calibration_digest {
            return Err(damaged("it belongs to another operating point".to_owned()));
        }
        Ok(Some(recording))
    }

    fn calibrated_items_file(&self, point: &OperatingPoint) -> PathBuf {
        self.path()
            .join(CALIBRATED_ITEMS)
            .join(format!("{}.items", point.id()))
    }

    fn cohort_file(&self, digest: &str) -> PathBuf {
        self.path().join(COHORTS).join(format!("{digest}.cohort"))
    }

    fn recording_file(&self, id: &str) -> PathBuf {
        self.path().join(RECORDINGS).join(format!("{id}.json"))
    }

    fn operating_point_file(&self, id: &str) -> PathBuf {
        self.path()
            .join(OPERATING_POINTS)
            .join(format!("{id}.json"))
    }
}

fn unwritable(path: &Path, cause: &impl std::fmt::Display) -> DeploymentError {
    DeploymentError::Damaged {
        path: path.to_owned(),
        problem: cause.to_string(),
    }
}

fn read_operating_point(path: &Path) -> Result<OperatingPoint, DeploymentError> {
    let damaged = |problem: String| DeploymentError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let text = read_file(path).map_err(|cause| DeploymentError::io(path, &cause))?;

    let point = OperatingPoint::parse(&text).map_err(|cause| damaged(cause.to_string()))?;
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(point.id()) {
        return Err(damaged(format!(
            "it holds {}, not what its name says",
            point.id()
        )));
    }
    Ok(point)
}
