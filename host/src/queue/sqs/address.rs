//! The address of a queue on SQS: its URL, as AWS and what speaks SQS write it, and what follows from it. Pure.

use std::fmt;
use std::str::FromStr;
use url::Url;

/// Domains under which AWS serves: the commercial and the Chinese partition, each with its dual-stack name.
const DOMAINS: [&str; 4] = ["amazonaws.com", "amazonaws.com.cn", "api.aws", "api.amazonwebservices.com.cn"];

/// Region of the oldest host, which names none.
const OLDEST: &str = "us-east-1";

/// Longest name of a queue, and what the name of one that keeps order ends with: rules of SQS.
const MAX_NAME: usize = 80;
const FIFO: &str = ".fifo";

/// What an address looks like, for whoever wrote another one.
const FORMS: &str = "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, or http(s)://HOST:PORT/ACCOUNT/NAME for what speaks SQS";

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqsAddress {
    url: String,
    name: String,
    region: Option<String>,
    endpoint: Option<String>,
}

impl SqsAddress {
    /// Reads the URL of a queue; says what is wrong with one that is none.
    pub fn parse(url: &Url) -> Result<Self, String> {
        // Shown without what may be a secret.
        let shown = format!(
            "'{}://{}{}'",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            if url.path().contains('@') { "/…" } else { url.path() }
        );
        let wrong = |why: &str| format!("{shown} is no queue of SQS: {why} (it is {FORMS})");
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("its scheme is neither https nor http"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("credentials stand in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, not in the URL"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it takes no '?' and no '#'"));
        }
        let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
        let [account, name] = segments.as_slice() else { return Err(wrong("the path has two parts, account and name")) };
        let stem = name.strip_suffix(FIFO).unwrap_or(name);
        if stem.is_empty() || name.len() > MAX_NAME || !stem.bytes().all(is_word) {
            return Err(wrong("a name has 1 to 80 letters, digits, '-' and '_', and may end with '.fifo'"));
        }
        let host = url.host_str().unwrap_or_default();
        let domain = DOMAINS.iter().find_map(|domain| host.strip_suffix(domain)?.strip_suffix('.').map(|rest| (rest, *domain)));
        let (region, own) = match domain {
            None if account.is_empty() || !account.bytes().all(is_word) => return Err(wrong("the account has letters and digits")),
            None => (None, true),
            Some(_) if url.scheme() == "http" => return Err(wrong("AWS is spoken to by https")),
            Some(_) if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(wrong("an account of AWS has twelve digits"));
            }
            Some((rest, domain)) => {
                let (region, own) = region_of(rest, domain).ok_or_else(|| wrong("the host is none of SQS"))?;
                (Some(region.to_owned()), own)
            }
        };
        let endpoint = own.then(|| url.origin().ascii_serialization());
        Ok(Self { url: url.as_str().to_owned(), name: (*name).to_owned(), region, endpoint })
    }

    /// The URL, which is the queue's name in every call.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The queue's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The region that the host names; none where it names none.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Where to call, unless it is where the region's calls go anyway: what speaks SQS, endpoints of a private network, FIPS, dual stack.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether the queue keeps order and drops repeats.
    pub fn is_fifo(&self) -> bool {
        self.name.ends_with(FIFO)
    }
}

impl FromStr for SqsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(&Url::parse(text).map_err(|error| format!("no URL of a queue of SQS: {error} (it is {FORMS})"))?)
    }
}

impl fmt::Display for SqsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The region in what stands before the domain of AWS, and whether calls have to go to this very host.
fn region_of<'a>(host: &'a str, domain: &str) -> Option<(&'a str, bool)> {
    let labels: Vec<&str> = host.split('.').collect();
    let is_dual = domain.starts_with("api.");
    let found = match labels.as_slice() {
        ["sqs", region] => (*region, is_dual),
        ["sqs-fips", region] => (*region, true),
        [endpoint, "sqs", region, "vpce"] if endpoint.starts_with("vpce-") => (*region, true),
        // The hosts of the first years still answer, but not in today's protocol.
        [region, "queue"] => (*region, false),
        ["queue"] => (OLDEST, false),
        _ => return None,
    };
    let is_region = found.0.contains('-') && found.0.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_region.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SqsAddress, String> {
        text.parse()
    }

    #[test]
    fn every_way_to_write_a_queue_is_read() {
        let of_aws = [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/jobs", "eu-west-1", None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/jobs", "cn-north-1", None),
            ("https://sqs.us-gov-west-1.amazonaws.com/123456789012/jobs.fifo", "us-gov-west-1", None),
            ("https://sqs-fips.us-east-2.amazonaws.com/123456789012/jobs", "us-east-2", Some("https://sqs-fips.us-east-2.amazonaws.com")),
            ("https://sqs.us-east-2.api.aws/123456789012/jobs", "us-east-2", Some("https://sqs.us-east-2.api.aws")),
            ("https://us-west-2.queue.amazonaws.com/123456789012/jobs", "us-west-2", None),
            ("https://queue.amazonaws.com/123456789012/jobs", "us-east-1", None),
            (
                "https://vpce-0a1-b2c.sqs.us-east-1.vpce.amazonaws.com/123456789012/jobs",
                "us-east-1",
                Some("https://vpce-0a1-b2c.sqs.us-east-1.vpce.amazonaws.com"),
            ),
        ];
        for (text, region, endpoint) in of_aws {
            let address = parse(text).unwrap();
            assert_eq!((address.url(), address.region(), address.endpoint()), (text, Some(region), endpoint));
            assert_eq!(address.is_fifo(), text.ends_with(".fifo"));
        }
        for (text, endpoint) in [
            ("http://127.0.0.1:5000/123456789012/jobs", "http://127.0.0.1:5000"),
            ("https://queue.example.org/main/jobs.fifo", "https://queue.example.org"),
            (
                "http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/jobs",
                "http://sqs.eu-west-1.localhost.localstack.cloud:4566",
            ),
            // Only a whole domain is AWS.
            ("https://sqs.eu-west-1.notamazonaws.com/1/jobs", "https://sqs.eu-west-1.notamazonaws.com"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!((address.region(), address.endpoint()), (None, Some(endpoint)));
        }
    }

    #[test]
    fn what_is_no_queue_is_refused_with_the_reason() {
        let bad = [
            ("ftp://sqs.eu-west-1.amazonaws.com/123456789012/jobs", "scheme"),
            ("http://sqs.eu-west-1.amazonaws.com/123456789012/jobs", "https"),
            ("https://key:secret@sqs.eu-west-1.amazonaws.com/123456789012/jobs", "AWS_ACCESS_KEY_ID"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/jobs?x=1", "'?'"),
            ("https://sqs.eu-west-1.amazonaws.com/jobs", "two parts"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/jobs/", "two parts"),
            ("https://sqs.eu-west-1.amazonaws.com/12345/jobs", "twelve digits"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/jo%20bs", "letters, digits"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/.fifo", "letters, digits"),
            ("https://s3.eu-west-1.amazonaws.com/123456789012/jobs", "host"),
            ("https://sqs.amazonaws.com/123456789012/jobs", "host"),
            ("http://127.0.0.1:5000/123456789012/", "letters, digits"),
            ("http://127.0.0.1:5000//jobs", "account"),
        ];
        for (text, named) in bad {
            let why = parse(text).unwrap_err();
            assert!(why.contains(named) && !why.contains("secret@"), "{text}: {why}");
        }
        let long = format!("http://h/a/{}", "x".repeat(81));
        assert!(parse(&long).is_err());
        assert!(parse("jobs").unwrap_err().contains("no URL"));
    }
}
