//! The durable half: tenants, agents, keys and used assertions, in SQLite.
//!
//! Every query is written so that PostgreSQL takes it too. A commit returns when it is on the disk
//! (WAL with `synchronous=FULL`): a revocation or a used assertion that was answered survives a power
//! cut. One connection carries everything, so what belongs together is one transaction and nothing
//! interleaves; readers never come here, they ask the directory.
//!
//! No private key is ever stored here, nor anything that a token could be made from.

mod jti;
mod rows;

pub use jti::LIVE_JTIS_PER_AGENT_MAX;
pub(crate) use jti::Spend;
pub(crate) use rows::IssuerKeyRow;

use crate::IdentityError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Each brings the schema one version further. Only ever appended to.
const MIGRATIONS: [&str; 3] = [
    include_str!("schema.sql"),
    include_str!("limits.sql"),
    include_str!("residency.sql"),
];

/// How long an act waits for the connection before it fails, seconds.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The store, open.
pub(crate) struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens the database at `path`, makes it where there is none, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Store, IdentityError> {
        create_private(path).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // There is no other file that the server's process may make.
            .pragma("temp_store", "memory")
            .busy_timeout(WAIT_MAX);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .acquire_timeout(WAIT_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        let store = Store { pool };
        store.migrate().await?;
        Ok(store)
    }

    /// Closes the database in good order.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    async fn migrate(&self) -> Result<(), IdentityError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
            .execute(&mut *tx)
            .await?;
        let newest = "SELECT COALESCE(MAX(version), 0) FROM schema_version";
        let (version,): (i64,) = sqlx::query_as(newest).fetch_one(&mut *tx).await?;
        let done = usize::try_from(version)
            .ok()
            .filter(|done| *done <= MIGRATIONS.len());
        let done = done.ok_or(IdentityError::Newer(version))?;
        for (sql, version) in MIGRATIONS.into_iter().zip(1_i64..).skip(done) {
            sqlx::raw_sql(sql).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
                .bind(version)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Makes the file readable by its owner alone; SQLite gives its side files the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("identity.db"))
            .await
            .unwrap();
        let ask = |pragma| sqlx::query_as::<_, (i64,)>(pragma).fetch_one(&store.pool);
        assert_eq!(ask("PRAGMA synchronous").await.unwrap().0, 2, "2 is FULL");
        assert_eq!(ask("PRAGMA foreign_keys").await.unwrap().0, 1);
        let mode: (String,) = sqlx::query_as("PRAGMA journal_mode")
            .fetch_one(&store.pool)
            .await
            .unwrap();
        assert_eq!(mode.0, "wal");
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.db");
        let store = Store::open(&path).await.unwrap();
        sqlx::query("INSERT INTO schema_version (version) VALUES (99)")
            .execute(&store.pool)
            .await
            .unwrap();
        store.close().await;
        assert!(matches!(
            Store::open(&path).await,
            Err(IdentityError::Newer(99))
        ));
    }
}
