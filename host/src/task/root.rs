//! From a message to the root task it asks for: prefixes, attempts, delay and what carries it. Pure; the same for what people submit
//! and for what comes over a queue.

use super::children::{self, Delivery, NewTask, Routes};
use super::id;
use super::message::Message;
use super::pointer::Violation;
use super::uri::Uri;
use std::time::Duration;

/// Furthest that a task can be put off: a year. Longer ones are a mistake of units more often than a wish.
pub const MAX_DELAY: Duration = Duration::from_secs(365 * 86_400);

/// A root task about to exist, and its job's own prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct Root {
    /// Ends with `/`.
    pub job_prefix: Uri,
    /// The task.
    pub task: NewTask,
}

/// What a root task is made from, besides its message.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// The step as resolved.
    pub step: &'a str,
    /// Routes of the pipeline: attempts, deliveries, failures.
    pub routes: &'a Routes,
    /// Below it lie the prefixes of jobs that name none.
    pub bucket: &'a Uri,
    /// The job's own prefix, where its submitter names one.
    pub job_prefix: Option<&'a Uri>,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl Origin<'_> {
    /// The tenant's own area of the bucket.
    pub fn area(&self) -> Result<Uri, String> {
        self.bucket.join(&format!("{}/", self.tenant))
    }

    /// The only root task of its job: it owns the job's prefix.
    pub fn single(&self, message: Message) -> Result<Root, Vec<Violation>> {
        let job_prefix = self.prefix_of_job(&message)?;
        let task = self.task(message, &job_prefix, self.routes.delivery_of(self.step))?;
        Ok(Root { job_prefix, task })
    }

    /// One of the root tasks of a job that is fed: none of them owns the job's prefix. Without a prefix of its own it gets
    /// `<job prefix>/<step>/<12 hex>/`.
    pub fn fed(&self, message: Message, delivery: Delivery) -> Result<Root, Vec<Violation>> {
        let job_prefix = self.prefix_of_job(&message)?;
        let prefix = match &message.output_prefix {
            Some(prefix) => Uri::parse(prefix),
            None => job_prefix.join(&format!("{}/{}/", self.step, id::short(&message.task_id))),
        };
        let prefix = prefix.map_err(|e| vec![Violation::at("/output_prefix", e)])?;
        let task = self.task(message, &prefix, delivery)?;
        Ok(Root { job_prefix, task })
    }

    /// `<bucket>/<tenant>/jobs/<job_id>/` unless the submitter names one.
    fn prefix_of_job(&self, message: &Message) -> Result<Uri, Vec<Violation>> {
        if let Some(prefix) = self.job_prefix {
            return Ok(prefix.as_prefix());
        }
        let prefix = self.bucket.join(&format!("{}/jobs/{}/", self.tenant, message.job_id));
        prefix.map_err(|e| vec![Violation::at("/job_id", e)])
    }

    fn task(&self, message: Message, prefix: &Uri, delivery: Delivery) -> Result<NewTask, Vec<Violation>> {
        let delay_ms = message.not_before.map_or(0, |due| due.saturating_sub(self.now_ms).max(0).unsigned_abs());
        if u128::from(delay_ms) > MAX_DELAY.as_millis() {
            let text = format!("is further away than {} days", MAX_DELAY.as_secs() / 86_400);
            return Err(vec![Violation::at("/not_before", text)]);
        }
        let task = children::root(message, self.step, self.routes.attempts_of(self.step), prefix);
        let task = task.map_err(|e| vec![Violation::at("", e)])?;
        Ok(NewTask { delay_ms, delivery, on_failure: self.routes.on_failure_of(self.step), ..task })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(not_before: Option<i64>) -> Message {
        Message { not_before, ..Message::new("job", "task", serde_json::Map::new()) }
    }

    fn with_origin<T>(run: impl FnOnce(Origin<'_>) -> T) -> T {
        let routes = Routes {
            default_max_attempts: 4,
            failures: [("s".to_owned(), "sorry".to_owned())].into(),
            deliveries: [("s".to_owned(), Delivery::Queue("own".into()))].into(),
            ..Routes::default()
        };
        let bucket = Uri::parse("s3://bucket/").unwrap();
        run(Origin { tenant: "t", step: "s", routes: &routes, bucket: &bucket, job_prefix: None, now_ms: 1_000 })
    }

    #[test]
    fn a_single_root_owns_its_jobs_prefix() {
        with_origin(|origin| {
            let root = origin.single(message(None)).unwrap();
            assert_eq!(
                (root.job_prefix.as_str(), root.task.output_prefix.as_str()),
                ("s3://bucket/t/jobs/job/", "s3://bucket/t/jobs/job/")
            );
            assert_eq!((root.task.max_attempts, &root.task.delivery), (4, &Delivery::Queue("own".into())));
            assert_eq!(root.task.on_failure.unwrap().step, "sorry");
            let named = Uri::parse("file:///out/").unwrap();
            let named = Origin { job_prefix: Some(&named), ..origin }.single(message(None)).unwrap();
            assert_eq!((named.job_prefix.as_str(), named.task.output_prefix.as_str()), ("file:///out/", "file:///out/"));
        });
    }

    #[test]
    fn fed_roots_lie_apart_below_their_job() {
        with_origin(|origin| {
            let root = origin.fed(message(None), Delivery::Queue("q".into())).unwrap();
            assert_eq!(root.job_prefix.as_str(), "s3://bucket/t/jobs/job/");
            assert_eq!(root.task.output_prefix, format!("s3://bucket/t/jobs/job/s/{}/", id::short("task")));
            assert_eq!(root.task.delivery, Delivery::Queue("q".into()));
        });
    }

    #[test]
    fn a_time_becomes_a_wait_within_a_year() {
        with_origin(|origin| {
            assert_eq!(origin.fed(message(Some(3_500)), Delivery::Queue("q".into())).unwrap().task.delay_ms, 2_500);
            assert_eq!(origin.fed(message(Some(10)), Delivery::Queue("q".into())).unwrap().task.delay_ms, 0);
            assert_eq!(origin.single(message(Some(i64::MAX))).unwrap_err()[0].pointer, "/not_before");
        });
    }
}
