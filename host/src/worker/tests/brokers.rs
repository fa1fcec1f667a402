//! Messages of brokers: taken in, run, answered when the store holds what they asked for; and the relay.

use super::tray::Tray;
use super::*;
use crate::queue::{MemoryQueueConfig, Queue};
use crate::task::children::{Delivery, FailureRoute};
use crate::task_store::TaskView;
use serde_json::json;
use tokio::task::JoinHandle;

/// A worker beside which messages are put into its queue.
pub(super) struct Served {
    drain: CancellationToken,
    running: JoinHandle<Summary>,
}

impl Place {
    pub(super) fn queue<Q: Queue + 'static>(&self, queue: &Arc<Q>) -> QueueSpec {
        QueueSpec {
            name: "q".into(),
            queue: Arc::clone(queue) as _,
            tenant: "t".into(),
            trusted: false,
            steps: vec!["s".into()],
            bucket: Uri::of_folder(&self.folder.path().join("bucket")).unwrap(),
            inputs: Vec::new(),
        }
    }

    pub(super) fn serve<Q: Queue + 'static>(&self, queue: &Arc<Q>, change: impl FnOnce(&mut Setting)) -> Served {
        let mut setting = Setting { queues: vec![self.queue(queue)], ..Setting::default() };
        change(&mut setting);
        let (worker, drain) = (self.worker_as(setting), CancellationToken::new());
        let stop = drain.clone();
        Served { drain, running: tokio::spawn(async move { worker.run(Until::Stopped, None, stop).await }) }
    }

    pub(super) async fn task(&self, id: &str) -> TaskView {
        self.store.task("t", id).await.unwrap()
    }
}

impl Served {
    pub(super) async fn stop(self) -> Summary {
        self.drain.cancel();
        timeout(Duration::from_secs(20), self.running).await.expect("the worker comes to an end").unwrap()
    }
}

pub(super) fn message(id: &str, params: serde_json::Value) -> String {
    json!({"job_id": format!("job-{id}"), "task_id": id, "params": params}).to_string()
}

/// Waits until every message is acknowledged.
pub(super) async fn answered(tray: &Tray) {
    let waiting = async {
        while tray.left().await.0 > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("every message is acknowledged");
}

#[tokio::test]
async fn messages_are_run_and_acknowledged() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    for i in 0..20 {
        tray.put(message(&format!("m{i}"), json!({}))).await;
    }
    let served = place.serve(&tray, |_| {});
    answered(&tray).await;
    let summary = served.stop().await;
    assert_eq!((summary.runs, summary.ended["DONE"]), (20, 20));
    assert!(tray.most_asked.load(Ordering::Relaxed) <= 4, "never more than there is room");
    let task = place.task("m7").await;
    let folder = format!("bucket/t/jobs/job-m7/s/{}/", crate::task::id::short("m7"));
    assert_eq!(task.output_prefix, Uri::of_folder(&place.folder.path().join(&folder)).unwrap().as_str());
    let result = Uri::parse(&format!("{}result.json", task.output_prefix)).unwrap();
    place.objects.open(&result).await.expect("its result has its name");
    assert_eq!(task.queue.as_deref(), Some("q"));
    assert!(place.store.job("t", "job-m7").await.unwrap().open, "others may join it");
}

/// Also where the broker delivers a message again while it runs, and after its end; and where answers are lost.
#[tokio::test]
async fn many_deliveries_of_a_message_are_one_run() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    tray.loses_answers.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        tray.put(message("same", json!({"sleep_ms": 300}))).await;
    }
    let served = place.serve(&tray, |setting| setting.lease = LEASE);
    place.wait_for("same", TaskState::Processing).await;
    tray.redeliver_all().await;
    answered(&tray).await;
    tray.put(message("same", json!({"sleep_ms": 300}))).await;
    answered(&tray).await;
    served.stop().await;
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 1);
    assert_eq!(place.ended("same").await, (TaskState::Done, vec!["committed".to_owned()]));
}

#[tokio::test]
async fn a_message_longer_than_its_visibility_stays_hidden() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    tray.put(message("slow", json!({"sleep_ms": 2000}))).await;
    let served = place.serve(&tray, |setting| setting.lease = LEASE);
    place.wait_for("slow", TaskState::Processing).await;
    let began = Instant::now();
    while tray.left().await.0 > 0 {
        assert_eq!(tray.left().await.1, 0, "seen by others after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(10)).await;
    }
    served.stop().await;
    assert_eq!(place.ended("slow").await, (TaskState::Done, vec!["committed".to_owned()]));
    assert!(tray.hidden.lock().unwrap().len() >= 4, "renewed several times");
}

#[tokio::test]
async fn what_is_no_task_is_kept_as_a_dead_letter_and_acknowledged() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let with = |key: &str, value: serde_json::Value| {
        let mut message = json!({"job_id": "j", "task_id": format!("bad-{key}"), "params": {}});
        message[key] = value;
        message.to_string()
    };
    let outside = Uri::of_folder(&place.folder.path().join("bucket/t-other")).unwrap();
    let foreign_job = Uri::of_folder(&place.folder.path().join("bucket/t/jobs/another")).unwrap();
    let own_job = |below: &str| Uri::of_folder(&place.folder.path().join("bucket/t/jobs/j").join(below)).unwrap();
    let bad = [
        "{".to_owned(),
        with("step", json!("unknown")),
        with("tenant", json!("other")),
        with("hops", json!(1000)),
        with("input_uri", json!("file:///etc/passwd")),
        with("output_prefix", json!(outside.as_str())),
        with("output_prefix", json!(foreign_job.as_str())),
        // Where the host puts what it names itself.
        with("output_prefix", json!(own_job("s").as_str())),
        with("output_prefix", json!(own_job("s/x").as_str())),
        with("output_prefix", json!(own_job("_attempts").as_str())),
        with("not_before", json!(i64::MAX)),
    ];
    for body in &bad {
        tray.put(body.as_str()).await;
        // A repeat adds no second letter.
        tray.put(body.as_str()).await;
    }
    tray.put(json!({"job_id": "j", "task_id": "good", "params": {}, "output_prefix": own_job("sx").as_str()}).to_string()).await;
    let served = place.serve(&tray, |_| {});
    answered(&tray).await;
    served.stop().await;
    let letters = place.store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    let mut kept: Vec<String> = letters.iter().map(|letter| letter.message.clone()).collect();
    kept.sort();
    let mut wanted = bad.to_vec();
    wanted.sort();
    assert_eq!(kept, wanted);
    assert!(letters.iter().all(|letter| letter.queue.as_deref() == Some("q") && letter.task_id.is_none()), "{letters:?}");
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 1);
}

/// Another worker may know it: it is hidden again, and given up only after many deliveries.
#[tokio::test]
async fn a_newer_message_is_left_to_others_for_a_while() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let newer = r#"{"schema_version": 2, "task": "x"}"#;
    tray.put(newer).await;
    let served = place.serve(&tray, |_| {});
    answered(&tray).await;
    served.stop().await;
    assert!(tray.hidden.lock().unwrap().len() >= 20);
    let letters = place.store.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.iter().map(|l| l.message.as_str()).collect::<Vec<_>>(), [newer]);
    assert!(letters[0].error.message.contains("/schema_version"), "{}", letters[0].error.message);
}

#[tokio::test]
async fn a_drain_makes_messages_visible_at_once_and_costs_nothing() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    tray.put(message("slow", json!({"sleep_ms": 60_000}))).await;
    let served = place.serve(&tray, |_| {});
    place.wait_for("slow", TaskState::Processing).await;
    assert_eq!(tray.left().await, (1, 0));
    served.stop().await;
    assert_eq!(tray.left().await, (1, 1), "visible again");
    let task = place.task("slow").await;
    assert_eq!((task.state, task.attempts, task.handbacks, task.crashes), (TaskState::Queued, 0, 0, 0));
}

#[tokio::test]
async fn a_failed_message_comes_again_when_it_is_due() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    tray.put(message("bad", json!({"fail": true}))).await;
    let served = place.serve(&tray, |_| {});
    answered(&tray).await;
    served.stop().await;
    assert_eq!(place.ended("bad").await, (TaskState::Dead, ["retried", "retried", "dead"].map(str::to_owned).to_vec()));
    assert_eq!(tray.acknowledged.load(Ordering::Relaxed), 1);
}

/// A worker that lost its lease acknowledges nothing: the message comes again.
#[tokio::test]
async fn a_lost_lease_answers_nothing() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    tray.put(message("slow", json!({"sleep_ms": 900}))).await;
    let worker = place.worker_as(Setting { queues: vec![place.queue(&tray)], lease: LEASE, ..Setting::default() });
    let (inbox, answers) = deliveries::Inbox::open(Arc::clone(&worker.queues[0]), LEASE);
    let giving = tokio::spawn(answers.give(Arc::clone(&inbox.deliveries)));
    let look = receive::Look { max: 1, wait: Duration::ZERO };
    let received = receive::receive(&worker, &inbox, look, &CancellationToken::new()).await.unwrap();
    let receive::Brought::Messages(messages) = received else { panic!("no messages") };
    let taken_in = receive::take_in(&worker, &inbox, messages, [("s".to_owned(), 1)].into()).await.unwrap();
    let receive::Brought::Errands(mut errands) = taken_in else { panic!("no errands") };
    // No heartbeat runs: the worker is as good as paused.
    let (receive::Errand::Run(claimed, sent), delivery) = errands.remove(0) else { panic!("no run") };
    assert_eq!(execute::execute(&worker, *claimed, sent, slot(), Some(delivery)).await, TaskState::Processing);
    drop(inbox);
    giving.await.unwrap();
    assert_eq!((tray.left().await, tray.acknowledged.load(Ordering::Relaxed)), ((1, 1), 0));
    assert!(tray.hidden.lock().unwrap().is_empty());
}

/// What was committed and not ended is finished when its message comes again; the guest does not run a second time.
#[tokio::test]
async fn a_committed_task_is_finished_by_its_message() {
    use crate::task::outputs::{Figures, Manifest, ManifestEntry};
    use crate::task_store::{Admission, Commit};
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let lease = Duration::from_millis(50);
    let body = message("half", json!({}));
    let spec = place.queue(&tray);
    let steps = place.worker(LEASE).steps.clone();
    let context = queues::Context { pipeline: "p", steps: &steps, now_ms: 0 };
    let Ok(queues::Arrival::Task(job, _)) = spec.read(body.as_bytes(), &context) else { panic!("a task") };
    let Admission::Claimed(claimed) = place.store.admit(vec![*job], lease, "w".into()).await.unwrap().remove(0) else { panic!("claimed") };
    let entries = vec![ManifestEntry::inline("result.json", "application/json", b"{}".to_vec())];
    let manifest = Manifest { folder: claimed.lease.attempt_folder(), entries };
    let (lease, children) = (claimed.lease, children::Children::default());
    let commit = Commit { lease, manifest, children, outcome: None, figures: Figures::default(), log: String::new() };
    place.store.commit(commit).await.unwrap();
    tray.put(body).await;
    let served = place.serve(&tray, |_| {});
    answered(&tray).await;
    let summary = served.stop().await;
    assert_eq!((summary.runs, place.ended("half").await.0), (0, TaskState::Done));
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 0);
}

/// Children go out by the outbox, once each, and the job comes to its end through the queue alone.
#[tokio::test]
async fn children_run_by_their_messages() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    place.submit("parent", json!({"children": 5})).await;
    let served = place.serve(&tray, |setting| setting.delivery = Delivery::Queue("q".into()));
    let ended = async {
        while place.store.job("t", "parent").await.unwrap().state != JobState::Done {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), ended).await.expect("the job ends");
    answered(&tray).await;
    let summary = served.stop().await;
    assert_eq!((summary.runs, summary.ended["DONE"]), (6, 6));
    let sent = tray.sent.lock().unwrap();
    let ids: std::collections::BTreeSet<&str> = sent.iter().map(|message| message.deduplication_id.as_str()).collect();
    assert_eq!((sent.len(), ids.len()), (5, 5), "each once");
    assert!(sent.iter().all(|message| message.group == "t"));
}

/// Its parent is at fault where it can be told; the host's own failure task ends DEAD itself, so that nothing waits for ever.
#[tokio::test]
async fn a_message_too_large_for_its_queue_is_given_up() {
    let (place, tray) = (Place::in_memory(), Arc::new(Tray::new(MemoryQueueConfig { max_body: 100, ..MemoryQueueConfig::default() })));
    place.submit("parent", json!({"children": 1})).await;
    let mut failing = place.job("failing", json!({"fail": true}), None, "failing");
    failing.root.on_failure = Some(FailureRoute { step: "s".into(), max_attempts: 3, delivery: Delivery::Queue("q".into()) });
    place.store.submit(vec![failing]).await.unwrap();
    let served = place.serve(&tray, |setting| setting.delivery = Delivery::Queue("q".into()));
    place.wait_for("parent", TaskState::Dead).await;
    let sorry = crate::task::id::child("t", "failing", "s", children::FAILURE);
    let there = async {
        while !place.store.task("t", &sorry).await.is_ok_and(|task| task.state == TaskState::Dead) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), there).await.expect("it ends");
    served.stop().await;
    for id in ["parent", sorry.as_str()] {
        let error = place.task(id).await.error.unwrap();
        assert!(error.code == "message-size" && error.message.contains("storage"), "{error:?}");
    }
    assert_eq!(place.store.job("t", "failing").await.unwrap().state, JobState::Failed);
    assert!(place.store.outgoing(None, Duration::ZERO, 10).await.unwrap().is_empty());
    assert!(tray.sent.lock().unwrap().is_empty());
}

/// A message of a task that is there, with an input that its job's submitter answered for, is not a stranger's.
#[tokio::test]
async fn an_input_that_was_granted_travels_on_and_a_strangers_does_not() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let mut job = place.job("granted", json!({}), None, "granted");
    Arc::make_mut(&mut job.root.message).input_uri = Some("file:///elsewhere/page.png".into());
    job.root.payload_hash = job.root.message.payload_hash("s").unwrap();
    job.root.delivery = Delivery::Queue("q".into());
    place.store.submit(vec![job]).await.unwrap();
    tray.put(json!({"job_id": "x", "task_id": "strange", "params": {}, "input_uri": "file:///elsewhere/page.png"}).to_string()).await;
    let served = place.serve(&tray, |_| {});
    place.wait_for("granted", TaskState::Done).await;
    answered(&tray).await;
    served.stop().await;
    assert_eq!(place.store.dead_letters(DeadLetterFilter::default()).await.unwrap().len(), 1);
    assert!(place.store.task("t", "strange").await.is_err());
}

/// A long line in the table and one in the queue: neither waits for the other's end.
#[tokio::test]
async fn table_and_queue_take_turns() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    for i in 0..30 {
        place.submit(&format!("row{i}"), json!({"sleep_ms": 20})).await;
        tray.put(message(&format!("msg{i}"), json!({"sleep_ms": 20}))).await;
    }
    let served = place.serve(&tray, |setting| setting.concurrency = 2);
    answered(&tray).await;
    let rows = place.store.tasks(crate::task_store::TaskFilter { state: Some(TaskState::Done), ..Default::default() }).await.unwrap();
    let rows = rows.iter().filter(|task| task.task_id.starts_with("row")).count();
    assert!((10..=30).contains(&rows), "{rows} rows were done when the queue was through");
    place.wait_for("row29", TaskState::Done).await;
    served.stop().await;
}

/// A look waits a moment for room for several messages; where that room never comes, not each look does.
#[tokio::test]
async fn short_tasks_beside_long_ones_are_not_held_up() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    for i in 0..15 {
        tray.put(message(&format!("long{i}"), json!({"until_cancelled": true}))).await;
    }
    let served = place.serve(&tray, |setting| setting.concurrency = 16);
    while place.script.runs.load(Ordering::Relaxed) < 15 {
        sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    for i in 0..200 {
        tray.put(message(&format!("short{i}"), json!({}))).await;
    }
    while tray.acknowledged.load(Ordering::Relaxed) < 200 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}; a wait of 20 ms for each takes 4 s", began.elapsed());
    served.stop().await;
}

/// One place only: the queue is served though the table could fill it, and the table though the queue is empty.
#[tokio::test]
async fn one_place_is_enough_for_both() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let served = place.serve(&tray, |setting| setting.step_concurrency = Some(1));
    let began = Instant::now();
    for i in 0..5 {
        place.submit(&format!("row{i}"), json!({})).await;
        place.wait_for(&format!("row{i}"), TaskState::Done).await;
        tray.put(message(&format!("msg{i}"), json!({}))).await;
        answered(&tray).await;
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    served.stop().await;
}

/// The same of a step with one place beside another that has room, of which the table is asked meanwhile.
#[tokio::test]
async fn a_step_is_asked_for_once_a_look_gives_its_place_back() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let served = place.serve(&tray, |setting| (setting.concurrency, setting.step_concurrency, setting.two_steps) = (8, Some(1), true));
    let began = Instant::now();
    for i in 0..4 {
        sleep(Duration::from_millis(100)).await;
        place.submit(&format!("row{i}"), json!({})).await;
        place.wait_for(&format!("row{i}"), TaskState::Done).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    served.stop().await;
}

/// What a fed job says about its number of tasks closes it; nothing else does while its queue has messages.
#[tokio::test]
async fn a_fed_job_ends_when_its_queue_has_been_empty_for_long() {
    let (place, tray) = (Place::in_memory(), Arc::<Tray>::default());
    let of_job = |id: &str, job: &str, tasks: Option<u64>| {
        let mut message = json!({"job_id": job, "task_id": id, "params": {}});
        if let Some(tasks) = tasks {
            message["job_tasks"] = json!(tasks);
        }
        message.to_string()
    };
    tray.put(of_job("a", "counted", Some(2))).await;
    tray.put(of_job("b", "counted", None)).await;
    tray.put(of_job("c", "open", None)).await;
    let served = place.serve(&tray, |setting| {
        setting.lease = LEASE;
        setting.fed_idle = Duration::from_millis(1500);
    });
    place.wait_for("c", TaskState::Done).await;
    let began = Instant::now();
    let state = |job: &'static str| {
        let store = Arc::clone(&place.store);
        async move { store.job("t", job).await.unwrap().state }
    };
    place.wait_for("b", TaskState::Done).await;
    place.wait_for("a", TaskState::Done).await;
    assert_eq!(state("counted").await, JobState::Done);
    assert_eq!(state("open").await, JobState::Processing);
    while state("open").await != JobState::Done {
        assert!(began.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(1000), "{:?}", began.elapsed());
    // One that comes late opens it again.
    tray.put(of_job("late", "open", Some(2))).await;
    place.wait_for("late", TaskState::Done).await;
    assert_eq!((state("open").await, place.store.job("t", "open").await.unwrap().open), (JobState::Done, false), "now it is complete");
    served.stop().await;
}
