//! Draws a page of text, so that the demo and the tests need no picture from elsewhere.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// The lines on the page, each with its size in pixels. The tests compare with these.
pub const LINES: &[(&str, f32)] = &[
    ("Wasm Worker Gazette", 64.0),
    ("Every task runs exactly once in effect", 34.0),
    ("Detect, recognise and assemble are three guests", 30.0),
    ("The host holds the keys; a guest holds none", 30.0),
    ("Order 20417 was shipped on 12 March", 38.0),
    ("Leases expire, epochs only rise", 30.0),
    ("Total 1,284.50 EUR", 44.0),
];

const WIDTH: usize = 960;
const HEIGHT: usize = 640;
const PAPER: u8 = 244;

/// Draws the page into a PNG file.
pub fn draw_to(file: &str) -> Result<PathBuf, String> {
    let path = Path::new(file).to_owned();
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
    }
    let font = FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT).map_err(|e| format!("font: {e}"))?;
    let mut page = vec![PAPER; WIDTH * HEIGHT];
    let mut baseline = 40.0;
    for (text, size) in LINES {
        baseline += size * 1.1;
        write_line(&mut page, &font, text, *size, 60.0, baseline);
        baseline += size * 0.55;
    }
    let out = File::create(&path).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    let mut encoder = png::Encoder::new(BufWriter::new(out), WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(&page).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(path)
}

fn write_line(page: &mut [u8], font: &FontRef<'_>, text: &str, size: f32, left: f32, baseline: f32) {
    let scaled = font.as_scaled(PxScale::from(size));
    let mut x = left;
    for c in text.chars() {
        let id = scaled.glyph_id(c);
        let glyph = id.with_scale_and_position(PxScale::from(size), point(x, baseline));
        x += scaled.h_advance(id);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        outline.draw(|dx, dy, cover| {
            let (px, py) = (bounds.min.x as usize + dx as usize, bounds.min.y as usize + dy as usize);
            if px < WIDTH && py < HEIGHT {
                let ink = &mut page[py * WIDTH + px];
                // A light font reads better when its edges are a little heavier.
                *ink = (f32::from(*ink) * (1.0 - (cover * 1.4).min(1.0))) as u8;
            }
        });
    }
}
