//! Where objects lie: files, and S3 where anything here names it; and whether the bucket can be used at all.

use super::queues::late;
use super::{AppError, PATIENCE};
use crate::config::Config;
use crate::object_store::{FileObjectStore, ObjectError, ObjectStore, RoutedObjectStore, S3Config, S3ObjectStore};
use std::sync::Arc;
use tokio::time::timeout;

/// The stores of all schemes. S3 is left out where nothing on this machine names it: to look for its credentials costs seconds.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn ObjectStore>, AppError> {
    let mut stores: Vec<(&'static str, Arc<dyn ObjectStore>)> = vec![("file", Arc::new(FileObjectStore::new()))];
    if config.uses_s3() {
        let place = &config.s3;
        let s3 = S3Config { endpoint: place.endpoint.clone(), region: place.region.clone(), path_style: place.path_style, patience: None };
        let opened = S3ObjectStore::open(s3).await.map_err(|e| refused(config, e.to_string()))?;
        stores.push(("s3", Arc::new(opened)));
    }
    Ok(Arc::new(RoutedObjectStore::new(stores)))
}

/// Whether the bucket is there: a folder is made where there is none.
pub(super) async fn check(config: &Config, objects: &dyn ObjectStore) -> Result<(), AppError> {
    if let Some(folder) = config.bucket.file_path() {
        return std::fs::create_dir_all(&folder).map_err(|e| refused(config, format!("folder cannot be made: {e}")));
    }
    // A bucket that does not exist, or is another's, says so when an object of it is read; to a question without a body it only says no.
    let asked = config.bucket.join(MARK).map_err(|e| refused(config, e))?;
    match timeout(PATIENCE, objects.get(&asked, 1)).await {
        Ok(Ok(_) | Err(ObjectError::NotFound(_) | ObjectError::TooLarge { .. })) => Ok(()),
        Ok(Err(error)) => Err(refused(config, error.to_string())),
        Err(_) => Err(refused(config, late(PATIENCE))),
    }
}

/// The name of an object that is only asked for.
const MARK: &str = ".wasm-worker";

pub(super) fn refused(config: &Config, why: String) -> AppError {
    AppError::Bucket { setting: config.named("storage.bucket"), bucket: config.bucket.as_str().to_owned(), why }
}
