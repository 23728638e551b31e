//! What is asked of a store.

use std::fmt;
use std::time::Duration;

use tokio_postgres::IsolationLevel;
use tokio_postgres::types::ToSql;

use crate::connection::{ANSWER_MAX, Failed, StoreAddress, StoreConnection};
use crate::error::RemoteError;
use crate::rows::{
    ItemColumns, column, digest_of, generation_of, item_of, signed, text_of, unsigned,
};
use crate::statements::{
    LEASE_SECONDS, add_generation, add_items, choose_point, generations_after, lock, prepare,
};
use crate::{
    CommittedChange, Fence, Generation, ItemChange, SharedGallery, SharedPoint, SharedPointFile,
    StoreState, schema,
};
use matchpoint_gallery::item::{Item, digest_after, digest_text};

/// The longest time that filling a store with the largest gallery may take.
const FILL_MAX: Duration = Duration::from_secs(6 * 3600);
/// The longest time that a page of changes may take: ten thousand items of the largest dimension.
const PAGE_MAX: Duration = Duration::from_secs(30);
/// How long the store keeps what is no longer so, in seconds: seven days. So old may a snapshot be that a
/// server starts from, and so long is a removed item in the store still.
const HISTORY_SECONDS: f64 = 7.0 * 86_400.0;

/// Number of rows of each kind that are forgotten at once.
const FORGOTTEN_AT_ONCE: i64 = 1000;

/// One gallery in a store. Its calls block.
pub struct SharedStore {
    connection: StoreConnection,
    gallery: SharedGallery,
    /// The name of this server, as a writer.
    writer: String,
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedStore({})", self.connection.shown())
    }
}

impl SharedStore {
    /// Connects, and makes the tables if there are none.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached, or if its tables are of another version.
    pub fn connect(
        address: StoreAddress,
        gallery: SharedGallery,
        writer: String,
    ) -> Result<Self, RemoteError> {
        let mut connection = StoreConnection::new(address)?;
        let shown = connection.shown().to_owned();
        connection.run(ANSWER_MAX, async |client| prepare(client, shown).await)?;
        Ok(Self {
            connection,
            gallery,
            writer,
        })
    }

    /// Hosts and database.
    #[must_use]
    pub fn address(&self) -> &str {
        self.connection.shown()
    }

    /// Tells this store from all others, also from one that was made of a dump of it.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub fn identity(&mut self) -> Result<String, RemoteError> {
        self.connection.run(ANSWER_MAX, async |client| {
            let row = client.query_one(schema::IDENTITY, &[]).await?;
            Ok(column(&row, 0)?)
        })
    }

    /// What the store has now; `None` if the store keeps nothing under this name yet.
    ///
    /// # Errors
    /// Returns an error if the store fails, or if it keeps another gallery, or one of another model, under this
    /// name.
    pub fn latest(&mut self) -> Result<Option<StoreState>, RemoteError> {
        let (gallery, address) = (&self.gallery, self.connection.shown().to_owned());
        self.connection.run(ANSWER_MAX, async |client| {
            let given: [&(dyn ToSql + Sync); 1] = [&gallery.deployment];
            let Some(row) = client.query_opt(schema::LATEST, &given).await? else {
                return Ok(None);
            };
            let dimension: i32 = column(&row, 4)?;
            let compared = [
                ("id", column(&row, 2)?, gallery.gallery_id.clone()),
                ("model", column(&row, 3)?, gallery.model_fingerprint.clone()),
                (
                    "dimension",
                    dimension.to_string(),
                    gallery.dimension.to_string(),
                ),
            ];
            for (what, theirs, ours) in compared {
                if theirs != ours {
                    return Err(Failed::Known(RemoteError::OtherGallery {
                        address,
                        deployment: gallery.deployment.clone(),
                        what,
                        theirs,
                        ours,
                    }));
                }
            }
            Ok(Some(StoreState {
                generation: generation_of(&row)?,
                operating_point: column(&row, 5)?,
            }))
        })
    }

    /// Fills the store with a whole gallery and the operating point that decides in it, in one transaction. `false` if somebody else did meanwhile.
    ///
    /// # Errors
    /// Returns an error if the store fails, or if the items are not those of the generation's digest. Nothing is
    /// written then.
    pub fn fill(
        &mut self,
        generation: Generation,
        items: impl Iterator<Item = Vec<Item>>,
        point: Option<&SharedPoint>,
    ) -> Result<bool, RemoteError> {
        let gallery = &self.gallery;
        self.connection.run(FILL_MAX, async |client| {
            let transaction = client.transaction().await?;
            let dimension = i32::try_from(gallery.dimension).unwrap_or(i32::MAX);
            let given: [&(dyn ToSql + Sync); 6] = [
                &gallery.deployment,
                &gallery.gallery_id,
                &gallery.model_fingerprint,
                &dimension,
                &signed(generation.number),
                &generation.digest.as_slice(),
            ];
            if transaction.execute(schema::ADD_DEPLOYMENT, &given).await? == 0 {
                transaction.rollback().await?;
                return Ok(false);
            }
            let (mut digest, mut count) = ([0; 32], 0);
            for batch in items {
                let columns = ItemColumns::of(&batch);
                digest = digest_after(digest, &columns.checksums, &[]);
                count += batch.len();
                let (name, number) = (&gallery.deployment, generation.number);
                add_items(&transaction, name, number, &columns).await?;
            }
            if digest != generation.digest {
                return Err(Failed::Known(RemoteError::Diverged {
                    generation: generation.number,
                    ours: digest_text(generation.digest),
                    theirs: digest_text(digest),
                }));
            }
            add_generation(&transaction, &gallery.deployment, generation, count).await?;
            if let Some(point) = point {
                let name = &gallery.deployment;
                choose_point(&transaction, name, point, schema::CHOOSE_POINT).await?;
            }
            Ok(transaction.commit().await.map(|()| true)?)
        })
    }

    /// The digest of a generation that the store can be followed from.
    ///
    /// # Errors
    /// Returns an error if the store fails, or if it does not keep what has changed since.
    pub fn digest_at(&mut self, generation: u64) -> Result<Option<[u8; 32]>, RemoteError> {
        let name = &self.gallery.deployment;
        self.connection.run(ANSWER_MAX, async |client| {
            let number = signed(generation);
            let found = client
                .query_opt(schema::DIGEST_AT, &[name, &number])
                .await?;
            if let Some(row) = found {
                return Ok(Some(digest_of(&row, 0)?));
            }
            let oldest = client.query_one(schema::OLDEST, &[name]).await?;
            let oldest = unsigned(column::<Option<i64>>(&oldest, 0)?.unwrap_or_default());
            if generation < oldest {
                return Err(Failed::Known(RemoteError::TooOld { generation, oldest }));
            }
            Ok(None)
        })
    }

    /// Takes the lease if nobody else has it, or renews one's own.
    ///
    /// # Errors
    /// Returns an error if the store fails, or if another server has it.
    pub fn take_lease(&mut self, mine: Option<Fence>) -> Result<Fence, RemoteError> {
        let (name, writer) = (&self.gallery.deployment, &self.writer);
        let before = mine.map(|Fence(number)| number);
        self.connection.run(ANSWER_MAX, async |client| {
            let given: [&(dyn ToSql + Sync); 4] = [name, writer, &before, &LEASE_SECONDS];
            if let Some(row) = client.query_opt(schema::TAKE_LEASE, &given).await? {
                return Ok(Fence(column(&row, 0)?));
            }
            let row = client.query_one(schema::LEASE, &[name]).await?;
            Err(Failed::Known(RemoteError::NotTheWriter {
                writer: column(&row, 0)?,
                left: Duration::try_from_secs_f64(column(&row, 1)?).unwrap_or_default(),
            }))
        })
    }

    /// Lets others write at once.
    ///
    /// # Errors
    /// Returns an error if the store fails. The lease ends by itself then.
    pub fn give_up_lease(&mut self, mine: Fence) -> Result<(), RemoteError> {
        let (name, writer) = (&self.gallery.deployment, &self.writer);
        self.connection.run(ANSWER_MAX, async |client| {
            let given: [&(dyn ToSql + Sync); 3] = [name, writer, &mine.0];
            client.execute(schema::GIVE_UP_LEASE, &given).await?;
            Ok(())
        })
    }

    /// Makes a change, and returns the generation that has it; `None` if nothing was there to remove. It is made
    /// when this returns, also on the synchronous standbys.
    ///
    /// # Errors
    /// Returns an error if the store fails, in which case it is not known whether the change was made; if somebody
    /// else has taken the lease; or if the store is not at the generation `after`.
    pub fn commit(
        &mut self,
        mine: Fence,
        after: u64,
        change: ItemChange<'_>,
    ) -> Result<Option<Generation>, RemoteError> {
        let (name, writer) = (self.gallery.deployment.as_str(), &self.writer);
        self.connection.run(ANSWER_MAX, async |client| {
            let transaction = client.transaction().await?;
            let row = lock(&transaction, name, writer, mine).await?;
            let before = generation_of(&row)?;
            if before.number != after {
                return Err(Failed::Known(RemoteError::Moved {
                    present: before.number,
                    expected: after,
                }));
            }
            let number = before.number + 1;
            let columns = match change {
                ItemChange::Upsert(items) => ItemColumns::of(items),
                ItemChange::Delete(ids) => ItemColumns::of_ids(ids),
            };
            let removed = matches!(change, ItemChange::Delete(_));
            let given: [&(dyn ToSql + Sync); 4] = [&name, &columns.ids, &signed(number), &removed];
            let ended = transaction.query(schema::END_ITEMS, &given).await?;
            if removed && ended.is_empty() {
                transaction.rollback().await?;
                return Ok(None);
            }
            let gone = ended.iter().map(|row| digest_of(row, 0));
            let gone = gone.collect::<Result<Vec<_>, _>>()?;
            if !removed {
                add_items(&transaction, name, number, &columns).await?;
            }
            let generation = Generation {
                number,
                digest: digest_after(before.digest, &columns.checksums, &gone),
            };
            add_generation(&transaction, name, generation, columns.ids.len()).await?;
            let given: [&(dyn ToSql + Sync); 4] = [
                &name,
                &signed(number),
                &generation.digest.as_slice(),
                &LEASE_SECONDS,
            ];
            transaction.execute(schema::ADVANCE, &given).await?;
            transaction.commit().await?;
            Ok(Some(generation))
        })
    }

    /// Chooses the operating point that decides.
    ///
    /// # Errors
    /// Returns an error if the store fails, in which case it is not known whether it was chosen; or if somebody
    /// else has taken the lease.
    pub fn choose(&mut self, mine: Fence, point: &SharedPoint) -> Result<(), RemoteError> {
        let (name, writer) = (self.gallery.deployment.as_str(), &self.writer);
        self.connection.run(PAGE_MAX, async |client| {
            let transaction = client.transaction().await?;
            lock(&transaction, name, writer, mine).await?;
            choose_point(&transaction, name, point, schema::CHOOSE_POINT).await?;
            Ok(transaction.commit().await?)
        })
    }

    /// Chooses the operating point that decides if none was ever chosen, as filling does, which needs no lease.
    ///
    /// # Errors
    /// Returns an error if the store fails, in which case it is not known whether it was chosen.
    pub fn choose_first(&mut self, point: &SharedPoint) -> Result<(), RemoteError> {
        let name = self.gallery.deployment.as_str();
        self.connection.run(PAGE_MAX, async |client| {
            let transaction = client.transaction().await?;
            choose_point(&transaction, name, point, schema::CHOOSE_FIRST_POINT).await?;
            Ok(transaction.commit().await?)
        })
    }

    /// An operating point. It has no files if the store does not keep it.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub fn point(&mut self, id: &str) -> Result<SharedPoint, RemoteError> {
        let name = self.gallery.deployment.as_str();
        self.connection.run(PAGE_MAX, async |client| {
            let rows = client.query(schema::POINT_FILES, &[&name, &id]).await?;
            let files = rows.iter().map(|row| {
                let (kind, bytes) = (column(row, 0)?, column(row, 1)?);
                Ok(SharedPointFile { kind, bytes })
            });
            let files = files.collect::<Result<_, tokio_postgres::Error>>()?;
            let id = id.to_owned();
            Ok(SharedPoint { id, files })
        })
    }

    /// Some of what has changed after a generation, in order; empty if nothing has.
    ///
    /// # Errors
    /// Returns an error if the store fails, if it does not keep all that has changed since, or if a row is not
    /// what its checksum says.
    pub fn changes(&mut self, after: u64) -> Result<Vec<CommittedChange>, RemoteError> {
        let name = self.gallery.deployment.as_str();
        let address = self.connection.shown().to_owned();
        self.connection.run(PAGE_MAX, async |client| {
            // What is forgotten meanwhile is still seen.
            let transaction = client.build_transaction();
            let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead);
            let transaction = transaction.read_only(true).start().await?;
            let generations = generations_after(&transaction, name, after).await?;
            let Some(last) = generations.last() else {
                return Ok(Vec::new());
            };
            let range: [&(dyn ToSql + Sync); 3] = [&name, &signed(after), &signed(last.number)];
            let rows = transaction.query(schema::ITEMS_BETWEEN, &range).await?;
            let removed = transaction.query(schema::REMOVED_BETWEEN, &range).await?;
            transaction.commit().await?;
            let damaged = |what| RemoteError::Damaged {
                address: address.clone(),
                what,
            };
            let mut rows = rows.iter().peekable();
            let mut removed = removed.iter().peekable();
            let mut changes = Vec::with_capacity(generations.len());
            for generation in generations {
                let (mut upserted, mut ids) = (Vec::new(), Vec::new());
                let number = signed(generation.number);
                while let Some(row) = rows.next_if(|row| row.try_get(0).ok() == Some(number)) {
                    upserted.push(item_of(row).map_err(&damaged)?);
                }
                while let Some(row) = removed.next_if(|row| row.try_get(0).ok() == Some(number)) {
                    ids.push(text_of(column(row, 1)?).map_err(&damaged)?);
                }
                changes.push(CommittedChange {
                    generation,
                    upserted,
                    removed: ids,
                });
            }
            Ok(changes)
        })
    }

    /// Forgets some of what ended long ago. `true` if there may be more.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub fn forget(&mut self) -> Result<bool, RemoteError> {
        let name = &self.gallery.deployment;
        self.connection.run(ANSWER_MAX, async |client| {
            let transaction = client.transaction().await?;
            let given: [&(dyn ToSql + Sync); 3] = [name, &HISTORY_SECONDS, &FORGOTTEN_AT_ONCE];
            let generations = transaction
                .execute(schema::FORGET_GENERATIONS, &given)
                .await?;
            let given: [&(dyn ToSql + Sync); 2] = [name, &FORGOTTEN_AT_ONCE];
            let items = transaction.execute(schema::FORGET_ITEMS, &given).await?;
            transaction.commit().await?;
            Ok(signed(generations.max(items)) == FORGOTTEN_AT_ONCE)
        })
    }
}
