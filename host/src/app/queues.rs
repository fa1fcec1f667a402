//! Queues of brokers, opened as a pipeline and the machine's configuration name them: each once, all at the same time, and none longer
//! than a person waits.

use super::{AppError, PATIENCE};
use crate::aws;
use crate::config::{BrokerAt, Config, Pipeline, QueueAt, QueueRules};
use crate::queue::{Queue, QueueError, RedisAddress, RedisQueue, SqsAddress, SqsQueue};
use crate::worker::QueueSpec;
use futures::future::try_join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Opens what the pipeline needs. Steps that are run here are read, in its order and the entry first: a message that names no step is of
/// the first one.
pub(super) async fn open(config: &Config, pipeline: &Pipeline) -> Result<Vec<QueueSpec>, AppError> {
    let brokers = pipeline.brokers();
    for rules in config.queues.iter().filter(|rules| !brokers.iter().any(|at| at.name() == rules.at.name())) {
        // Another pipeline of this machine may have it; a queue that is spelled in another way has lost its rules.
        let (queue, called) = (rules.at.name(), rules.name.as_deref().unwrap_or_default());
        tracing::info!(queue, called, "[queues] has rules for a queue that this pipeline does not use");
    }
    try_join_all(brokers.into_iter().map(|at| open_one(config, pipeline, at))).await
}

async fn open_one(config: &Config, pipeline: &Pipeline, at: &BrokerAt) -> Result<QueueSpec, AppError> {
    let refused = |why: String| AppError::Queue { setting: setting_of(config, pipeline, at), queue: at.name(), why };
    let queue = match timeout(PATIENCE, connect(config, at)).await {
        Ok(connected) => connected.map_err(|e| refused(e.to_string()))?,
        Err(_) => return Err(refused(late(PATIENCE))),
    };
    let is_here = |queue: &QueueAt| matches!(queue, QueueAt::Broker(other) if other.name() == at.name());
    let mut steps: Vec<String> = pipeline.steps.iter().filter(|step| is_here(&step.queue)).map(|step| step.name.clone()).collect();
    steps.sort_by_key(|step| *step != pipeline.entry);
    let rules = rules_of(config, at);
    let reads_entry = steps.first() == Some(&pipeline.entry);
    let of_entry = config.queue.inputs.iter().filter(|_| reads_entry);
    Ok(QueueSpec {
        name: at.name(),
        queue,
        tenant: rules.and_then(|rules| rules.tenant.clone()).unwrap_or_else(|| config.tenant.clone()),
        trusted: rules.is_some_and(|rules| rules.trusted),
        steps,
        bucket: config.bucket.clone(),
        inputs: rules.into_iter().flat_map(|rules| &rules.inputs).chain(of_entry).cloned().collect(),
    })
}

/// What the machine knows of a queue, whichever way it is named.
fn rules_of<'a>(config: &'a Config, at: &BrokerAt) -> Option<&'a QueueRules> {
    config.queues.iter().find(|rules| rules.at.name() == at.name())
}

/// Reaches a queue and finds it there.
pub(super) async fn connect(config: &Config, at: &BrokerAt) -> Result<Arc<dyn Queue>, QueueError> {
    if at.is_redis() {
        let address = RedisAddress::parse(at.reveal()).map_err(QueueError::Invalid)?;
        return Ok(Arc::new(RedisQueue::open(&address).await?));
    }
    let address = SqsAddress::parse(at.reveal()).map_err(QueueError::Invalid)?;
    // What speaks SQS elsewhere takes any region. Where nothing names one, looking for it would cost the seconds that a person waits.
    let any = address.endpoint().filter(|_| !config.s3.in_environment).map(|_| ANY_REGION);
    let shared = aws::load(address.region().or(any)).await;
    Ok(Arc::new(SqsQueue::open(&address, &shared).await?))
}

/// The region that what speaks SQS is told where nobody names one.
const ANY_REGION: &str = "us-east-1";

/// What has set a queue, for an error: a variable, a key of the machine's file, or a step's `queue`.
pub(super) fn setting_of(config: &Config, pipeline: &Pipeline, at: &BrokerAt) -> String {
    let machine = config.brokers().into_iter().find(|(_, other)| other.name() == at.name());
    let is_here = |queue: &QueueAt| matches!(queue, QueueAt::Broker(other) if other.name() == at.name());
    let of_step = || {
        let here = pipeline.steps.iter().map(|step| (&step.name, &step.queue));
        let all = here.chain(pipeline.elsewhere.iter().map(|step| (&step.name, &step.queue)));
        all.into_iter().find(|(_, queue)| is_here(queue)).map_or_else(|| "queue".to_owned(), |(name, _)| format!("steps.{name}.queue"))
    };
    machine.map_or_else(of_step, |(key, _)| config.named(key))
}

/// Nothing came for so long.
pub(super) fn late(patience: Duration) -> String {
    format!("no answer within {} s; is it up, and reachable from here?", patience.as_secs())
}
