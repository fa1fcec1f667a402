//! What the whole of the configuration promises: the sample has every key, every variable has an effect, nothing secret is shown.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/wasm-worker.sample.toml")
}

/// The sample with every key in force: a key that is not set stands behind a `#` without a blank.
fn whole_sample() -> String {
    let text = std::fs::read_to_string(sample()).unwrap();
    text.lines()
        .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[')).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::load(&Overrides { file: Some(file), environment, ..Overrides::default() }).map_err(|e| e.to_string())
}

#[test]
fn the_sample_has_every_key_and_loads_as_it_stands() {
    let whole = load(&whole_sample(), &[]).unwrap();
    let left_out: Vec<&str> = whole.settings.iter().filter(|s| s.source.is_none()).map(|s| s.key.as_str()).collect();
    assert_eq!(left_out, [""; 0], "keys that deploy/wasm-worker.sample.toml does not have");
    assert!(whole.settings.len() > 45, "{}", whole.settings.len());
    // As it stands nothing is set.
    let bare = std::fs::read_to_string(sample()).unwrap();
    let set: Vec<String> = load(&bare, &[]).unwrap().settings.into_iter().filter(|s| s.source.is_some()).map(|s| s.key).collect();
    assert_eq!(set, [""; 0]);
}

#[test]
fn defaults_in_the_sample_are_the_defaults() {
    let (whole, bare) = (load(&whole_sample(), &[]).unwrap(), load("", &[]).unwrap());
    // What depends on the machine, what is an example, and what may be written in two ways.
    let examples = [
        "store.dsn",
        "storage.",
        "queue.",
        "queues.",
        "inference.onnxruntime",
        "worker.concurrency",
        "inference.threads",
        "inference.parallel",
        "data_dir",
    ];
    for setting in bare.settings.iter().filter(|s| !examples.iter().any(|example| s.key.starts_with(example))) {
        assert_eq!(whole.setting(&setting.key).map(|s| &s.value), Some(&setting.value), "{}", setting.key);
    }
}

/// A value that each variable may have, and that is no default.
fn value_of(variable: &Variable) -> &'static str {
    match variable.key.unwrap() {
        "queue.url" => "http://h:1/1/in",
        "queue.next" => "http://h:1/1/out",
        "storage.bucket" => "pages",
        "store.dsn" => "postgres://u:secret@h/d",
        "queue.inputs" => "scans, /srv/in",
        "log_format" => "json",
        "store.durability" => "normal",
        "inference.backend" => "rten",
        "queue.next_foreign" | "worker.single" => "true",
        "worker.concurrency" | "worker.max_attempts" | "inference.threads" => "77",
        "worker.lease" | "worker.grace" => "77s",
        _ => "other",
    }
}

/// What a variable needs beside it to be taken.
fn beside(variable: &Variable) -> Vec<(&'static str, &'static str)> {
    match variable.name {
        "QUEUE_URL" | "NEXT_QUEUE_URL" => vec![("WASM_WORKER_SINGLE", "true")],
        "NEXT_QUEUE_FOREIGN" => vec![("NEXT_QUEUE_URL", "http://h:1/1/out")],
        _ => Vec::new(),
    }
}

#[test]
fn every_variable_has_an_effect() {
    let bare = load("", &[]).unwrap();
    let mut names = BTreeSet::new();
    for variable in ENVIRONMENT {
        assert!(names.insert(variable.name), "{} is listed twice", variable.name);
        assert!(!variable.about.is_empty() && !variable.about.ends_with('.'));
        let Some(key) = variable.key else { continue };
        let (before, value) = (bare.setting(key).unwrap(), value_of(variable));
        let mut environment = beside(variable);
        environment.push((variable.name, value));
        let config = load("", &environment).unwrap();
        let after = config.setting(key).unwrap();
        assert!(after.value != before.value, "{} changes nothing: {:?}", variable.name, after.value);
        assert_eq!(after.source.as_deref(), Some(format!("environment variable {}", variable.name).as_str()));
        assert_eq!(config.named(key), variable.name);
        // Empty, it says nothing.
        let mut environment = beside(variable).into_iter().filter(|(name, _)| *name != "NEXT_QUEUE_URL").collect::<Vec<_>>();
        environment.push((variable.name, ""));
        assert_eq!(load("", &environment).unwrap().setting(key).unwrap().value, before.value, "{}", variable.name);
    }
    // The typed values, for those whose setting alone could be for show.
    let config = load("", &[("WASM_WORKER_CONCURRENCY", "7"), ("ORT_DYLIB_PATH", "/a.so"), ("WASM_WORKER_ONNXRUNTIME", "/b.so")]).unwrap();
    assert_eq!((config.worker.concurrency, config.inference.onnxruntime), (7, Some("/b.so".into())));
    let config =
        load("", &[("QUEUE_URL", "redis://h?stream=s"), ("WASM_WORKER_SINGLE", "true"), ("WASM_WORKER_STEP", "x"), ("BUCKET", "pages")])
            .unwrap();
    assert_eq!((config.queue.step.as_deref(), config.bucket.as_str(), config.uses_s3()), (Some("x"), "s3://pages/", true));
    assert!(load("", &[("AWS_REGION", "eu-west-1")]).unwrap().uses_s3() && !load("", &[]).unwrap().uses_s3());
}

#[test]
fn secrets_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (dsn, token) = (file("dsn", "postgres://u:secret@h/d\n"), file("token", "two\nlines\n"));
    let url = file("url", "redis://u:secret@h?stream=s\r\n");
    let config = load("", &[("DB_DSN_FILE", &dsn), ("WASM_WORKER_SECRET_TOKEN_FILE", &token), ("QUEUE_URL_FILE", &url)]).unwrap();
    assert!(matches!(&config.store, Some(StoreAt::Server(dsn)) if dsn.reveal() == "postgres://u:secret@h/d"));
    assert_eq!(config.secrets, BTreeMap::from([("TOKEN".to_owned(), "two\nlines".to_owned())]));
    assert!(matches!(&config.queue.url, Some(QueueAt::Broker(at)) if at.reveal().password() == Some("secret")));
    assert_eq!(config.named("store.dsn"), "DB_DSN_FILE");
    let shown = format!("{:?} {:?} {:?}", config.settings, config.queue, config.store);
    assert!(!shown.contains("secret@") && !shown.contains("lines"), "{shown}");
    assert_eq!(config.setting("secrets.TOKEN").unwrap().source.as_deref(), Some("environment variable WASM_WORKER_SECRET_TOKEN_FILE"));

    let empty = file("empty", "\n");
    for (environment, part) in [
        (vec![("DB_DSN_FILE", dsn.as_str()), ("DB_DSN", "postgres://u:secret@h/d")], "DB_DSN is set as well"),
        (vec![("WASM_WORKER_SECRET_T_FILE", token.as_str()), ("WASM_WORKER_SECRET_T", "secret")], "WASM_WORKER_SECRET_T is set as well"),
        (vec![("DB_DSN_FILE", "/no/such")], "DB_DSN_FILE = /no/such: cannot be read"),
        (vec![("DB_DSN_FILE", empty.as_str())], "is empty"),
        (vec![("WASM_WORKER_LEASE_FILE", dsn.as_str())], "unknown environment variable"),
    ] {
        let error = load("", &environment).unwrap_err();
        assert!(error.contains(part) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn what_is_shown_can_be_written() {
    let config = load(&whole_sample(), &[]).unwrap();
    let flags = config
        .settings
        .iter()
        .filter(|s| s.key != "worker.single" && !s.value.is_null() && !s.value.is_array() && !s.key.starts_with("queues."))
        .map(|s| {
            let text = s.value.as_str().map_or_else(|| s.value.to_string(), str::to_owned);
            (s.key.clone(), text)
        });
    // What is masked cannot; nothing else is hidden.
    let flags: Vec<(String, String)> = flags.filter(|(_, text)| !text.contains('…')).collect();
    let again = Config::load(&Overrides {
        file: Some("/dev/null".into()),
        flags: flags.clone(),
        environment: [("WASM_WORKER_SINGLE".to_owned(), "true".to_owned())].into(),
    })
    .unwrap();
    for (key, text) in flags.iter() {
        let value = &again.setting(key).unwrap().value;
        assert_eq!(value.as_str().map_or_else(|| value.to_string(), str::to_owned), *text, "{key}");
    }
}

/// `deploy/environment.md`: what people read is what the program reads.
#[test]
fn the_reference_lists_every_variable() {
    let mut text = String::from("# Environment variables\n\n");
    text.push_str(
        "They lie over the configuration file, and under flags. `<NAME>_FILE` names a file that holds the value: a mounted secret.\n",
    );
    text.push_str("An empty variable says nothing; one that begins with `WASM_WORKER_` and is not listed is refused.\n\n");
    text.push_str("| variable | key | what it is |\n|---|---|---|\n");
    for variable in ENVIRONMENT {
        let names = variable.shown().split(", ").map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let key = variable.key.map_or(String::new(), |key| format!("`{key}`"));
        text.push_str(&format!("| {names} | {key} | {} |\n", variable.about));
    }
    let written = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/environment.md")).unwrap();
    assert!(written == text, "deploy/environment.md is to be:\n{text}");
}
