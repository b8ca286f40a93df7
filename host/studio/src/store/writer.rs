//! The thread that writes: changes in the order they were made, grouped into transactions.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::{JobRow, OpenError, RequestRow, StoreError, WorkerRow};
use crate::core::RolloutRow;

/// Changes that one transaction takes. More would make the first one wait longer for its commit.
const GROUP: usize = 64;

/// Transactions after which an idle thread moves the log into the database. More lets the log grow; fewer costs fsyncs.
const CHECKPOINT_AFTER: u32 = 200;

/// One change of the record.
pub(crate) enum Change {
    /// A new job with its claim.
    NewJob(Box<JobRow>, String),
    /// A job as it is now.
    Job(Box<JobRow>),
    /// A job that is done, with its JSON result.
    JsonResult(Box<JobRow>, String),
    /// A job that leaves the history, and the file of its result.
    Forget(String, Option<PathBuf>),
    /// A worker as it is now.
    Worker(Box<WorkerRow>),
    /// A worker that was deleted.
    NoWorker(String),
    /// A registration request as it is now.
    Request(Box<RequestRow>),
    /// A registration request that is over.
    NoRequest(String),
    /// A roll-out as it is now.
    Rollout(Box<RolloutRow>),
    /// A roll-out that is forgotten.
    NoRollout(String),
}

enum Order {
    Write(Change, Option<oneshot::Sender<Result<(), StoreError>>>),
    ReadResult(String, oneshot::Sender<Result<Option<String>, StoreError>>),
    Close(oneshot::Sender<()>),
}

/// Resolves when a change is committed.
pub(crate) struct Receipt(oneshot::Receiver<Result<(), StoreError>>);

impl Receipt {
    /// Waits for the commit.
    pub(crate) async fn committed(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The writing end. Sending never blocks.
#[derive(Clone)]
pub(crate) struct Store(mpsc::Sender<Order>);

impl Store {
    /// Starts the thread. It ends, everything written, when the last clone is dropped or [`Store::close`] is called.
    pub(crate) fn start(connection: Connection) -> Result<Self, OpenError> {
        let (sender, orders) = mpsc::channel();
        thread::Builder::new()
            .name("studio-store".to_owned())
            .spawn(move || work(connection, &orders))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Self(sender))
    }

    /// Records a change that nobody waits for.
    pub(crate) fn record(&self, change: Change) {
        // A closed store: the studio is going down, and what is not recorded is recovered as it was.
        let _ = self.0.send(Order::Write(change, None));
    }

    /// Records a change that somebody waits for.
    pub(crate) fn commit(&self, change: Change) -> Receipt {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(Order::Write(change, Some(sender)));
        Receipt(receiver)
    }

    /// The JSON result of a job; sees every change recorded before.
    pub(crate) async fn json_result(&self, job: String) -> Result<Option<String>, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(Order::ReadResult(job, sender));
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Writes what is left and closes the database.
    pub(crate) async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(Order::Close(sender));
        let _ = receiver.await;
    }
}

fn work(mut connection: Connection, orders: &mpsc::Receiver<Order>) {
    let mut transactions = 0;
    let mut ended_group = None;
    loop {
        let order = match ended_group.take() {
            Some(order) => order,
            None => match next(orders, &connection, &mut transactions) {
                Some(order) => order,
                None => return,
            },
        };
        match order {
            Order::Close(done) => {
                if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
                    tracing::warn!(%error, "the studio's database log could not be folded in");
                }
                drop(connection);
                let _ = done.send(());
                return;
            }
            Order::ReadResult(job, reply) => {
                let _ = reply.send(read_result(&connection, &job).map_err(StoreError::from));
            }
            Order::Write(change, reply) => {
                transactions += 1;
                ended_group = write_group(&mut connection, orders, change, reply);
            }
        }
    }
}

/// The next order; while there is none, the log is moved into the database now and then.
fn next(
    orders: &mpsc::Receiver<Order>,
    connection: &Connection,
    transactions: &mut u32,
) -> Option<Order> {
    if *transactions >= CHECKPOINT_AFTER {
        match orders.try_recv() {
            Ok(order) => return Some(order),
            Err(mpsc::TryRecvError::Disconnected) => return None,
            Err(mpsc::TryRecvError::Empty) => {
                *transactions = 0;
                if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)") {
                    tracing::warn!(%error, "the studio's database log could not be folded in");
                }
            }
        }
    }
    orders.recv().ok()
}

/// Writes one change and those queued behind it; returns the order that ended the group, if one did.
fn write_group(
    connection: &mut Connection,
    orders: &mpsc::Receiver<Order>,
    first: Change,
    reply: Option<oneshot::Sender<Result<(), StoreError>>>,
) -> Option<Order> {
    let mut group = vec![(first, reply)];
    let mut left = None;
    while group.len() < GROUP {
        match orders.try_recv() {
            Ok(Order::Write(change, reply)) => group.push((change, reply)),
            Ok(other) => {
                left = Some(other);
                break;
            }
            Err(_) => break,
        }
    }
    commit_group(connection, group);
    left
}

type Awaited = (Change, Option<oneshot::Sender<Result<(), StoreError>>>);

/// Commits a group; where it fails as a whole, each change on its own, so that one cannot take the others with it.
fn commit_group(connection: &mut Connection, group: Vec<Awaited>) {
    let alone = group.len() == 1;
    let (changes, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
    let outcome = write_all(connection, &changes).map_err(StoreError::from);
    if let (Err(error), false) = (&outcome, alone) {
        tracing::warn!(%error, changes = changes.len(), "a group of changes failed; one at a time");
        for single in changes.into_iter().zip(replies) {
            commit_group(connection, vec![single]);
        }
        return;
    }
    match &outcome {
        Ok(()) => remove_files(&changes),
        Err(error) => tracing::error!(%error, "the studio's record was not written"),
    }
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(outcome.clone());
    }
}

fn write_all(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        write(&transaction, change)?;
    }
    transaction.commit()
}

fn write(db: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::NewJob(row, claim) => db
            .prepare_cached(
                "INSERT INTO jobs (id, seq, state, detail, claim) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![row.id, row.seq, row.state, detail(row)?, claim]),
        Change::Job(row) => db
            .prepare_cached("UPDATE jobs SET state = ?, detail = ? WHERE id = ?")?
            .execute(params![row.state, detail(row)?, row.id]),
        Change::JsonResult(row, result) => db
            .prepare_cached("UPDATE jobs SET state = ?, detail = ?, result = ? WHERE id = ?")?
            .execute(params![row.state, detail(row)?, result, row.id]),
        Change::Forget(id, _) => db
            .prepare_cached("DELETE FROM jobs WHERE id = ?")?
            .execute([id]),
        Change::Worker(row) => db
            .prepare_cached("INSERT OR REPLACE INTO workers (id, detail) VALUES (?, ?)")?
            .execute(params![row.id, detail(row)?]),
        Change::NoWorker(id) => db
            .prepare_cached("DELETE FROM workers WHERE id = ?")?
            .execute([id]),
        Change::Request(row) => db
            .prepare_cached("INSERT OR REPLACE INTO requests (id, detail) VALUES (?, ?)")?
            .execute(params![row.id, detail(row)?]),
        Change::NoRequest(id) => db
            .prepare_cached("DELETE FROM requests WHERE id = ?")?
            .execute([id]),
        Change::Rollout(row) => db
            .prepare_cached("INSERT OR REPLACE INTO rollouts (id, detail) VALUES (?, ?)")?
            .execute(params![row.id, detail(row)?]),
        Change::NoRollout(id) => db
            .prepare_cached("DELETE FROM rollouts WHERE id = ?")?
            .execute([id]),
    }
    .map(|_| ())
}

fn detail<T: serde::Serialize>(row: &T) -> rusqlite::Result<String> {
    serde_json::to_string(row).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn read_result(db: &Connection, job: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT result FROM jobs WHERE id = ?")?
        .query_row([job], |row| row.get::<_, Option<String>>(0))
        .optional()
        .map(Option::flatten)
}

/// Files go after their rows: a file without a row is swept at the next start, a row without a file would promise a
/// result that is not there.
fn remove_files(changes: &[Change]) {
    for change in changes {
        if let Change::Forget(job, Some(path)) = change
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(job, %error, "an old result could not be removed");
        }
    }
}
