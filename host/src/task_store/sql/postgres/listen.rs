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

/// A connection that listens, and how to get another one.
pub(super) struct Ear {
    pool: PgPool,
    listener: Option<PgListener>,
}

/// Listens from now on; where that fails, [`Ear::hear`] goes on trying.
pub(super) async fn open(options: PgConnectOptions) -> Ear {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ANSWER).connect_lazy_with(options);
    let listener = within(Some(ANSWER), subscribe(&pool)).await.ok();
    Ear { pool, listener }
}

impl Ear {
    /// Passes on what others tell, for ever; `own` is the name under which this process tells.
    pub async fn hear(mut self, own: Arc<str>, changed: Arc<Changed>) {
        loop {
            if let Some(listener) = self.listener.take() {
                hear(listener, &own, &changed).await;
                tracing::warn!("the connection that listens for new tasks was lost; looking every {BLIND:?} until there is another");
            }
            // Nobody tells anything for now: waiters look by themselves, and once more when somebody listens again.
            changed.tell();
            tokio::time::sleep(BLIND).await;
            self.listener = within(Some(ANSWER), subscribe(&self.pool)).await.ok();
            if self.listener.is_some() {
                changed.tell();
            }
        }
    }
}

async fn subscribe(pool: &PgPool) -> Result<PgListener, Fault> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Returns once the connection is of no use any more.
async fn hear(mut listener: PgListener, own: &str, changed: &Changed) {
    loop {
        match tokio::time::timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(told))) if told.payload() == own => {}
            Ok(Ok(Some(_))) => changed.tell(),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => {
                let ping = async { Ok(sqlx::query("SELECT 1").execute(&mut listener).await?) };
                if within(Some(ANSWER), ping).await.is_err() {
                    return;
                }
            }
        }
    }
}
