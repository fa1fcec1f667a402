//! Looks into an ONNX file before a backend opens it: finds the model's inputs and outputs, and refuses files that reach
//! outside themselves or claim absurd sizes.
//!
//! Refused here: tensors kept in other files or at memory addresses (`external_data`); operators outside the standard
//! domains; sparse tensors (small on disk, huge when made dense); tensors that claim more elements than the file has bytes
//! for; subgraphs nested deeper than [`MAX_DEPTH`]; more than [`MAX_NODES`] nodes; ports that `wasi:nn` cannot
//! carry. Field numbers are those of `onnx.proto` in the ONNX repository.
//!
//! Left out: whether the graph makes sense (the backend checks that), and sizes that only come about while it runs.

use std::collections::HashSet;

use super::protobuf::{Fields, Value, malformed, varint};
use super::{ElementType, InferenceError, MAX_RANK};

/// Deepest nesting of subgraphs, attributes and types. Exported models nest `If` and `Loop` two or three deep; backends
/// follow the nesting with the stack.
pub const MAX_DEPTH: usize = 16;

/// Most nodes of a model, subgraphs included. The largest exported language models have some ten thousand.
pub const MAX_NODES: usize = 100_000;

/// Domains whose operators ship with the backends; `com.microsoft` is what quantisation tools write.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// What an input or output carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// The element type a tensor for it has.
    pub ty: ElementType,
    /// Sizes, outermost first; none inside for one that may vary. None outside when the model leaves even the rank open.
    pub dims: Option<Vec<Option<u32>>>,
    /// The graph computes with booleans here, which travel as bytes of 0 and 1.
    pub boolean: bool,
}

/// What callers of a model have to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Inputs that every run must give, in the graph's order. Those with a default value in the file are not among them.
    pub inputs: Vec<Port>,
    /// Outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// Nodes, subgraphs and functions included.
    pub nodes: usize,
}

/// Reads and checks a model.
pub fn inspect(file: &[u8]) -> Result<Graph, InferenceError> {
    // ONNX Runtime's own format is a flat buffer with this mark, which it would otherwise find out by itself.
    if file.get(4..8) == Some(b"ORTM") {
        return Err(InferenceError::Unsupported("a model in ONNX Runtime's own format; only ONNX files are taken".to_owned()));
    }
    let mut walk = Walk { nodes: 0, domains: DOMAINS.iter().map(|domain| (*domain).to_owned()).collect() };
    declared_functions(file, &mut walk.domains)?;
    let mut graph = None;
    for field in Fields::of(file) {
        match field? {
            (7, value) if graph.is_none() => graph = Some(value.bytes()?),
            // Readers merge a message that comes twice: what runs would not be what was looked at.
            (7, _) => return Err(malformed("two graphs")),
            (20, _) => {
                return Err(InferenceError::Unsupported("a model with training information".to_owned()));
            }
            (25, value) => walk.function(value.bytes()?)?,
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| malformed("no graph"))?;
    walk.graph(graph, 0)?;
    ports(graph, walk.nodes)
}

/// Functions defined in the file may be called by nodes, under the function's domain.
fn declared_functions(file: &[u8], domains: &mut HashSet<String>) -> Result<(), InferenceError> {
    for field in Fields::of(file) {
        if let (25, value) = field? {
            for field in Fields::of(value.bytes()?) {
                if let (10, domain) = field? {
                    domains.insert(domain.text()?.to_owned());
                }
            }
        }
    }
    Ok(())
}

struct Walk {
    nodes: usize,
    domains: HashSet<String>,
}

impl Walk {
    fn graph(&mut self, message: &[u8], depth: usize) -> Result<(), InferenceError> {
        let depth = deeper(depth)?;
        for field in Fields::of(message) {
            match field? {
                (1, value) => self.node(value.bytes()?, depth)?,
                (5, value) => tensor(value.bytes()?)?,
                (11..=13, value) => value_info(value.bytes()?, depth)?,
                (15, _) => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }

    fn function(&mut self, message: &[u8]) -> Result<(), InferenceError> {
        for field in Fields::of(message) {
            match field? {
                (7, value) => self.node(value.bytes()?, 1)?,
                (11, value) => self.attribute(value.bytes()?, 1)?,
                (12, value) => value_info(value.bytes()?, 1)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, message: &[u8], depth: usize) -> Result<(), InferenceError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(InferenceError::TooLarge(format!("a model of more than {MAX_NODES} nodes")));
        }
        for field in Fields::of(message) {
            match field? {
                (5, value) => self.attribute(value.bytes()?, depth)?,
                (7, value) => self.domain(value.text()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn domain(&self, domain: &str) -> Result<(), InferenceError> {
        if self.domains.contains(domain) {
            return Ok(());
        }
        Err(InferenceError::Security(format!("operators of the domain {domain:?} are not allowed; only standard ones are")))
    }

    fn attribute(&mut self, message: &[u8], depth: usize) -> Result<(), InferenceError> {
        for field in Fields::of(message) {
            match field? {
                (5 | 10, value) => tensor(value.bytes()?)?,
                (6 | 11, value) => self.graph(value.bytes()?, depth)?,
                (14 | 15, value) => value_type(value.bytes()?, depth).map(|_| ())?,
                (22 | 23, _) => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn deeper(depth: usize) -> Result<usize, InferenceError> {
    if depth >= MAX_DEPTH {
        return Err(InferenceError::TooLarge(format!("a model with subgraphs or types nested deeper than {MAX_DEPTH}")));
    }
    Ok(depth + 1)
}

fn sparse() -> InferenceError {
    InferenceError::Unsupported("a model with sparse tensors".to_owned())
}

/// A `TensorProto`: kept in this file, and no larger than what is there.
fn tensor(message: &[u8]) -> Result<(), InferenceError> {
    let mut name = "";
    let mut elements = Some(1_u64);
    let mut times = |dim: u64| elements = elements.and_then(|elements| elements.checked_mul(dim));
    let mut outside = false;
    for field in Fields::of(message) {
        match field? {
            (1, Value::Varint(dim)) => times(dim),
            (1, value) => {
                let mut packed = value.bytes()?;
                while !packed.is_empty() {
                    times(varint(&mut packed)?);
                }
            }
            (8, value) => name = value.text()?,
            (13, _) => outside = true,
            // 0 is "in this file"; 1 is "elsewhere", and nothing else is defined.
            (14, value) => outside |= value.number()? != 0,
            _ => {}
        }
    }
    if outside {
        return Err(InferenceError::Security(format!("tensor {name:?} is kept outside the model file, which is not allowed")));
    }
    // The densest encoding holds two 4-bit elements in a byte. A negative size reads as a huge one.
    let most = (message.len() as u64).saturating_mul(2);
    if elements.is_none_or(|elements| elements > most) {
        return Err(InferenceError::TooLarge(format!("tensor {name:?} claims more elements than its {} bytes can hold", message.len())));
    }
    Ok(())
}

/// What a `TypeProto` says.
#[derive(Default)]
struct ValueType {
    element: u64,
    shape: Option<Vec<Option<u32>>>,
    tensor: bool,
}

fn value_info(message: &[u8], depth: usize) -> Result<(), InferenceError> {
    for field in Fields::of(message) {
        if let (2, value) = field? {
            value_type(value.bytes()?, depth)?;
        }
    }
    Ok(())
}

fn value_type(message: &[u8], depth: usize) -> Result<ValueType, InferenceError> {
    let depth = deeper(depth)?;
    let mut found = ValueType::default();
    for field in Fields::of(message) {
        match field? {
            (1, value) if !found.tensor => {
                found.tensor = true;
                for field in Fields::of(value.bytes()?) {
                    match field? {
                        (1, value) => found.element = value.number()?,
                        (2, value) if found.shape.is_none() => found.shape = Some(shape(value.bytes()?)?),
                        (2, _) => return Err(malformed("a type with two shapes")),
                        _ => {}
                    }
                }
            }
            (1, _) => return Err(malformed("a value with two types")),
            // Sequence, map, optional: their element types nest.
            (number @ (4 | 5 | 9), value) => {
                for field in Fields::of(value.bytes()?) {
                    match (number, field?) {
                        (4 | 9, (1, value)) | (5, (2, value)) => drop(value_type(value.bytes()?, depth)?),
                        _ => {}
                    }
                }
            }
            (8, _) => return Err(sparse()),
            _ => {}
        }
    }
    Ok(found)
}

fn shape(message: &[u8]) -> Result<Vec<Option<u32>>, InferenceError> {
    let mut dims = Vec::new();
    for field in Fields::of(message) {
        let (1, value) = field? else { continue };
        let mut size = None;
        for field in Fields::of(value.bytes()?) {
            if let (1, value) = field? {
                size = Some(value.number()?);
            }
        }
        if dims.len() == MAX_RANK {
            return Err(InferenceError::TooLarge(format!("a value of more than {MAX_RANK} dimensions")));
        }
        dims.push(match size.map(|size| size as i64) {
            // Exporters write -1 for a size that varies, and some 0.
            None | Some(-1 | 0) => None,
            Some(size) => Some(u32::try_from(size).map_err(|_| InferenceError::TooLarge(format!("a value with a size of {size}")))?),
        });
    }
    Ok(dims)
}

/// Inputs and outputs of the main graph.
fn ports(graph: &[u8], nodes: usize) -> Result<Graph, InferenceError> {
    let mut defaults = HashSet::new();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for field in Fields::of(graph) {
        match field? {
            (5, value) => {
                for field in Fields::of(value.bytes()?) {
                    if let (8, name) = field? {
                        defaults.insert(name.text()?);
                    }
                }
            }
            (11, value) => inputs.push(value.bytes()?),
            (12, value) => outputs.push(value.bytes()?),
            _ => {}
        }
    }
    let inputs =
        inputs.into_iter().map(|message| port(message, "input", &defaults)).filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
    // An output may be an initializer: it has no default, it is its value.
    let none = HashSet::new();
    let outputs =
        outputs.into_iter().map(|message| port(message, "output", &none)).filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
    unique(&inputs, "inputs")?;
    unique(&outputs, "outputs")?;
    Ok(Graph { inputs, outputs, nodes })
}

fn unique(ports: &[Port], what: &str) -> Result<(), InferenceError> {
    let mut seen = HashSet::new();
    match ports.iter().find(|port| !seen.insert(&port.name)) {
        Some(port) => Err(malformed(&format!("two {what} called {:?}", port.name))),
        None => Ok(()),
    }
}

/// One `ValueInfoProto`; none for an input with a default value.
fn port(message: &[u8], what: &str, defaults: &HashSet<&str>) -> Result<Option<Port>, InferenceError> {
    let (mut name, mut found) = ("", None);
    for field in Fields::of(message) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) if found.is_none() => found = Some(value_type(value.bytes()?, 0)?),
            (2, _) => return Err(malformed("a value with two types")),
            _ => {}
        }
    }
    if defaults.contains(name) {
        return Ok(None);
    }
    let found = found
        .filter(|found| found.tensor)
        .ok_or_else(|| InferenceError::Unsupported(format!("{what} {name:?} is not a tensor, and wasi:nn carries only tensors")))?;
    let (ty, boolean) = match found.element {
        1 => (ElementType::F32, false),
        2 => (ElementType::U8, false),
        6 => (ElementType::I32, false),
        7 => (ElementType::I64, false),
        9 => (ElementType::U8, true),
        10 => (ElementType::F16, false),
        11 => (ElementType::F64, false),
        16 => (ElementType::BF16, false),
        other => {
            return Err(InferenceError::Unsupported(format!("{what} {name:?} has ONNX element type {other}, which wasi:nn cannot carry")));
        }
    };
    Ok(Some(Port { name: name.to_owned(), ty, dims: found.shape, boolean }))
}

#[cfg(test)]
mod tests;
