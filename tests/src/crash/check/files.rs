//! The disk: every output of a DONE task under its name, byte for byte; nothing half-written, nothing left over, nothing of anybody
//! else. Only a dead task may keep what it staged.

use super::Found;
use crate::crash::probe;
use crate::crash::rows::Task;
use crate::crash::site::Site;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub fn check(found: &mut Found, site: &Site) {
    let mut named = BTreeSet::new();
    let mut kept = Vec::new();
    for task in found.rows.tasks.clone() {
        let folder = PathBuf::from(task.output_prefix.trim_start_matches("file://"));
        match task.state.as_str() {
            "DONE" => outputs(found, &task, &folder, &mut named),
            "DEAD" => kept.push(folder.join("_attempts")),
            _ => {}
        }
        if task.leftover.is_some() {
            found.wrong(&task, "its attempts are not known to be gone");
        }
    }
    let mut all = BTreeSet::new();
    walk(&site.objects(), &kept, &mut all);
    for stray in all.difference(&named) {
        found.violations.push(format!("a file that no task accounts for: {}", stray.display()));
    }
}

/// The files that the guest makes of these params, as the manifest has them and as the disk does.
fn outputs(found: &mut Found, task: &Task, folder: &Path, named: &mut BTreeSet<PathBuf>) {
    let expected = probe::files(&task.params());
    let entries = task.entries();
    let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
    let listed = names(entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect());
    if listed != names(expected.iter().map(|(name, _)| name.as_str()).collect()) || listed.len() != entries.len() {
        found.wrong(task, format!("its manifest lists {listed:?}"));
    }
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        let path = folder.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                found.wrong(task, format!("{}: {error}", path.display()));
                continue;
            }
        };
        if entry["sha256"] != hex::encode(Sha256::digest(&bytes)).as_str() || entry["size"] != bytes.len() as u64 {
            found.wrong(task, format!("{name} has {} bytes that are not those of the manifest", bytes.len()));
        }
        let size = expected.iter().find(|(known, _)| known == name).and_then(|(_, size)| *size);
        let is_pattern = || bytes.iter().enumerate().all(|(i, byte)| *byte == probe::pattern(i));
        if size.is_some_and(|size| size != bytes.len() as u64 || !is_pattern()) {
            found.wrong(task, format!("{name} is not what the guest writes"));
        }
        named.insert(path);
    }
}

/// Every file below a folder, except what dead tasks keep; a folder of attempts counts as one, and the one around them, even when it is
/// empty.
fn walk(folder: &Path, kept: &[PathBuf], all: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if kept.contains(&path) {
            continue;
        }
        if path.is_dir() {
            if path.ends_with("_attempts") || path.parent().is_some_and(|p| p.ends_with("_attempts")) {
                all.insert(path.clone());
            }
            walk(&path, kept, all);
        } else {
            all.insert(path);
        }
    }
}
