//! The suite of the port on a real server, and what is particular to Postgres.

use super::PostgresTaskStore;
use crate::task_store::conformance::{self, suite};

#[allow(dead_code, reason = "the end-to-end tests use it too, and each uses another part")]
#[path = "../../../../../tests/src/servers/postgres.rs"]
mod servers;

use servers::Server;

/// A store in a database of its own; none where there is no server, and then the test has said so.
async fn fresh() -> Option<(PostgresTaskStore, String)> {
    let dsn = tokio::task::block_in_place(|| Server::shared().map(Server::database))?;
    Some((PostgresTaskStore::open(&dsn).await.unwrap(), dsn))
}

suite!(fresh());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_agrees_with_the_store_in_memory() {
    let Some((store, _dsn)) = fresh().await else { return };
    conformance::stores_agree(&crate::task_store::MemoryTaskStore::new(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_stores_claim_each_task_once() {
    let Some((one, dsn)) = fresh().await else { return };
    let two = PostgresTaskStore::open(&dsn).await.unwrap();
    conformance::racing_stores_claim_each_task_once(&one, &two).await;
}
