//! Messages that nobody should have sent: each becomes a dead letter that says why, and the task beside it is done.

use super::tray::Tray;
use super::*;
use crate::queue::MemoryQueueConfig;
use crate::task::message::MAX_MESSAGE;
use crate::task_store::DeadLetter;
use serde_json::json;

impl Place {
    /// A worker over the queue that these bodies are put into, until all are answered. Returns the letters they became.
    async fn swallow(&self, change: impl FnOnce(&mut QueueSpec), accept: Accept, bodies: &[String]) -> Vec<DeadLetter> {
        let tray = Arc::new(Tray::new(MemoryQueueConfig { max_body: 64 << 20, ..MemoryQueueConfig::default() }));
        for body in bodies {
            tray.put(body.clone()).await;
        }
        let mut queue = self.queue(&tray);
        change(&mut queue);
        let served = self.serve(&tray, |setting| (setting.queues, setting.accept) = (vec![queue], accept));
        brokers::answered(&tray).await;
        served.stop().await;
        self.store.dead_letters(DeadLetterFilter::default()).await.unwrap()
    }
}

/// A message with some fields changed.
fn body(fields: serde_json::Value) -> String {
    let mut whole = json!({"job_id": "j", "task_id": "bad", "params": {}});
    whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    whole.to_string()
}

#[tokio::test]
async fn what_can_never_be_a_task_is_a_letter_with_the_reason() {
    let place = Place::in_memory();
    let raw = |text: &str| text.to_owned();
    let deep = format!("{{\"job_id\":\"j\",\"task_id\":\"bad\",\"params\":{{\"x\":{}{}}}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies = [
        (format!("{}{}", body(json!({})), " ".repeat(10 << 20)), format!("over the limit of {MAX_MESSAGE}")),
        (deep, raw("/params/x/0")),
        (raw(r#"{"job_id":"j","task_id":"bad","task_id":"worse","params":{}}"#), raw("/task_id: key 'task_id' comes twice")),
        (raw(r#"{"job_id":"j","task_id":"bad","params":{"x":1e400}}"#), raw("/params/x: no JSON: number out of range")),
        (raw(r#"{"job_id":"j","task_id":"bad","params":{"x":"\ud800"}}"#), raw("/params/x: no JSON")),
        (raw("job_id=j&task_id=bad"), raw("no JSON")),
        (raw("\u{feff}{}"), raw("byte order mark")),
        (body(json!({"schema_version": "two"})), raw("/schema_version: must be 1")),
        (body(json!({"schema_version": 0})), raw("/schema_version: must be 1")),
        (body(json!({"step": "nowhere"})), raw("/step: 'nowhere' is no step of queue 'q' (it has s)")),
        (body(json!({"function": "dance"})), raw("/function: 'dance' is no function")),
        (body(json!({"tenant": "other"})), raw("/tenant: queue 'q' carries no messages of tenant 'other'")),
        (body(json!({"hops": 1000})), raw("/hops")),
        (body(json!({"not_before": i64::MAX})), raw("/not_before: is further away")),
        (body(json!({"input_uri": "file:///etc/passwd"})), raw("/input_uri: 'file:///etc/passwd' is nothing")),
        (body(json!({"input_uri": "http://169.254.169.254/latest/meta-data/"})), raw("/input_uri: address 'http://169.254.169.254")),
        (body(json!({"input_uri": "https://[::ffff:127.0.0.1]/x"})), raw("must start with file:// or s3://")),
        (body(json!({"input_uri": "s3://bucket/t/%2e%2e/u/x"})), raw("contains '%'")),
        (body(json!({"input": "x".repeat(1 << 20)})), raw("/input: has 1048578 bytes, over 1048576 (limits.payload of step 's')")),
    ];
    let mut all: Vec<String> = bodies.iter().map(|(body, _)| body.clone()).collect();
    all.push(json!({"job_id": "well", "task_id": "well", "params": {}}).to_string());
    let letters = place.swallow(|_| {}, Accept::default(), &all).await;
    for (_, why) in &bodies {
        let found = letters.iter().find(|letter| letter.error.message.contains(why.as_str()));
        let letter =
            found.unwrap_or_else(|| panic!("no letter says {why}: {:?}", letters.iter().map(|l| &l.error.message).collect::<Vec<_>>()));
        assert_eq!(letter.error.code, "invalid");
        assert!(!letter.error.violations.is_empty() && letter.error.message.len() <= 4096);
        assert!(letter.error.violations.iter().all(|v| v.pointer.is_empty() || v.pointer.starts_with('/')), "{:?}", letter.error);
    }
    assert_eq!(letters.len(), bodies.len());
    assert!(place.store.task("t", "bad").await.is_err(), "none of them is a task");
    assert_eq!(place.task("well").await.state, TaskState::Done);
}

/// The area of a tenant ends at its slash, in its own bucket; and of the other jobs' folders none is a task's to name.
#[tokio::test]
async fn addresses_end_where_the_tenants_area_ends() {
    let place = Place::in_memory();
    let (tray, steps) = (Arc::<Tray>::default(), place.worker(LEASE).steps.clone());
    let context = queues::Context { pipeline: "p", steps: &steps, now_ms: 0 };
    let mut spec = place.queue(&tray);
    (spec.tenant, spec.bucket) = ("tenant-a".to_owned(), Uri::parse("s3://bucket/").unwrap());
    spec.inputs = vec![Uri::parse("s3://shared/pictures/").unwrap()];
    let read = |fields: serde_json::Value| match spec.read(body(fields).as_bytes(), &context) {
        Ok(queues::Arrival::Task(_, violations)) | Err(violations) => violations.into_iter().map(|v| v.pointer).collect::<Vec<_>>(),
        Ok(queues::Arrival::Newer(_)) => panic!("newer"),
    };
    for good in ["s3://bucket/tenant-a/x.png", "s3://bucket/tenant-a/jobs/other/x.png", "s3://shared/pictures/x.png"] {
        assert_eq!(read(json!({"input_uri": good})), [""; 0], "{good}");
    }
    for good in ["s3://bucket/tenant-a/mine/", "s3://bucket/tenant-a/jobs/j/mine/"] {
        assert_eq!(read(json!({"output_prefix": good})), [""; 0], "{good}");
    }
    let inputs = [
        "s3://bucket/tenant-ab/x.png",
        "s3://bucket/tenant-a",
        "s3://bucket/tenant-A/x.png",
        "s3://bucket/x.png",
        "s3://bucket2/tenant-a/x.png",
        "s3://shared/pictures-of-others/x.png",
        "file:///bucket/tenant-a/x.png",
        "file:///etc/passwd",
        "s3://bucket/tenant-a/../tenant-b/x.png",
        "s3://bucket/tenant-a/",
    ];
    for bad in inputs {
        assert_eq!(read(json!({"input_uri": bad})), ["/input_uri"], "{bad}");
    }
    let prefixes = [
        "s3://bucket/tenant-ab/out/",
        "s3://bucket/",
        "s3://bucket2/tenant-a/out/",
        "s3://shared/pictures/out/",
        "file:///tmp/out/",
        "s3://bucket/tenant-a/",
        "s3://bucket/tenant-a/jobs/",
        "s3://bucket/tenant-a/jobs/other/",
        "s3://bucket/tenant-a/jobs/jj/",
    ];
    for bad in prefixes {
        assert_eq!(read(json!({"output_prefix": bad})), ["/output_prefix"], "{bad}");
    }
    let all =
        json!({"step": "s", "tenant": "x", "function": "f", "hops": 99, "not_before": i64::MAX, "input": "x".repeat(2_000_000 - 200)});
    assert_eq!(read(all), ["/tenant", "/hops", "/not_before", "/function", "/input"]);
}

/// The second of two messages with one id and different contents is a letter, and learns nothing of the first. With another tenant it is
/// another task.
#[tokio::test]
async fn one_id_is_one_payload_within_a_tenant() {
    let place = Place::in_memory();
    let of =
        |params: serde_json::Value, tenant: &str| json!({"job_id": "j", "task_id": "same", "params": params, "tenant": tenant}).to_string();
    let letters = place.swallow(|queue| queue.trusted = true, Accept::default(), &[of(json!({"secret": "first"}), "t")]).await;
    assert!(letters.is_empty());
    let later = [of(json!({"a": 2}), "t"), of(json!({"secret": "first"}), "t"), of(json!({"a": 2}), "u")];
    let letters = place.swallow(|queue| queue.trusted = true, Accept::default(), &later).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(!format!("{:?}", letters[0]).contains("first"), "{:?}", letters[0]);
    for (tenant, params) in [("t", json!({"secret": "first"})), ("u", json!({"a": 2}))] {
        let task = place.store.task(tenant, "same").await.unwrap();
        assert_eq!((task.state, serde_json::Value::Object(task.message.params)), (TaskState::Done, params));
    }
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 2);
}

/// A stranger's message with an input of the wrong kind is refused. A child with such an input is a task already: it ends as one.
#[tokio::test]
async fn inputs_of_the_wrong_kind_cost_nothing() {
    let place = Place::in_memory();
    let pictures = Accept::of(["png"]).unwrap();
    let mut job = place.job("known", json!({}), None, "known");
    Arc::make_mut(&mut job.root.message).input_uri = Some("file:///elsewhere/page.gif".into());
    job.root.payload_hash = job.root.message.payload_hash("s").unwrap();
    job.root.delivery = Delivery::Queue("q".into());
    let known = job.root.message.to_json();
    place.store.submit(vec![job]).await.unwrap();
    let area = place.queue(&Arc::<Tray>::default()).bucket.join("t/").unwrap();
    let inputs = [("liar.png", &b"GIF89a\x01\x00"[..]), ("true.png", b"\x89PNG\r\n\x1a\n\0\0")];
    let mut bodies = vec![known, body(json!({"input_uri": area.join("a.gif").unwrap().as_str()}))];
    for (name, bytes) in inputs {
        let uri = area.join(name).unwrap();
        place.objects.put(&uri, bytes).await.unwrap();
        bodies.push(body(json!({"task_id": name, "input_uri": uri.as_str(), "params": {"read": true}, "max_attempts": 1})));
    }
    let letters = place.swallow(|_| {}, pictures, &bodies).await;
    let says = |part: &str| letters.iter().filter(|letter| letter.error.message.contains(part)).count();
    assert_eq!(
        (letters.len(), says("/input_uri: 'a.gif' is no input"), says("/input_uri: 'page.gif' is no input")),
        (3, 1, 1),
        "{letters:?}"
    );
    assert_eq!(place.task("known").await.state, TaskState::Dead);
    let liar = place.task("liar.png").await;
    let error = liar.error.unwrap();
    assert_eq!((liar.state, error.code.as_str()), (TaskState::Dead, "invalid"));
    assert!(error.message.contains("is no image/png: it begins with 'GIF89a"), "{}", error.message);
    assert_eq!(place.task("true.png").await.state, TaskState::Done);
    assert_eq!(place.script.runs.load(Ordering::Relaxed), 2, "only what could not be known by name was begun");
}

/// Read piece by piece, an input is the same bytes, and is confirmed before the first of them.
#[tokio::test]
async fn a_stream_is_confirmed_before_its_first_byte() {
    use crate::guest::Grants;
    use crate::guest::Services;
    use crate::task::lease::Lease;
    let place = Place::in_memory();
    let png: Vec<u8> = b"\x89PNG\r\n\x1a\n".iter().copied().chain((0..5000).map(|i| i as u8)).collect();
    let area = Uri::parse("s3://bucket/t/").unwrap();
    let work = Arc::new(place.worker(LEASE).steps["s"].work(&claimed(&place).await));
    for (name, bytes, is_one) in [("a.png", png.clone(), true), ("b.png", png[1..].to_vec(), false), ("c.png", Vec::new(), false)] {
        let uri = area.join(name).unwrap();
        place.objects.put(&uri, &bytes).await.unwrap();
        let grants = Grants { read: vec![uri.clone()], confirm: Some((uri.clone(), Accept::of(["png"]).unwrap())), ..Grants::default() };
        let services = Services { objects: Arc::clone(&place.objects), tasks: Arc::clone(&place.store) };
        let lease = Lease { key: TaskKey::new("t", "x"), epoch: 1, owner: "o".into() };
        let scope = Scope::new(services, lease, Limits::default(), area.clone(), grants, &work);
        match scope.open(uri.as_str()).await {
            Ok(mut reader) => {
                let mut seen = Vec::new();
                loop {
                    let piece = reader.read(700).await.unwrap();
                    assert!(piece.len() <= 700);
                    if piece.is_empty() {
                        break;
                    }
                    seen.extend(piece);
                }
                assert!(is_one && seen == bytes && reader.size() == Some(bytes.len() as u64), "{name}");
            }
            Err(failure) => assert!(!is_one && failure.code == "invalid" && !failure.retryable, "{name}: {failure:?}"),
        }
        assert_eq!(scope.read(uri.as_str()).await.is_ok(), is_one, "{name}");
    }
}

async fn claimed(place: &Place) -> crate::task_store::Claimed {
    let job = place.job("x", json!({}), None, "x");
    match place.store.admit(vec![job], LEASE, "w".into()).await.unwrap().remove(0) {
        crate::task_store::Admission::Claimed(claimed) => *claimed,
        other => panic!("not claimed: {other:?}"),
    }
}

/// A dead letter keeps the beginning of a body as text: no more of it, and no replacement characters of what it does not keep.
#[test]
fn a_letter_keeps_the_beginning_of_a_body() {
    let letter = |body: &[u8]| receive::dead_letter("t", "q", body, TaskError::new("x", "y")).body;
    assert_eq!(letter(b"{}"), "{}");
    let (text, bytes) = (letter(&vec![b'a'; 10 << 20]), letter(&vec![0xff; 10 << 20]));
    assert!(text.len() <= 256 << 10 && text.ends_with('…') && text.starts_with("aaa"));
    assert!(bytes.len() <= 256 << 10 && bytes.ends_with('…') && bytes.starts_with('\u{fffd}'));
}
