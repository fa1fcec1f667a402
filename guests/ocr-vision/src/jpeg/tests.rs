//! The decoder beside the general one, which rounds otherwise but never by much, and against pixels worked out by hand.

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, RgbImage};

const LIMIT: usize = 1 << 20;

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, ((x + y) * 3) as u8]))
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 95).encode_image(&picture(width, height)).unwrap();
    file
}

#[test]
fn pixels_agree_with_the_general_decoder_within_rounding() {
    for (width, height) in [(64, 48), (17, 9), (1, 1), (8, 33)] {
        let file = jpeg(width, height);
        let ours = super::decode(&file, LIMIT).unwrap();
        let theirs = image::load_from_memory(&file).unwrap().into_rgb8();
        assert_eq!((ours.width() as u32, ours.height() as u32), (width, height));
        let most = ours.rgb().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(3), "{width} x {height}: {most:?}");
    }
}

#[test]
fn grey_is_taken() {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 95).encode_image(&DynamicImage::from(picture(20, 20)).into_luma8()).unwrap();
    let ours = super::decode(&file, LIMIT).unwrap();
    assert!(ours.rgb().chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
}

#[test]
fn damage_and_what_is_too_large_is_left_to_others() {
    let file = jpeg(64, 48);
    assert!(super::decode(&file, 64 * 48 - 1).is_none());
    for cut in 0..file.len() - 1 {
        assert!(super::decode(&file[..cut], LIMIT).is_none(), "cut at {cut}");
    }
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x55;
        // Any answer will do, as long as there is one.
        let _ = super::decode(&damaged, LIMIT);
    }
}
