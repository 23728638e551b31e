//! The ONNX Runtime library, which is found, loaded once for the process, and identified by version and path.

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

/// A loaded ONNX Runtime. It is cheap to clone, and a process has only one.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<LoadedRuntime>);

#[derive(Debug)]
struct LoadedRuntime {
    environment: Environment,
    path: PathBuf,
    version: String,
}

/// A place where the library may be.
#[derive(Clone, Debug)]
pub struct RuntimeCandidate {
    /// The library file.
    pub path: PathBuf,
    /// The origin of this path for messages: an option, a variable or a default.
    pub origin: &'static str,
    /// Whether the library must exist here, because an operator named the path.
    pub required: bool,
}

/// The reasons why ONNX Runtime could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// None of the candidates exists.
    #[error(
        "the ONNX Runtime library was not found; looked at:{}\nto get it, run `make runtime` \
         (scripts/fetch-onnxruntime.sh), or `pip download --no-deps onnxruntime==1.32.0`, unzip \
         the wheel and let ORT_DYLIB_PATH name its onnxruntime/capi/libonnxruntime.so.1.32.0",
        places(candidates)
    )]
    NotFound {
        /// The places looked at, in order.
        candidates: Vec<RuntimeCandidate>,
    },
    /// There is no file at a path that an operator named.
    #[error("there is no ONNX Runtime library at {} ({origin})", path.display())]
    RequiredMissing {
        /// The place.
        path: PathBuf,
        /// The origin of the path.
        origin: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read the ONNX Runtime library {} ({origin}): {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The origin of the path.
        origin: &'static str,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// The file is not a library, but for example a text, an archive, or a pointer to the real file.
    #[error("{} ({origin}) is not a shared library", path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// The origin of the path.
        origin: &'static str,
    },
    /// The system's loader or the library itself refused.
    #[error("cannot load the ONNX Runtime library {} ({origin}): {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The origin of the path.
        origin: &'static str,
        /// The reason.
        reason: String,
    },
    /// The library is too old for the interface that this program was built for.
    #[error(
        "{} ({origin}) is ONNX Runtime {found}; version 1.{minor_min} or newer is needed",
        path.display()
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// The origin of the path.
        origin: &'static str,
        /// Its version.
        found: String,
        /// The lowest minor version that can be used.
        minor_min: u32,
    },
    /// Another library is already loaded; a process can have only one.
    #[error("this process has loaded {} already and cannot load {} too", loaded.display(), path.display())]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The library that was requested.
        path: PathBuf,
    },
}

fn places(candidates: &[RuntimeCandidate]) -> String {
    candidates
        .iter()
        .map(|place| format!("\n  {} ({})", place.path.display(), place.origin))
        .collect()
}

/// The binding allows one environment in the life of a process, so it is kept for ever.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the first candidate that exists. Asking again for the same file gives the same runtime.
    ///
    /// # Errors
    /// Returns an error if no candidate exists, if a required one does not, if another library is already
    /// loaded, or if the file is not a loadable ONNX Runtime of a new enough version.
    pub fn load(candidates: &[RuntimeCandidate]) -> Result<Self, RuntimeError> {
        let RuntimeCandidate { path, origin, .. } = choose(candidates)?;
        let origin = *origin;
        // The path is made absolute, because the binding would look next to the executable first, and links are
        // resolved, because the library looks for its CUDA part next to the real file.
        let read = |cause| RuntimeError::Read {
            path: path.clone(),
            origin,
            cause,
        };
        let path = path.canonicalize().map_err(read)?;
        if !is_library(&path).map_err(read)? {
            return Err(RuntimeError::NotALibrary { path, origin });
        }
        let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = slot.as_ref() {
            if runtime.0.path == path {
                return Ok(runtime.clone());
            }
            return Err(RuntimeError::AlreadyLoaded {
                loaded: runtime.0.path.clone(),
                path,
            });
        }
        let runtime = Self(Arc::new(initialise(path, origin)?));
        *slot = Some(runtime.clone());
        Ok(runtime)
    }

    /// The library's version, such as "1.32.0".
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The library's file, as an absolute path without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.0.environment
    }
}

fn choose(candidates: &[RuntimeCandidate]) -> Result<&RuntimeCandidate, RuntimeError> {
    for candidate in candidates {
        if candidate.path.is_file() {
            return Ok(candidate);
        }
        if candidate.required {
            let RuntimeCandidate { path, origin, .. } = candidate.clone();
            return Err(RuntimeError::RequiredMissing { path, origin });
        }
    }
    Err(RuntimeError::NotFound {
        candidates: candidates.to_vec(),
    })
}

/// Whether the file starts like ELF, Mach-O or PE. The loader's own messages for other files ("invalid ELF
/// header", "file too short") do not help a user.
fn is_library(path: &Path) -> std::io::Result<bool> {
    const BEGINNINGS: [&[u8]; 4] = [b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ"];
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(BEGINNINGS
        .iter()
        .any(|beginning| start.starts_with(beginning)))
}

fn initialise(path: PathBuf, origin: &'static str) -> Result<LoadedRuntime, RuntimeError> {
    let refused = |reason| RuntimeError::Refused {
        path: path.clone(),
        origin,
        reason,
    };
    // The binding's lazy loader is not used, because it panics.
    let builder = ort::init_from(&path).map_err(|cause| match cause {
        ort::LoadDynamicError::BadVersion {
            version_str: found, ..
        } => RuntimeError::TooOld {
            path: path.clone(),
            origin,
            found,
            minor_min: ort::MINOR_VERSION,
        },
        ort::LoadDynamicError::Dlopen { error, .. } => refused(with_causes(&error)),
        ort::LoadDynamicError::MissingApi { .. } => {
            refused("it is another library: it has no OrtGetApiBase".to_owned())
        }
        ort::LoadDynamicError::InvalidVersionString => refused(cause.to_string()),
    })?;
    let environment = builder
        .with_name("matchpoint")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|cause| refused(cause.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    let version = version(&path);
    Ok(LoadedRuntime {
        environment,
        path,
        version,
    })
}

/// An error with its causes, because only they contain the loader's own message.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Logs the library's own messages. Every failure is also returned to the caller, so even its "errors" are only
/// details here.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => {
            tracing::trace!(target: "onnxruntime", category, location, "{message}");
        }
        LogLevel::Warning | LogLevel::Error | LogLevel::Fatal => {
            tracing::debug!(target: "onnxruntime", category, location, "{message}");
        }
    }
}

/// The version by which the library's build marks its symbols (`VERS_1.32.0`). The binding only reports the
/// minor version, which is used if there is no such mark.
fn version(path: &Path) -> String {
    let minor = ort::util::probe(path).unwrap_or(ort::MINOR_VERSION);
    let short = format!("1.{minor}");
    marked_version(path, &format!("VERS_{short}.")).unwrap_or(short)
}

fn marked_version(path: &Path, mark: &str) -> Option<String> {
    /// The symbol names are near the start of the file.
    const BYTES_MAX: u64 = 4 << 20;
    let mut start = Vec::new();
    File::open(path)
        .ok()?
        .take(BYTES_MAX)
        .read_to_end(&mut start)
        .ok()?;
    let at = start
        .windows(mark.len())
        .position(|window| window == mark.as_bytes())?;
    let text = start.get(at + "VERS_".len()..)?;
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
    String::from_utf8(text.get(..end)?.to_vec()).ok()
}
