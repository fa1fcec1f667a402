//! A JPEG decoder that agrees with libjpeg-turbo to the bit. Text that is read changes with single steps of a pixel's value
//! (a page with noise of one step is read as differently as 0.91 alike), so a decoder that only rounds otherwise is not enough.
//!
//! Takes what cameras, scanners and phones write: 8 bits, Huffman coding, sequential or progressive, grey or YCbCr with full,
//! half or quarter colour (ITU-T T.81). Everything else, damage included, is left to the general decoder: the answer is none.

mod bits;
mod frame;
mod samples;
mod scan;

use crate::Picture;
use bits::{Bits, Table};
use frame::Frame;

/// Markers (T.81, table B.1), without their 0xff.
const START_SEQUENTIAL: [u8; 2] = [0xc0, 0xc1];
const START_PROGRESSIVE: u8 = 0xc2;
const HUFFMAN_TABLES: u8 = 0xc4;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
const QUANTISATION_TABLES: u8 = 0xdb;
const RESTART_INTERVAL: u8 = 0xdd;
const ADOBE: u8 = 0xee;
const COMMENT: u8 = 0xfe;

/// A scan costs time with the size of the picture even if it is empty. Encoders write about ten.
const MAX_SCANS: usize = 100;

/// What the headers have said so far.
#[derive(Default)]
struct Tables {
    /// Steps by position in the block, in natural order.
    quantisation: [Option<[i32; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    /// Units between restart markers; 0 for none.
    restart: usize,
}

/// Decodes `file`, which holds at most `max_pixels`. None for what this decoder does not take.
pub fn decode(file: &[u8], max_pixels: usize) -> Option<Picture> {
    let mut at = 2;
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut scans = 0;
    loop {
        let (marker, body, next) = segment(file, at)?;
        at = next;
        match marker {
            START_OF_IMAGE => {}
            END_OF_IMAGE => return frame?.into_picture(),
            _ if START_SEQUENTIAL.contains(&marker) || marker == START_PROGRESSIVE => {
                if frame.is_some() {
                    return None;
                }
                frame = Some(Frame::parse(body, marker == START_PROGRESSIVE, max_pixels)?);
            }
            HUFFMAN_TABLES => huffman(body, &mut tables)?,
            QUANTISATION_TABLES => quantisation(body, &mut tables)?,
            RESTART_INTERVAL => tables.restart = usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?)),
            // "Adobe", version, flags: 11 bytes, then the colour transform; 1 is YCbCr.
            ADOBE if body.starts_with(b"Adobe") && body.get(11) != Some(&1) => return None,
            START_OF_SCAN => {
                scans += 1;
                if scans > MAX_SCANS {
                    return None;
                }
                let mut bits = Bits::new(file.get(at..)?);
                scan::decode(frame.as_mut()?, body, &tables, &mut bits)?;
                at += bits.rest()?;
            }
            0xe0..=0xef | COMMENT => {}
            _ => return None,
        }
    }
}

/// The marker at or behind `at`, its body, and where the next one may be.
fn segment(file: &[u8], mut at: usize) -> Option<(u8, &[u8], usize)> {
    if *file.get(at)? != 0xff {
        return None;
    }
    while *file.get(at)? == 0xff {
        at += 1;
    }
    let marker = *file.get(at)?;
    if matches!(marker, START_OF_IMAGE | END_OF_IMAGE) {
        return Some((marker, &[], at + 1));
    }
    let length = usize::from(u16::from_be_bytes(file.get(at + 1..at + 3)?.try_into().ok()?));
    let body = file.get(at + 3..at + 1 + length)?;
    Some((marker, body, at + 1 + length))
}

fn quantisation(mut body: &[u8], tables: &mut Tables) -> Option<()> {
    while let [head, rest @ ..] = body {
        let wide = head >> 4 != 0;
        let mut steps = [0; 64];
        let bytes = if wide { 128 } else { 64 };
        let values = rest.get(..bytes)?;
        for (i, place) in scan::ZIGZAG.iter().enumerate() {
            steps[*place] = if wide { i32::from(u16::from_be_bytes([values[2 * i], values[2 * i + 1]])) } else { i32::from(values[i]) };
        }
        *tables.quantisation.get_mut(usize::from(head & 15))? = Some(steps);
        body = rest.get(bytes..)?;
    }
    Some(())
}

fn huffman(mut body: &[u8], tables: &mut Tables) -> Option<()> {
    while let [head, rest @ ..] = body {
        let counts: &[u8; 16] = rest.get(..16)?.try_into().ok()?;
        let symbols = counts.iter().map(|n| usize::from(*n)).sum::<usize>();
        let table = Table::new(counts, rest.get(16..16 + symbols)?)?;
        let kind = if head >> 4 == 0 { &mut tables.dc } else { &mut tables.ac };
        *kind.get_mut(usize::from(head & 15))? = Some(table);
        body = rest.get(16 + symbols..)?;
    }
    Some(())
}

#[cfg(test)]
mod tests;
