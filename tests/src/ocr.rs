//! The OCR pipeline, end to end, with each backend: what it reads, and where.

use crate::binary::{Place, root};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

type Corners = Vec<(f64, f64)>;

struct Line {
    corners: Corners,
    text: String,
    score: f64,
}

/// Lines as `{"box": [[x,y]x4], "text", "score"}`.
fn lines_of(value: &Value) -> Vec<Line> {
    let corner = |p: &Value| (p[0].as_f64().unwrap(), p[1].as_f64().unwrap());
    let line = |l: &Value| Line {
        corners: l["box"].as_array().unwrap().iter().map(corner).collect(),
        text: l["text"].as_str().unwrap().to_owned(),
        score: l["score"].as_f64().unwrap(),
    };
    value.as_array().unwrap().iter().map(line).collect()
}

/// Twice the signed area of a polygon.
fn area(corners: &[(f64, f64)]) -> f64 {
    (0..corners.len()).map(|i| cross(corners[i], corners[(i + 1) % corners.len()])).sum()
}

fn cross(a: (f64, f64), b: (f64, f64)) -> f64 {
    a.0 * b.1 - a.1 * b.0
}

/// The part of `subject` inside a convex `clip` (Sutherland and Hodgman).
fn intersection(subject: &Corners, clip: &Corners) -> Corners {
    let sign = area(clip).signum();
    let mut kept = subject.clone();
    for i in 0..clip.len() {
        let (a, b) = (clip[i], clip[(i + 1) % clip.len()]);
        let side = |p: (f64, f64)| sign * cross((b.0 - a.0, b.1 - a.1), (p.0 - a.0, p.1 - a.1));
        let mut next = Vec::new();
        for j in 0..kept.len() {
            let (p, q) = (kept[j], kept[(j + 1) % kept.len()]);
            let (sp, sq) = (side(p), side(q));
            if sp >= 0.0 {
                next.push(p);
            }
            if sp * sq < 0.0 {
                let t = sp / (sp - sq);
                next.push((p.0 + t * (q.0 - p.0), p.1 + t * (q.1 - p.1)));
            }
        }
        kept = next;
    }
    kept
}

fn iou(a: &Corners, b: &Corners) -> f64 {
    let both = area(&intersection(a, b)).abs();
    both / (area(a).abs() + area(b).abs() - both)
}

/// 1 - edit distance / length of the longer text, over characters.
fn alike(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    1.0 - row[b.len()] as f64 / a.len().max(b.len()).max(1) as f64
}

/// For each reference line our line of best IoU (no text below 0.5), in reference order; then our lines that match none.
fn compare(ours: &[Line], reference: &[Line]) -> (f64, Vec<String>) {
    let (mut text, mut wanted, mut missed) = (String::new(), String::new(), Vec::new());
    let mut used = vec![false; ours.len()];
    for line in reference {
        let best = ours.iter().enumerate().map(|(i, o)| (iou(&o.corners, &line.corners), i)).max_by(|a, b| a.0.total_cmp(&b.0));
        wanted.push_str(&line.text);
        match best {
            Some((overlap, i)) if overlap >= 0.5 => {
                used[i] = true;
                text.push_str(&ours[i].text);
            }
            _ if line.score >= 0.9 => missed.push(line.text.clone()),
            _ => {}
        }
    }
    for (line, used) in ours.iter().zip(used) {
        if !used {
            text.push_str(&line.text);
        }
    }
    (alike(&text, &wanted), missed)
}

/// Runs the pipeline on a picture; returns its record.
fn read(place: &Place, picture: &Path, backend: &str) -> Value {
    let pipeline = root().join("guests/ocr/pipeline.toml");
    let out = place.path().join(format!("{backend}-{}", picture.file_stem().unwrap().to_str().unwrap()));
    let words = ["run", pipeline.to_str().unwrap(), "--backend", backend, "--json", "--output", out.to_str().unwrap()];
    let record = place.run(&[&words[..], &["--input", picture.to_str().unwrap()]].concat()).ok().json();
    assert_eq!(record["status"], "DONE", "{record}");
    record
}

fn reference_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("OCR_REFERENCE_DIR").map_or_else(|| root().join("../shared/data/ocr"), PathBuf::from);
    folder.join("reference.json").is_file().then_some(folder)
}

fn reads_as_the_reference_does(backend: &str) {
    let place = Place::new();
    let Some(folder) = reference_folder() else {
        eprintln!("no OCR_REFERENCE_DIR and no folder beside the repository: comparing on the drawn picture only");
        return reads_the_drawn_page(backend);
    };
    let reference: Value = serde_json::from_str(&fs::read_to_string(folder.join("reference.json")).unwrap()).unwrap();
    for (name, lines) in reference.as_object().unwrap() {
        let lines = lines.get("lines").unwrap_or(lines);
        let record = read(&place, &folder.join(name), backend);
        let (score, missed) = compare(&lines_of(&record["result"]["lines"]), &lines_of(lines));
        println!("{backend} {name}: alike {score:.4}, reference boxes missed: {missed:?}");
        assert!(score >= 0.97 && missed.is_empty(), "{backend} {name}: {score} {missed:?}");
    }
}

fn reads_the_drawn_page(backend: &str) {
    let place = Place::new();
    let record = read(&place, &root().join("out/test/picture.png"), backend);
    let wanted = fs::read_to_string(root().join("out/test/picture.txt")).unwrap();
    let score = alike(record["result"]["text"].as_str().unwrap(), &wanted);
    assert!(score >= 0.97, "{backend}: {score}\n{}", record["result"]["text"]);
    let folder = Path::new(record["result_uri"].as_str().unwrap().trim_start_matches("file://")).parent().unwrap().to_owned();
    for name in ["result.json", "metrics.json", "annotated.png"] {
        assert!(folder.join(name).is_file(), "{name} is absent from {}", folder.display());
    }
}

#[test]
fn rten_reads_as_the_reference_does() {
    reads_as_the_reference_does("rten");
}

#[test]
fn onnxruntime_reads_as_the_reference_does() {
    reads_as_the_reference_does("onnxruntime");
}

#[test]
fn the_drawn_page_is_read_with_either_backend() {
    reads_the_drawn_page("rten");
    reads_the_drawn_page("onnxruntime");
}

#[test]
fn a_broken_picture_is_a_clear_error() {
    let place = Place::new();
    let whole = fs::read(root().join("out/test/picture.png")).unwrap();
    let broken = place.path().join("broken.png");
    fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let text = place.write("text.png", "this is no picture");
    let pipeline = root().join("guests/ocr/pipeline.toml");
    for picture in [&broken, &text] {
        let printed = place.run(&["run", pipeline.to_str().unwrap(), "--backend", "rten", "--json", "--input", picture.to_str().unwrap()]);
        assert_eq!(printed.code, Some(1), "{}{}", printed.out, printed.err);
        let record = printed.json();
        assert_eq!((record["status"].as_str(), record["error"]["code"].as_str()), (Some("FAILED"), Some("invalid")), "{record}");
    }
}
