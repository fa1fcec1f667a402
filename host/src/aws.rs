//! What every AWS client here shares: how its configuration is found, one TLS, a time-out on everything, and what an error means.
//!
//! Credentials, region and endpoint come from where the AWS tools look for them: variables (`AWS_…`), `~/.aws`, web identity, container
//! and instance roles. It stands below all rooms, since stores and queues both need it. No proxy is used, and single sign-on is left to
//! `credential_process`. What a client sets on top (an endpoint of its own, other time-outs) is the adapter's.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{Builder, tls};
use std::error::Error;
use std::time::Duration;

/// Longest until a connection stands, TLS included.
pub const CONNECT: Duration = Duration::from_secs(3);

/// Longest that one attempt of a call may take; calls that wait or carry much set their own.
pub const ATTEMPT: Duration = Duration::from_secs(10);

/// Longest that a call may take with all its attempts. Less than the default lease, so that a worker is told before it has lost its task.
pub const OPERATION: Duration = Duration::from_secs(20);

/// How often a call is attempted before its caller is told: enough for a throttled request or a connection that the other side had
/// closed, and no more, since the caller has a pace of its own.
pub const ATTEMPTS: u32 = 3;

/// How long a body may stand still, in either direction.
pub const STALLED: Duration = Duration::from_secs(10);

/// Longest that looking for credentials or a region may take. The last place looked at is the machine's metadata service, which
/// answers at once where there is one.
pub const LOOK_UP: Duration = Duration::from_secs(3);

/// The configuration of this machine; `region` overrides the one found. Nothing is called yet, save the metadata service where nothing
/// else names a region: what is missing shows at the first request.
pub async fn load(region: Option<&str>) -> SdkConfig {
    let client = http_client();
    let region = match region {
        Some(region) => Some(Region::new(region.to_owned())),
        None => {
            let config = ProviderConfig::without_region().with_http_client(client.clone());
            let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(ImdsRegionProvider::builder().configure(&config).build());
            tokio::time::timeout(LOOK_UP, chain.region()).await.ok().flatten()
        }
    };
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .identity_cache(IdentityCache::lazy().load_timeout(LOOK_UP).build())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts(ATTEMPT, OPERATION))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALLED).upload_enabled(true).build())
        // A region that was not found is not looked for once more; the adapter says what to do about it.
        .region(region);
    loader.load().await
}

/// The endpoint that variables or the profile name for a service such as `S3`, if any. Clients find it by themselves; this tells them
/// what it is.
pub fn endpoint(service: &str, shared: &SdkConfig) -> Option<String> {
    std::env::var(format!("AWS_ENDPOINT_URL_{service}")).ok().or_else(|| shared.endpoint_url().map(str::to_owned))
}

/// Time-outs for calls of which one attempt takes at most `attempt`, and all together `operation`.
pub fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(attempt).operation_timeout(operation).build()
}

/// Connections with rustls on ring, as the databases' have, and the system's own certificates (`SSL_CERT_FILE` names others).
fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https()
}

/// What went wrong with a call, before an adapter decides what its caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No credentials were found, or none could be fetched.
    NoCredentials(String),
    /// The call cannot be made as it is: no region, a bad endpoint.
    Malformed(String),
    /// No answer, or none that can be read: connection, time-out. The call may have taken effect.
    Unreachable(String),
    /// The service answered with an error.
    Refused {
        /// HTTP status.
        status: u16,
        /// The service's name for the error; empty where it gave none, as in answers to HEAD.
        code: String,
        /// What it says, or what was wrong with its answer.
        message: String,
    },
}

impl Fault {
    /// Reads an error of any client.
    pub fn of<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E, HttpResponse>) -> Self {
        let text = text(error);
        match error {
            // A success that cannot be read is none, and no refusal either.
            SdkError::ServiceError(read) if read.raw().status().is_success() && read.err().code().is_none() => Self::Unreachable(text),
            SdkError::ServiceError(refused) => Self::Refused {
                status: refused.raw().status().as_u16(),
                code: refused.err().code().unwrap_or_default().to_owned(),
                message: refused.err().message().map_or(text, str::to_owned),
            },
            // The SDK keeps the type of these errors to itself.
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) if text.contains("credential") || text.contains("identity") => {
                Self::NoCredentials(text)
            }
            SdkError::ConstructionFailure(_) => Self::Malformed(text),
            _ => Self::Unreachable(text),
        }
    }

    /// Whether it may pass by itself: no answer, or the service is overloaded, throttles or has a fault of its own.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // Whoever keeps them may have been out of reach. Only if all places were asked is it known that there are none.
            Self::NoCredentials(text) => !NOBODY_HAS_THEM.iter().any(|said| text.contains(said)),
            Self::Refused { status, code, .. } => {
                *status >= 500 || *status == 429 || *status == 408 || code.contains("Throttl") || TEMPORARY.contains(&code.as_str())
            }
            Self::Malformed(_) => false,
        }
    }
}

/// What the SDK says where no place has credentials, in contrast to one that could not be asked.
const NOBODY_HAS_THEM: [&str; 2] = ["no credentials found in chain", "the credential provider was not enabled"];

/// Names of errors that pass, whatever status they come with: a success may turn into one in the middle.
const TEMPORARY: [&str; 8] = [
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "TooManyRequests",
    "OverLimit",
    "RequestThrottled",
];

/// An error with its causes on one line; nothing of a request is in it.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let said = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // Some say what their cause says.
        if parts.last().is_none_or(|last| !last.contains(&said)) {
            parts.push(said);
        }
        next = cause.source();
    }
    parts.join(": ")
}
