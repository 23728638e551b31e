//! Replaces a served deployment by another one: opened and verified first, then served, at once or on
//! request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::access::changes::changed;
use super::deployment_paths::real;
use super::registry::{Registry, ServedState};
use super::services::shadow;
use super::status::{from_error, status};
use crate::config::MonitoringConfig;
use crate::deployment::{Deployment, DeploymentError, OpenOptions};
use crate::journal::entry::StateId;
use matchpoint_gallery::Access;
use matchpoint_gallery::error::GalleryError;

/// How long a replaced deployment may take to close, and how often to check.
const CLOSING_MAX: Duration = Duration::from_secs(10);
const CLOSING_PAUSE: Duration = Duration::from_millis(50);
/// How long a prepared deployment is kept: it takes as much memory as the served one.
const PREPARED_MAX: Duration = Duration::from_secs(600);

/// Switches deployments of a server. Clones share what is prepared.
#[derive(Clone, Debug)]
pub(super) struct Switching {
    monitoring: MonitoringConfig,
    /// By name.
    prepared: Arc<Mutex<BTreeMap<String, Arc<Opened>>>>,
}

/// A deployment that is open, and not served yet.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) deployment: Arc<Deployment>,
    place: PathBuf,
}

impl Switching {
    pub(super) fn new(monitoring: &MonitoringConfig) -> Self {
        Self {
            monitoring: monitoring.clone(),
            prepared: Arc::default(),
        }
    }

    /// Opens and verifies what the path of a deployment leads to now.
    pub(super) async fn open(
        &self,
        registry: &Registry,
        served: &Arc<Deployment>,
        undecided_allowed: bool,
    ) -> Result<Opened, Status> {
        // It may be of the same folder, and have its lock.
        self.discard(served);
        let loaded = registry.loaded()?;
        let place = loaded.places.get(served.name()).cloned();
        let place = place.ok_or_else(|| Status::internal("internal error"))?;
        let asked = Instant::now();
        let opened = loop {
            let (monitoring, before) = (self.monitoring.clone(), Arc::clone(served));
            let (opening, loaded) = (place.clone(), Arc::clone(&loaded));
            let open = move || {
                let opened = open_in_place_of(&before, &opening, &loaded, &monitoring)?;
                if let Some(opened) = &opened {
                    refuse_undecided(&before, opened, undecided_allowed)?;
                    opened.keep_up(&monitoring)?;
                }
                Ok(opened.map(Arc::new))
            };
            match registry.heavy(open).await? {
                // Replaced a moment ago: its last requests are just ending.
                Err(
                    DeploymentError::Gallery(GalleryError::InUse { .. })
                    | DeploymentError::RecordsInUse { .. },
                ) if asked.elapsed() < CLOSING_MAX => {
                    tokio::time::sleep(CLOSING_PAUSE).await;
                }
                opened => break opened.map_err(|error| from_error(&error))?,
            }
        };
        let unchanged = || {
            let message = "the deployment's path leads to what is served already; change it first, as `matchpoint switch` does";
            status(Code::FailedPrecondition, "DEPLOYMENT_UNCHANGED", message)
        };
        let deployment = opened.ok_or_else(unchanged)?;
        Ok(Opened { deployment, place })
    }

    /// Keeps an opened deployment beside the served one, for a while.
    pub(super) fn keep(&self, opened: Opened) {
        let (name, opened) = (opened.deployment.name().to_owned(), Arc::new(opened));
        let (prepared, this) = (Arc::clone(&self.prepared), Arc::downgrade(&opened));
        self.lock().insert(name.clone(), opened);
        tokio::spawn(async move {
            tokio::time::sleep(PREPARED_MAX).await;
            let mut prepared = prepared.lock().unwrap_or_else(PoisonError::into_inner);
            let is_it = |kept: &Arc<Opened>| std::ptr::eq(Arc::as_ptr(kept), this.as_ptr());
            if prepared.get(&name).is_some_and(is_it) {
                prepared.remove(&name);
                tracing::warn!(
                    deployment = name,
                    "a prepared deployment is closed: nobody asked for it to be served"
                );
            }
        });
    }

    /// The prepared replacement of a deployment, if it has this state.
    pub(super) fn take(&self, served: &Deployment, state: &str) -> Result<Opened, Status> {
        let mut prepared = self.lock();
        let of_state = |kept: &Arc<Opened>| kept.deployment.state().to_string() == state;
        let found = prepared.get(served.name()).is_some_and(of_state);
        let kept = prepared.remove(served.name()).filter(|_| found);
        kept.and_then(Arc::into_inner).ok_or_else(|| {
            let message = "nothing of this state is prepared: it was closed, served, or replaced meanwhile; prepare it once more";
            status(Code::FailedPrecondition, "NOT_PREPARED", message)
        })
    }

    /// Closes the prepared replacement of a deployment, if there is one.
    pub(super) fn discard(&self, served: &Deployment) {
        let kept = self.lock().remove(served.name());
        if kept.is_some() {
            drop(kept);
            // Its gauges have the same names as those of the served one.
            served.monitor().evaluate_soon();
        }
    }

    /// Serves the opened deployment instead of another, which closes after its last request. If a state is
    /// expected, the other one has to have it until then.
    pub(super) async fn serve(
        &self,
        registry: &Registry,
        served: Arc<Deployment>,
        opened: Opened,
        expected: Option<StateId>,
    ) -> Result<(), Status> {
        let (switching, on) = (self.clone(), registry.clone());
        // Once begun it is completed, even if the caller goes away.
        let replace = move || switching.replace(&on, served, opened, expected);
        registry.piece(replace).await?
    }

    fn replace(
        &self,
        registry: &Registry,
        served: Arc<Deployment>,
        opened: Opened,
        expected: Option<StateId>,
    ) -> Result<(), Status> {
        let loaded = registry.loaded()?;
        // A change that is acknowledged is either in the state that is compared, or in the new deployment.
        let held = served.hold_changes().map_err(|error| from_error(&error))?;
        if let Err(error) = served.check_state(expected) {
            drop((held, opened));
            // Its gauges have the same names.
            served.monitor().evaluate_soon();
            return Err(from_error(&error));
        }
        let Opened { deployment, place } = opened;
        deployment.publish(Some(&served));
        registry.replace(&deployment, &place)?;
        held.for_good();
        let to = deployment.folder().path().display().to_string();
        changed(
            registry.identity(),
            "ReloadDeployment",
            deployment.name(),
            &to,
        );
        tracing::info!(
            deployment = deployment.name(),
            from = %served.folder().path().display(),
            to,
            model = deployment.loaded().model.name(),
            precision = deployment.loaded().model.precision(),
            "deployment switched"
        );
        // Ending its threads takes a moment, which threads that answer do not have.
        let closing = std::thread::Builder::new().name("closing".to_owned());
        let (share, longest) = (self.monitoring.shadow_share, registry.longest());
        let closed = closing.spawn(move || {
            let models = shadow::end(&served, loaded);
            close(served, longest);
            shadow::succeed(&deployment, &place, models, share);
        });
        closed.map_err(|_cause| Status::internal("internal error"))?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Opened>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a deployment after its last request, so that this request's thread need not wait for the
/// deployment's threads; if it takes too long, leaves it to that one.
fn close(mut deployment: Arc<Deployment>, longest: Duration) {
    let asked = Instant::now();
    while asked.elapsed() < longest {
        match Arc::try_unwrap(deployment) {
            Ok(alone) => return drop(alone),
            Err(shared) => deployment = shared,
        }
        std::thread::park_timeout(CLOSING_PAUSE);
    }
}

/// Refuses to replace a deployment that decides by one that cannot, unless that is intended.
fn refuse_undecided(
    served: &Deployment,
    opened: &Deployment,
    undecided_allowed: bool,
) -> Result<(), DeploymentError> {
    let (before, now) = (served.active_point(), opened.active_point());
    if undecided_allowed || before.valid().is_none() || now.valid().is_some() {
        return Ok(());
    }
    let problem = now.problem();
    Err(DeploymentError::NothingWouldDecide { problem })
}

/// What a path leads to now, opened; `None` if that is already served, and nobody else can have changed it.
fn open_in_place_of(
    served: &Deployment,
    place: &Path,
    loaded: &ServedState,
    monitoring: &MonitoringConfig,
) -> Result<Option<Deployment>, DeploymentError> {
    let folder = real(place)?;
    let again = folder == served.folder().path();
    if again && served.access() == Access::ReadWrite {
        return Ok(None);
    }
    let options = OpenOptions {
        name: Some(served.name().to_owned()),
        journal_dir: monitoring.journal_dir.clone(),
        again,
        ..OpenOptions::recorded(served.access())
    };
    loaded.opened(&folder, options).map(Some)
}
