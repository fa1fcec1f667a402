//! What an error of SQS means for whoever called: of a whole call, and of one entry of a batch.

use crate::aws::Fault;
use crate::queue::QueueError;
use aws_sdk_sqs::types::BatchResultErrorEntry;

/// Names of the error of a queue that is not there; older answers have the longer one.
const NO_QUEUE: [&str; 4] = ["QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress", "ResourceNotFoundException"];

/// Where names of errors that mean "not you", "not so" or "not with this key" begin or end.
const DENIED: [&str; 15] = [
    "AccessDenied",
    "AuthFailure",
    "ExpiredToken",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignature",
    "KmsDisabled",
    "KmsOptInRequired",
    "MissingAuthenticationToken",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
];

/// Actions that a worker needs on its queue.
const ACTIONS: &str = "sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, sqs:SendMessage and sqs:GetQueueAttributes";

/// Which queue was called, for people.
#[derive(Debug, Clone)]
pub(super) struct Called {
    pub url: String,
    pub region: String,
}

impl Called {
    /// What a failed call means.
    pub fn error(&self, fault: Fault) -> QueueError {
        let Self { url, region } = self;
        if fault.is_temporary() {
            return QueueError::Unavailable(match fault {
                Fault::Refused { status, code, message } => format!("{url}: {code} {message} (status {status})"),
                Fault::Unreachable(why) | Fault::Malformed(why) | Fault::NoCredentials(why) => format!("{url}: {why}"),
            });
        }
        match fault {
            Fault::NoCredentials(why) => QueueError::Denied(format!(
                "no AWS credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name an AWS_PROFILE, or give this machine a role ({why})"
            )),
            Fault::Malformed(why) => QueueError::Invalid(format!("{url}: the call cannot be made: {why}")),
            Fault::Unreachable(why) => QueueError::Unavailable(format!("{url}: {why}")),
            Fault::Refused { code, .. } if NO_QUEUE.contains(&code.as_str()) => QueueError::NotFound(format!(
                "queue {url} in region '{region}' (look at account, name and region of the URL; one just deleted or made takes a minute)"
            )),
            Fault::Refused { status, code, message } if is_denied(status, &code) => QueueError::Denied(format!(
                "{url}: {code} {message}; check the credentials and the clock of this machine, and that they are granted {ACTIONS} on the queue, \
                 and its KMS key if it has one"
            )),
            Fault::Refused { status, code, message } => QueueError::Invalid(format!("{url}: {code} {message} (status {status})")),
        }
    }

    /// What a failed entry of a batch means. `of_delivery`: entries name deliveries by their receipts.
    pub fn entry(&self, entry: &BatchResultErrorEntry, of_delivery: bool) -> QueueError {
        let (code, message) = (entry.code(), entry.message().unwrap_or_default());
        if of_delivery && is_stale(code, message) {
            return QueueError::NotFound(format!("that delivery of a message of {}", self.url));
        }
        let (code, message) = (code.to_owned(), message.to_owned());
        let fault = Fault::Refused { status: if entry.sender_fault() { 400 } else { 500 }, code, message };
        self.error(fault)
    }
}

fn is_denied(status: u16, code: &str) -> bool {
    // Some answers of gateways in between carry no name.
    let named = DENIED.iter().any(|name| code.contains(name));
    named || matches!(status, 401 | 403)
}

/// SQS says in several ways that a message was delivered again, is visible again or is gone.
fn is_stale(code: &str, message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    let by_name = code.ends_with("ReceiptHandleIsInvalid") || code.ends_with("MessageNotInflight");
    by_name
        || (code.ends_with("InvalidParameterValue")
            && ["receipt", "not available", "does not exist"].iter().any(|said| text.contains(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> Called {
        Called { url: "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs".into(), region: "eu-west-1".into() }
    }

    fn refused(status: u16, code: &str) -> QueueError {
        called().error(Fault::Refused { status, code: code.into(), message: "said".into() })
    }

    #[test]
    fn an_error_says_what_to_do_next() {
        for code in NO_QUEUE {
            let QueueError::NotFound(text) = refused(400, code) else { panic!("{code}") };
            assert!(text.contains("/123456789012/jobs") && text.contains("'eu-west-1'"), "{text}");
        }
        for code in ["AccessDenied", "AccessDeniedException", "KmsAccessDenied", "InvalidClientTokenId", "ExpiredTokenException"] {
            let QueueError::Denied(text) = refused(400, code) else { panic!("{code}") };
            assert!(text.contains("sqs:ReceiveMessage") && text.contains("said"), "{text}");
        }
        assert!(matches!(refused(403, ""), QueueError::Denied(_)));
        for (status, code) in
            [(400, "RequestThrottled"), (400, "ThrottlingException"), (400, "OverLimit"), (500, ""), (503, "x"), (400, "KmsThrottled")]
        {
            assert!(matches!(refused(status, code), QueueError::Unavailable(_)), "{code}");
        }
        assert!(matches!(refused(400, "InvalidMessageContents"), QueueError::Invalid(_)));
        assert!(matches!(called().error(Fault::Unreachable("x".into())), QueueError::Unavailable(_)));
        let QueueError::Denied(text) = called().error(Fault::NoCredentials("the credential provider was not enabled".into())) else {
            panic!("denied")
        };
        assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    }

    #[test]
    fn an_entry_is_stale_the_senders_fault_or_to_be_tried_again() {
        let entry = |code: &str, message: &str, fault: bool| {
            BatchResultErrorEntry::builder().id("0").code(code).message(message).sender_fault(fault).build().unwrap()
        };
        let stale = [
            ("ReceiptHandleIsInvalid", ""),
            ("AWS.SimpleQueueService.MessageNotInflight", ""),
            ("InvalidParameterValue", "Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."),
            ("InvalidParameterValue", "Reason: Message does not exist or is not available for visibility timeout change."),
        ];
        for (code, message) in stale {
            let error = called().entry(&entry(code, message, true), true);
            assert!(matches!(error, QueueError::NotFound(_)), "{code}: {error}");
        }
        assert!(matches!(called().entry(&entry("ReceiptHandleIsInvalid", "", true), false), QueueError::Invalid(_)), "no entry of a send");
        assert!(matches!(called().entry(&entry("InvalidParameterValue", "beyond the limit", true), true), QueueError::Invalid(_)));
        assert!(matches!(called().entry(&entry("InternalError", "", false), true), QueueError::Unavailable(_)));
        assert!(matches!(called().entry(&entry("RequestThrottled", "", true), true), QueueError::Unavailable(_)));
    }
}
