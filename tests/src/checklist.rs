//! `check` and `new`: each broken guest fails its own line of the checklist; the OCR guests, and what `new` makes, pass.

use crate::binary::{Place, guest, root};
use serde_json::Value;
use std::process::Command;

/// The items of the checklist that failed.
fn failed(report: &Value) -> Vec<String> {
    let items = report["items"].as_array().unwrap_or_else(|| panic!("no items in {report}"));
    items.iter().filter(|i| i["verdict"] == "fail").map(|i| i["item"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_broken_guest_fails_its_line() {
    let place = Place::new();
    let broken = [
        ("missing_hook", "hooks"),
        ("unknown_import", "imports"),
        ("bad_describe", "describe"),
        ("bad_load", "load"),
        ("bad_output", "outputs"),
        ("bad_result", "result"),
        ("not_idempotent", "idempotent"),
    ];
    for (name, item) in broken {
        fails(&place, guest(name).to_str().unwrap(), "{}", item);
    }
    // What a probe can be told to do wrong.
    let probe = guest("probe");
    let told = [
        (r#"{"action": "trap", "hook": "process"}"#, "process"),
        (r#"{"action": "write_late"}"#, "publish-next"),
        (r#"{"action": "fan_out", "n": 1, "step": "nowhere"}"#, "store"),
    ];
    for (params, item) in told {
        fails(&place, probe.to_str().unwrap(), params, item);
    }
    std::fs::write(place.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    fails(&place, "core.wasm", "{}", "component");
}

fn fails(place: &Place, guest: &str, params: &str, item: &str) {
    let printed = place.run(&["check", guest, "--params", params, "--json"]);
    assert_eq!(printed.code, Some(1), "{guest} {params}: {}{}", printed.out, printed.err);
    let failed = failed(&printed.json());
    assert!(failed.iter().any(|f| f == item), "{guest} {params}: {failed:?}");
}

#[test]
fn the_ocr_guests_pass() {
    let place = Place::new();
    let (pipeline, picture) = (root().join("guests/ocr/pipeline.toml"), root().join("out/test/picture.png"));
    let words = ["check", pipeline.to_str().unwrap(), "--input", picture.to_str().unwrap(), "--set", "inference.backend=rten", "--json"];
    let report = place.run(&words).ok().json();
    assert_eq!(failed(&report), Vec::<String>::new(), "{report}");
    let passed = report["items"].as_array().unwrap().iter().filter(|i| i["verdict"] == "pass").count();
    assert!(passed >= 24, "only {passed} items passed: {report}");
}

#[test]
fn what_new_makes_builds_and_passes() {
    let place = Place::new();
    place.run(&["new", "hello"]).ok();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Outside the repository, with nothing of its settings.
    build.current_dir(place.path().join("hello")).args(["build", "--release"]).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    assert!(build.status().unwrap().success());
    let made = place.path().join("hello/target/wasm32-wasip2/release/hello.wasm");
    let report = place.run(&["check", made.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(failed(&report), Vec::<String>::new(), "{report}");
    assert_eq!(place.run(&["new", "hello"]).code, Some(2), "a folder that is there is left alone");
}
