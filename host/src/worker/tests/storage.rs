//! Storage that fails: what is tried again has one effect. And storage that is a bucket.

use super::*;
use crate::object_store::{FaultyObjectStore, fresh_bucket};

/// Every call fails before it does anything, then does it all and its answer is lost: the guest runs once for each attempt, the task
/// commits once, and what stands in its place is what the manifest says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_calls_and_lost_answers_have_one_effect() {
    let mut place = Place::new().await;
    let faulty = Arc::new(FaultyObjectStore::new(MemoryObjectStore::new()));
    place.objects = faulty.clone();
    place.submit("j", serde_json::json!({"write": true, "children": 1})).await;
    place.run_down().await;
    assert_eq!(place.ended("j").await, (TaskState::Done, ["retried", "retried", "committed"].map(str::to_owned).to_vec()));
    let task = place.store.task("t", "j").await.unwrap();
    let prefix = Uri::parse(&task.output_prefix).unwrap();
    for _ in 0..2 {
        faulty.list(&prefix).await.unwrap_err();
    }
    let there = faulty.list(&prefix).await.unwrap();
    let finals: Vec<&str> = there.iter().filter_map(|meta| meta.uri.as_str().strip_prefix(prefix.as_str())).collect();
    let finals: Vec<&str> = finals.into_iter().filter(|name| !name.contains('/')).collect();
    assert_eq!(finals, ["big.bin", "metrics.json", "result.json"]);
    for entry in task.manifest.unwrap().entries {
        let uri = prefix.join(&entry.name).unwrap();
        for _ in 0..2 {
            faulty.get(&uri, u64::MAX).await.unwrap_err();
        }
        assert_eq!(crate::task::id::sha256(&faulty.get(&uri, u64::MAX).await.unwrap()), entry.sha256, "{uri}");
    }
    // The parent's three attempts, and one of its child.
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 4);
    // Not found on the stage any more, it was looked for in its place.
    assert!(faulty.calls("publish") > 3 && faulty.calls("open") >= 3, "{} {}", faulty.calls("publish"), faulty.calls("open"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_take_their_names_in_a_bucket() {
    let Some((bucket, prefix, ())) = fresh_bucket().await else { return };
    let mut place = Place::new().await;
    place.objects = Arc::new(bucket);
    let job = place.job_in("j", serde_json::json!({"write": true, "children": 2}), None, &prefix.join("j/").unwrap());
    place.store.submit(vec![job]).await.unwrap();
    place.run_down().await;
    assert_eq!(place.ended("j").await, (TaskState::Done, vec!["committed".to_owned()]));
    let task = place.store.task("t", "j").await.unwrap();
    let prefix = Uri::parse(&task.output_prefix).unwrap();
    for entry in task.manifest.unwrap().entries {
        let bytes = place.objects.get(&prefix.join(&entry.name).unwrap(), u64::MAX).await.unwrap();
        assert_eq!(crate::task::id::sha256(&bytes), entry.sha256, "{}", entry.name);
    }
    let all = place.objects.list(&prefix).await.unwrap();
    assert!(all.iter().all(|meta| !meta.uri.as_str().contains("_attempts/")), "{all:?}");
    let children = all.iter().filter(|meta| meta.uri.as_str().ends_with("result.json")).count();
    assert_eq!(children, 3, "{all:?}");
}
