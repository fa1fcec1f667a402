//! Which dead letters a command means.

use super::super::failure::Failure;
use crate::app::App;
use crate::task_store::DeadLetterFilter;
use clap::Args;

/// What narrows a list of letters. All that is given must fit.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only this letter, by its number
    #[arg(long, value_name = "NUMBER")]
    id: Option<i64>,
    /// Only this task, by its id or the beginning of it
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Only of this job, by its id or the beginning of it
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Only of this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Only with this error code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
}

/// Which letters a command changes: never all of them by accident.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Every one
    #[arg(long, conflicts_with_all = ["id", "task", "job", "step", "code"])]
    all: bool,
    /// Says which they would be, and changes nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Chosen {
    /// Refuses a command that says nothing.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.all || !self.filter.is_empty() {
            return Ok(());
        }
        Err(Failure::usage("nothing says which letters").help("--id, --task, --job, --step or --code choose some; --all takes every one"))
    }
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.id.is_none() && [&self.task, &self.job, &self.step, &self.code].iter().all(|f| f.is_none())
    }

    /// The store's own filter; beginnings of ids are made whole.
    pub(super) async fn with(&self, app: &App, limit: u32) -> Result<DeadLetterFilter, Failure> {
        let tenant = &app.config.tenant;
        let task_id = match &self.task {
            Some(id) => Some(app.tasks.task(tenant, id).await?.task_id),
            None => None,
        };
        let job_id = match &self.job {
            Some(id) => Some(super::super::jobs::find(app, id).await?.job_id),
            None => None,
        };
        Ok(DeadLetterFilter {
            id: self.id,
            tenant: Some(tenant.clone()),
            task_id,
            job_id,
            step: self.step.clone(),
            code: self.code.clone(),
            limit,
        })
    }
}
