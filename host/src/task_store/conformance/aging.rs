//! What is removed for good: dead letters, and jobs that ended long ago.

use super::*;

pub async fn a_purged_task_stays_dead_and_lets_go_of_everything(store: &dyn TaskStore) {
    submit(store, job("j")).await;
    submit(store, job("k")).await;
    let claimed = claim(store, 2).await;
    let commit = Commit { manifest: manifest(), ..commit_of(&claimed[0].lease, fan_out(&["x"], "j", None)) };
    store.commit(commit).await.unwrap();
    store.bury_committed(key("j-root"), TaskError::new("denied", "no such bucket")).await.unwrap();
    kill(store, &claimed[1].lease).await;
    let heir = || NewJob { prefix: "file:///out/j/".into(), ..job("heir") };
    assert_eq!(store.submit(vec![heir()]).await.unwrap(), [Submitted::Occupied], "its outputs are kept for a redrive");
    let of_j = DeadLetterFilter { job_id: Some("j".into()), ..DeadLetterFilter::default() };
    assert_eq!(store.purge(of_j.clone(), true).await.unwrap().len(), 1);
    assert_eq!(store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 2, "a dry run changes nothing");
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(store.sweep(sweeping(SHORT)).await.unwrap().leftovers.len(), 0, "they are still wanted");
    assert_eq!(store.purge(of_j.clone(), false).await.unwrap()[0].task_id.as_deref(), Some("j-root"));
    assert_eq!(store.purge(of_j.clone(), false).await.unwrap().len(), 0);
    assert_eq!(store.dead_letters(of_j.clone()).await.unwrap().len(), 0);
    assert_eq!(store.redrive(of_j, false).await.unwrap().len(), 0);
    assert_eq!((state(store, "j-root").await, job_state(store, "j").await), (TaskState::Dead, JobState::Failed));
    assert_eq!(store.submit(vec![heir()]).await.unwrap(), [Submitted::Created]);
    tokio::time::sleep(SHORT * 2).await;
    let leftovers = store.sweep(sweeping(SHORT)).await.unwrap().leftovers;
    assert_eq!(
        leftovers.iter().map(|l| (&l.key, l.output_prefix.as_str())).collect::<Vec<_>>(),
        [(&key("j-root"), "file:///out/j/j-root/")]
    );
    store.swept(vec![key("j-root")]).await.unwrap();
    assert_eq!(store.redrive(DeadLetterFilter::default(), false).await.unwrap().len(), 1, "the other one can go back");
}

pub async fn old_jobs_are_pruned_with_all_that_is_theirs(store: &dyn TaskStore) {
    submit(store, job("old")).await;
    let root = claim_one(store).await;
    let commit = Commit { log: "log".into(), ..commit_of(&root.lease, fan_out(&["x", "y"], "old", Some("t"))) };
    store.commit(commit).await.unwrap();
    run_down(store).await;
    submit(store, job("dead")).await;
    kill(store, &claim_one(store).await.lease).await;
    submit(store, job("live")).await;
    let prune = async |older_than, limit, dry_run| store.prune(older_than, limit, dry_run).await.unwrap();
    assert_eq!(prune(LONG, 9, false).await, Pruned::default(), "nothing is that old");
    tokio::time::sleep(Duration::from_millis(30)).await;
    let age = Duration::from_millis(10);
    assert_eq!(prune(age, 9, true).await, Pruned { jobs: 1, tasks: 4, unswept: 0 });
    assert_eq!(store.jobs(None, None, 9).await.unwrap().len(), 3, "a dry run changes nothing");
    assert_eq!(prune(age, 9, false).await, Pruned { jobs: 1, tasks: 4, unswept: 0 });
    assert_eq!(prune(age, 9, false).await, Pruned::default());
    assert!(matches!(store.job(TENANT, "old").await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.logs(key("old-root")).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.task(TENANT, "t").await, Err(StoreError::NotFound(_))));
    let left: Vec<String> = store.jobs(None, None, 9).await.unwrap().into_iter().map(|j| j.job_id).collect();
    assert_eq!(left, ["live", "dead"]);
    // Its ids are free again, and what is new under them is not taken for the old.
    submit(store, job("old")).await;
    assert_eq!(run_down(store).await, ["live-root", "old-root"]);
    store.purge(DeadLetterFilter::default(), false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(prune(age, 1, false).await.jobs, 1, "no more than was asked for");
    assert_eq!(prune(age, 9, false).await, Pruned { jobs: 1, tasks: 1, unswept: 1 }, "what the dead task has staged may still be there");
    tokio::time::sleep(SHORT * 2).await;
    let leftovers = store.sweep(sweeping(SHORT)).await.unwrap().leftovers;
    store.swept(leftovers.into_iter().map(|l| l.key).collect()).await.unwrap();
    assert_eq!(prune(age, 9, false).await.jobs, 1, "also those whose letters are gone");
    assert_eq!(store.tasks(TaskFilter::default()).await.unwrap().len(), 0);
}

/// Only the rows know whose attempts a sweep has to remove: without them they would lie there for ever.
pub async fn what_is_not_swept_is_not_pruned(store: &dyn TaskStore) {
    for id in ["staged", "bare"] {
        submit(store, job(id)).await;
        let lease = claim_one(store).await.lease;
        let files = if id == "staged" { manifest() } else { Manifest::default() };
        store.commit(Commit { manifest: files, ..commit_of(&lease, Children::default()) }).await.unwrap();
        store.end(lease.key).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let age = Duration::from_millis(10);
    for dry_run in [true, false] {
        assert_eq!(store.prune(age, 9, dry_run).await.unwrap(), Pruned { jobs: 1, tasks: 1, unswept: 1 });
    }
    assert_eq!(store.prune(LONG, 9, false).await.unwrap(), Pruned::default(), "what is not old is no matter");
    tokio::time::sleep(SHORT * 2).await;
    let leftovers = store.sweep(sweeping(SHORT)).await.unwrap().leftovers;
    assert_eq!(leftovers.len(), 1);
    assert_eq!(store.prune(age, 9, false).await.unwrap(), Pruned { unswept: 1, ..Pruned::default() }, "somebody is at it");
    store.swept(leftovers.into_iter().map(|l| l.key).collect()).await.unwrap();
    assert_eq!(store.prune(age, 9, false).await.unwrap(), Pruned { jobs: 1, tasks: 1, unswept: 0 });
}
