//! The variables of the AWS tools, each with its effect on what is asked of the other side.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A server that refuses everything, and keeps the heads of requests.
struct Listening {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Listening {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&heads);
        // It ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                kept.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { url, heads }
    }

    fn last(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn doctor(place: &Place, environment: &Environment) -> String {
    let told = run(place, environment, &["doctor", "--json"]).json();
    let findings = told["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["what"].as_str().unwrap().starts_with("bucket")).unwrap().to_string()
}

#[test]
fn credentials_region_and_endpoint_are_taken_as_they_stand() {
    let place = Place::new();
    let (one, two) = (Listening::start(), Listening::start());
    let base = vec![
        ("BUCKET", "pages".to_owned()),
        ("AWS_ENDPOINT_URL", one.url.clone()),
        ("AWS_REGION", "eu-west-3".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIDMINE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
    ];
    let told = doctor(&place, &base);
    assert!(told.contains("BUCKET") && told.contains("fail") && !told.contains("secret"), "{told}");
    assert!(one.last().contains("credential=akidmine/") && one.last().contains("/eu-west-3/s3/"), "{}", one.last());
    assert!(!one.last().contains("x-amz-security-token"));
    doctor(&place, &with(&base, "AWS_SESSION_TOKEN", "tok3n"));
    assert!(one.last().contains("x-amz-security-token: tok3n"), "{}", one.last());
    doctor(&place, &with(&base, "AWS_REGION", "ap-south-1"));
    assert!(one.last().contains("/ap-south-1/s3/"), "{}", one.last());
    let told = doctor(&place, &with(&base, "AWS_SECRET_ACCESS_KEY", ""));
    assert!(told.contains("credentials"), "half of a key is none: {told}");
    let before = one.heads.lock().unwrap().len();
    doctor(&place, &with(&base, "AWS_ENDPOINT_URL_S3", two.url.clone()));
    assert_eq!(one.heads.lock().unwrap().len(), before, "the one for S3 wins");
    assert!(two.last().contains("akidmine"));
}

#[test]
fn profiles_and_their_files_are_read() {
    let place = Place::new();
    let one = Listening::start();
    let credentials = "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s\n[other]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = s\n";
    let credentials = place.write("credentials", credentials).to_str().unwrap().to_owned();
    let config =
        format!("[default]\nregion = eu-north-1\nendpoint_url = {0}\n[profile other]\nregion = sa-east-1\nendpoint_url = {0}\n", one.url);
    let config = place.write("config", &config).to_str().unwrap().to_owned();
    let base = vec![
        ("BUCKET", "pages".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials),
        ("AWS_CONFIG_FILE", config),
        ("WASM_WORKER_DATA_DIR", "data".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("WASM_WORKER_CONFIG", "/dev/null".to_owned()),
    ];
    doctor(&place, &base);
    assert!(one.last().contains("credential=akiddefault/") && one.last().contains("/eu-north-1/s3/"), "{}", one.last());
    doctor(&place, &with(&base, "AWS_PROFILE", "other"));
    assert!(one.last().contains("credential=akidother/") && one.last().contains("/sa-east-1/s3/"), "{}", one.last());
    // Without any of it there is no region, and that is said.
    let bare = vec![("BUCKET", "pages".to_owned()), ("AWS_EC2_METADATA_DISABLED", "true".to_owned())];
    let told = doctor(&place, &bare);
    assert!(told.contains("AWS_REGION"), "{told}");
}
