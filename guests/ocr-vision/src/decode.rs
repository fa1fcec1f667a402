//! From a file's bytes to a picture: PNG, JPEG or WebP, found out from the bytes, with size limits, EXIF orientation and
//! transparency resolved. Reads one frame; colour profiles are left alone, as the reference does.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::Picture;
use crate::picture::CHANNELS;

/// A picture with more pixels is refused before any of them is decoded: 64 megapixels, which is above what phones and A3
/// scans at 600 dpi hold once cropped, and 192 MiB as RGB.
pub const MAX_PIXELS: u64 = 64 * 1024 * 1024;

/// What a decoder may allocate for itself: `MAX_PIXELS` at 4 bytes, and as much again for its working buffers.
const MAX_DECODER_BYTES: u64 = 2 * 4 * MAX_PIXELS;

/// Why a file is not a picture that can be read. All of them are the input's fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the picture is empty: 0 bytes")]
    Empty,
    /// Neither PNG nor JPEG nor WebP.
    #[error("not a picture this service reads (png, jpeg, webp): it starts with bytes {0}")]
    UnknownFormat(String),
    /// More pixels than `MAX_PIXELS`, by the file's own header.
    #[error("the picture is {width} x {height}, above the limit of {MAX_PIXELS} pixels")]
    TooLarge {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The file ends before its picture does.
    #[error("the {format} file is cut off: it ends after {bytes} bytes, before its picture does")]
    Truncated {
        /// `png`, `jpeg` or `webp`.
        format: &'static str,
        /// Length of the file.
        bytes: usize,
    },
    /// Anything else the decoder objects to.
    #[error("the {format} file cannot be decoded: {reason}")]
    Broken {
        /// `png`, `jpeg` or `webp`.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// Decodes `file`. The picture stands upright: EXIF orientation, where there is one, has been applied.
pub fn decode(file: &[u8]) -> Result<Picture, DecodeError> {
    let (format, name) = format_of(file)?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(file) {
        // The decoder fills what is missing with grey and says nothing.
        return Err(DecodeError::Truncated { format: name, bytes: file.len() });
    }
    let failed = |error: ImageError| describe(&error, name, file.len());
    let mut decoder = ImageReader::with_format(Cursor::new(file), format).into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    decoder.set_limits(limits).map_err(failed)?;
    // A picture with a damaged EXIF block is still a picture.
    let orientation = decoder.orientation().ok();
    let mut image = match exact(file, format) {
        Some(image) => image,
        None => DynamicImage::from_decoder(decoder).map_err(failed)?,
    };
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    opaque(image).ok_or_else(|| DecodeError::Broken { format: name, reason: "it has no pixels".to_owned() })
}

/// The pixels to the bit as the reference has them, where this crate's own decoder takes the file.
fn exact(file: &[u8], format: ImageFormat) -> Option<DynamicImage> {
    let picture = if format == ImageFormat::Jpeg { crate::jpeg::decode(file, MAX_PIXELS as usize)? } else { return None };
    let (width, height) = (u32::try_from(picture.width()).ok()?, u32::try_from(picture.height()).ok()?);
    image::RgbImage::from_raw(width, height, picture.into_rgb()).map(DynamicImage::from)
}

fn format_of(file: &[u8]) -> Result<(ImageFormat, &'static str), DecodeError> {
    if file.is_empty() {
        return Err(DecodeError::Empty);
    }
    match image::guess_format(file) {
        Ok(format @ ImageFormat::Png) => Ok((format, "png")),
        Ok(format @ ImageFormat::Jpeg) => Ok((format, "jpeg")),
        Ok(format @ ImageFormat::WebP) => Ok((format, "webp")),
        _ => {
            let start: Vec<String> = file.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Err(DecodeError::UnknownFormat(start.join(" ")))
        }
    }
}

fn describe(error: &ImageError, format: &'static str, bytes: usize) -> DecodeError {
    let reason = error.to_string();
    let ended = matches!(error, ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
    if ended || reason.contains("unexpected end of file") || reason.contains("failed to fill whole buffer") {
        return DecodeError::Truncated { format, bytes };
    }
    DecodeError::Broken { format, reason }
}

/// Whether a JPEG file has its end marker behind its first scan. Headers are walked by their lengths, because an embedded
/// thumbnail has an end marker of its own (ITU-T T.81, B.1.1).
fn jpeg_is_whole(file: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    while let Some([0xff, marker]) = file.get(at..at + 2) {
        let length = match (*marker, file.get(at + 2..at + 4)) {
            // Fill bytes may stand before a marker.
            (0xff, _) => {
                at += 1;
                continue;
            }
            (_, Some([high, low])) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        };
        at += 2 + length;
        if *marker == START_OF_SCAN {
            return file.get(at..).is_some_and(|scan| scan.windows(2).any(|pair| pair == END_OF_IMAGE));
        }
    }
    // Not a header the walk understands: the decoder shall judge.
    at < file.len()
}

/// Takes transparency out the way the reference does: it was made for white-on-transparent and black-on-transparent text.
fn opaque(image: DynamicImage) -> Option<Picture> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgb = match image {
        image if !image.color().has_alpha() => image.into_rgb8().into_raw(),
        image if !image.color().has_color() => {
            let grey = image.into_luma_alpha8();
            grey.pixels().flat_map(|p| [on_white(p.0[0], p.0[1]); CHANNELS]).collect()
        }
        image => {
            let rgba = image.into_rgba8();
            let seen = |p: &image::Rgba<u8>| if p.0[3] == 0 { [0; CHANNELS] } else { [p.0[0], p.0[1], p.0[2]] };
            if rgba.pixels().all(|p| seen(p) == [0; CHANNELS]) {
                // Black text alone: the uncovered part becomes white paper.
                rgba.pixels().flat_map(|p| [255 - p.0[3]; CHANNELS]).collect()
            } else {
                // Anything else is turned into its negative, what is uncovered to white.
                rgba.pixels().flat_map(|p| seen(p).map(|v| 255 - v)).collect()
            }
        }
    };
    Picture::from_rgb(width, height, rgb)
}

/// Grey with coverage `alpha`, laid on white; what is wholly uncovered is white whatever its grey.
fn on_white(grey: u8, alpha: u8) -> u8 {
    let shown = if alpha == 0 { 0 } else { grey };
    shown.saturating_add(255 - alpha)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn ramp() -> DynamicImage {
        DynamicImage::ImageRgb8(image::RgbImage::from_fn(64, 32, |x, y| image::Rgb([x as u8 * 4, y as u8 * 8, 99])))
    }

    #[test]
    fn every_format_decodes_and_says_when_it_is_cut_off() {
        for (format, name) in [(ImageFormat::Png, "png"), (ImageFormat::Jpeg, "jpeg"), (ImageFormat::WebP, "webp")] {
            let whole = file(&ramp(), format);
            let picture = decode(&whole).unwrap();
            assert_eq!((picture.width(), picture.height()), (64, 32), "{name}");
            // 20 bytes reach into the picture's data in all three; a PNG has 12 bytes of end mark behind it.
            for cut in [whole.len() / 3, whole.len() / 2, whole.len() - 20] {
                let error = decode(&whole[..cut]).unwrap_err();
                assert!(error.to_string().contains(name), "{name} cut at {cut}: {error}");
            }
        }
    }

    #[test]
    fn a_jpeg_cut_behind_its_thumbnail_is_still_cut() {
        let whole = file(&ramp(), ImageFormat::Jpeg);
        let mut with_thumbnail = whole[..2].to_vec();
        with_thumbnail.extend([0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9]);
        with_thumbnail.extend(&whole[2..]);
        assert!(decode(&with_thumbnail).is_ok());
        let half = &with_thumbnail[..with_thumbnail.len() - 40];
        assert_eq!(decode(half), Err(DecodeError::Truncated { format: "jpeg", bytes: half.len() }));
    }

    #[test]
    fn other_bytes_are_named() {
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        assert!(decode(b"%PDF-1.7").unwrap_err().to_string().contains("25 50 44 46"));
        assert!(matches!(decode(b"GIF89a\x01\x00\x01\x00"), Err(DecodeError::UnknownFormat(_))));
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused() {
        let mut huge = file(&ramp(), ImageFormat::Png);
        // Width and height stand in the first chunk, at 16 and 20; its checksum covers 12 to 29.
        huge[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        huge[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let sum = crc(&huge[12..29]);
        huge[29..33].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(decode(&huge), Err(DecodeError::TooLarge { width: 60_000, height: 60_000 }));
    }

    /// CRC-32 as PNG uses it (ISO 3309), bit by bit.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 })
        })
    }

    #[test]
    fn exif_orientation_is_applied() {
        let jpeg = file(&ramp(), ImageFormat::Jpeg);
        // A TIFF header with one entry: orientation 6, "turn a quarter to the right to see it upright".
        let tiff = [b"Exif\0\0MM\0*\0\0\0\x08\0\x01".as_slice(), &[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0]].concat();
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xff, 0xe1]);
        turned.extend((tiff.len() as u16 + 2).to_be_bytes());
        turned.extend(&tiff);
        turned.extend(&jpeg[2..]);
        let (upright, lying) = (decode(&turned).unwrap(), decode(&jpeg).unwrap());
        assert_eq!((upright.width(), upright.height()), (32, 64));
        assert_eq!(upright.turned_left(), lying);
    }

    #[test]
    fn transparency_follows_the_reference() {
        let black = DynamicImage::ImageRgba8(image::RgbaImage::from_raw(2, 1, vec![0, 0, 0, 255, 9, 9, 9, 0]).unwrap());
        assert_eq!(opaque(black).unwrap().rgb(), [0, 0, 0, 255, 255, 255]);
        let colour = DynamicImage::ImageRgba8(image::RgbaImage::from_raw(2, 1, vec![255, 10, 0, 128, 9, 9, 9, 0]).unwrap());
        assert_eq!(opaque(colour).unwrap().rgb(), [0, 245, 255, 255, 255, 255]);
        let grey = DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_raw(2, 1, vec![100, 255, 100, 0]).unwrap());
        assert_eq!(opaque(grey).unwrap().rgb(), [100, 100, 100, 255, 255, 255]);
    }
}
