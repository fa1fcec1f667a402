//! Tiny ONNX models for the tests, written by a minimal encoder. Field numbers are those of `onnx.proto`.

/// A protobuf message in the making.
#[derive(Clone, Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn varint(mut self, field: u64, value: i64) -> Self {
        self.number(field << 3);
        self.number(value as u64);
        self
    }

    pub(super) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.number(field << 3 | 2);
        self.number(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    pub(super) fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, value.0)
    }
}

// Element types of ONNX.
pub(super) const FLOAT: i64 = 1;
pub(super) const UINT8: i64 = 2;
pub(super) const INT32: i64 = 6;
pub(super) const INT64: i64 = 7;
pub(super) const STRING: i64 = 8;
pub(super) const BOOL: i64 = 9;
pub(super) const FLOAT16: i64 = 10;
pub(super) const DOUBLE: i64 = 11;
pub(super) const BFLOAT16: i64 = 16;

/// A `ValueInfoProto`; a negative size is one that varies.
pub(super) fn value(name: &str, ty: i64, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| {
        let dim = if *dim < 0 { Message::default().bytes(2, format!("d{}", -dim)) } else { Message::default().varint(1, *dim) };
        shape.message(1, dim)
    });
    let tensor = Message::default().varint(1, ty).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, tensor))
}

/// A `NodeProto`. More fields, such as attributes (5) and the domain (7), may be put on it.
pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
    outputs.iter().fold(node, |node, output| node.bytes(2, output)).bytes(4, op)
}

/// An `AttributeProto` that holds an integer.
pub(super) fn integer(name: &str, value: i64) -> Message {
    Message::default().bytes(1, name).varint(3, value).varint(20, 2)
}

/// An `AttributeProto` that holds a graph.
pub(super) fn subgraph(name: &str, graph: Message) -> Message {
    Message::default().bytes(1, name).message(6, graph).varint(20, 5)
}

/// A `TensorProto` with its elements inside.
pub(super) fn tensor(name: &str, ty: i64, dims: &[i64], raw: &[u8]) -> Message {
    dims.iter().fold(Message::default(), |tensor, dim| tensor.varint(1, *dim)).varint(2, ty).bytes(8, name).bytes(9, raw)
}

/// A `GraphProto`. Initialisers (5) may be put on it.
pub(super) fn graph(nodes: &[Message], inputs: &[Message], outputs: &[Message]) -> Message {
    let mut graph = Message::default().bytes(2, "tiny");
    for (field, messages) in [(1, nodes), (11, inputs), (12, outputs)] {
        graph = messages.iter().fold(graph, |graph, message| graph.message(field, message.clone()));
    }
    graph
}

/// The file of a graph.
pub(super) fn file(graph: Message) -> Vec<u8> {
    let opset = Message::default().bytes(1, "").varint(2, 17);
    Message::default().varint(1, 8).message(7, graph).message(8, opset).0
}

/// `y = op(x)`, both of one type, with shape `[n, 3]`.
pub(super) fn unary(op: &str, ty: i64) -> Vec<u8> {
    file(graph(&[node(op, &["x"], &["y"])], &[value("x", ty, &[-1, 3])], &[value("y", ty, &[-1, 3])]))
}
