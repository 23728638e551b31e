//! The tables of a store, and the statements that use them.

/// The version of the tables; other versions are refused.
pub(super) const VERSION: i32 = 1;

/// Makes the tables. Names are bytes, so that the encoding of the database plays no part, and a value may hold
/// U+0000. Vectors do not compress.
pub(super) const CREATE: &str = "
CREATE TABLE matchpoint.about (version int NOT NULL);
CREATE TABLE matchpoint.deployment (
    name text PRIMARY KEY,
    gallery_id text NOT NULL,
    model_fingerprint text NOT NULL,
    dimension int NOT NULL,
    generation bigint NOT NULL,
    digest bytea NOT NULL,
    operating_point text,
    writer text NOT NULL DEFAULT '',
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT to_timestamp(0)
);
CREATE TABLE matchpoint.generation (
    deployment text NOT NULL REFERENCES matchpoint.deployment,
    number bigint NOT NULL,
    digest bytea NOT NULL,
    changes bigint NOT NULL,
    committed timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (deployment, number)
);
CREATE TABLE matchpoint.point_file (
    deployment text NOT NULL REFERENCES matchpoint.deployment,
    operating_point text NOT NULL,
    kind text NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (deployment, operating_point, kind)
);
CREATE TABLE matchpoint.item (
    deployment text NOT NULL,
    id bytea NOT NULL,
    generation bigint NOT NULL,
    ended bigint,
    removed boolean NOT NULL DEFAULT false,
    label bytea NOT NULL,
    metadata bytea NOT NULL,
    source_sha256 bytea,
    embedding bytea NOT NULL,
    checksum bytea NOT NULL,
    image bytea
);
ALTER TABLE matchpoint.item ALTER COLUMN embedding SET STORAGE EXTERNAL;
ALTER TABLE matchpoint.item ALTER COLUMN image SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX item_now ON matchpoint.item (deployment, id) WHERE ended IS NULL;
CREATE INDEX item_began ON matchpoint.item (deployment, generation);
CREATE INDEX item_ended ON matchpoint.item (deployment, ended) WHERE ended IS NOT NULL;
";

/// What every connection begins with. A change is acknowledged when it is visible on the synchronous standbys.
/// There is no `statement_timeout`, whatever the database or the user has: it would have a change acknowledged that
/// no standby has. Not every version has a `transaction_timeout`, which would close the connection.
pub(super) const SESSION: &str = "
SET synchronous_commit = remote_apply;
SET statement_timeout = 0;
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';
SET lock_timeout = '2s';
SET idle_in_transaction_session_timeout = '5s';
SET search_path = pg_catalog;
SET client_min_messages = warning;
";

/// Two servers that start at once make the tables once.
pub(super) const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(5570467360142157641)";

pub(super) const PRESENT: &str = "SELECT to_regnamespace('matchpoint') IS NOT NULL, \
    to_regclass('matchpoint.about') IS NOT NULL";

pub(super) const SET_VERSION: &str = "INSERT INTO matchpoint.about VALUES ($1)";

pub(super) const FOUND_VERSION: &str = "SELECT version FROM matchpoint.about";

pub(super) const LATEST: &str = "SELECT generation, digest, gallery_id, model_fingerprint, dimension, operating_point \
    FROM matchpoint.deployment WHERE name = $1";

/// Tells the cluster, whose standbys have the same, and the database in it: a copy that was made from a dump has another.
pub(super) const IDENTITY: &str = "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || oid \
    FROM pg_database WHERE datname = current_database()";

pub(super) const DIGEST_AT: &str =
    "SELECT digest FROM matchpoint.generation WHERE deployment = $1 AND number = $2";

pub(super) const OLDEST: &str =
    "SELECT min(number) FROM matchpoint.generation WHERE deployment = $1";

pub(super) const ADD_DEPLOYMENT: &str = "INSERT INTO matchpoint.deployment \
    (name, gallery_id, model_fingerprint, dimension, generation, digest) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING";

/// Takes the lease, or renews the one of this fence. Without one, whoever has the same name takes it from itself: a
/// server that was started again need not wait.
pub(super) const TAKE_LEASE: &str = "UPDATE matchpoint.deployment SET writer = $2, \
    fence = fence + CASE WHEN writer = $2 AND fence = $3 THEN 0 ELSE 1 END, \
    lease_until = clock_timestamp() + make_interval(secs => $4) WHERE name = $1 \
    AND (writer = $2 AND fence = coalesce($3, fence) OR lease_until <= clock_timestamp()) RETURNING fence";

pub(super) const LEASE: &str = "SELECT writer, \
    greatest(0, extract(epoch FROM lease_until - clock_timestamp()))::float8 \
    FROM matchpoint.deployment WHERE name = $1";

pub(super) const GIVE_UP_LEASE: &str = "UPDATE matchpoint.deployment SET lease_until = to_timestamp(0) \
    WHERE name = $1 AND writer = $2 AND fence = $3";

/// The row is locked until the change is made or not.
pub(super) const LOCK: &str = "SELECT generation, digest, writer, fence, \
    greatest(0, extract(epoch FROM lease_until - clock_timestamp()))::float8 \
    FROM matchpoint.deployment WHERE name = $1 FOR UPDATE";

pub(super) const END_ITEMS: &str = "UPDATE matchpoint.item SET ended = $3, removed = $4 \
    WHERE deployment = $1 AND id = ANY($2) AND ended IS NULL RETURNING checksum";

pub(super) const ADD_ITEMS: &str = "INSERT INTO matchpoint.item (deployment, generation, \
    id, label, metadata, source_sha256, embedding, checksum, image) \
    SELECT $1::text, $2::bigint, * FROM unnest($3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])";

pub(super) const ADD_GENERATION: &str = "INSERT INTO matchpoint.generation (deployment, number, digest, changes) \
    VALUES ($1, $2, $3, $4)";

/// Writing renews the lease.
pub(super) const ADVANCE: &str = "UPDATE matchpoint.deployment \
    SET generation = $2, digest = $3, \
    lease_until = clock_timestamp() + make_interval(secs => $4) WHERE name = $1";

pub(super) const ADD_POINT_FILE: &str = "INSERT INTO matchpoint.point_file VALUES ($1, $2, $3, $4) \
    ON CONFLICT (deployment, operating_point, kind) DO NOTHING";

pub(super) const CHOOSE_POINT: &str = "UPDATE matchpoint.deployment SET operating_point = $2 \
    WHERE name = $1";

pub(super) const CHOOSE_FIRST_POINT: &str = "UPDATE matchpoint.deployment SET operating_point = $2 \
    WHERE name = $1 AND operating_point IS NULL";

pub(super) const POINT_FILES: &str = "SELECT kind, bytes FROM matchpoint.point_file \
    WHERE deployment = $1 AND operating_point = $2 ORDER BY kind";

pub(super) const GENERATIONS_AFTER: &str = "SELECT number, digest, changes FROM matchpoint.generation \
    WHERE deployment = $1 AND number > $2 ORDER BY number LIMIT $3";

pub(super) const ITEMS_BETWEEN: &str = "SELECT generation, id, label, metadata, source_sha256, embedding, checksum, image \
    FROM matchpoint.item WHERE deployment = $1 AND generation > $2 AND generation <= $3 ORDER BY generation, id";

pub(super) const REMOVED_BETWEEN: &str = "SELECT ended, id FROM matchpoint.item \
    WHERE deployment = $1 AND removed AND ended > $2 AND ended <= $3 ORDER BY ended, id";

/// Forgets some generations whose successor is older than this many seconds, the oldest first: whoever was in step
/// before a change that is younger can follow.
pub(super) const FORGET_GENERATIONS: &str = "DELETE FROM matchpoint.generation WHERE deployment = $1 \
    AND number IN (SELECT number FROM matchpoint.generation WHERE deployment = $1 \
    AND number < (SELECT max(number) FROM matchpoint.generation \
    WHERE deployment = $1 AND committed < clock_timestamp() - make_interval(secs => $2)) ORDER BY number LIMIT $3)";

/// Forgets some of what only forgotten generations had, but not what another server forgets just now.
pub(super) const FORGET_ITEMS: &str = "DELETE FROM matchpoint.item WHERE ctid = ANY (ARRAY( \
    SELECT ctid FROM matchpoint.item WHERE deployment = $1 AND ended <= \
    (SELECT min(number) FROM matchpoint.generation WHERE deployment = $1) \
    LIMIT $2 FOR UPDATE SKIP LOCKED))";
