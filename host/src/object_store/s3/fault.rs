//! What an error of the SDK means to the caller of the port.

use super::{Place, S3ObjectStore};
use crate::aws::Fault;
use crate::object_store::ObjectError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;

/// Names of refusals that a look at the credentials mends.
const KEYS: [&str; 4] = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity"];

impl S3ObjectStore {
    /// What went wrong with a call about a place.
    pub(super) fn failed<E>(&self, place: &Place, error: &SdkError<E, HttpResponse>) -> ObjectError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let region = error.raw_response().and_then(|raw| raw.headers().get("x-amz-bucket-region")).map(str::to_owned);
        self.classed(place, Fault::of(error), region.as_deref())
    }

    /// The same of what a call says about one of many.
    pub(super) fn classed(&self, place: &Place, fault: Fault, region: Option<&str>) -> ObjectError {
        let (bucket, endpoint) = (&place.bucket, &self.endpoint);
        let temporary = fault.is_temporary();
        let (status, code, message) = match fault {
            Fault::NoCredentials(text) => {
                let told = format!("no credentials ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE");
                let told = format!("{place} at {endpoint}: {told}");
                return if temporary { ObjectError::Unavailable(told) } else { ObjectError::Denied(told) };
            }
            Fault::Malformed(text) => return ObjectError::Invalid(format!("{place} at {endpoint}: {text}")),
            Fault::Unreachable(text) => return ObjectError::Unavailable(format!("{place} at {endpoint}: {text}")),
            Fault::Refused { status, code, message } => (status, code, message),
        };
        let said = match (code.as_str(), message.as_str()) {
            ("", message) => format!("HTTP {status}: {message}"),
            (code, message) => format!("{code}: {message}"),
        };
        match (code.as_str(), status) {
            ("NoSuchBucket", _) => ObjectError::Invalid(format!("there is no bucket '{bucket}' at {endpoint}: create it, or name another")),
            ("PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" | "AuthorizationHeaderMalformed", _)
            | (_, 301 | 307) => {
                let region = region.map_or_else(String::new, |region| format!(" is in {region}"));
                ObjectError::Invalid(format!("bucket '{bucket}'{region}, not where it was looked for ({endpoint}; {said}): set AWS_REGION"))
            }
            // Credentials that a role renews are others at the next try.
            ("ExpiredToken" | "TokenRefreshRequired", _) => {
                ObjectError::Unavailable(format!("{place} at {endpoint}: {said}; renew the session if it is none of a role"))
            }
            (_, 501) => ObjectError::Invalid(format!("{place}: {endpoint} cannot do this ({said})")),
            _ if temporary => ObjectError::Unavailable(format!("{place} at {endpoint}: {said}")),
            (_, 404) => ObjectError::NotFound(place.to_string()),
            (_, 409 | 412) => ObjectError::Unavailable(format!("{place} at {endpoint} is being changed by somebody else ({said})")),
            (code, _) if KEYS.contains(&code) => ObjectError::Denied(format!(
                "bucket '{bucket}' at {endpoint} ({said}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; {place}"
            )),
            (_, 401 | 403) => ObjectError::Denied(format!(
                "bucket '{bucket}' at {endpoint} ({said}): its credentials need s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, \
                 s3:DeleteObject and s3:AbortMultipartUpload on its objects; {place}"
            )),
            _ => ObjectError::Invalid(format!("{place} at {endpoint}: {said}")),
        }
    }
}
