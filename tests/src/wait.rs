//! Waiting for a state, with one bound for all tests.

use std::future::Future;
use std::time::Duration;

/// How long anything is waited for. Larger would make a hanging test slow to fail; smaller would fail on a machine that is
/// busy compiling. It is never what a test is about.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Awaits, and panics with `what` when the bound is reached.
pub async fn soon<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, awaited).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} for {what}"),
    }
}

/// Looks again and again until there is something to see.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}

/// Asks again and again until the answer satisfies.
pub async fn until_ok<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    soon(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}

/// Runs the rows of a table side by side, since some of them wait for tens of seconds. A row that fails says its name.
pub async fn rows<N, F>(table: impl IntoIterator<Item = (N, F)>)
where
    N: ToString,
    F: Future<Output = ()> + Send + 'static,
{
    let rows: Vec<_> = table
        .into_iter()
        .map(|(name, row)| (name.to_string(), tokio::spawn(row)))
        .collect();
    assert!(!rows.is_empty(), "a table without rows proves nothing");
    let mut failed = Vec::new();
    for (name, row) in rows {
        if row.await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "rows that failed: {failed:#?}");
}
