//! Fetches what the OCR example and the tests run on: three PP-OCRv4 models, their labels, and the library of ONNX Runtime.
//!
//! All of it comes out of two Python wheels, through pip: it finds mirrors and proxies as the machine is set up for. Every
//! file has a pinned SHA-256 and is put in place by a rename, so a half-finished run leaves nothing that looks whole. With
//! all files there, nothing is fetched and no network is needed.
//!
//! Left out: other platforms' digests of the library. Away from Linux on x86-64, pip checks the download against its
//! index, and the file's version is what is pinned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// Models and labels, from the repository root. The models are Apache-2.0, by the PaddleOCR authors.
const MODELS: &str = "guests/ocr/models";

/// The library, from the repository root.
const LIBRARY: &str = "downloads/onnxruntime";

/// A wheel: what pip calls it, and the SHA-256 of its file.
struct Wheel {
    requirement: &'static str,
    sha256: &'static str,
}

const RAPIDOCR: Wheel =
    Wheel { requirement: "rapidocr-onnxruntime==1.4.4", sha256: "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf" };

const ONNXRUNTIME_VERSION: &str = "1.31.1";
const ONNXRUNTIME: &str = "onnxruntime==1.31.1";

/// Linux on x86-64. Each Python has a wheel of its own; this is the one for 3.11, and the library inside is checked too.
const ONNXRUNTIME_LINUX_CP311: &str = "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f";
const LIBRARY_LINUX_CP311: &str = "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3";

/// A model: the name it gets, its path in the wheel, its SHA-256.
const OCR_MODELS: [(&str, &str, &str); 3] = [
    (
        "det.onnx",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    (
        "cls.onnx",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
    (
        "rec.onnx",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    ),
];

/// The character list that rec.onnx carries in its metadata, one label per line.
const LABELS: &str = "labels.txt";
const LABELS_SHA256: &str = "28b2362ad4ab2dc38769aa72feb535e3a9ddb3fd2a7585a05920e6393b1dc7f7";

/// What the host reads when it starts in the repository root.
const HOST_CONFIG: &str = "\
# Written by `cargo xtask models`, and read by wasm-worker when it starts in this folder.
# Without it models run on the embedded backend, which needs nothing and is about three times slower.
[inference]
onnxruntime = \"LIBRARY\"
";

/// Where everything lies.
#[derive(Debug)]
pub struct Fetched {
    /// Folder of det.onnx, cls.onnx, rec.onnx and labels.txt.
    pub models: PathBuf,
    /// Shared library of ONNX Runtime.
    pub onnxruntime: PathBuf,
}

/// Makes sure that the models, their labels, the library and a host config that names it are there.
pub fn models() -> Result<Fetched, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask lies in no repository")?;
    let fetched = Fetched { models: root.join(MODELS), onnxruntime: root.join(LIBRARY).join(library_name()) };
    ocr_models(&fetched.models)?;
    labels(&fetched.models)?;
    library(&fetched.onnxruntime)?;
    host_config(&root.join("wasm-worker.toml"))?;
    Ok(fetched)
}

fn library_name() -> &'static str {
    if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" }
}

fn is_linux_x86_64() -> bool {
    cfg!(all(target_os = "linux", target_arch = "x86_64"))
}

fn ocr_models(folder: &Path) -> Result<(), String> {
    if OCR_MODELS.iter().all(|(name, _, sha256)| has_digest(&folder.join(name), sha256)) {
        return Ok(());
    }
    let unpacked = Unpacked::fetch(folder, RAPIDOCR.requirement, |_| Some(RAPIDOCR.sha256))?;
    for (name, inside, sha256) in OCR_MODELS {
        let from = unpacked.files.join(inside);
        expect_digest(&from, sha256)?;
        place(&from, &folder.join(name))?;
    }
    Ok(())
}

fn labels(folder: &Path) -> Result<(), String> {
    let path = folder.join(LABELS);
    if has_digest(&path, LABELS_SHA256) {
        return Ok(());
    }
    let model = read(&folder.join("rec.onnx"))?;
    let text = metadata(&model, "character").ok_or("rec.onnx has no metadata called `character`")?;
    let temporary = path.with_extension("part");
    fs::write(&temporary, text).map_err(|error| format!("{}: {error}", temporary.display()))?;
    expect_digest(&temporary, LABELS_SHA256)?;
    place(&temporary, &path)
}

fn library(path: &Path) -> Result<(), String> {
    // The digest of the library differs by platform and by Python; the file beside it says what was put in place.
    let note = path.with_extension("sha256");
    let noted = fs::read_to_string(&note).unwrap_or_default();
    if let Some((version, sha256)) = noted.trim().split_once(' ')
        && version == ONNXRUNTIME_VERSION
        && has_digest(path, sha256)
    {
        return Ok(());
    }
    let folder = path.parent().ok_or("the library has no folder")?;
    let pinned = |wheel: &str| (is_linux_x86_64() && wheel.contains("-cp311-")).then_some(ONNXRUNTIME_LINUX_CP311);
    let unpacked = Unpacked::fetch(folder, ONNXRUNTIME, pinned)?;
    let capi = unpacked.files.join("onnxruntime/capi");
    let from = [format!("libonnxruntime.so.{ONNXRUNTIME_VERSION}"), format!("libonnxruntime.{ONNXRUNTIME_VERSION}.dylib")]
        .iter()
        .map(|name| capi.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("the wheel of {ONNXRUNTIME} holds no library in onnxruntime/capi; this platform needs its own build"))?;
    if unpacked.pinned {
        expect_digest(&from, LIBRARY_LINUX_CP311)?;
    }
    let sha256 = digest(&from)?;
    place(&from, path)?;
    fs::write(&note, format!("{ONNXRUNTIME_VERSION} {sha256}\n")).map_err(|error| format!("{}: {error}", note.display()))
}

fn host_config(path: &Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let text = HOST_CONFIG.replace("LIBRARY", &format!("{LIBRARY}/{}", library_name()));
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("models: wrote wasm-worker.toml, which names the library");
    Ok(())
}

/// A wheel's files in a temporary folder, which goes away with this value.
struct Unpacked {
    folder: PathBuf,
    files: PathBuf,
    /// The wheel had a pinned digest, and it was right.
    pinned: bool,
}

impl Unpacked {
    /// Downloads and unpacks a wheel beside `folder`'s future content: a rename works only within one file system.
    fn fetch(folder: &Path, requirement: &str, pinned: impl Fn(&str) -> Option<&'static str>) -> Result<Self, String> {
        let folder = folder.join(format!(".fetch-{}", std::process::id()));
        let mut unpacked = Self { files: folder.join("files"), folder, pinned: false };
        fs::create_dir_all(&unpacked.files).map_err(|error| format!("{}: {error}", unpacked.files.display()))?;
        println!("models: fetching {requirement}");
        let wheels = unpacked.folder.join("wheels");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest"]);
        run(
            pip.arg(&wheels).arg(requirement),
            &format!(
                "pip could not download {requirement}; it needs Python 3.10 or newer with pip, and a way to PyPI or a mirror \
             (set PIP_INDEX_URL, or PIP_FIND_LINKS to a folder that holds the wheel)"
            ),
        )?;
        let wheel = fs::read_dir(&wheels)
            .and_then(|mut entries| entries.next().transpose())
            .map_err(|error| format!("{}: {error}", wheels.display()))?
            .ok_or_else(|| format!("pip left no wheel of {requirement}"))?
            .path();
        match pinned(&wheel.file_name().unwrap_or_default().to_string_lossy()) {
            Some(sha256) => expect_digest(&wheel, sha256)?,
            None => println!("models: {requirement} has no pinned digest for this Python or platform; its version is trusted"),
        }
        unpacked.pinned = pinned(&wheel.file_name().unwrap_or_default().to_string_lossy()).is_some();
        let mut unzip = Command::new("python3");
        run(unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked.files), &format!("{} does not unpack", wheel.display()))?;
        Ok(unpacked)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("warning: {} stays behind: {error}", self.folder.display());
        }
    }
}

fn run(command: &mut Command, otherwise: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{otherwise} ({status})")),
        Err(error) => Err(format!("{otherwise} (python3 does not start: {error})")),
    }
}

fn place(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))?;
    println!("models: {} is in place", to.file_name().unwrap_or_default().display());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn digest(path: &Path) -> Result<String, String> {
    Ok(hex::encode(Sha256::digest(read(path)?)))
}

fn has_digest(path: &Path, sha256: &str) -> bool {
    digest(path).is_ok_and(|found| found == sha256)
}

fn expect_digest(path: &Path, sha256: &str) -> Result<(), String> {
    let found = digest(path)?;
    if found == sha256 {
        return Ok(());
    }
    Err(format!("{} has SHA-256 {found}, not the pinned {sha256}; the download is damaged, or not what was pinned", path.display()))
}

/// A text of an ONNX file's metadata: field 14 of the model, each with a key in field 1 and a value in field 2.
fn metadata(model: &[u8], key: &str) -> Option<String> {
    fields(model)?.into_iter().filter(|(number, _)| *number == 14).find_map(|(_, entry)| {
        let entry = fields(entry)?;
        let text = |wanted| entry.iter().find(|(number, _)| *number == wanted).map(|(_, bytes)| *bytes);
        (text(1)? == key.as_bytes()).then(|| String::from_utf8(text(2)?.to_vec()).ok())?
    })
}

/// The fields of a protobuf message that are texts, bytes or messages; none if it is malformed.
fn fields(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        if key & 7 == 2 {
            fields.push((key >> 3, value));
        }
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::metadata;

    #[test]
    fn metadata_is_found_by_its_key() {
        // ir_version 8; two entries, "a" = "x" and "character" = "1\n2".
        let mut model = vec![0x08, 8, 0x72, 6, 0x0a, 1, b'a', 0x12, 1, b'x', 0x72, 16, 0x0a, 9];
        model.extend(b"character\x12\x031\n2");
        assert_eq!(metadata(&model, "character").as_deref(), Some("1\n2"));
        assert_eq!(metadata(&model, "a").as_deref(), Some("x"));
        assert_eq!(metadata(&model, "b"), None);
        assert_eq!(metadata(&model[..model.len() - 1], "character"), None, "cut off");
    }
}
