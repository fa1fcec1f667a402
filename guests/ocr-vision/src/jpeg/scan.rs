//! One scan: which components it carries, and the coefficients it adds to their blocks (T.81, annexes F.2 and G.2).

use super::Tables;
use super::bits::{Bits, Table};
use super::frame::Frame;

/// Natural place in a block of the coefficient that comes n-th (T.81, figure A.6).
#[rustfmt::skip]
pub const ZIGZAG: [usize; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What a scan carries of each block: coefficients `first..=last`, down to bit `low`; `refine` if higher bits came before.
struct Part {
    first: usize,
    last: usize,
    low: u32,
    refine: bool,
    progressive: bool,
}

/// A component's part in the scan.
struct Member<'t> {
    /// Its place in the frame.
    index: usize,
    dc: Option<&'t Table>,
    ac: Option<&'t Table>,
    /// The last block's mean.
    previous: i32,
}

/// Decodes the scan with header `body`. None for damage.
pub fn decode(frame: &mut Frame, body: &[u8], tables: &Tables, bits: &mut Bits) -> Option<()> {
    let count = usize::from(*body.first()?);
    let &[first, last, precision] = body.get(1 + 2 * count..)? else { return None };
    let part = Part {
        first: usize::from(first),
        last: usize::from(last),
        low: u32::from(precision & 15),
        refine: precision >> 4 != 0,
        progressive: frame.progressive,
    };
    let whole = part.first == 0 && part.last == 63 && precision == 0;
    let sensible = part.first <= part.last && part.last < 64 && part.low < 14 && (part.first > 0 || part.last == 0);
    if count == 0 || !(if frame.progressive { sensible } else { whole }) || (part.first > 0 && count > 1) {
        return None;
    }
    let mut members = Vec::new();
    for pair in body[1..=2 * count].chunks_exact(2) {
        let index = frame.components.iter().position(|c| c.id == pair[0])?;
        let component = &mut frame.components[index];
        if component.steps.is_none() {
            component.steps = *tables.quantisation.get(component.table())?;
        }
        let dc = tables.dc.get(usize::from(pair[1] >> 4))?.as_ref();
        let ac = tables.ac.get(usize::from(pair[1] & 15))?.as_ref();
        members.push(Member { index, dc, ac, previous: 0 });
    }
    units(frame, &mut members, &part, tables.restart, bits)
}

/// Walks the scan's units: several components in turn, or the blocks of one.
fn units(frame: &mut Frame, members: &mut [Member], part: &Part, restart: usize, bits: &mut Bits) -> Option<()> {
    let single = members.len() == 1;
    let (wide, high) = match members {
        [only] => (frame.components[only.index].columns, frame.components[only.index].rows),
        _ => frame.units,
    };
    // How many blocks from here on have nothing more in this scan.
    let mut ended = 0u32;
    for unit in 0..wide * high {
        if restart > 0 && unit > 0 && unit % restart == 0 {
            bits.restart(unit / restart - 1)?;
            ended = 0;
            members.iter_mut().for_each(|member| member.previous = 0);
        }
        let (x, y) = (unit % wide, unit / wide);
        for member in members.iter_mut() {
            let component = &mut frame.components[member.index];
            let (across, down) = if single { (1, 1) } else { (component.across, component.down) };
            for at in 0..across * down {
                let place = (y * down + at / across) * component.stride + x * across + at % across;
                block(component.blocks.get_mut(place)?, member, part, &mut ended, bits)?;
            }
        }
    }
    Some(())
}

fn block(block: &mut [i16; 64], member: &mut Member, part: &Part, ended: &mut u32, bits: &mut Bits) -> Option<()> {
    if part.first == 0 {
        if part.refine {
            block[0] |= (bits.take(1) << part.low) as i16;
        } else {
            let length = u32::from(bits.symbol(member.dc?)?);
            if length > 11 {
                return None;
            }
            member.previous += bits.signed(length);
            block[0] = (member.previous << part.low) as i16;
        }
    }
    match (part.progressive, part.refine) {
        (false, _) => sequential(block, member.ac?, bits),
        (true, _) if part.last == 0 => Some(()),
        (true, false) => first_bits(block, member.ac?, part, ended, bits),
        (true, true) => next_bit(block, member.ac?, part, ended, bits),
    }
}

/// The 63 coefficients behind the mean.
fn sequential(block: &mut [i16; 64], table: &Table, bits: &mut Bits) -> Option<()> {
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(table)?;
        let (run, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if length == 0 {
            if run < 15 {
                return Some(());
            }
            k += 16;
            continue;
        }
        k += run;
        block[*ZIGZAG.get(k)?] = bits.signed(length) as i16;
        k += 1;
    }
    Some(())
}

/// A progressive scan that brings coefficients for the first time.
fn first_bits(block: &mut [i16; 64], table: &Table, part: &Part, ended: &mut u32, bits: &mut Bits) -> Option<()> {
    if *ended > 0 {
        *ended -= 1;
        return Some(());
    }
    let mut k = part.first;
    while k <= part.last {
        let symbol = bits.symbol(table)?;
        let (run, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if length == 0 {
            if run < 15 {
                *ended = (1 << run) - 1 + bits.take(run as u32);
                return Some(());
            }
            k += 16;
            continue;
        }
        k += run;
        block[*ZIGZAG.get(k)?] = (bits.signed(length) << part.low) as i16;
        k += 1;
    }
    Some(())
}

/// A progressive scan that brings one more bit of coefficients, and those that the bit makes differ from 0.
fn next_bit(block: &mut [i16; 64], table: &Table, part: &Part, ended: &mut u32, bits: &mut Bits) -> Option<()> {
    let one = 1i16 << part.low;
    let mut k = part.first;
    while *ended == 0 && k <= part.last {
        let symbol = bits.symbol(table)?;
        let (mut run, length) = (u32::from(symbol >> 4), symbol & 15);
        let new = match length {
            0 if run < 15 => {
                *ended = (1 << run) + bits.take(run);
                break;
            }
            0 => 0,
            1 if bits.take(1) == 1 => one,
            1 => -one,
            _ => return None,
        };
        // Over known coefficients, each with its bit, and `run` unknown ones, to the one that is new.
        while k <= part.last {
            let value = &mut block[ZIGZAG[k]];
            if *value != 0 {
                refine(value, one, bits);
            } else if run == 0 {
                *value = new;
                k += 1;
                break;
            } else {
                run -= 1;
            }
            k += 1;
        }
    }
    if *ended > 0 {
        for place in ZIGZAG.get(k..=part.last).unwrap_or(&[]) {
            if block[*place] != 0 {
                refine(&mut block[*place], one, bits);
            }
        }
        *ended -= 1;
    }
    Some(())
}

fn refine(value: &mut i16, one: i16, bits: &mut Bits) {
    if bits.take(1) == 1 && *value & one == 0 {
        *value = value.wrapping_add(if *value > 0 { one } else { -one });
    }
}
