//! The protocol: requests read and checked as SQS does, answers and errors as it words them.

use super::shelf::{Delivery, Refusal, Shelf};
use super::{ACCOUNT, Broker, DEAD, Shared};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most entries of a batch, longest poll, longest delay, longest visibility: SQS's own bounds, the times in seconds.
const ENTRIES: usize = 10;
const POLL: i64 = 20;
const DELAY: i64 = 900;
const VISIBILITY: i64 = 43_200;

/// How long a delivery is hidden where the receiver does not say.
const DEFAULT_VISIBILITY: i64 = 30;

/// Longest request: a batch of the largest messages, every byte of it escaped.
const LONGEST_REQUEST: usize = 16 << 20;

type Answer = Result<Value, Refusal>;

pub fn routes(shared: Arc<Shared>) -> Router {
    // One address for all: the operation stands in a header, and the queue in the body.
    Router::new().route("/", post(call)).layer(DefaultBodyLimit::max(LONGEST_REQUEST)).with_state(shared)
}

async fn call(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    match answer(&shared, &headers, &body).await {
        Ok(answer) => (StatusCode::OK, [("content-type", "application/x-amz-json-1.0")], answer.to_string()).into_response(),
        Err(Refusal { code, message, by_sender }) => {
            let (status, fault) =
                if by_sender { (StatusCode::BAD_REQUEST, "Sender") } else { (StatusCode::INTERNAL_SERVER_ERROR, "Receiver") };
            let old_name = if code == "QueueDoesNotExist" { "AWS.SimpleQueueService.NonExistentQueue" } else { code };
            let headers =
                [("content-type", "application/x-amz-json-1.0".to_owned()), ("x-amzn-query-error", format!("{old_name};{fault}"))];
            (status, headers, json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": message}).to_string()).into_response()
        }
    }
}

async fn answer(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = header("x-amz-target").strip_prefix("AmazonSQS.").unwrap_or_default();
    if operation.is_empty() || header("content-type") != "application/x-amz-json-1.0" {
        return Err(Refusal::new("InvalidAction", "no operation of AWS JSON 1.0"));
    }
    let signed = header("authorization").strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| rest.split_once('/'));
    match signed {
        None => return Err(Refusal::new("MissingAuthenticationToken", "the request is not signed")),
        Some((_, scope)) if !scope.contains("/sqs/aws4_request") => return Err(Refusal::new("IncompleteSignature", scope)),
        Some(("stranger", _)) => {
            return Err(Refusal::new("InvalidClientTokenId", "The security token included in the request is invalid."));
        }
        Some(("guest", _)) => return Err(Refusal::new("AccessDeniedException", format!("not authorized to perform: sqs:{operation}"))),
        Some(_) => {}
    }
    let request: Map<String, Value> = serde_json::from_slice(body).map_err(|e| Refusal::new("SerializationException", e.to_string()))?;
    let url = request.get("QueueUrl").and_then(Value::as_str).unwrap_or_default();
    let name = url.rsplit_once(&format!("/{ACCOUNT}/")).map_or("", |(_, name)| name).to_owned();
    let loses_answer = {
        let mut broker = shared.broker();
        *broker.calls.entry(operation.to_owned()).or_default() += 1;
        if !broker.shelves.contains_key(&name) {
            return Err(Refusal::new("QueueDoesNotExist", "The specified queue does not exist."));
        }
        let faults = broker.config.faults;
        if broker.strikes(faults.throttles, "throttled") {
            return Err(Refusal::new("RequestThrottled", "on purpose"));
        }
        if broker.strikes(faults.failures, "failed") {
            return Err(Refusal::own("InternalFailure"));
        }
        broker.strikes(faults.lost_answers, "answers lost")
    };
    let done = match operation {
        "ReceiveMessage" => receive(shared, &name, &request).await,
        "SendMessage" => send(&mut shared.broker(), &name, &request),
        "SendMessageBatch" => send_batch(&mut shared.broker(), &name, &request),
        "DeleteMessage" => remove(&mut shared.broker(), &name, &request),
        "DeleteMessageBatch" => entries(&mut shared.broker(), &request, |broker, entry| remove(broker, &name, entry)),
        "ChangeMessageVisibility" => hide(&mut shared.broker(), &name, &request),
        "ChangeMessageVisibilityBatch" => entries(&mut shared.broker(), &request, |broker, entry| hide(broker, &name, entry)),
        "GetQueueAttributes" => attributes(&mut shared.broker(), &name, &request),
        other => return Err(Refusal::new("UnsupportedOperation", other)),
    };
    shared.news.notify_waiters();
    if loses_answer { Err(Refusal::own("InternalFailure")) } else { done }
}

/// A whole number within bounds; `default` where it is absent.
fn number(of: &Map<String, Value>, key: &str, from: i64, to: i64, default: i64) -> Result<i64, Refusal> {
    let given = of.get(key).map_or(Some(default), Value::as_i64).filter(|value| (from..=to).contains(value));
    given.ok_or_else(|| Refusal::new("InvalidParameterValue", format!("{key} must be between {from} and {to}")))
}

fn text<'a>(of: &'a Map<String, Value>, key: &str) -> Result<&'a str, Refusal> {
    of.get(key)
        .and_then(Value::as_str)
        .filter(|t| !t.is_empty())
        .ok_or_else(|| Refusal::new("MissingParameter", format!("{key} is missing")))
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.unsigned_abs())
}

fn shelf<'a>(broker: &'a mut Broker, name: &str) -> Result<&'a mut Shelf, Refusal> {
    broker.shelves.get_mut(name).ok_or_else(|| Refusal::new("QueueDoesNotExist", "The specified queue does not exist."))
}

async fn receive(shared: &Shared, name: &str, request: &Map<String, Value>) -> Answer {
    let max = number(request, "MaxNumberOfMessages", 1, ENTRIES as i64, 1)? as usize;
    let hidden = seconds(number(request, "VisibilityTimeout", 0, VISIBILITY, DEFAULT_VISIBILITY)?);
    let until = Instant::now() + seconds(number(request, "WaitTimeSeconds", 0, POLL, 0)?);
    let is_counted = request
        .get("MessageSystemAttributeNames")
        .and_then(Value::as_array)
        .is_some_and(|names| names.iter().any(|name| matches!(name.as_str(), Some("ApproximateReceiveCount" | "All"))));
    loop {
        let mut news = pin!(shared.news.notified());
        news.as_mut().enable();
        let found = {
            let broker = &mut *shared.broker();
            let now = Instant::now();
            let gives_up_after = broker.config.redrive.filter(|_| name != DEAD);
            let Broker { config, dice, shelves, .. } = broker;
            let shelf = shelves.get_mut(name).ok_or_else(|| Refusal::new("QueueDoesNotExist", "it is gone"))?;
            let mut found = shelf.take(max, hidden, config, gives_up_after, dice, now)?;
            for body in std::mem::take(&mut found.dead) {
                shelves.get_mut(DEAD).expect("it is there").add(body, None, Duration::ZERO, now);
            }
            found
        };
        if !found.deliveries.is_empty() || Instant::now() >= until {
            let messages: Vec<Value> = found.deliveries.into_iter().map(|delivery| message(delivery, is_counted)).collect();
            return Ok(if messages.is_empty() { json!({}) } else { json!({ "Messages": messages }) });
        }
        // A time-out is time to look again, or to go.
        let _ = timeout_at(found.next.map_or(until, |next| next.min(until)), news).await;
    }
}

fn message(delivery: Delivery, is_counted: bool) -> Value {
    let Delivery { number, body, receipt, deliveries } = delivery;
    let mut message = json!({"MessageId": message_id(number), "ReceiptHandle": receipt, "Body": body});
    if is_counted {
        message["Attributes"] = json!({"ApproximateReceiveCount": deliveries.to_string()});
    }
    message
}

fn message_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn send(broker: &mut Broker, name: &str, message: &Map<String, Value>) -> Answer {
    let (now, body) = (Instant::now(), text(message, "MessageBody")?);
    if body.len() > broker.config.max_body {
        return Err(Refusal::new(
            "InvalidParameterValue",
            format!("one or more parameters are invalid: over {} bytes", broker.config.max_body),
        ));
    }
    if let Some(bad) = body.chars().find(|c| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')) {
        return Err(Refusal::new("InvalidMessageContents", format!("Invalid binary character '#x{:X}'", bad as u32)));
    }
    let delay = number(message, "DelaySeconds", 0, DELAY, 0)?;
    let is_forgotten = broker.dice.f64() < broker.config.faults.forgets;
    let window = broker.config.deduplicates_for;
    let shelf = shelf(broker, name)?;
    if !shelf.is_fifo {
        if ["MessageGroupId", "MessageDeduplicationId"].iter().any(|key| message.contains_key(*key)) {
            return Err(Refusal::new("InvalidParameterValue", "only a FIFO queue has groups and drops repeats"));
        }
        if is_forgotten {
            broker.forgotten += 1;
            return Ok(json!({"MessageId": message_id(0)}));
        }
        let number = shelf.add(body.to_owned(), None, seconds(delay), now);
        return Ok(json!({ "MessageId": message_id(number) }));
    }
    if message.contains_key("DelaySeconds") {
        return Err(Refusal::new("InvalidParameterValue", "a FIFO queue takes no delay of one message"));
    }
    let [group, id] = ["MessageGroupId", "MessageDeduplicationId"].map(|key| text(message, key));
    let (group, id) = (group?, id?);
    if [group, id].iter().any(|name| name.len() > 128 || !name.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(Refusal::new("InvalidParameterValue", "a group and a deduplication id have 1 to 128 letters, digits and signs"));
    }
    let number = match shelf.repeated(id, window, now) {
        Some(before) => before,
        None => shelf.add(body.to_owned(), Some(group.to_owned()), Duration::ZERO, now),
    };
    Ok(json!({"MessageId": message_id(number), "SequenceNumber": number.to_string()}))
}

fn send_batch(broker: &mut Broker, name: &str, request: &Map<String, Value>) -> Answer {
    let bodies = request.get("Entries").and_then(Value::as_array).into_iter().flatten();
    let bytes: usize = bodies.filter_map(|entry| entry.get("MessageBody")?.as_str()).map(str::len).sum();
    // A batch may be as large as the largest message of any queue once was, or of this one.
    let most = broker.config.max_body.max(256 << 10);
    if bytes > most {
        return Err(Refusal::new("BatchRequestTooLong", format!("a batch of {bytes} bytes is over {most}")));
    }
    entries(broker, request, |broker, entry| send(broker, name, entry))
}

fn remove(broker: &mut Broker, name: &str, entry: &Map<String, Value>) -> Answer {
    shelf(broker, name)?.remove(text(entry, "ReceiptHandle")?, Instant::now())?;
    Ok(json!({}))
}

fn hide(broker: &mut Broker, name: &str, entry: &Map<String, Value>) -> Answer {
    let time = seconds(number(entry, "VisibilityTimeout", 0, VISIBILITY, -1)?);
    let max_hold = broker.config.max_hold;
    shelf(broker, name)?.hide(text(entry, "ReceiptHandle")?, time, max_hold, Instant::now())?;
    Ok(json!({}))
}

/// Does each entry of a batch, and answers each by itself.
fn entries(broker: &mut Broker, request: &Map<String, Value>, one: impl Fn(&mut Broker, &Map<String, Value>) -> Answer) -> Answer {
    let empty = Vec::new();
    let entries = request.get("Entries").and_then(Value::as_array).unwrap_or(&empty);
    if entries.is_empty() {
        return Err(Refusal::new("EmptyBatchRequest", "There should be at least one entry."));
    }
    if entries.len() > ENTRIES {
        return Err(Refusal::new("TooManyEntriesInBatchRequest", format!("at most {ENTRIES}")));
    }
    let entries: Vec<(&str, &Map<String, Value>)> =
        entries.iter().filter_map(|entry| Some((entry.get("Id")?.as_str()?, entry.as_object()?))).collect();
    let is_id = |id: &str| (1..=80).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if entries.iter().any(|(id, _)| !is_id(id)) {
        return Err(Refusal::new("InvalidBatchEntryId", "an id has letters, digits, '-' and '_'"));
    }
    if entries.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len() < entries.len() {
        return Err(Refusal::new("BatchEntryIdsNotDistinct", "two entries have one id"));
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (id, entry) in entries {
        let fails = broker.strikes(broker.config.faults.entries, "entries failed");
        match if fails { Err(Refusal::own("InternalError")) } else { one(broker, entry) } {
            Ok(mut done) => {
                done["Id"] = id.into();
                successful.push(done);
            }
            Err(Refusal { code, message, by_sender }) => {
                failed.push(json!({"Id": id, "Code": code, "Message": message, "SenderFault": by_sender}));
            }
        }
    }
    Ok(json!({"Successful": successful, "Failed": failed}))
}

fn attributes(broker: &mut Broker, name: &str, request: &Map<String, Value>) -> Answer {
    let config = broker.config.clone();
    let shelf = shelf(broker, name)?;
    let counts = shelf.counts(Instant::now());
    let mut all = json!({
        "QueueArn": format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"),
        "ApproximateNumberOfMessages": counts.visible.to_string(),
        "ApproximateNumberOfMessagesNotVisible": counts.hidden.to_string(),
        "ApproximateNumberOfMessagesDelayed": counts.delayed.to_string(),
        "MaximumMessageSize": config.max_body.to_string(),
        "VisibilityTimeout": DEFAULT_VISIBILITY.to_string(),
        "DelaySeconds": "0",
    });
    if shelf.is_fifo {
        all["FifoQueue"] = "true".into();
    }
    if let Some(most) = config.redrive.filter(|_| name != DEAD) {
        let policy = json!({"deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{DEAD}"), "maxReceiveCount": most});
        all["RedrivePolicy"] = policy.to_string().into();
    }
    let names = request.get("AttributeNames").and_then(Value::as_array).cloned().unwrap_or_default();
    if names.iter().any(|name| name == "All") {
        return Ok(json!({ "Attributes": all }));
    }
    let mut asked = Map::new();
    for name in names.iter().filter_map(Value::as_str) {
        // One that this queue could have and has not is left out.
        match all.get(name) {
            Some(value) => drop(asked.insert(name.to_owned(), value.clone())),
            None if name == "RedrivePolicy" => {}
            None => return Err(Refusal::new("InvalidAttributeName", format!("Unknown Attribute {name}."))),
        }
    }
    Ok(json!({ "Attributes": asked }))
}
