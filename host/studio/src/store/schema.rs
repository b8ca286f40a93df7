//! Opening the database: its folder, its schema, what the last run left.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::de::DeserializeOwned;

use super::Recovered;

/// Version of the schema that this code writes.
const SCHEMA: i64 = 2;

/// Why a studio could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder could not be made or read.
    #[error("the studio's folder {path} cannot be used: {source}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another studio has the database open.
    #[error("the studio's database {path} is in use by another process; stop that one first")]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "the studio's database {path} has schema {found}, newer than {SCHEMA}; use the newer studio-worker, or move the file away"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// SQLite refused.
    #[error(
        "the studio's database {path} cannot be opened: {source}; move the file away to begin with an empty one"
    )]
    Database {
        /// Which file.
        path: PathBuf,
        /// In its words.
        source: rusqlite::Error,
    },
    /// The thread that writes could not be started.
    #[error("the studio's database thread cannot be started: {source}")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
}

/// Makes a folder that only this user can read.
pub(crate) fn private_dir(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Folder {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Opens the database in `dir`, making or checking its schema, and reads what the last run left.
pub(crate) fn open(dir: &Path) -> Result<(Connection, Recovered), OpenError> {
    private_dir(dir)?;
    let path = dir.join("studio.sqlite");
    // Made here and not by SQLite, so that it and its journals are never readable to others.
    private_file(&path).map_err(|source| OpenError::Folder {
        path: path.clone(),
        source,
    })?;
    let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            OpenError::InUse { path: path.clone() }
        }
        _ => OpenError::Database {
            path: path.clone(),
            source,
        },
    };
    let connection = Connection::open(&path).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found > SCHEMA {
        return Err(OpenError::Newer { path, found });
    }
    if found < 1 {
        connection.execute_batch(TABLES).map_err(failed)?;
    }
    if found < 2 {
        connection.execute_batch(ROLLOUTS).map_err(failed)?;
    }
    let recovered = read(&connection).map_err(failed)?;
    Ok((connection, recovered))
}

fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    drop(file);
    Ok(())
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Exclusive: a second studio on the same folder is told so instead of sharing the queue.
    connection.execute_batch(
        "PRAGMA busy_timeout = 500;
         PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 0;
         BEGIN IMMEDIATE; COMMIT;",
    )
}

const TABLES: &str = "BEGIN;
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, seq INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL,
        claim TEXT NOT NULL, result TEXT
    ) STRICT;
    CREATE TABLE workers (id TEXT PRIMARY KEY, detail TEXT NOT NULL) STRICT;
    CREATE TABLE requests (id TEXT PRIMARY KEY, detail TEXT NOT NULL) STRICT;
    PRAGMA user_version = 1;
    COMMIT;";

/// Since schema 2.
const ROLLOUTS: &str = "BEGIN;
    CREATE TABLE rollouts (id TEXT PRIMARY KEY, detail TEXT NOT NULL) STRICT;
    PRAGMA user_version = 2;
    COMMIT;";

fn read(connection: &Connection) -> rusqlite::Result<Recovered> {
    let mut jobs = Vec::new();
    // The claim of a finished job is of no more use in memory.
    let mut statement = connection.prepare(
        "SELECT detail, CASE WHEN state IN ('queued', 'running') THEN claim ELSE '' END FROM jobs ORDER BY seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        jobs.push((json_column(row, 0)?, row.get(1)?));
    }
    Ok(Recovered {
        jobs,
        workers: details(connection, "SELECT detail FROM workers")?,
        requests: details(connection, "SELECT detail FROM requests ORDER BY rowid")?,
        rollouts: details(connection, "SELECT detail FROM rollouts")?,
    })
}

fn details<T: DeserializeOwned>(connection: &Connection, query: &str) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| json_column(row, 0))?;
    rows.collect()
}

fn json_column<T: DeserializeOwned>(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(e))
    })
}
