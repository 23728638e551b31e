//! What several transactions have in common.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Transaction};

use crate::connection::Failed;
use crate::error::RemoteError;
use crate::rows::{ItemColumns, column, generation_of, signed};
use crate::{Fence, Generation, SharedPoint, schema};

/// How long a lease lasts that is not renewed. Until then nobody else writes after a writer has gone.
pub(super) const LEASE_SECONDS: f64 = 3.0;
/// Number of generations in a page at most.
const GENERATIONS_AT_ONCE: i64 = 256;
/// Number of items in a page from which on it has no further generation.
const ROWS_AT_ONCE: i64 = 512;

/// Makes the tables if there are none, and refuses those of another version.
pub(super) async fn prepare(client: &mut Client, address: String) -> Result<(), Failed> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(schema::ONE_AT_A_TIME).await?;
    let present = transaction.query_one(schema::PRESENT, &[]).await?;
    let (schema_there, tables_there): (bool, bool) = (column(&present, 0)?, column(&present, 1)?);
    if !schema_there {
        transaction
            .batch_execute("CREATE SCHEMA matchpoint")
            .await?;
    }
    if !tables_there {
        transaction.batch_execute(schema::CREATE).await?;
        transaction
            .execute(schema::SET_VERSION, &[&schema::VERSION])
            .await?;
    }
    let row = transaction.query_one(schema::FOUND_VERSION, &[]).await?;
    let found: i32 = column(&row, 0)?;
    if found != schema::VERSION {
        return Err(Failed::Known(RemoteError::OtherSchema {
            address,
            found,
            expected: schema::VERSION,
        }));
    }
    Ok(transaction.commit().await?)
}

/// Locks the deployment until the transaction ends, and refuses whoever has not its lease.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    deployment: &str,
    writer: &str,
    mine: Fence,
) -> Result<Row, Failed> {
    let row = transaction.query_one(schema::LOCK, &[&deployment]).await?;
    let (theirs, fence): (String, i64) = (column(&row, 2)?, column(&row, 3)?);
    if theirs == writer && fence == mine.0 {
        return Ok(row);
    }
    Err(Failed::Known(RemoteError::NotTheWriter {
        writer: theirs,
        left: Duration::try_from_secs_f64(column(&row, 4)?).unwrap_or_default(),
    }))
}

pub(super) async fn choose_point(
    transaction: &Transaction<'_>,
    deployment: &str,
    point: &SharedPoint,
    choose: &str,
) -> Result<(), Failed> {
    for file in &point.files {
        let given: [&(dyn ToSql + Sync); 4] = [&deployment, &point.id, &file.kind, &file.bytes];
        transaction.execute(schema::ADD_POINT_FILE, &given).await?;
    }
    let given: [&(dyn ToSql + Sync); 2] = [&deployment, &point.id];
    transaction.execute(choose, &given).await?;
    Ok(())
}

pub(super) async fn add_items(
    transaction: &Transaction<'_>,
    deployment: &str,
    generation: u64,
    columns: &ItemColumns,
) -> Result<(), Failed> {
    let checksums: Vec<&[u8]> = columns.checksums.iter().map(<[u8; 32]>::as_slice).collect();
    let given: [&(dyn ToSql + Sync); 9] = [
        &deployment,
        &signed(generation),
        &columns.ids,
        &columns.labels,
        &columns.metadata,
        &columns.sources,
        &columns.embeddings,
        &checksums,
        &columns.images,
    ];
    transaction.execute(schema::ADD_ITEMS, &given).await?;
    Ok(())
}

pub(super) async fn add_generation(
    transaction: &Transaction<'_>,
    deployment: &str,
    generation: Generation,
    changes: usize,
) -> Result<(), Failed> {
    let given: [&(dyn ToSql + Sync); 4] = [
        &deployment,
        &signed(generation.number),
        &generation.digest.as_slice(),
        &signed(changes as u64),
    ];
    transaction.execute(schema::ADD_GENERATION, &given).await?;
    Ok(())
}

/// The generations of one page, without a gap.
pub(super) async fn generations_after(
    transaction: &Transaction<'_>,
    deployment: &str,
    after: u64,
) -> Result<Vec<Generation>, Failed> {
    let given: [&(dyn ToSql + Sync); 3] = [&deployment, &signed(after), &GENERATIONS_AT_ONCE];
    let found = transaction.query(schema::GENERATIONS_AFTER, &given).await?;
    let (mut generations, mut rows) = (Vec::new(), 0);
    for row in &found {
        let generation = generation_of(row)?;
        let expected = after + 1 + generations.len() as u64;
        if generation.number != expected {
            return Err(Failed::Known(RemoteError::TooOld {
                generation: after,
                oldest: generation.number,
            }));
        }
        rows += column::<i64>(row, 2)?;
        generations.push(generation);
        if ROWS_AT_ONCE <= rows {
            break;
        }
    }
    Ok(generations)
}
