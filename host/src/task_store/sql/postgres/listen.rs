//! Word of new work between processes: NOTIFY in the transaction that enqueues, a connection that listens in every process.

use crate::task_store::sql::changed::Changed;
use crate::task_store::sql::database::args;
use crate::task_store::sql::dialect::sql;
use crate::task_store::sql::fault::Fault;
use crate::task_store::sql::link::within;
use crate::task_store::sql::transaction::Tx;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;

/// The channel of a database.
const CHANNEL: &str = "wasm_worker_tasks";

/// How often waiters look for themselves while the listener has no connection.
const BLIND: Duration = Duration::from_millis(500);

/// After this long without a word the listener asks whether its connection still lives.
const QUIET: Duration = Duration::from_secs(10);

/// Longest that the answer may take.
const ANSWER: Duration = Duration::from_secs(4);

/// Tells the others, once the transaction has committed.
pub(in crate::task_store::sql) async fn tell(tx: &mut Tx<'_>) -> Result<(), Fault> {
    let Some(name) = tx.teller().map(str::to_owned) else { return Ok(()) };
    tx.execute(sql!("SELECT pg_notify($1, $2)"), args![CHANNEL, name]).await
}

/// Passes on what others tell, for ever; `own` is the name under which this process tells.
pub(super) async fn listen(options: PgConnectOptions, own: Arc<str>, changed: Arc<Changed>) {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ANSWER).connect_lazy_with(options);
    loop {
        // While nobody listens, waiters look by themselves; what was told meanwhile is looked for once more after that.
        if let Ok(mut listener) = within(Some(ANSWER), subscribe(&pool)).await {
            changed.tell();
            hear(&mut listener, &own, &changed).await;
        }
        changed.tell();
        tokio::time::sleep(BLIND).await;
    }
}

async fn subscribe(pool: &PgPool) -> Result<PgListener, Fault> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Returns once the connection is of no use any more.
async fn hear(listener: &mut PgListener, own: &str, changed: &Changed) {
    loop {
        match tokio::time::timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(told))) if told.payload() == own => {}
            Ok(Ok(Some(_))) => changed.tell(),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => {
                let ping = async { Ok(sqlx::query("SELECT 1").execute(&mut *listener).await?) };
                if within(Some(ANSWER), ping).await.is_err() {
                    return;
                }
            }
        }
    }
}
