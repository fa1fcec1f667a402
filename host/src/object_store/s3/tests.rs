//! The suite of the port on moto, what is particular to S3, and what a bad network does to the real SDK.

use super::*;
use crate::object_store::conformance::suite;
use crate::object_store::{Source, conformance};
use aws_sdk_s3::config::Credentials;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Instant;

use crate::servers::moto;
use crate::servers::proxy::{Proxy, Way};

/// Patience where something is to run out: a loaded machine answers well within it.
const SHORT: Duration = Duration::from_secs(6);

/// Within it every call comes back, all attempts included.
const BOUND: Duration = Duration::from_secs(20);

const MIB: usize = 1 << 20;

/// A store at an endpoint, with made-up credentials.
async fn store_at(endpoint: String, patience: Option<Duration>) -> S3ObjectStore {
    let config = S3Config { endpoint: Some(endpoint), region: Some("us-east-1".into()), patience, ..S3Config::default() };
    let mut store = S3ObjectStore::open(config).await.unwrap();
    let credentials = Credentials::new("tester", "secret", None, None, "tests");
    store.client = Client::from_conf(store.client.config().to_builder().credentials_provider(credentials).build());
    store
}

fn server() -> Option<&'static moto::Server> {
    tokio::task::block_in_place(moto::Server::shared)
}

fn bucket(server: &moto::Server) -> Uri {
    Uri::parse(&format!("s3://{}/", tokio::task::block_in_place(|| server.bucket()))).unwrap()
}

/// A store whose lists come in small pages, and a prefix in a bucket of its own.
pub(crate) async fn fresh() -> Option<(S3ObjectStore, Uri, ())> {
    let server = server()?;
    let mut store = store_at(server.url(), None).await;
    store.bounds.page = 3;
    Some((store, bucket(server).join("out/").unwrap(), ()))
}

/// The same behind a proxy, and impatient.
async fn proxied() -> Option<(S3ObjectStore, Uri, Proxy)> {
    let server = server()?;
    let proxy = Proxy::start(server.port());
    let mut store = store_at(proxy.url(), Some(SHORT)).await;
    // Whatever a part takes beyond the patience is to be short here.
    store.bounds.slowest = 16 << 20;
    Some((store, bucket(server), proxy))
}

suite!(fresh());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_one_copy_is_copied_in_parts() {
    let Some((mut store, prefix, ())) = fresh().await else { return };
    (store.bounds.copy, store.bounds.copy_part) = (8 << 20, 8 << 20);
    conformance::large_objects_are_published(&store, &prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_cut_short_is_not_finished() {
    let Some((store, prefix, ())) = fresh().await else { return };
    let uri = prefix.join("x").unwrap();
    let mut writer = store.create(&uri).await.unwrap();
    writer.write(&vec![1; 8 * MIB]).await.unwrap();
    // Whoever waits for an upload to begin is gone.
    assert!(futures::poll!(writer.write(b"more")).is_pending());
    assert!(matches!(writer.write(b"even more").await, Err(ObjectError::Unavailable(_))));
    assert!(matches!(writer.finish().await, Err(ObjectError::Unavailable(_))));
    assert_eq!(store.head(&uri).await.unwrap(), None);
}

async fn uploads(store: &S3ObjectStore, prefix: &Uri) -> usize {
    let listed = store.client.list_multipart_uploads().bucket(prefix.bucket_and_key().unwrap().0).send().await.unwrap();
    listed.uploads().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_upload_is_given_up() {
    let Some((store, prefix, ())) = fresh().await else { return };
    let mut writer = store.create(&prefix.join("x").unwrap()).await.unwrap();
    writer.write(&vec![1; 20 * MIB]).await.unwrap();
    assert_eq!(uploads(&store, &prefix).await, 1);
    drop(writer);
    let began = Instant::now();
    while uploads(&store, &prefix).await > 0 {
        assert!(began.elapsed() < BOUND, "it stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What a killed process left goes with its folder, and nothing beside it.
    for key in ["out/_attempts/1/x", "out/_attempts/1/y", "out/_attempts/2/x"] {
        store.client.create_multipart_upload().bucket(prefix.bucket_and_key().unwrap().0).key(key).send().await.unwrap();
    }
    store.delete_prefix(&prefix.join("_attempts/1/").unwrap()).await.unwrap();
    assert_eq!(uploads(&store, &prefix).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_have_the_type_of_their_name_and_a_checksum() {
    let Some((store, prefix, ())) = fresh().await else { return };
    let (bucket, key) = prefix.bucket_and_key().unwrap();
    let at = |name: &str| prefix.join(name).unwrap();
    store.put(&at("put.json"), b"{}").await.unwrap();
    store.put(&at("_attempts/1/000001"), b"x").await.unwrap();
    store.put(&at("large.png"), &vec![1; 9 * MIB]).await.unwrap();
    let copied = Publish { from: Source::Object(at("_attempts/1/000001")), to: at("copied.txt") };
    store.publish(vec![copied], &at("_attempts/1/")).await.unwrap();
    for (name, kind) in [("put.json", "application/json"), ("copied.txt", "text/plain"), ("large.png", "image/png")] {
        let head = store.client.head_object().bucket(bucket).key(format!("{key}{name}"));
        let head = head.checksum_mode(aws_sdk_s3::types::ChecksumMode::Enabled).send().await.unwrap();
        assert!(head.content_type().unwrap().starts_with(kind), "{name}: {:?}", head.content_type());
        // moto keeps the checksum of what it gets whole, and of nothing else.
        assert!(name != "put.json" || head.checksum_crc32().is_some(), "{name}: {head:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_differ_from_their_checksum_are_not_handed_out() {
    let Some((store, prefix, proxy)) = proxied().await else { return };
    let uri = prefix.join("x").unwrap();
    store.put(&uri, b"the very bytes").await.unwrap();
    assert_eq!(store.get(&uri, 100).await.unwrap(), b"the very bytes");
    proxy.set(Way::Forge("very bytes", "vary bytes"));
    let error = store.get(&uri, 100).await.unwrap_err();
    assert!(matches!(&error, ObjectError::Unavailable(text) if text.contains("checksum")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_is_resumed_where_it_broke() {
    let Some((store, prefix, proxy)) = proxied().await else { return };
    let (uri, written) = (prefix.join("x").unwrap(), (0..MIB as u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
    store.put(&uri, &written).await.unwrap();
    proxy.set(Way::Cut(150_000));
    assert!(store.get(&uri, u64::MAX).await.unwrap() == written);
    assert!(proxy.connections() > 6, "{}", proxy.connections());
    let mut reader = store.open(&uri).await.unwrap();
    let mut read = Vec::new();
    while read.len() < written.len() {
        read.extend(reader.read(70_000).await.unwrap());
    }
    assert!(read == written && reader.read(1).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_not_resumed_with_another_objects_bytes() {
    let Some((store, prefix, proxy)) = proxied().await else { return };
    let uri = prefix.join("x").unwrap();
    store.put(&uri, &vec![1; 4 * MIB]).await.unwrap();
    proxy.set(Way::Cut(MIB));
    let mut reader = store.open(&uri).await.unwrap();
    assert!(reader.read(1000).await.unwrap().iter().all(|byte| *byte == 1));
    store.put(&uri, &vec![2; 4 * MIB]).await.unwrap();
    let error = loop {
        match reader.read(100_000).await {
            Ok(piece) => assert!(!piece.is_empty() && piece.iter().all(|byte| *byte == 1)),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, ObjectError::Unavailable(text) if text.contains("changed while it was read")), "{error:?}");
}

/// Calls through a bad network end within their bounds, and say that trying again may help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_a_trickle_and_a_stall_end_in_time() {
    let Some((store, prefix, proxy)) = proxied().await else { return };
    let (uri, large) = (prefix.join("x").unwrap(), prefix.join("large").unwrap());
    // More than sockets on the way hold.
    store.put(&uri, &vec![1; 24 * MIB]).await.unwrap();
    for way in [Way::Deaf, Way::Trickle, Way::Cut(0), Way::Stall(100_000)] {
        proxy.set(Way::Open);
        let mut open = store.open(&uri).await.unwrap();
        proxy.set(way);
        let drain = async {
            loop {
                match open.read(MIB).await {
                    Ok(piece) if piece.is_empty() => panic!("{way:?}: all of it came"),
                    Ok(_) => {}
                    Err(error) => return Some(error),
                }
            }
        };
        let began = Instant::now();
        let (read, got, put) = tokio::join!(drain, async { store.get(&uri, u64::MAX).await.err() }, async {
            store.put(&large, &vec![2; 10 * MIB]).await.err()
        });
        // Answers to writes are short.
        assert_eq!(put.is_none(), matches!(way, Way::Stall(_)), "{way:?}: {put:?}");
        for error in [read, got].into_iter().chain(put.map(Some)) {
            assert!(matches!(&error, Some(ObjectError::Unavailable(text)) if text.contains("127.0.0.1")), "{way:?}: {error:?}");
        }
        assert!(began.elapsed() < BOUND, "{way:?}: {:?}", began.elapsed());
    }
    proxy.set(Way::Open);
    store.put(&large, b"it comes back").await.unwrap();
}

/// Each kind of call takes effect, its answer is lost, and it is tried again: there is one effect, and the caller never hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_changes_nothing() {
    let Some((store, prefix, proxy)) = proxied().await else { return };
    let at = |name: &str| prefix.join(name).unwrap();
    let lose = |text: &'static str| proxy.set(Way::Lose(text));
    let met = |text: &str| assert_eq!(proxy.way(), Way::Open, "no request held {text}");
    lose("PUT /");
    store.put(&at("_attempts/1/x"), b"x").await.unwrap();
    met("PUT");
    lose("x-amz-copy-source");
    let item = |from: &str, to: &str| Publish { from: Source::Object(at(from)), to: at(to) };
    store.publish(vec![item("_attempts/1/x", "y")], &at("_attempts/1/")).await.unwrap();
    met("a copy");
    store.put(&at("_attempts/1/x"), b"new").await.unwrap();
    lose("?delete");
    store.publish(vec![item("_attempts/1/x", "y")], &at("_attempts/1/")).await.unwrap();
    met("a deletion");
    assert_eq!(store.get(&at("y"), 9).await.unwrap(), b"new");
    for text in ["POST /", "partNumber=", "?uploadId="] {
        lose(text);
        let mut writer = store.create(&at("large")).await.unwrap();
        for piece in [1, 2, 3] {
            writer.write(&vec![piece; 5 * MIB]).await.unwrap();
        }
        writer.finish().await.unwrap();
        met(text);
        let read = store.get(&at("large"), u64::MAX).await.unwrap();
        assert!(read.len() == 15 * MIB && read.chunks(5 * MIB).zip([1, 2, 3]).all(|(piece, n)| piece.iter().all(|byte| *byte == n)));
        store.delete(&at("large")).await.unwrap();
    }
    lose("DELETE /");
    store.delete(&at("y")).await.unwrap();
    met("DELETE");
    assert_eq!(store.list(&prefix).await.unwrap(), []);
}

/// Runs one test of these again, in a process with no other variables than these: configuration is a process's.
fn alone(test: &str, variables: &[(&str, &str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("object_store::s3::tests::{test}")]);
    command.env_clear().env("HOME", "/nonexistent").env(ALONE, "1").envs(variables.iter().copied());
    let out = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

/// Set where a test runs alone.
const ALONE: &str = "WASM_WORKER_TEST_ALONE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_or_a_region_it_says_what_to_set() {
    if std::env::var_os(ALONE).is_none() {
        let told = |variables: &[_]| alone("without_credentials_or_a_region_it_says_what_to_set", variables);
        tokio::task::block_in_place(|| {
            told(&[("AWS_EC2_METADATA_DISABLED", "true")]);
            // A keeper of credentials that is out of reach may come back.
            told(&[("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")]);
        });
        return;
    }
    let is_kept_elsewhere = std::env::var_os("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some();
    let began = Instant::now();
    let config = S3Config { endpoint: Some("http://127.0.0.1:1".into()), ..S3Config::default() };
    let error = S3ObjectStore::open(config).await.unwrap().head(&Uri::parse("s3://bucket/x").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("set AWS_ACCESS_KEY_ID"), "{error:?}");
    assert_eq!(matches!(error, ObjectError::Denied(_)), !is_kept_elsewhere, "{error:?}");
    assert_eq!(error.is_retryable(), is_kept_elsewhere, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let began = Instant::now();
    let error = S3ObjectStore::open(S3Config::default()).await.unwrap_err();
    assert!(matches!(&error, ObjectError::Invalid(text) if text.contains("set AWS_REGION")), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_name_the_place() {
    if std::env::var_os(ALONE).is_none() {
        let Some(server) = server() else { return };
        let (url, bucket) = (server.url().replace("127.0.0.1", "localhost"), bucket(server));
        let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("BUCKET", bucket.as_str())];
        for variable in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
            let variables = [&keys[..], &[(variable, url.as_str())]].concat();
            tokio::task::block_in_place(|| alone("variables_name_the_place", &variables));
        }
        return;
    }
    let store = S3ObjectStore::open(S3Config::default()).await.unwrap();
    let uri = Uri::parse(&format!("{}x", std::env::var("BUCKET").unwrap())).unwrap();
    store.put(&uri, b"x").await.unwrap();
    assert_eq!(store.get(&uri, 1).await.unwrap(), b"x");
}

/// A server that says the same to everybody: its address.
fn canned(answer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, answer) = (format!("http://{}", listener.local_addr().unwrap()), answer.to_owned());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            });
        }
    });
    url
}

fn refusal(status: &str, headers: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said so</Message></Error>");
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_the_place_and_the_next_step() {
    let uri = Uri::parse("s3://my-bucket/a/b").unwrap();
    let elsewhere = "x-amz-bucket-region: eu-west-3\r\n";
    let cases = [
        (refusal("404 Not Found", "", "NoSuchBucket"), "Invalid", "no bucket 'my-bucket' at http://127.0.0.1:"),
        (refusal("404 Not Found", "", "NoSuchKey"), "NotFound", "s3://my-bucket/a/b"),
        (refusal("403 Forbidden", "", "AccessDenied"), "Denied", "need s3:ListBucket"),
        (refusal("403 Forbidden", "", "SignatureDoesNotMatch"), "Denied", "check AWS_ACCESS_KEY_ID"),
        (refusal("301 Moved Permanently", elsewhere, "PermanentRedirect"), "Invalid", "'my-bucket' is in eu-west-3"),
        (refusal("400 Bad Request", "", "AuthorizationHeaderMalformed"), "Invalid", "set AWS_REGION"),
        (refusal("400 Bad Request", "", "ExpiredToken"), "Unavailable", "renew the session"),
        (refusal("400 Bad Request", "", "InvalidArgument"), "Invalid", "InvalidArgument: said so"),
        (refusal("501 Not Implemented", "", "NotImplemented"), "Invalid", "cannot do this"),
        (refusal("503 Slow Down", "", "SlowDown"), "Unavailable", "SlowDown: said so"),
        (refusal("500 Internal Server Error", "", "InternalError"), "Unavailable", "InternalError"),
        (refusal("429 Too Many Requests", "", "TooManyRequests"), "Unavailable", "TooManyRequests"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc".to_owned(), "Unavailable", "3 of 5 bytes"),
        // What stands before a server speaks for it.
        ("HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n<html></html>".to_owned(), "Unavailable", "HTTP 502"),
        ("mumble\r\n\r\n".to_owned(), "Unavailable", "127.0.0.1"),
    ];
    for (answer, class, part) in cases {
        let store = store_at(canned(&answer), Some(SHORT)).await;
        let error = store.get(&uri, 100).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(class) && error.to_string().contains(part), "{answer}\n{error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    // An answer to HEAD has no body that could tell why.
    let store = store_at(canned("HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n"), Some(SHORT)).await;
    let error = store.head(&uri).await.unwrap_err();
    assert!(matches!(&error, ObjectError::Denied(text) if text.contains("HTTP 403") && text.contains("'my-bucket'")), "{error:?}");
    let began = Instant::now();
    let error = store_at("http://127.0.0.1:1".into(), Some(SHORT)).await.head(&uri).await.unwrap_err();
    assert!(matches!(&error, ObjectError::Unavailable(text) if text.contains("http://127.0.0.1:1")), "{error:?}");
    assert!(began.elapsed() < BOUND);
}

/// A success may hold refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_left_something_is_an_error() {
    for (code, class) in [("AccessDenied", "Denied"), ("InternalError", "Unavailable"), ("SlowDown", "Unavailable")] {
        let body = format!("<DeleteResult><Error><Key>a/b</Key><Code>{code}</Code><Message>m</Message></Error></DeleteResult>");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let store = store_at(canned(&answer), Some(SHORT)).await;
        let places = vec![Place { bucket: "my-bucket".into(), key: "a/b".into() }];
        let error = store.delete_all(places).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(class) && error.to_string().contains("a/b"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_object_of_s3_is_refused_before_a_call() {
    let store = store_at("http://127.0.0.1:1".into(), Some(SHORT)).await;
    for (address, part) in [("file:///a/b", "no s3:// address"), ("s3://bucket/a/", "a prefix")] {
        let error = store.get(&Uri::parse(address).unwrap(), 1).await.unwrap_err();
        assert!(matches!(&error, ObjectError::Invalid(text) if text.contains(part)), "{error:?}");
    }
}
