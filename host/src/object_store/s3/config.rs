//! Where a store lies and how patient its clients are.

use super::S3ObjectStore;
use crate::aws;
use crate::object_store::ObjectError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use url::{Host, Url};

/// Largest object written by one request, and the size of every part but the last: bytes. R2 wants parts of one size, S3 none below 5 MiB.
const PART: usize = 8 << 20;

/// Parts on their way at once, over all writers of a store: with the one that each writer fills, this is what uploads hold in memory.
const PARTS_AT_ONCE: usize = 8;

/// Largest object that S3 copies by one request.
const COPY: u64 = 5 << 30;

/// Size of the parts in which larger ones are copied; S3 allows 10,000 parts, and objects of 5 TiB.
const COPY_PART: u64 = 1 << 30;

/// A connection that moves less in a second is as good as none, bytes.
const SLOWEST: u64 = 32 << 10;

/// What a listing names at once, at most: S3's own limit, and that of a deletion.
const PAGE: i32 = 1000;

/// Where the store lies. All of it may be left out: then it is AWS, as the AWS tools on this machine have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Config {
    /// `http(s)://host[:port]` of what speaks S3; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's, else AWS.
    pub endpoint: Option<String>,
    /// Region; else `AWS_REGION` or the profile's. An endpoint of its own needs none.
    pub region: Option<String>,
    /// Whether the bucket stands in the path and not in the host's name. Left out, it does for an endpoint that is an IP address, or a
    /// host's name without a dot: a name before it would lead nowhere.
    pub path_style: Option<bool>,
    /// Longest that a call which moves no bytes may take in one attempt; 10 s if left out, and twice that for all attempts.
    pub patience: Option<Duration>,
}

/// Bounds of a store; smaller ones in tests only.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub patience: Duration,
    pub slowest: u64,
    pub part: usize,
    pub copy: u64,
    pub copy_part: u64,
    pub page: i32,
}

impl S3ObjectStore {
    /// A client for the place. Nothing is asked of it yet; `Invalid` says what is wrong with the configuration.
    pub async fn open(config: S3Config) -> Result<Self, ObjectError> {
        let shared = aws::load(config.region.as_deref()).await;
        let endpoint = config.endpoint.clone().or_else(|| aws::endpoint("S3", &shared));
        let mut builder = aws_sdk_s3::config::Builder::from(&shared);
        let mut path_style = config.path_style;
        let place = match &endpoint {
            Some(endpoint) => {
                let url = parse(endpoint)?;
                path_style = path_style.or(Some(names_no_domain(&url)));
                builder = builder.endpoint_url(endpoint.clone());
                format!("{}://{}", url.scheme(), url.authority())
            }
            None => "AWS".to_owned(),
        };
        let place = match (shared.region(), &endpoint) {
            (Some(region), None) => format!("{place}, region {region}"),
            (Some(_), Some(_)) => place,
            // What speaks S3 elsewhere knows one region, and calls it so.
            (None, Some(_)) => {
                builder = builder.region(Region::from_static("us-east-1"));
                place
            }
            (None, None) => return Err(ObjectError::Invalid(NO_REGION.into())),
        };
        let patience = config.patience.unwrap_or(aws::ATTEMPT);
        builder = builder.force_path_style(path_style.unwrap_or(false)).timeout_config(aws::timeouts(patience, patience * 2));
        let bounds = Bounds { patience, slowest: SLOWEST, part: PART, copy: COPY, copy_part: COPY_PART, page: PAGE };
        Ok(Self {
            client: Client::from_conf(builder.build()),
            endpoint: place.into(),
            bounds,
            parts: Arc::new(Semaphore::new(PARTS_AT_ONCE)),
        })
    }
}

const NO_REGION: &str = "no region for S3: set AWS_REGION, or region in the profile that AWS_PROFILE names; \
                         for what speaks S3 elsewhere set AWS_ENDPOINT_URL_S3";

fn parse(endpoint: &str) -> Result<Url, ObjectError> {
    let fault = |why: &str| ObjectError::Invalid(format!("S3 endpoint '{endpoint}' {why}; expected such as https://minio.example:9000"));
    let url = Url::parse(endpoint).map_err(|e| fault(&format!("is no URL ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(fault("must start with http:// or https:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ObjectError::Invalid(
            "the S3 endpoint holds a user or password; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into(),
        ));
    }
    Ok(url)
}

/// An IP address, or a name such as `localhost` or `minio`: no bucket can stand before it.
fn names_no_domain(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => !name.trim_end_matches('.').contains('.') || name.ends_with(".localhost"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_in_the_path_where_it_cannot_stand_in_the_name() {
        for (endpoint, path) in [
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000", true),
            ("http://localhost:9000", true),
            ("http://minio:9000", true),
            ("https://s3.eu-central-1.amazonaws.com", false),
            ("https://account.r2.cloudflarestorage.com", false),
        ] {
            assert_eq!(names_no_domain(&parse(endpoint).unwrap()), path, "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_bad_endpoint_is_refused_with_what_is_expected() {
        for bad in ["minio:9000", "ftp://minio", "http://", "s3.amazonaws.com", ""] {
            let config = S3Config { endpoint: Some(bad.into()), region: Some("r".into()), ..S3Config::default() };
            let error = S3ObjectStore::open(config).await.unwrap_err();
            assert!(
                matches!(&error, ObjectError::Invalid(text) if text.contains(bad) && text.contains("https://minio.example")),
                "{error}"
            );
        }
        let config = S3Config { endpoint: Some("http://me:hushhush@minio:9000".into()), region: Some("r".into()), ..S3Config::default() };
        let error = S3ObjectStore::open(config).await.unwrap_err().to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY") && !error.contains("hushhush"), "{error}");
    }
}
