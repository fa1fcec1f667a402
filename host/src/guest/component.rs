//! Components: a file becomes something that can be instantiated, or an error that says what is wrong with it and what to do.
//!
//! Everything that can be known without running the guest is checked here: the three hooks, their types, and that it imports
//! nothing but the contract, `wasi:nn` and standard WASI 0.2.

use super::GuestFault;
use super::bindings::StepPre;
use super::bindings::exports::wasm_worker::pipeline::hooks as contract;
use super::bounded::{Bounds, Meter, bounded};
use super::engine::GuestEngine;
use super::fault;
use super::imports;
use super::pool::StepSetup;
use super::scope::{Grants, Scope};
use super::state::State;
use crate::inference::{Models, ModelsConfig};
use crate::task::hooks::{TaskError, parse_object};
use crate::task::id;
use crate::task::limits::{Limits, cut};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem};

/// The interface every guest exports, and its functions.
const HOOKS: &str = "wasm-worker:pipeline/hooks@0.1.0";
const HOOK_NAMES: [&str; 3] = ["load-pipeline", "process", "publish-next"];

/// The optional interface with the guest's manifest.
const DISCOVERY: &str = "wasm-worker:pipeline/discovery@0.1.0";

/// Interfaces of the contract and of `wasi:nn` that a guest may import, without their versions.
const CONTRACT: [&str; 7] = [
    "wasm-worker:pipeline/types",
    "wasm-worker:pipeline/context",
    "wasm-worker:pipeline/storage",
    "wasi:nn/tensor",
    "wasi:nn/graph",
    "wasi:nn/inference",
    "wasi:nn/errors",
];

/// Largest component file. An interpreter with its libraries has some 20 MB.
const MAX_FILE: u64 = 256 << 20;

/// Longest compilation: twenty times what a large interpreter takes on a small machine.
const MAX_COMPILATION: Duration = Duration::from_secs(120);

/// Largest manifest of a guest, bytes.
const MAX_MANIFEST: usize = 1 << 20;

/// Longest text of the compiler that is passed on, bytes.
const MAX_REASON: usize = 600;

/// Why a component is not taken. Each text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file is not there, or may not be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the file holds is no component that can run here.
    #[error("{}: {what}", file.display())]
    Unfit {
        /// Which file.
        file: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// It lacks hooks.
    #[error("{}: does not export {} of {HOOKS}; a guest exports all three hooks (the SDK's `export!` does)", file.display(), missing.join(", "))]
    MissingHooks {
        /// Which file.
        file: PathBuf,
        /// Names of the hooks.
        missing: Vec<String>,
    },
    /// It asks for something that is not offered.
    #[error("{}: imports '{import}', which this host does not offer; a guest may import wasm-worker:pipeline@0.1, wasi:nn and standard WASI 0.2", file.display())]
    UnknownImport {
        /// Which file.
        file: PathBuf,
        /// The import, as the component names it.
        import: String,
    },
    /// A hook or an import has other types than the contract.
    #[error("{}: {what} does not fit the contract: {reason}; build it against this version's wit/", file.display())]
    WrongTypes {
        /// Which file.
        file: PathBuf,
        /// Which function or import.
        what: String,
        /// The difference.
        reason: String,
    },
}

/// What is known of a component.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// SHA-256 of the file, lower-case hex.
    pub digest: String,
    /// Size of the file, bytes.
    pub size: u64,
    /// Interfaces it imports.
    pub imports: Vec<String>,
    /// Interfaces it exports.
    pub exports: Vec<String>,
    /// Its own manifest, if it has one.
    pub manifest: Option<Value>,
}

/// A component, compiled and checked.
pub struct Component {
    engine: Arc<GuestEngine>,
    file: PathBuf,
    digest: String,
    size: u64,
    imports: Vec<String>,
    exports: Vec<String>,
    pre: StepPre<State>,
}

impl Component {
    /// Reads, compiles (or takes from the cache) and checks a file. Compiling goes on where blocking is allowed.
    pub async fn load(engine: &Arc<GuestEngine>, file: &Path) -> Result<Arc<Self>, ComponentError> {
        let (engine, path) = (Arc::clone(engine), file.to_owned());
        let unfit = |what: String| ComponentError::Unfit { file: file.to_owned(), what };
        let (sent, digest) = tokio::sync::oneshot::channel();
        let loading = tokio::task::spawn_blocking({
            let engine = Arc::clone(&engine);
            move || load_blocking(engine, path, sent)
        });
        // The thread cannot be stopped, but nobody waits for it any longer, and the next try is refused at once.
        match tokio::time::timeout(MAX_COMPILATION, loading).await {
            Ok(Ok(loaded)) => loaded.map(Arc::new),
            Ok(Err(error)) => Err(unfit(format!("the compiler broke down ({error}); this is a fault of the component or of the host"))),
            Err(_) => {
                let text = format!("does not compile within {} s; is it generated code? split or simplify it", MAX_COMPILATION.as_secs());
                if let Ok(digest) = digest.await {
                    engine.bad().lock().unwrap_or_else(PoisonError::into_inner).insert(digest, text.clone());
                }
                Err(unfit(text))
            }
        }
    }

    /// SHA-256 of the file, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The engine it was compiled for.
    pub fn engine(&self) -> &Arc<GuestEngine> {
        &self.engine
    }

    pub(super) fn pre(&self) -> &StepPre<State> {
        &self.pre
    }

    /// All that is known of it, its manifest included.
    pub async fn inspect(self: &Arc<Self>) -> Result<Inspection, GuestFault> {
        Ok(Inspection {
            digest: self.digest.clone(),
            size: self.size,
            imports: self.imports.clone(),
            exports: self.exports.clone(),
            manifest: self.describe().await?,
        })
    }

    /// The guest's own manifest; none if it exports none. Runs the guest in an instance of its own, within the default
    /// limits but ten seconds, reaching nothing outside.
    pub async fn describe(self: &Arc<Self>) -> Result<Option<Value>, GuestFault> {
        let this = Arc::clone(self);
        self.engine.run(async move { this.describe_here().await }).await?
    }

    async fn describe_here(&self) -> Result<Option<Value>, GuestFault> {
        let component = self.pre.instance_pre().component();
        let index = component.get_export_index(None, DISCOVERY).and_then(|i| component.get_export_index(Some(&i), "describe"));
        let Some(index) = index else { return Ok(None) };
        let limits = Limits { wall: Duration::from_secs(10), ..Limits::default() };
        let setup = Arc::new(StepSetup::bare("describe", limits.clone()));
        let scope = Scope::apart(None, limits.clone(), Grants::default());
        let models = Models::new(ModelsConfig::for_cores(1));
        let mut store = self.store(State::new(&setup, &models, &scope));
        let deadline = Instant::now().checked_add(limits.wall);
        let call = async {
            let instance = self.pre.instance_pre().instantiate_async(&mut store).await?;
            let describe = instance.get_typed_func::<(), (String,)>(&mut store, index)?;
            Ok(describe.call_async(&mut store, ()).await?.0)
        };
        let told = bounded(call, Bounds { ticker: self.engine.ticker(), scope: &scope, deadline, meter: &mut Meter::default() }).await;
        let text = told.map_err(|cut| fault::of_cut(cut, &limits))?.map_err(|error| fault::of_error(&error, store.data()))?;
        if text.len() > MAX_MANIFEST {
            let why = format!("describe answered {} bytes; at most {MAX_MANIFEST} are taken", text.len());
            return Err(GuestFault::Guest(TaskError::new("bad-answer", why)));
        }
        let manifest = parse_object("what describe answered", &text).map_err(|e| GuestFault::Guest(TaskError::new("bad-answer", e)))?;
        Ok(Some(Value::Object(manifest)))
    }

    /// A store with all bounds set, ready for a call.
    pub(super) fn store(&self, state: State) -> Store<State> {
        let limits = state.scope.limits();
        // A guest hands over what it holds in its memory, at most; lists that point to the same bytes many times do not count once.
        let transfer = usize::try_from(limits.memory).unwrap_or(usize::MAX);
        let mut store = Store::new(self.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(transfer);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("file", &self.file).field("digest", &self.digest).finish_non_exhaustive()
    }
}

fn load_blocking(
    engine: Arc<GuestEngine>,
    file: PathBuf,
    digest_to: tokio::sync::oneshot::Sender<String>,
) -> Result<Component, ComponentError> {
    let bytes = read(&file)?;
    check_kind(&file, &bytes)?;
    let digest = id::sha256(&bytes);
    if let Some(known) = engine.bad().lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
        return Err(ComponentError::Unfit { file, what: known.clone() });
    }
    // Nobody listens once the load has been given up.
    let _ = digest_to.send(digest.clone());
    let component = match engine.cache().and_then(|cache| cache.load(engine.wasmtime(), &digest)) {
        Some(component) => component,
        None => {
            let compiled = wasmtime::component::Component::from_binary(engine.wasmtime(), &bytes);
            let component = compiled.map_err(|e| ComponentError::Unfit {
                file: file.clone(),
                what: format!("is no valid component: {}", cut(&format!("{e:#}"), MAX_REASON)),
            })?;
            if let Some(cache) = engine.cache() {
                cache.store(&digest, &component);
            }
            component
        }
    };
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(engine.wasmtime()).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = ty.exports(engine.wasmtime()).map(|(name, _)| name.to_owned()).collect();
    check_imports(&file, &imports)?;
    check_hooks(&file, &component)?;
    let wrong = |what: &str, error: &wasmtime::Error| ComponentError::WrongTypes {
        file: file.clone(),
        what: what.to_owned(),
        reason: cut(&format!("{error:#}"), MAX_REASON),
    };
    let pre = engine.linker().instantiate_pre(&component).map_err(|e| wrong("an import", &e))?;
    let pre = StepPre::new(pre).map_err(|e| wrong("an export", &e))?;
    Ok(Component { size: bytes.len() as u64, engine, file, digest, imports, exports, pre })
}

fn read(file: &Path) -> Result<Vec<u8>, ComponentError> {
    let unreadable = |source| ComponentError::Unreadable { file: file.to_owned(), source };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    if opened.metadata().map_err(unreadable)?.is_dir() {
        return Err(ComponentError::Unfit { file: file.to_owned(), what: "is a folder; name the .wasm file in it".into() });
    }
    let mut bytes = Vec::new();
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ComponentError::Unfit { file: file.to_owned(), what: format!("is larger than {} MiB", MAX_FILE >> 20) });
    }
    Ok(bytes)
}

/// Looks at the first bytes: what people hand over by mistake deserves better than a parser's error.
fn check_kind(file: &Path, bytes: &[u8]) -> Result<(), ComponentError> {
    let what = if bytes.is_empty() {
        "is empty; was the build interrupted?"
    } else if bytes.starts_with(b"\0asm\x01\0\0\0") {
        "is a core module, not a component; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    } else if wasmtime::Engine::detect_precompiled(bytes).is_some() || bytes.starts_with(b"\x7fELF") {
        "is native or precompiled code (.cwasm); only the .wasm it was made from is taken"
    } else if !bytes.starts_with(b"\0asm") {
        "is no WebAssembly (it does not start with \\0asm); give a component in binary form"
    } else {
        return Ok(());
    };
    Err(ComponentError::Unfit { file: file.to_owned(), what: what.to_owned() })
}

fn check_imports(file: &Path, imports: &[String]) -> Result<(), ComponentError> {
    let known = |import: &&String| {
        let (name, version) = import.split_once('@').unwrap_or((import, ""));
        let standard = imports::wasi::PACKAGES.iter().any(|package| name.starts_with(package));
        CONTRACT.contains(&name) || (standard && version.starts_with("0.2."))
    };
    match imports.iter().find(|import| !known(import)) {
        Some(import) => Err(ComponentError::UnknownImport { file: file.to_owned(), import: cut(import, 200) }),
        None => Ok(()),
    }
}

fn check_hooks(file: &Path, component: &wasmtime::component::Component) -> Result<(), ComponentError> {
    let hooks = component.get_export_index(None, HOOKS);
    let function = |name: &str| match component.get_export(Some(hooks.as_ref()?), name)?.0 {
        ComponentItem::ComponentFunc(function) => Some(function),
        _ => None,
    };
    let found = HOOK_NAMES.map(function);
    let missing = HOOK_NAMES.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let [Some(load), Some(process), Some(publish)] = &found else {
        return Err(ComponentError::MissingHooks { file: file.to_owned(), missing });
    };
    let ty = component.component_type();
    let cx = ty.instance_type();
    type Answer<T> = (Result<T, contract::Error>,);
    let checks: [(&str, wasmtime::Result<()>); 3] = [
        ("load-pipeline", ComponentFunc::typecheck::<(contract::Setup<'_>,), Answer<()>>(load, &cx)),
        ("process", ComponentFunc::typecheck::<(contract::Task<'_>,), Answer<contract::OutputResult>>(process, &cx)),
        (
            "publish-next",
            ComponentFunc::typecheck::<(contract::Task<'_>, contract::OutputParam<'_>), Answer<contract::FanOut>>(publish, &cx),
        ),
    ];
    for (what, check) in checks {
        check.map_err(|error| ComponentError::WrongTypes {
            file: file.to_owned(),
            what: format!("hook {what}"),
            reason: cut(&format!("{error:#}"), MAX_REASON),
        })?;
    }
    Ok(())
}
