//! Requests to a store.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, Error, GetOptions, GetRange, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
    WriteMultipart,
};
use tokio::task::JoinSet;
use tokio_rustls::rustls::crypto::ring as provider;

use crate::address::StoreKind;
use crate::{ObjectAddress, StoreError, TransferProgress};

/// Time limits of a connection and a request. A request transfers one part at most: slower than 140 kB/s is
/// useless.
const CONNECT_SECONDS: &str = "10 seconds";
const REQUEST_SECONDS: &str = "60 seconds";
/// How often, and for how long, a failed request is repeated.
const RETRIES_MAX: usize = 5;
const RETRY_WAIT: Duration = Duration::from_secs(60);
/// Bytes of a part, and parts in transit at once: 32 MiB of memory. S3 accepts no smaller parts but the
/// last one.
const PART_BYTES: u64 = 8 * 1024 * 1024;
const PARTS_AT_ONCE: usize = 4;
/// Parts of one object, below the 10,000 that S3 accepts: larger files have larger parts.
const PARTS_MAX: u64 = 9000;
/// The content of a claim. A snapshot never has it: a tar begins with a name.
const CLAIM: &str = "matchpoint: this object is being written";
/// The metadata key for a file's version.
const VERSION: &str = "matchpoint_version";
const VERSION_BYTES_MAX: usize = 64;

/// An object, with its store.
struct StoreObject {
    address: ObjectAddress,
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
}

/// The version of an object: the one it was published with, or the store's own for its content; 1 to 64
/// characters, letters and digits.
///
/// # Errors
/// It does not exist, is not complete, or the store refuses or cannot be reached.
pub fn version(address: &ObjectAddress) -> Result<String, StoreError> {
    run(address, async |object| {
        let (meta, version) = object.head().await?;
        let said = version.or(meta.e_tag).unwrap_or_default();
        let plain: String = said.chars().filter(char::is_ascii_alphanumeric).collect();
        let plain: String = plain.chars().take(VERSION_BYTES_MAX).collect();
        if plain.is_empty() {
            return Ok(format!("{}at{}", meta.size, meta.last_modified.timestamp()));
        }
        Ok(plain)
    })
}

/// Writes an object into an empty file. The reader has to verify its checksums.
///
/// # Errors
/// As [`version`], it is replaced meanwhile, the disk, or it was stopped.
pub fn fetch(
    address: &ObjectAddress,
    into: &File,
    progress: TransferProgress<'_>,
) -> Result<(), StoreError> {
    let into = into.try_clone().map_err(|source| StoreError::File {
        address: address.clone(),
        doing: "write",
        source,
    })?;
    run(address, async |object| {
        object.fetch(Arc::new(into), progress).await
    })
}

/// Makes an object of a file, where there is none of the name; `version` is kept beside it, letters and digits.
///
/// # Errors
/// There is one, or one is being written, the store refuses or cannot be reached, the disk, or it was stopped: nothing is left
/// then.
pub fn publish(
    from: &File,
    version: &str,
    address: &ObjectAddress,
    progress: TransferProgress<'_>,
) -> Result<(), StoreError> {
    run(address, async |object| {
        object.claim().await?;
        let written = object.write(from, version, progress).await;
        if written.is_err() {
            object.give_up().await;
        }
        written
    })
}

/// Runs work on an object, on a runtime of its own.
fn run<T>(
    address: &ObjectAddress,
    work: impl AsyncFnOnce(StoreObject) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // Where there is one already, it is the same or does as well.
    drop(provider::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| StoreError::File {
        address: address.clone(),
        doing: "begin",
        source,
    })?;
    runtime.block_on(async { work(StoreObject::of(address)?).await })
}

impl StoreObject {
    fn of(address: &ObjectAddress) -> Result<Self, StoreError> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_WAIT,
        };
        let [connect, request] = [ClientConfigKey::ConnectTimeout, ClientConfigKey::Timeout];
        let url = address.bucket();
        // Whatever else of the environment applies, these times do.
        let built: Result<Arc<dyn ObjectStore>, Error> = match address.kind() {
            StoreKind::S3 => AmazonS3Builder::from_env()
                .with_url(url)
                .with_config(AmazonS3ConfigKey::Client(connect), CONNECT_SECONDS)
                .with_config(AmazonS3ConfigKey::Client(request), REQUEST_SECONDS)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            StoreKind::Google => GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_config(GoogleConfigKey::Client(connect), CONNECT_SECONDS)
                .with_config(GoogleConfigKey::Client(request), REQUEST_SECONDS)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            StoreKind::Azure => MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_config(AzureConfigKey::Client(connect), CONNECT_SECONDS)
                .with_config(AzureConfigKey::Client(request), REQUEST_SECONDS)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
        };
        let store = built.map_err(|error| failed(address, "reach", &error))?;
        let path = ObjectPath::parse(address.key());
        let path = path.map_err(|error| failed(address, "name", &error.into()))?;
        Ok(Self {
            address: address.clone(),
            store,
            path,
        })
    }

    fn failed(&self, doing: &'static str, error: &Error) -> StoreError {
        failed(&self.address, doing, error)
    }

    fn file_failed(&self, doing: &'static str, source: std::io::Error) -> StoreError {
        StoreError::File {
            address: self.address.clone(),
            doing,
            source,
        }
    }

    /// What the store says of the object, and which version was said of it; refuses a claim.
    async fn head(&self) -> Result<(ObjectMeta, Option<String>), StoreError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.store.get_opts(&self.path, options).await;
        let found = found.map_err(|error| self.failed("look at", &error))?;
        let version = found.attributes.get(&Attribute::Metadata(VERSION.into()));
        let version = version.map(|version| version.to_string());
        let meta = found.meta;
        if meta.size == CLAIM.len() as u64 {
            let held = self.store.get(&self.path).await;
            let held = held.map_err(|error| self.failed("read", &error))?.bytes();
            let held = held.await.map_err(|error| self.failed("read", &error))?;
            if held == CLAIM {
                return Err(StoreError::Unfinished {
                    address: self.address.clone(),
                    since: meta.last_modified.to_rfc3339(),
                });
            }
        }
        Ok((meta, version))
    }

    async fn fetch(
        &self,
        into: Arc<File>,
        progress: TransferProgress<'_>,
    ) -> Result<(), StoreError> {
        let (meta, _) = self.head().await?;
        let mut starts = (0..meta.size).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX));
        let (mut parts, mut done) = (JoinSet::new(), 0);
        loop {
            while parts.len() < PARTS_AT_ONCE
                && let Some(start) = starts.next()
            {
                let end = (start + PART_BYTES).min(meta.size);
                let options = GetOptions {
                    if_match: meta.e_tag.clone(),
                    range: Some(GetRange::Bounded(start..end)),
                    ..GetOptions::default()
                };
                let (store, path) = (Arc::clone(&self.store), self.path.clone());
                parts.spawn(async move {
                    let part = store.get_opts(&path, options).await?.bytes().await?;
                    Ok::<_, Error>((start, part))
                });
            }
            let Some(part) = parts.join_next().await else {
                break;
            };
            let part = part.map_err(Error::from).and_then(|part| part);
            let (start, part) = part.map_err(|error| self.failed("read", &error))?;
            let written = into.write_all_at(&part, start);
            written.map_err(|source| self.file_failed("write", source))?;
            done += part.len() as u64;
            if progress(done, meta.size).is_break() {
                return Err(StoreError::Stopped);
            }
        }
        if done != meta.size {
            return Err(StoreError::Changed(self.address.clone()));
        }
        into.sync_all()
            .map_err(|source| self.file_failed("write", source))
    }

    /// Takes the name, if nothing has it.
    async fn claim(&self) -> Result<(), StoreError> {
        let options = PutOptions::from(PutMode::Create);
        let put = self
            .store
            .put_opts(&self.path, PutPayload::from(CLAIM), options);
        match put.await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. }) => {
                self.head().await?;
                Err(StoreError::Exists(self.address.clone()))
            }
            Err(error) => Err(self.failed("write", &error)),
        }
    }

    /// Puts the file in place of the claim, at once and whole.
    async fn write(
        &self,
        from: &File,
        version: &str,
        progress: TransferProgress<'_>,
    ) -> Result<(), StoreError> {
        let about = from.metadata();
        let size = about
            .map_err(|source| self.file_failed("read", source))?
            .len();
        let part_bytes = PART_BYTES.max(size.div_ceil(PARTS_MAX));
        let part_bytes = usize::try_from(part_bytes).unwrap_or(usize::MAX);
        let mut attributes = Attributes::new();
        attributes.insert(
            Attribute::Metadata(VERSION.into()),
            version.to_owned().into(),
        );
        let options = PutMultipartOptions::from(attributes);
        let upload = self.store.put_multipart_opts(&self.path, options).await;
        let upload = upload.map_err(|error| self.failed("write", &error))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, part_bytes);
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        let outcome = loop {
            let read = match from.read_at(&mut buffer, done) {
                Ok(0) => break Ok(()),
                Ok(read) => read,
                Err(source) => break Err(self.file_failed("read", source)),
            };
            if let Err(error) = parts.wait_for_capacity(PARTS_AT_ONCE).await {
                break Err(self.failed("write", &error));
            }
            parts.write(buffer.get(..read).unwrap_or_default());
            done += read as u64;
            if progress(done, size).is_break() {
                break Err(StoreError::Stopped);
            }
        };
        if let Err(error) = outcome {
            // What is left of it is nobody's object; the stores remove it after a time, if they are told to.
            drop(parts.abort().await);
            return Err(error);
        }
        match parts.finish().await {
            Ok(_) => Ok(()),
            // It may have been the answer that was lost, and not the object.
            Err(error) => match self.head().await {
                Ok((meta, _)) if meta.size == size => Ok(()),
                _ => Err(self.failed("write", &error)),
            },
        }
    }

    /// Gives the name back.
    async fn give_up(&self) {
        drop(self.store.delete(&self.path).await);
    }
}

/// The error of a store as one of ours, in its own words but for the body of its answer, which may repeat what it was sent.
fn failed(address: &ObjectAddress, doing: &'static str, error: &Error) -> StoreError {
    let address = address.clone();
    let mut why = without_body(&error.to_string());
    // What is at the bottom of it, such as a refused connection, is not in the library's words.
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let root = causes.last().map(|cause| without_body(&cause.to_string()));
    if let Some(root) = root.filter(|root| !why.contains(root.as_str())) {
        why = format!("{why}: {root}");
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's enum, which may grow"
    )]
    match error {
        Error::NotFound { .. } => StoreError::NotFound(address),
        Error::AlreadyExists { .. } => StoreError::Exists(address),
        Error::Precondition { .. } => StoreError::Changed(address),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied {
            address,
            doing,
            why,
        },
        _ => StoreError::Failed {
            address,
            doing,
            why,
        },
    }
}

fn without_body(words: &str) -> String {
    let words = words
        .split(['<', '{', '\n', '\r'])
        .next()
        .unwrap_or_default();
    words
        .trim_end_matches([':', ' '])
        .chars()
        .take(400)
        .collect()
}
