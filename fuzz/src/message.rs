//! Any bytes as a message: refused with violations that can be followed, or a message that is itself again when it is written and read.

#![no_main]

#[path = "../../host/src/task/mod.rs"]
#[allow(dead_code, unused_imports)]
mod task;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use task::accept::Accept;
use task::message::{Message, MessageBounds};
use task::pointer::{MAX_POINTER, MAX_VIOLATIONS};

fuzz_target!(|bytes: &[u8]| {
    let bounds = MessageBounds::default();
    let newer = Message::newer_version(bytes, &bounds);
    match Message::decode(bytes, &bounds) {
        Ok(message) => {
            assert_eq!(newer, None, "a message of this version is none of a newer one");
            let text = message.to_json();
            let again = Message::decode(text.as_bytes(), &bounds).expect("what was read can be read again");
            assert_eq!(again, message);
            assert_eq!(again.payload_hash("s").unwrap(), message.payload_hash("s").unwrap());
            assert_eq!(message.payload().is_some(), message.input.is_some());
            // A child with the same params would be taken too.
            assert_eq!(task::checks::made(&message), Ok(()));
            Accept::of(["png", "json"]).unwrap().check(&message);
        }
        Err(violations) => {
            assert!(!violations.is_empty() && violations.len() <= 8 * MAX_VIOLATIONS);
            // Of a key that comes twice, another reader may keep the other value.
            let is_clear = violations.iter().all(|violation| !violation.message.contains("comes twice"));
            let document = serde_json::from_slice::<Value>(bytes).ok().filter(|_| is_clear);
            for violation in violations {
                let pointer = &violation.pointer;
                assert!(pointer.len() <= MAX_POINTER && (pointer.is_empty() || pointer.starts_with('/')), "{pointer}");
                assert!(!pointer.replace("~0", "").replace("~1", "").contains('~'), "{pointer}");
                assert!(!violation.message.is_empty() && violation.message.len() <= 1024, "{violation}");
                // It leads to a value, or to where one is missing.
                let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                assert!(document.as_ref().is_none_or(|d| d.pointer(parent).is_some()), "{violation}");
            }
        }
    }
});
