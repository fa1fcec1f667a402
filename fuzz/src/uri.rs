//! Any text as an address, and any two as prefix and name: one spelling only, and nothing climbs.

#![no_main]

#[path = "../../host/src/task/mod.rs"]
#[allow(dead_code, unused_imports)]
mod task;

use libfuzzer_sys::fuzz_target;
use std::path::Component;
use task::uri::{MAX_URI, Uri};
use task::{id, outputs};

fuzz_target!(|text: &str| {
    // Two texts, parted by the first newline: an address has none.
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    let base = Uri::parse(first);
    if let Ok(uri) = &base {
        assert_eq!((uri.as_str(), Uri::parse(&uri.to_string())), (first, Ok(uri.clone())));
        assert!(uri.as_str().len() <= MAX_URI);
        assert!(uri.as_str().split('/').all(|segment| segment != "." && segment != ".."));
        assert!(uri.covers(uri) && uri.as_prefix().is_prefix());
        if let Some(path) = uri.file_path() {
            assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))), "{path:?}");
        }
        if let Ok(joined) = uri.join(second) {
            assert!(uri.as_prefix().covers(&joined));
            assert_eq!(joined.as_str().strip_prefix(uri.as_prefix().as_str()), Some(second));
        }
        let other = Uri::parse(second);
        if let Ok(other) = &other {
            assert!(!(uri.covers(other) && other.covers(uri)) || uri == other);
        }
    }
    // Every name of an output is one below every prefix with room for it.
    if outputs::check_name(second, &|_| false).is_ok() {
        let prefix = Uri::parse("s3://bucket/tenant/jobs/j/").expect("an address");
        assert!(second.len() <= prefix.room() && prefix.join(second).is_ok_and(|joined| prefix.covers(&joined)), "{second:?}");
    }
    if id::check("id", second).is_ok() {
        let prefix = Uri::parse("file:///a/").expect("an address");
        assert_eq!(prefix.join(second).map(|uri| uri.file_name().to_owned()), Ok(second.to_owned()));
    }
});
