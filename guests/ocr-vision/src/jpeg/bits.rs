//! The entropy-coded part of a scan as bits, and the Huffman codes in it (T.81, annexes C and F.2.2). Beyond the end of the data
//! come zeros: whether a scan is whole shows at its end.

/// Codes up to this long are found with one look.
const QUICK: u32 = 9;

/// A Huffman table.
pub struct Table {
    /// For every `QUICK` bits: symbol and code length, length 0 where the code is longer.
    quick: Vec<(u8, u8)>,
    /// For every length the first code that is too large for it, shifted to 16 bits, and what to add to a code to find its symbol.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Table {
    /// `counts`: how many codes of 1 to 16 bits there are; `symbols` in the order of their codes. None if they do not fit.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self { quick: vec![(0, 0); 1 << QUICK], limits: [(0, 0); 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, count) in (1..).zip(counts) {
            table.limits[length as usize].1 = index as i32 - code as i32;
            for symbol in symbols.get(index..index + usize::from(*count))? {
                if length <= QUICK {
                    let first = (code << (QUICK - length)) as usize;
                    table.quick.get_mut(first..first + (1 << (QUICK - length)))?.fill((*symbol, length as u8));
                }
                code += 1;
            }
            index += usize::from(*count);
            if code > 1 << length {
                return None;
            }
            table.limits[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// Bits of a scan, most significant first, without the zeros stuffed behind 0xff.
pub struct Bits<'f> {
    data: &'f [u8],
    at: usize,
    /// The next bits, at the top.
    window: u64,
    held: u32,
}

impl<'f> Bits<'f> {
    /// Reads from the start of `data`, which goes on behind the scan.
    pub fn new(data: &'f [u8]) -> Self {
        Self { data, at: 0, window: 0, held: 0 }
    }

    fn fill(&mut self) {
        while self.held <= 56 {
            let byte = match self.data.get(self.at) {
                Some(0xff) if self.data.get(self.at + 1) == Some(&0) => {
                    self.at += 2;
                    0xff
                }
                // A marker: nothing but zeros from here on.
                Some(0xff) | None => 0,
                Some(byte) => {
                    self.at += 1;
                    *byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.held);
            self.held += 8;
        }
    }

    /// The next `count` bits, at most 16.
    pub fn take(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        if self.held < count {
            self.fill();
        }
        let value = (self.window >> (64 - count)) as u32;
        self.skip(count);
        value
    }

    fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.held -= count;
    }

    /// A number of `count` bits whose first bit is its sign, as T.81 F.2.2.1 has it.
    pub fn signed(&mut self, count: u32) -> i32 {
        let value = self.take(count) as i32;
        if count > 0 && value < 1 << (count - 1) { value - (1 << count) + 1 } else { value }
    }

    /// The next symbol; none if there is no such code.
    pub fn symbol(&mut self, table: &Table) -> Option<u8> {
        if self.held < 16 {
            self.fill();
        }
        let (symbol, length) = table.quick[(self.window >> (64 - QUICK)) as usize];
        if length > 0 {
            self.skip(u32::from(length));
            return Some(symbol);
        }
        let sixteen = (self.window >> 48) as u32;
        for length in QUICK + 1..=16 {
            let (limit, offset) = table.limits[length as usize];
            if sixteen < limit {
                self.skip(length);
                let code = (sixteen >> (16 - length)) as i32;
                return table.symbols.get(usize::try_from(code + offset).ok()?).copied();
            }
        }
        None
    }

    /// Passes a restart marker; none if there is another one or none.
    pub fn restart(&mut self, number: usize) -> Option<()> {
        let marker = self.marker()?;
        if usize::from(*self.data.get(marker + 1)?) != 0xd0 + number % 8 {
            return None;
        }
        (self.at, self.window, self.held) = (marker + 2, 0, 0);
        Some(())
    }

    /// Where the marker behind the scan is.
    pub fn rest(&self) -> Option<usize> {
        self.marker()
    }

    /// The next marker at or behind what was read. Bits that were looked at but not taken lie before it.
    fn marker(&self) -> Option<usize> {
        let mut at = self.at;
        loop {
            match self.data.get(at..at + 2)? {
                [0xff, 0 | 0xff] => at += 1,
                [0xff, _] => return Some(at),
                _ => at += 1,
            }
        }
    }
}
