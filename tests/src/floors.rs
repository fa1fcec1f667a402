//! The floors of the host: an import points down, never up, and rooms of one floor never name each other.

use crate::binary::root;
use std::fs;
use std::path::Path;

/// Each room and its floor, as in `host/ARCHITECTURE.md`. Only the composition root may name rooms of its own floor.
const FLOORS: &[(&str, u32)] = &[
    ("task", 0),
    ("failpoint", 0),
    ("aws", 0),
    ("task_store", 1),
    ("object_store", 1),
    ("queue", 1),
    ("inference", 1),
    ("guest", 2),
    ("worker", 3),
    ("config", 4),
    ("telemetry", 4),
    ("app", 4),
    ("cli", 5),
];

fn floor_of(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

fn visit(path: &Path, faults: &mut Vec<String>, seen: &mut usize) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, faults, seen);
        } else if path.extension().is_some_and(|e| e == "rs") {
            check(&path, faults, seen);
        }
    }
}

fn check(path: &Path, faults: &mut Vec<String>, seen: &mut usize) {
    let relative = path.strip_prefix(root().join("host/src")).unwrap().to_str().unwrap().to_owned();
    let room = relative.split('/').next().unwrap().trim_end_matches(".rs");
    if matches!(room, "lib" | "main") {
        return;
    }
    let Some(floor) = floor_of(room) else { return faults.push(format!("{relative}: room '{room}' stands on no floor")) };
    for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for named in code.split("crate::").skip(1) {
            let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(other) = floor_of(&named) else { continue };
            *seen += 1;
            let inside = named == room || room == "app";
            if other > floor || (other == floor && !inside) {
                faults.push(format!("{relative}:{}: '{room}' (floor {floor}) names '{named}' (floor {other})", number + 1));
            }
        }
    }
}

#[test]
fn imports_point_down() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    visit(&root().join("host/src"), &mut faults, &mut seen);
    assert!(seen > 50, "only {seen} imports were found: does the test still read the right folder?");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
