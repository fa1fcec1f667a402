//! The checker checked: it has nothing to say about an undisturbed run, and something about each thing that is then made wrong.

use super::look;
use crate::crash::driver::Driver;
use crate::crash::rows::{self, Rows, Task};
use crate::crash::site::Site;
use std::fs;
use std::path::PathBuf;

/// The first task whose params say this, in this state.
fn task<'a>(rows: &'a mut Rows, action: &str, state: &str) -> &'a mut Task {
    rows.tasks.iter_mut().find(|task| task.params()["action"] == action && task.state == state).unwrap()
}

type Break = (&'static str, fn(&mut Rows));

const BREAKS: &[Break] = &[
    ("2 commits", |rows| {
        let task = task(rows, "write", "DONE").clone();
        let mut claim = rows.claims.iter().find(|claim| claim.task == task.id).unwrap().clone();
        claim.epoch += 1;
        claim.owner = "somebody".to_owned();
        rows.claims.push(claim);
    }),
    ("and the task is at 2", |rows| task(rows, "write", "DONE").epoch += 1),
    ("1 crashes on record, 0 by its claims", |rows| task(rows, "write", "DONE").crashes += 1),
    ("the guest says Done", |rows| task(rows, "retry", "DONE").attempts -= 1),
    ("1 attempts on record, 0 by its claims", |rows| {
        let task = task(rows, "fatal", "DEAD");
        task.state = "CANCELLED".to_owned();
        let id = task.id;
        rows.claims.iter_mut().find(|claim| claim.task == id).unwrap().ended = Some("cancelled".to_owned());
    }),
    ("the guest says Dead", |rows| task(rows, "fatal", "DEAD").state = "DONE".to_owned()),
    ("the guest says Done", |rows| task(rows, "write", "DONE").state = "QUEUED".to_owned()),
    ("a claim that never ended", |rows| rows.claims[0].ended = None),
    ("have the owner", |rows| rows.claims[0].owner = rows.claims[1].owner.clone()),
    ("dead letters []", |rows| rows.letters.clear()),
    ("dead letters of no task", |rows| rows.letters[0].task = None),
    ("jobs were submitted", |rows| rows.jobs[0].job_id.push('x')),
    ("not the root task", |rows| rows.jobs[0].root_task.push('x')),
    ("the guest names [c0000 c0001 c0002 then]", |rows| {
        let parent = task(rows, "fan_out", "DONE").id;
        let at = rows.tasks.iter().rposition(|task| task.parent == Some(parent)).unwrap();
        rows.tasks[at].key = "c0009".to_owned();
    }),
    ("children on record", |rows| task(rows, "fan_out", "DONE").child_count += 1),
    ("stands in the wrong group", |rows| {
        let then = task(rows, "sum", "DONE").id;
        rows.tasks.iter_mut().find(|task| task.id == then).unwrap().grp += 1000;
    }),
    ("it gathered", |rows| {
        let leaf = rows.tasks.iter_mut().find(|task| task.params()["code"] == "probe-loss").unwrap();
        leaf.state = "CANCELLED".to_owned();
    }),
    ("counts 1 live tasks", |rows| rows.groups[0].live = 1),
    ("leaves, there are", |rows| rows.groups.iter_mut().find(|group| group.then_task.is_some()).unwrap().leaves += 1),
    ("and should be FAILED", |rows| rows.jobs.iter_mut().find(|job| job.state == "FAILED").unwrap().state = "DONE".to_owned()),
    ("are not known to be gone", |rows| task(rows, "write", "DONE").leftover = Some(1)),
];

#[test]
fn what_is_made_wrong_is_seen() {
    let mut site = Site::sqlite();
    let driven = Driver::new(&mut site, 1).run_undisturbed();
    assert!(driven.report.violations.is_empty(), "{:?}", driven.report.violations);
    let rows = rows::read(&site);
    let seen = |rows: &Rows| look(&site, rows.clone(), &driven.jobs).violations;
    assert_eq!(seen(&rows), Vec::<String>::new());
    for (expected, make) in BREAKS {
        let mut broken = rows.clone();
        make(&mut broken);
        let seen = seen(&broken);
        assert!(seen.iter().any(|violation| violation.contains(expected)), "'{expected}' is not in {seen:#?}");
    }
    let folder = PathBuf::from(task(&mut rows.clone(), "write", "DONE").output_prefix.trim_start_matches("file://"));
    let file = folder.join("a.bin");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[1..]).unwrap();
    assert!(seen(&rows).iter().any(|violation| violation.contains("not those of the manifest")));
    fs::remove_file(&file).unwrap();
    assert!(seen(&rows).iter().any(|violation| violation.contains("No such file")));
    fs::write(&file, &bytes).unwrap();
    fs::create_dir_all(folder.join("_attempts/9-x")).unwrap();
    assert!(seen(&rows).iter().any(|violation| violation.contains("_attempts/9-x")));
    fs::remove_dir(folder.join("_attempts/9-x")).unwrap();
    assert!(seen(&rows).iter().any(|violation| violation.contains("_attempts")));
    fs::remove_dir(folder.join("_attempts")).unwrap();
    fs::write(folder.join(".half.tmp"), "").unwrap();
    assert!(seen(&rows).iter().any(|violation| violation.contains(".half.tmp")));
}
