//! Instances by step: warm ones are kept and used again, the one used last first, so that few stay hot and the rest can go.

use super::component::Component;
use super::engine::GuestEngine;
use super::instance::WasmGuest;
use super::scope::{Grants, Services};
use super::{Guest, GuestFault, Guests};
use crate::inference::{ModelSpec, Models};
use crate::task::hooks::TaskError;
use crate::task::limits::Limits;
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What an instance is set up with: the step's part of the pipeline file.
#[derive(Debug, Clone)]
pub struct StepSetup {
    /// Name of the step.
    pub step: String,
    /// Functions it may be asked for; empty where it has only one.
    pub functions: Vec<String>,
    /// The models it declares, by short name.
    pub models: BTreeMap<String, ModelSpec>,
    /// Its `config` table: a JSON object, as text.
    pub config: String,
    /// Further named JSON values. The host adds `grants`.
    pub extras: Vec<(String, String)>,
    /// What it may read at any time. Handed to `load-pipeline` as the JSON list `grants`, in this order.
    pub grants: Grants,
    /// Its bounds.
    pub limits: Limits,
    /// Whether it may load models from its own bytes.
    pub allow_load: bool,
    /// Instances kept between tasks, at most.
    pub warm: usize,
}

impl StepSetup {
    /// A step without models, grants or config, for running hooks apart from a pipeline.
    pub fn bare(step: &str, limits: Limits) -> Self {
        Self {
            step: step.to_owned(),
            functions: Vec::new(),
            models: BTreeMap::new(),
            config: "{}".to_owned(),
            extras: Vec::new(),
            grants: Grants::default(),
            limits,
            allow_load: false,
            warm: 1,
        }
    }

    /// The extras handed to `load-pipeline`.
    pub(super) fn extras(&self) -> Vec<(String, String)> {
        let granted: Vec<&str> = self.grants.read.iter().map(crate::task::uri::Uri::as_str).collect();
        let mut extras = self.extras.clone();
        extras.push(("grants".to_owned(), serde_json::json!(granted).to_string()));
        extras
    }
}

/// A step and the component that serves it.
#[derive(Debug, Clone)]
pub struct StepGuest {
    /// Compiled and checked.
    pub component: Arc<Component>,
    /// The rest.
    pub setup: StepSetup,
}

struct Pool {
    component: Arc<Component>,
    setup: Arc<StepSetup>,
    idle: Mutex<Vec<Box<dyn Guest>>>,
}

/// Instances of every step of a pipeline.
pub struct WasmGuests {
    engine: Arc<GuestEngine>,
    services: Services,
    models: Arc<Models>,
    pools: HashMap<String, Arc<Pool>>,
}

impl WasmGuests {
    /// Makes no instance yet. The components must come from `engine`.
    pub fn new(engine: Arc<GuestEngine>, services: Services, models: Arc<Models>, steps: Vec<StepGuest>) -> Arc<Self> {
        let pool = |step: StepGuest| {
            let name = step.setup.step.clone();
            (name, Arc::new(Pool { component: step.component, setup: Arc::new(step.setup), idle: Mutex::default() }))
        };
        Arc::new(Self { engine, services, models, pools: steps.into_iter().map(pool).collect() })
    }

    /// A new instance after `load-pipeline`, whatever is warm.
    pub async fn fresh(&self, step: &str) -> Result<Box<dyn Guest>, GuestFault> {
        let pool = Arc::clone(self.pool(step)?);
        let (services, models) = (self.services.clone(), Arc::clone(&self.models));
        let start = async move { WasmGuest::start(&pool.component, &pool.setup, &services, &models).await };
        Ok(Box::new(self.engine.run(start).await??))
    }

    fn pool(&self, step: &str) -> Result<&Arc<Pool>, GuestFault> {
        self.pools.get(step).ok_or_else(|| GuestFault::Host(TaskError::new("no-such-step", format!("no guest serves step '{step}'"))))
    }
}

#[async_trait]
impl Guests for WasmGuests {
    async fn instance(&self, step: &str) -> Result<Box<dyn Guest>, GuestFault> {
        let warm = self.pool(step)?.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match warm {
            Some(guest) => Ok(guest),
            None => self.fresh(step).await,
        }
    }

    fn give_back(&self, step: &str, guest: Box<dyn Guest>) {
        let Ok(pool) = self.pool(step) else { return };
        let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if guest.is_reusable() && idle.len() < pool.setup.warm {
            idle.push(guest);
        } else {
            drop(idle);
            self.engine.dispose(guest);
        }
    }

    fn release(&self, step: &str) -> String {
        self.pools.get(step).map(|pool| pool.component.digest().to_owned()).unwrap_or_default()
    }

    async fn enter(&self, work: BoxFuture<'static, ()>) {
        // A panic in there is seen by whoever waits for the work's own answer.
        if let Err(fault) = self.engine.run(work).await {
            tracing::error!(?fault, "work with a guest was cut short");
        }
    }
}
