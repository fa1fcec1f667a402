//! Files that must be read right, and files that must be refused.

use super::super::tiny::{self, FLOAT, Message, file, graph, node, subgraph, tensor, value};
use super::*;

fn neg() -> Message {
    graph(&[node("Neg", &["x"], &["y"])], &[value("x", FLOAT, &[-1, 3])], &[value("y", FLOAT, &[-1, 3])])
}

#[test]
fn ports_are_found_without_the_inputs_that_have_defaults() {
    let main = graph(
        &[node("Gemm", &["x", "w"], &["y"])],
        &[value("x", FLOAT, &[-1, 2]), value("w", FLOAT, &[2, 1])],
        &[value("y", tiny::BOOL, &[])],
    );
    let found = inspect(&file(main.message(5, tensor("w", FLOAT, &[2, 1], &[0; 8])))).unwrap();
    let x = Port { name: "x".to_owned(), ty: ElementType::F32, dims: Some(vec![None, Some(2)]), boolean: false };
    let y = Port { name: "y".to_owned(), ty: ElementType::U8, dims: Some(vec![]), boolean: true };
    assert_eq!(found, Graph { inputs: vec![x], outputs: vec![y], nodes: 1 });
}

/// Both as an initialiser and inside an attribute of a node in a subgraph.
fn everywhere(tensor: Message) -> [Vec<u8>; 2] {
    let attribute = Message::default().bytes(1, "value").message(5, tensor.clone());
    let inner = graph(&[node("Constant", &[], &["c"]).message(5, attribute)], &[], &[]);
    let outer = node("If", &["x"], &["y"]).message(5, subgraph("then_branch", inner));
    [file(neg().message(5, tensor)), file(neg().message(1, outer))]
}

#[test]
fn tensors_outside_the_file_are_refused() {
    let location = Message::default().bytes(1, "location").bytes(2, "../../etc/passwd");
    let memory = Message::default().bytes(1, "location").bytes(2, "*/_ORT_MEM_ADDR_/*");
    let plain = tensor("w", FLOAT, &[1], &[0; 4]);
    let hostile = [
        plain.clone().message(13, location.clone()).varint(14, 1),
        plain.clone().message(13, memory).varint(14, 1),
        plain.clone().message(13, location),
        plain.clone().varint(14, 1).varint(14, 0),
    ];
    for file in hostile.into_iter().flat_map(everywhere) {
        assert!(matches!(inspect(&file), Err(InferenceError::Security(text)) if text.contains("\"w\"")));
    }
    everywhere(plain.varint(14, 0)).iter().for_each(|file| drop(inspect(file).unwrap()));
}

#[test]
fn absurd_sizes_are_refused() {
    for dims in [&[i64::MAX][..], &[-1], &[1 << 31, 1 << 31, 4], &[1000], &[1, -5]] {
        for file in everywhere(tensor("w", FLOAT, dims, &[])) {
            assert!(matches!(inspect(&file), Err(InferenceError::TooLarge(_))), "{dims:?}");
        }
    }
    let wide = file(graph(&[], &[value("x", FLOAT, &[1 << 40])], &[]));
    assert!(matches!(inspect(&wide), Err(InferenceError::TooLarge(_))));
    let ranks = file(graph(&[], &[value("x", FLOAT, &[1; MAX_RANK + 1])], &[]));
    assert!(matches!(inspect(&ranks), Err(InferenceError::TooLarge(_))));
}

#[test]
fn foreign_operators_are_refused_and_functions_of_the_file_are_not() {
    let foreign = || file(neg().message(1, node("Evil", &["x"], &["z"]).bytes(7, "com.evil")));
    assert!(matches!(inspect(&foreign()), Err(InferenceError::Security(text)) if text.contains("com.evil")));
    let mut declared = foreign();
    declared.extend(Message::default().message(25, Message::default().bytes(1, "Evil").bytes(10, "com.evil")).0);
    assert!(inspect(&declared).is_ok());
    let contrib = file(neg().message(1, node("Gelu", &["x"], &["z"]).bytes(7, "com.microsoft")));
    assert!(inspect(&contrib).is_ok());
}

#[test]
fn deep_and_huge_graphs_are_refused() {
    let mut deep = graph(&[], &[], &[]);
    for _ in 0..MAX_DEPTH {
        deep = graph(&[node("If", &["x"], &["y"]).message(5, subgraph("then_branch", deep))], &[], &[]);
    }
    assert!(matches!(inspect(&file(deep)), Err(InferenceError::TooLarge(_))));
    // A type of sequences of sequences, thousands deep.
    let mut nested = Message::default();
    for _ in 0..5_000 {
        nested = Message::default().message(4, Message::default().message(1, nested));
    }
    let typed = neg().message(13, Message::default().bytes(1, "s").message(2, nested));
    assert!(matches!(inspect(&file(typed)), Err(InferenceError::TooLarge(_))));
    let many = (0..=MAX_NODES).fold(neg(), |graph, _| graph.message(1, Message::default()));
    assert!(matches!(inspect(&file(many)), Err(InferenceError::TooLarge(_))));
}

#[test]
fn what_is_read_once_may_not_come_twice() {
    let mut twice = file(neg());
    twice.extend(Message::default().message(7, neg()).0);
    assert!(matches!(inspect(&twice), Err(InferenceError::InvalidEncoding(_))));
    let same = file(graph(&[], &[value("x", FLOAT, &[1]), value("x", FLOAT, &[1])], &[]));
    assert!(matches!(inspect(&same), Err(InferenceError::InvalidEncoding(_))));
    let retyped = value("x", FLOAT, &[1]).message(2, Message::default());
    assert!(matches!(inspect(&file(graph(&[], &[retyped], &[]))), Err(InferenceError::InvalidEncoding(_))));
}

#[test]
fn ports_that_are_no_tensors_of_a_known_type_are_refused() {
    let text = value("x", tiny::STRING, &[1]);
    let sequence = Message::default().message(4, Message::default().message(1, Message::default()));
    let listed = Message::default().bytes(1, "x").message(2, sequence);
    let sparse = Message::default().bytes(1, "x").message(2, Message::default().message(8, Message::default()));
    for port in [text, listed, sparse, Message::default().bytes(1, "x")] {
        assert!(matches!(inspect(&file(graph(&[], &[port], &[]))), Err(InferenceError::Unsupported(_))));
    }
    assert!(matches!(inspect(&file(neg().message(15, Message::default()))), Err(InferenceError::Unsupported(_))));
}
