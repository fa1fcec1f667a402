//! What database this is, and which schema is in it: for people who look after it.

use super::SqlTaskStore;
use super::database::args;
use super::dialect::sql;
use crate::task_store::StoreError;

impl<Kind: Send + Sync> SqlTaskStore<Kind> {
    /// Its name with its version, and the number of the newest migration.
    pub async fn about(&self) -> Result<(String, i64), StoreError> {
        let asked = sql!("SELECT {version}, (SELECT max(version) FROM _sqlx_migrations)");
        self.read(async { self.reader().await?.db().one(asked, args![]).await }).await
    }
}
