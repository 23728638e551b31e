//! Snapshots of deployments: taken by a server, and copied from and to it.

use std::ops::ControlFlow;

use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use super::connection::{Client, ClientError, KeyedChannel, refused};
use super::proto::snapshot_service_client::SnapshotServiceClient;
use super::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, ReadSnapshotRequest, ReadSnapshotResponse,
    RestoreSnapshotRequest, RestoreSnapshotResponse, Snapshot, SnapshotMetadata,
    WriteSnapshotRequest,
};

/// A snapshot that is being read from a server.
#[derive(Debug)]
pub struct SnapshotPieces(Streaming<ReadSnapshotResponse>);

impl SnapshotPieces {
    /// The next bytes; `None` at its end.
    ///
    /// # Errors
    /// The server failed, or has gone.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let piece = self.0.message().await.map_err(|status| refused(&status))?;
        Ok(piece.map(|piece| piece.data))
    }
}

impl Client {
    fn snapshots(&self) -> SnapshotServiceClient<KeyedChannel> {
        SnapshotServiceClient::new(self.channel())
    }

    /// Makes the server take a snapshot and store it. `step` gets the bytes done and all bytes; if it
    /// breaks, the server is told to stop.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails, and if the work was stopped.
    pub async fn create_snapshot(
        &self,
        deployment: &str,
        with_index: bool,
        step: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Snapshot, ClientError> {
        let request = CreateSnapshotRequest {
            deployment: deployment.to_owned(),
            with_index,
            ..CreateSnapshotRequest::default()
        };
        let answer = self.snapshots().create_snapshot(request).await;
        let begun = answer.map_err(|status| refused(&status))?.into_inner();
        let mut step = |at: SnapshotMetadata| step(at.done_bytes, at.total_bytes);
        self.finished(begun, &mut step).await
    }

    /// Reads a snapshot that the server keeps.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn read_snapshot(&self, id: &str) -> Result<SnapshotPieces, ClientError> {
        let request = ReadSnapshotRequest {
            snapshot_id: id.to_owned(),
        };
        let answer = self.snapshots().read_snapshot(request).await;
        Ok(SnapshotPieces(
            answer.map_err(|status| refused(&status))?.into_inner(),
        ))
    }

    /// Sends a snapshot to the server, which verifies it, and stores it whole or not at all.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn write_snapshot(
        &self,
        id: &str,
        pieces: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Snapshot, ClientError> {
        let snapshot_id = id.to_owned();
        let messages = pieces.map(move |data| WriteSnapshotRequest {
            snapshot_id: snapshot_id.clone(),
            data,
        });
        let answer = self.snapshots().write_snapshot(messages).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(answer.snapshot.unwrap_or_default())
    }

    /// Removes a snapshot from the server.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), ClientError> {
        let request = DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
        };
        let answer = self.snapshots().delete_snapshot(request).await;
        answer.map(drop).map_err(|status| refused(&status))
    }

    /// Makes the server restore a stored snapshot as a new deployment, and serve it. `step` as in
    /// [`Client::create_snapshot`].
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails, and if the work was stopped.
    pub async fn restore_snapshot(
        &self,
        id: &str,
        deployment: &str,
        step: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<RestoreSnapshotResponse, ClientError> {
        let request = RestoreSnapshotRequest {
            snapshot_id: id.to_owned(),
            deployment: deployment.to_owned(),
            operation_id: String::new(),
        };
        let answer = self.snapshots().restore_snapshot(request).await;
        let begun = answer.map_err(|status| refused(&status))?.into_inner();
        let mut step = |at: SnapshotMetadata| step(at.done_bytes, at.total_bytes);
        self.finished(begun, &mut step).await
    }
}
