//! The gRPC server: converts messages of the protocol to domain calls and back, with status codes, limits and
//! health.

mod access;
mod connections;
mod deployment_paths;
mod descriptors;
mod error;
mod listeners;
mod log_throttle;
mod messages;
mod pace;
mod paced_messages;
mod registry;
mod request_id;
mod restored;
mod services;
mod status;
mod stream;
mod switching;
mod transport;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use tonic::Status;
use tower::{Layer, ServiceExt};

pub use error::ServeError;
pub use listeners::{BoundAddress, CallListener, Listeners, SocketFile, announce, bind};
pub use messages::convert::{measured_rate, review_band};
pub use messages::promises::promise;
pub use registry::{ServedState, UnopenedDeployment};

use crate::config::{EngineConfig, ListenWhen, ServerConfig};
use crate::console::{CallService, Console, ConsoleSetup};
use crate::deployment::{Deployment, DeploymentError, JudgedScore, Models, OpenOptions};
use crate::identity::CallerAccess;
use crate::telemetry;
use access::gate::{Gate, may};
use access::key_ends::KeyEnds;
use connections::of_console;
use deployment_paths::{ToServe, all_deployments, real};
use matchpoint_client::proto;
use matchpoint_client::proto::calibration_service_server::CalibrationServiceServer;
use matchpoint_client::proto::gallery_service_server::GalleryServiceServer;
use matchpoint_client::proto::health::health_server::HealthServer;
use matchpoint_client::proto::longrunning::operations_server::OperationsServer;
use matchpoint_client::proto::monitoring_service_server::MonitoringServiceServer;
use matchpoint_client::proto::operating_point_service_server::OperatingPointServiceServer;
use matchpoint_client::proto::retrieval_service_server::RetrievalServiceServer;
use matchpoint_client::proto::server_service_server::ServerServiceServer;
use matchpoint_client::proto::snapshot_service_server::SnapshotServiceServer;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_embed::pool::ENDING_MAX;
use matchpoint_gallery::Access;
use registry::Registry;
use request_id::RequestIds;
use services::calibration::CalibrationHandler;
use services::health::HealthHandler;
pub use services::health::LIVENESS;
use services::items::ItemHandler;
use services::monitoring::MonitoringHandler;
use services::operating_points::OperatingPointHandler;
use services::operations::Running;
use services::retrieval::RetrievalHandler;
use services::server_info::ServerInfoHandler;
use services::snapshots::Snapshots;
use switching::Switching;
use transport::{Answering, Stack};

/// How long the last answers may take to leave the machine after the last call.
const FLUSH: Duration = Duration::from_millis(300);

/// How long the shutdown waits until deployments are closed. It does not wait for a round of canaries or for a
/// shadow that is being opened, which take longer. It does wait for a worker that does not return, and the
/// journal ends after that.
const CLOSING_MAX: Duration = ENDING_MAX.saturating_add(Duration::from_secs(3));

/// How often gauges are updated, well below any scrape interval.
const GAUGE_INTERVAL: Duration = Duration::from_millis(500);

/// Like [`serve`], but accepts connections only after loading, for a proxy that considers a replica healthy as
/// soon as it can connect.
///
/// # Errors
/// Returns the errors of [`serve`], and an error if the address was taken meanwhile.
pub async fn serve_when_ready(
    bound: BoundAddress,
    config: &ServerConfig,
    load: impl FnOnce() -> Result<ServedState, ServeError> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    tokio::pin!(shutdown);
    let loaded = tokio::select! {
        loaded = spawn_loading(load)? => loaded.unwrap_or(Err(ServeError::LoadingPanicked))?,
        () = &mut shutdown => return Ok(()),
    };
    let listeners = Listeners::beside(bound, config)?;
    announce(&listeners, config)?;
    serve(listeners, config, move || Ok(loaded), shutdown).await
}

/// Loads every deployment of the configuration. Those that are configured by the address of a snapshot are
/// restored first. Blocks.
///
/// # Errors
/// Returns an error if a deployment cannot be opened.
pub fn load(config: &ServerConfig) -> Result<ServedState, ServeError> {
    let config = &restored::with_folders(config)?;
    let models = Models::new(&config.engine, config.queue_len_max);
    let models = models.with_queue_delay(config.queue_delay);
    let models = models.kept_in(config.store.clone());
    let mut models = models.proposed_by(config.qdrant.clone());
    let (mut deployments, mut places) = (BTreeMap::new(), BTreeMap::new());
    let (mut unopened, mut first) = (Vec::new(), None);
    let mut configured = 0;
    for ToServe {
        name,
        place,
        required,
    } in all_deployments(config)?
    {
        let started = Instant::now();
        // Below `data_dir` the name of the folder is used, which a configured deployment may already have.
        if let Some(taken) = name
            .as_ref()
            .filter(|name| !required && deployments.contains_key(*name))
        {
            let path = place.display();
            tracing::error!(%path, name = taken, "not served: another deployment has its name");
            continue;
        }
        let deployment = match open(name.clone(), &place, &mut models, config) {
            Ok(deployment) => deployment,
            // A damaged deployment must not prevent the others from being served.
            Err(error) => {
                let path = place.display();
                tracing::error!(%path, %error, "not served: it cannot be opened");
                unopened.push(UnopenedDeployment::of(name, &place, &error));
                first = first.or(required.then_some(error));
                continue;
            }
        };
        configured += usize::from(required);
        report(&deployment, started.elapsed());
        report_copy(&deployment, config);
        let name = deployment.name().to_owned();
        places.insert(name.clone(), place);
        if deployments
            .insert(name.clone(), Arc::new(deployment))
            .is_some()
        {
            return Err(ServeError::SameName { name });
        }
    }
    // The server is useless if it has none of the configured deployments.
    if let Some(error) = first.filter(|_| configured == 0) {
        return Err(error.into());
    }
    // A configured deployment is the default, whatever else exists below `data_dir`.
    let default = match config.deployments.as_slice() {
        [(_, folder)] => {
            let configured = places.iter().find(|(_, place)| *place == folder);
            configured.map(|(name, _)| name.clone())
        }
        _ => None,
    };
    Ok(ServedState {
        deployments,
        places,
        default,
        unopened,
        runtime_version: models.runtime_version().to_owned(),
        models: Some(Arc::new(Mutex::new(models))),
    })
}

fn open(
    name: Option<String>,
    place: &Path,
    models: &mut Models,
    config: &ServerConfig,
) -> Result<Deployment, DeploymentError> {
    let options = OpenOptions {
        name,
        model: config.model.clone(),
        access: if config.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        },
        journal_dir: config.monitoring.journal_dir.clone(),
        again: false,
    };
    let deployment = Deployment::open(&real(place)?, models, options)?;
    deployment.keep_up(&config.monitoring)?;
    Ok(deployment)
}

fn report(deployment: &Deployment, took: Duration) {
    let (view, model) = (deployment.view(), &deployment.loaded().model);
    let basis = deployment.active_point().basis(&view, JudgedScore::Nothing);
    tracing::info!(
        deployment = deployment.name(),
        items = view.len(),
        labels = view.label_count(),
        model = model.name(),
        precision = model.precision(),
        execution_provider = model.provider(),
        operating_point = basis.operating_point_id.as_deref().unwrap_or("none"),
        seconds = took.as_secs_f64(),
        "deployment loaded"
    );
    match basis.undecided {
        Some(_) => tracing::warn!(
            deployment = deployment.name(),
            reason = deployment.active_point().problem(),
            "no valid operating point: every decision will be UNDECIDED; run `matchpoint calibrate`"
        ),
        None if !basis.within_calibrated_size => tracing::warn!(
            deployment = deployment.name(),
            valid_to_items = basis.calibrated_items,
            "the gallery has outgrown its operating point; recalibrate"
        ),
        None => {}
    }
}

/// Logs if a deployment may come to differ from copies elsewhere, or is not recorded.
fn report_copy(deployment: &Deployment, config: &ServerConfig) {
    let deployment_name = deployment.name();
    if let Some(snapshot) = deployment.copy_of().filter(|_| config.copies_differ()) {
        tracing::warn!(
            deployment = deployment_name,
            snapshot,
            "this is a copy, restored from a snapshot, and takes writes: each makes it differ from the other copies, which decide \
             without it; serve copies with read_only = true, or say by only_copy = true that no other takes writes"
        );
    }
    if config.read_only && config.monitoring.journal_dir.is_none() {
        tracing::warn!(
            deployment = deployment_name,
            "decisions are not recorded: the server is read-only, and no journal_dir is set"
        );
    }
}

/// Serves until `shutdown`, and then lets running requests finish for as long as the configuration allows.
/// While `load` runs, health reports "not serving", and calls are answered with UNAVAILABLE.
///
/// # Errors
/// Returns an error if loading or the transport failed.
pub async fn serve(
    listeners: Listeners,
    config: &ServerConfig,
    load: impl FnOnce() -> Result<ServedState, ServeError> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let registry = Registry::new(config.request_timeout, config.limits.stall);
    let access = CallerAccess::open(&config.access)?;
    let health = HealthHandler::default();
    telemetry::server_started(env!("CARGO_PKG_VERSION"));

    let (stop, stopped) = oneshot::channel::<()>();
    let routes = routes(&registry, config)?.add_service(HealthServer::new(health.clone()));
    let gated = Gate::new(access.clone()).layer(routes.prepare());
    let stack = RequestIds(registry.clone()).layer(gated);
    let key_ends = KeyEnds::new(access.clone());
    let answering = Answering {
        pages: pages(&listeners, &stack, &access, &config.engine),
        stack,
        access,
    };
    let config_of_transport = config.clone();
    let (open, opened) = oneshot::channel::<()>();
    let mut server = tokio::spawn(async move {
        // No connections are accepted meanwhile, because a proxy considers the server ready once one is
        // accepted.
        if config_of_transport.listen_when == ListenWhen::Ready {
            drop(opened.await);
        }
        let stopped = async { drop(stopped.await) };
        transport::serve(listeners, answering, &config_of_transport, stopped).await;
    });

    let loading = spawn_loading(load)?;
    tokio::pin!(shutdown);
    tokio::select! {
        loaded = loading => {
            let loaded = loaded.unwrap_or(Err(ServeError::LoadingPanicked));
            let loaded = loaded.and_then(|loaded| descriptors::check().map(|()| loaded));
            // Nothing will ever be served, so no caller should wait.
            let loaded = Arc::new(loaded.inspect_err(|_| server.abort())?);
            for deployment in loaded.deployments.values() {
                deployment.publish(None);
            }
            for one in &loaded.unopened {
                telemetry::deployment_unopened(&one.name);
            }
            registry.ready(Arc::clone(&loaded));
            services::shadow::open_all(&loaded, config.monitoring.shadow_share);
            drop(loaded);
            tokio::spawn(publish_gauges(registry.watch(), health.clone(), key_ends));
            tokio::spawn(replay_canaries(registry.watch(), config.canaries_every));
            health.serve(true);
            open.send(()).unwrap_or_default();
            telemetry::server_ready(true);
            tracing::info!("ready");
            tokio::select! {
                () = &mut shutdown => {}
                ended = &mut server => return flatten(ended),
            }
        }
        () = &mut shutdown => {}
    }

    tracing::info!(seconds_max = config.drain.as_secs(), "draining");
    telemetry::server_ready(false);
    health.serve(false);
    // Fails only if the server has already ended.
    stop.send(()).unwrap_or_default();
    drain(&registry, &mut server, config.drain).await
}

/// The console, if it has an address. Its pages make calls that are handled like all others.
fn pages<S: Stack + Sync>(
    listeners: &Listeners,
    stack: &S,
    access: &CallerAccess,
    engine: &EngineConfig,
) -> Option<Console> {
    let address = listeners.pages.as_ref()?.local_addr().ok()?;
    let calls = stack.clone().map_request(of_console).map_err(|error| {
        tracing::error!(%error, "a call of the console failed");
        Status::internal("internal error")
    });
    Some(Console::new(ConsoleSetup {
        calls: CallService::new(calls),
        may,
        access: access.clone(),
        address,
        image_limits: ImageLimits {
            bytes_max: engine.image_bytes_max,
            decode_bytes_max: engine.image_decode_bytes_max,
        },
    }))
}

/// Updates gauges that change without calls, as long as the deployments are served.
async fn publish_gauges(
    loaded: impl Fn() -> Option<Arc<ServedState>>,
    health: HealthHandler,
    mut key_ends: KeyEnds,
) {
    let (mut was_whole, mut was_worn_out) = (true, false);
    let mut tick = tokio::time::interval(GAUGE_INTERVAL);
    loop {
        tick.tick().await;
        let Some(loaded) = loaded() else {
            return;
        };
        for deployment in loaded.deployments.values() {
            deployment.publish_gauges();
            if deployment.point_waits() {
                follow_point(deployment);
            }
        }
        key_ends.publish();
        // A damaged deployment makes the server unhealthy until another one replaces it, and one that is behind its
        // store until it has caught up.
        let mut deployments = loaded.deployments.values();
        let is_worn_out = deployments.any(|one| one.is_worn_out());
        let mut deployments = loaded.deployments.values();
        let is_whole =
            !is_worn_out && deployments.all(|one| one.damage().is_none() && !one.is_late());
        if is_whole != was_whole {
            was_whole = is_whole;
            telemetry::server_ready(is_whole);
            health.serve(is_whole);
        }
        if is_worn_out != was_worn_out {
            was_worn_out = is_worn_out;
            telemetry::worn_out(is_worn_out);
            health.live(!is_worn_out);
        }
    }
}

/// Activates the operating point that another server has chosen. That takes the disk, which threads that answer do
/// not wait for.
fn follow_point(deployment: &Arc<Deployment>) {
    let following = Arc::clone(deployment);
    let thread = std::thread::Builder::new().name("point".to_owned());
    let followed = thread.spawn(move || {
        if let Err(error) = following.follow_point() {
            tracing::error!(%error, deployment = following.name(), "the store's operating point cannot decide here");
        }
    });
    if let Err(error) = followed {
        tracing::error!(%error, deployment = deployment.name(), "the store's operating point waits");
    }
}

/// Replays the canaries of every deployment, as long as they are served.
async fn replay_canaries(loaded: impl Fn() -> Option<Arc<ServedState>>, every: Option<Duration>) {
    let Some(every) = every else { return };
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        let Some(loaded) = loaded() else {
            return;
        };
        for deployment in loaded.deployments.values() {
            if let Err(error) = deployment.replay_canaries().await {
                tracing::warn!(%error, deployment = deployment.name(), "canaries were not replayed");
            }
        }
    }
}

/// Waits for running requests. Connections that only watch health do not delay the shutdown.
async fn drain(
    registry: &Registry,
    server: &mut tokio::task::JoinHandle<()>,
    longest: Duration,
) -> Result<(), ServeError> {
    registry.stop_streams();
    let closed = registry.closed();
    let idle = async {
        // Calls that are already on their way are still accepted.
        tokio::time::sleep(FLUSH).await;
        registry.idle().await;
        registry.drain();
        tokio::time::sleep(FLUSH).await;
    };
    let outcome = tokio::select! {
        ended = &mut *server => flatten(ended),
        () = idle => Ok(()),
        () = tokio::time::sleep(longest) => {
            tracing::warn!("requests were still under way at the end of drain_seconds");
            Ok(())
        }
    };
    server.abort();
    registry.drain();
    // Timers may still be using a deployment, and the transport aborts its calls only a moment after it is told
    // to stop.
    if tokio::time::timeout(CLOSING_MAX, closed).await.is_err() {
        tracing::warn!("a deployment was still in use when the server stopped");
    }
    tracing::info!("stopped");
    outcome
}

fn flatten(ended: Result<(), tokio::task::JoinError>) -> Result<(), ServeError> {
    ended.map_err(|_panicked| ServeError::TransportPanicked)
}

fn spawn_loading(
    load: impl FnOnce() -> Result<ServedState, ServeError> + Send + 'static,
) -> Result<oneshot::Receiver<Result<ServedState, ServeError>>, ServeError> {
    let (done, loading) = oneshot::channel();
    let work = move || drop(done.send(load()));
    std::thread::Builder::new()
        .name("loading".to_owned())
        .spawn(work)
        .map_err(ServeError::Thread)?;
    Ok(loading)
}

fn routes(
    registry: &Registry,
    config: &ServerConfig,
) -> Result<tonic::service::Routes, ServeError> {
    let (registry, stream_in_flight_max) = (registry.clone(), config.stream_in_flight_max);
    let limit = config.message_bytes_max;
    let retrieval = RetrievalHandler {
        registry: registry.clone(),
        stream_in_flight_max,
    };
    let items = ItemHandler {
        registry: registry.clone(),
        stream_in_flight_max,
    };
    let points = OperatingPointHandler {
        registry: registry.clone(),
    };
    let running = Running::new(registry.clone());
    let calibration = CalibrationHandler {
        registry: registry.clone(),
        running: running.clone(),
    };
    let snapshots = Snapshots {
        registry: registry.clone(),
        running: running.clone(),
        data_dir: config.data_dir.clone(),
        monitoring: config.monitoring.clone(),
        read_only: config.read_only,
    };
    let monitoring = MonitoringHandler {
        registry: registry.clone(),
    };
    let info = ServerInfoHandler {
        switching: Switching::new(&config.monitoring),
        shadow_share: config.monitoring.shadow_share,
        registry,
        only_copy: !config.copies_differ(),
        message_bytes_max: limit,
        image_decode_bytes_max: config.engine.image_decode_bytes_max,
    };
    let mut routes = tonic::service::Routes::new(
        RetrievalServiceServer::new(retrieval)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit),
    )
    .add_service(
        GalleryServiceServer::new(items)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit),
    )
    .add_service(OperatingPointServiceServer::new(points))
    .add_service(CalibrationServiceServer::new(calibration).max_decoding_message_size(limit))
    .add_service(SnapshotServiceServer::new(snapshots).max_decoding_message_size(limit))
    .add_service(MonitoringServiceServer::new(monitoring))
    .add_service(OperationsServer::new(running))
    .add_service(ServerServiceServer::new(info));
    if config.reflection {
        let failed =
            |cause: tonic_reflection::server::Error| ServeError::Reflection(cause.to_string());
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                // Details of errors, which no call of ours refers to.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes
            .add_service(builder().build_v1().map_err(failed)?)
            .add_service(builder().build_v1alpha().map_err(failed)?);
    }
    Ok(routes)
}
