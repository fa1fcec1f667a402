//! The door to a loaded model: every call is checked here, whatever backend stands behind.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::{Backend, InferenceError, LoadOptions, Port, Session, Stop, Tensor, onnx};

/// Most bytes of a model file: protobuf's own limit.
pub const MAX_MODEL_BYTES: usize = (1 << 31) - 1;

/// Longest text of a backend's error that is passed on, in bytes: such texts may quote the model.
const MAX_ERROR_BYTES: usize = 2048;

/// From how many nodes on a model gets a thread with a larger stack: rten follows chains of nodes by recursion. Threads
/// have 2 MiB, which stands about ten times this many.
const LARGE_GRAPH_NODES: usize = 1_000;

/// Stack for each node of a large graph, and the fixed part. It is address space: pages that are not touched cost nothing.
const STACK_PER_NODE: usize = 2_048;
const STACK_BASE: usize = 4 << 20;

/// Bounds of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all inputs together.
    pub max_input_bytes: usize,
    /// Bytes of all outputs together.
    pub max_output_bytes: usize,
}

impl Default for Limits {
    /// 256 MiB each way: a 4096 x 4096 picture in 32-bit floats and three channels has 192 MiB.
    fn default() -> Self {
        Self { max_input_bytes: 256 << 20, max_output_bytes: 256 << 20 }
    }
}

/// A loaded model. Runs block the calling thread and may go on in parallel; `Models::run` does both for async code.
pub struct Model {
    backend: &'static str,
    graph: Arc<onnx::Graph>,
    session: Box<dyn Session>,
    limits: Limits,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("backend", &self.backend).field("graph", &self.graph).finish_non_exhaustive()
    }
}

impl Model {
    /// Checks the file (see [`onnx::inspect`]) and opens it with `backend`. Blocks.
    pub fn load(backend: &dyn Backend, bytes: Vec<u8>, options: &LoadOptions, limits: Limits) -> Result<Self, InferenceError> {
        if bytes.len() > MAX_MODEL_BYTES {
            return Err(InferenceError::TooLarge(format!("a model of {} bytes; at most {MAX_MODEL_BYTES} are taken", bytes.len())));
        }
        if options.threads == 0 || options.parallel == 0 {
            return Err(InferenceError::InvalidArgument("threads and parallel runs of a model must be at least 1".to_owned()));
        }
        let graph = Arc::new(onnx::inspect(&bytes)?);
        let session = guarded(backend.name(), graph.nodes, || backend.open(bytes, &graph, options))?;
        Ok(Self { backend: backend.name(), graph, session, limits })
    }

    /// Name of the backend that runs it.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Inputs that every run must give.
    pub fn inputs(&self) -> &[Port] {
        &self.graph.inputs
    }

    /// Outputs that every run answers with.
    pub fn outputs(&self) -> &[Port] {
        &self.graph.outputs
    }

    /// Runs the model on the calling thread; `stop` may end it early. Inputs come by name, in any order; outputs come in
    /// the order of [`Model::outputs`].
    pub fn run(&self, inputs: Vec<(String, Tensor)>, stop: &Stop) -> Result<Vec<(String, Tensor)>, InferenceError> {
        let inputs = self.arrange(inputs)?;
        let outputs = guarded(self.backend, self.graph.nodes, || self.session.run(&inputs, self.limits.max_output_bytes, stop));
        if stop.is_stopped() {
            return Err(InferenceError::Stopped);
        }
        let outputs = outputs?;
        if outputs.len() != self.graph.outputs.len() {
            return Err(InferenceError::Runtime(format!(
                "{} answered with {} outputs; the model has {}",
                self.backend,
                outputs.len(),
                self.graph.outputs.len()
            )));
        }
        if let Some((port, tensor)) = self.graph.outputs.iter().zip(&outputs).find(|(port, tensor)| port.ty != tensor.ty()) {
            return Err(InferenceError::Runtime(format!("output {:?} came as {}, not {}", port.name, tensor.ty(), port.ty)));
        }
        Ok(self.graph.outputs.iter().map(|port| port.name.clone()).zip(outputs).collect())
    }

    /// Puts the inputs into the graph's order, or says everything that is wrong with their names, or what is wrong with one.
    fn arrange(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, InferenceError> {
        let ports = &self.graph.inputs;
        let mut arranged: Vec<Option<Tensor>> = vec![None; ports.len()];
        let (mut unknown, mut twice) = (Vec::new(), Vec::new());
        let mut bytes = 0_usize;
        for (name, tensor) in inputs {
            bytes = bytes.saturating_add(tensor.data().len());
            match ports.iter().zip(&mut arranged).find(|(port, _)| port.name == name) {
                None => unknown.push(name),
                Some((_, Some(_))) => twice.push(name),
                Some((_, slot)) => *slot = Some(tensor),
            }
        }
        if bytes > self.limits.max_input_bytes {
            return Err(InferenceError::TooLarge(format!("inputs of {bytes} bytes; at most {} are taken", self.limits.max_input_bytes)));
        }
        let missing: Vec<_> = ports.iter().zip(&arranged).filter(|(_, slot)| slot.is_none()).map(|(port, _)| port.name.clone()).collect();
        let problems: Vec<_> = [("missing", missing), ("unknown", unknown), ("given twice", twice)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {}", listed(&names)))
            .collect();
        if !problems.is_empty() {
            let names: Vec<_> = ports.iter().map(|port| port.name.clone()).collect();
            return Err(InferenceError::InvalidArgument(format!("inputs {}; the model takes {}", problems.join(", "), listed(&names))));
        }
        let arranged: Vec<Tensor> = arranged.into_iter().flatten().collect();
        ports.iter().zip(&arranged).try_for_each(|(port, tensor)| fits(port, tensor))?;
        Ok(arranged)
    }
}

fn fits(port: &Port, tensor: &Tensor) -> Result<(), InferenceError> {
    let wrong = |expected: String| {
        Err(InferenceError::InvalidArgument(format!(
            "input {:?} is {} {:?}; the model takes {expected}",
            port.name,
            tensor.ty(),
            tensor.dims()
        )))
    };
    if tensor.ty() != port.ty {
        return wrong(port.ty.to_string());
    }
    let Some(dims) = &port.dims else {
        return Ok(());
    };
    let agrees = |(expected, given): (&Option<u32>, &u32)| expected.is_none_or(|expected| expected == *given);
    if dims.len() != tensor.dims().len() || !dims.iter().zip(tensor.dims()).all(agrees) {
        let shape: Vec<_> = dims.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
        return wrong(format!("[{}]", shape.join(", ")));
    }
    Ok(())
}

/// At most ten names, quoted and cut: a caller may send any number of any length.
fn listed(names: &[String]) -> String {
    let cut = |name: &String| format!("{:?}", name.chars().take(64).collect::<String>());
    let mut text = names.iter().take(10).map(cut).collect::<Vec<_>>().join(" ");
    if names.len() > 10 {
        text.push_str(&format!(" and {} more", names.len() - 10));
    }
    text
}

/// Calls into a backend: a panic becomes an error, and a large graph gets a stack to match.
fn guarded<T: Send>(backend: &str, nodes: usize, call: impl FnOnce() -> Result<T, InferenceError> + Send) -> Result<T, InferenceError> {
    let caught = || catch_unwind(AssertUnwindSafe(call));
    let result = if nodes < LARGE_GRAPH_NODES {
        caught()
    } else {
        thread::scope(|scope| {
            let stack = STACK_BASE.saturating_add(nodes.saturating_mul(STACK_PER_NODE));
            let thread = thread::Builder::new().name("large-model".to_owned()).stack_size(stack).spawn_scoped(scope, caught);
            match thread {
                Ok(thread) => thread.join().unwrap_or_else(Err),
                Err(error) => Ok(Err(InferenceError::Runtime(format!("no thread with a stack of {stack} bytes: {error}")))),
            }
        })
    };
    result.unwrap_or_else(|panic| Err(InferenceError::Runtime(shortened(&format!("{backend} panicked: {}", panic_text(&*panic))))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

/// A backend's text, cut to what may be passed on.
pub(super) fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_ERROR_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{ElementType, onnx::Graph, tiny};
    use super::*;

    /// A backend that does what no adapter should.
    struct Unruly(fn(&[Tensor]) -> Vec<Tensor>);

    impl Backend for Unruly {
        fn name(&self) -> &'static str {
            "unruly"
        }

        fn version(&self) -> String {
            "0".to_owned()
        }

        fn open(&self, _: Vec<u8>, _: &Arc<Graph>, _: &LoadOptions) -> Result<Box<dyn Session>, InferenceError> {
            Ok(Box::new(Unruly(self.0)))
        }
    }

    impl Session for Unruly {
        fn run(&self, inputs: &[Tensor], _: usize, _: &Stop) -> Result<Vec<Tensor>, InferenceError> {
            Ok(self.0(inputs))
        }
    }

    fn run(answer: fn(&[Tensor]) -> Vec<Tensor>) -> Result<Vec<(String, Tensor)>, InferenceError> {
        let file = tiny::unary("Neg", tiny::FLOAT);
        let model = Model::load(&Unruly(answer), file, &LoadOptions::default(), Limits { max_input_bytes: 12, max_output_bytes: 12 })?;
        let x = Tensor::new(vec![1, 3], ElementType::F32, vec![0; 12]).unwrap();
        model.run(vec![("x".to_owned(), x)], &Stop::default())
    }

    #[test]
    fn a_panic_of_a_backend_is_an_error() {
        let error = run(|_| panic!("out of cheese")).unwrap_err();
        assert!(matches!(&error, InferenceError::Runtime(text) if text.contains("unruly panicked: out of cheese")), "{error}");
        let long = run(|_| panic!("{}", "\u{e9}".repeat(10_000))).unwrap_err();
        assert!(long.to_string().len() <= MAX_ERROR_BYTES);
    }

    #[test]
    fn answers_are_checked_against_the_graph() {
        assert!(run(|inputs| inputs.to_vec()).is_ok());
        assert!(matches!(run(|_| vec![]), Err(InferenceError::Runtime(_))));
        let other = run(|_| vec![Tensor::new(vec![1], ElementType::U8, vec![0]).unwrap()]);
        assert!(matches!(other, Err(InferenceError::Runtime(_))));
    }

    #[test]
    fn inputs_over_the_limit_are_refused_before_their_shape() {
        let model = Model::load(
            &Unruly(|_| vec![]),
            tiny::unary("Neg", tiny::FLOAT),
            &LoadOptions::default(),
            Limits { max_input_bytes: 11, max_output_bytes: 0 },
        );
        let x = Tensor::new(vec![3, 1], ElementType::F32, vec![0; 12]).unwrap();
        let error = model.unwrap().run(vec![("x".to_owned(), x)], &Stop::default()).unwrap_err();
        assert!(matches!(error, InferenceError::TooLarge(_)), "{error}");
    }
}
