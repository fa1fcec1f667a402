//! Loading once, digests, missing backends.

use super::super::{ElementType, conformance, tiny};
use super::*;

fn spec(path: PathBuf, backend: BackendChoice) -> ModelSpec {
    ModelSpec { name: "det".to_owned(), path, sha256: None, backend, device: Device::Cpu, threads: None }
}

fn models(library: Option<PathBuf>) -> Arc<Models> {
    Models::new(ModelsConfig { onnxruntime: library, ..ModelsConfig::for_cores(2) })
}

/// A folder with one model.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("neg.onnx");
    fs::write(&path, tiny::unary("Neg", tiny::FLOAT)).unwrap();
    (folder, path)
}

fn x() -> Vec<(String, Tensor)> {
    vec![("x".to_owned(), Tensor::from_elements(vec![1, 3], ElementType::F32, &[1.0_f32, 2.0, 3.0]).unwrap())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_first_uses_share_one_model_and_options_part_them() {
    let (_folder, path) = folder();
    let models = models(Some(conformance::library()));
    let gets = (0..16).map(|_| {
        let (models, spec) = (Arc::clone(&models), spec(path.clone(), BackendChoice::Auto));
        tokio::spawn(async move { models.get(&spec).await.unwrap() })
    });
    let got = futures::future::join_all(gets).await;
    let first = got[0].as_ref().unwrap();
    assert_eq!(first.backend(), "onnxruntime");
    assert!(got.iter().all(|other| Arc::ptr_eq(first, other.as_ref().unwrap())));
    let rten = models.get(&spec(path.clone(), BackendChoice::Rten)).await.unwrap();
    assert_eq!(rten.backend(), "rten");
    let threads = models.get(&ModelSpec { threads: Some(2), ..spec(path.clone(), BackendChoice::Auto) }).await.unwrap();
    assert!(!Arc::ptr_eq(first, &threads));
    let pinned = ModelSpec { sha256: Some(hex::encode(Sha256::digest(fs::read(&path).unwrap()))), ..spec(path, BackendChoice::Auto) };
    assert!(Arc::ptr_eq(first, &models.get(&pinned).await.unwrap()), "the same bytes are the same model");
    let runs = (0..32).map(|_| models.run(first, x()));
    for outputs in futures::future::join_all(runs).await {
        let negative = Tensor::from_elements(vec![1, 3], ElementType::F32, &[-1.0_f32, -2.0, -3.0]).unwrap();
        assert_eq!(outputs.unwrap(), [("y".to_owned(), negative)]);
    }
}

#[tokio::test]
async fn a_digest_that_differs_is_refused_and_a_mended_file_loads() {
    let (_folder, path) = folder();
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let models = models(None);
    let pinned = ModelSpec { sha256: Some(hex::encode(Sha256::digest(&whole))), ..spec(path.clone(), BackendChoice::Auto) };
    let error = models.get(&pinned).await.unwrap_err();
    assert!(matches!(&error, InferenceError::Security(text) if text.contains("\"det\"")), "{error}");
    fs::write(&path, &whole).unwrap();
    assert_eq!(models.get(&pinned).await.unwrap().backend(), "rten", "a failed load is tried again");
    let nonsense = ModelSpec { sha256: Some("12".to_owned()), ..pinned };
    assert!(matches!(models.get(&nonsense).await, Err(InferenceError::InvalidArgument(_))));
}

#[tokio::test]
async fn a_changed_file_is_another_model() {
    let (_folder, path) = folder();
    let models = models(None);
    let spec = spec(path.clone(), BackendChoice::Rten);
    let neg = models.get(&spec).await.unwrap();
    fs::write(&path, tiny::unary("Identity", tiny::FLOAT)).unwrap();
    let same = models.get(&spec).await.unwrap();
    assert!(!Arc::ptr_eq(&neg, &same));
    assert_eq!(models.run(&same, x()).await.unwrap()[0].1, x()[0].1);
    assert_eq!(models.loaded.lock().unwrap().len(), 1, "the old one is forgotten");
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let (_folder, path) = folder();
    let none = models(None);
    let error = none.get(&spec(path.clone(), BackendChoice::OnnxRuntime)).await.unwrap_err();
    let expected = "onnxruntime was asked for by model \"det\" but no library was given";
    assert!(matches!(&error, InferenceError::Unavailable(text) if text.starts_with(expected)), "{error}");
    let error = none.get(&spec(path.with_file_name("no.onnx"), BackendChoice::Auto)).await.unwrap_err();
    assert!(matches!(&error, InferenceError::NotFound(text) if text.contains("no.onnx")), "{error}");
    let status = none.describe_backends();
    assert!(status[0].version.is_ok() && status[1].version.as_ref().is_err_and(|why| why.contains("no library was given")));
    let broken = models(Some(path.clone()));
    assert_eq!(broken.get(&spec(path.clone(), BackendChoice::Auto)).await.unwrap().backend(), "rten");
    assert!(matches!(broken.get(&spec(path.clone(), BackendChoice::OnnxRuntime)).await, Err(InferenceError::Unavailable(_))));
    let why = broken.describe_backends()[1].version.clone().unwrap_err();
    assert!(why.contains("is not ONNX Runtime"), "{why}");
}

#[test]
fn choices_are_written_as_they_are_read() {
    for choice in [BackendChoice::Auto, BackendChoice::Rten, BackendChoice::OnnxRuntime] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    assert!("openvino".parse::<BackendChoice>().unwrap_err().contains("openvino"));
}
