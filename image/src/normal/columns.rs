//! The columns that tables are taken apart into, written and read by the same code.
//!
//! The code that takes tables apart and puts them together again exists once: it asks a [`Coder`]
//! for one value after the other, and says what it predicts. A [`Writer`] is given the value and
//! notes its difference; a [`Reader`] knows the difference and gives the value back.

use crate::recipe::code::{Input, put, put_len, unzigzag, zigzag};

/// A column: its number, and how its values are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    place: usize,
    mode: Mode,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    /// As many bytes for each value.
    Fixed(usize),
    /// As few bytes as each value needs.
    Varying,
    /// Values are nearly always as predicted: how many are, then one that is not.
    Rare,
}

const fn column(place: usize, mode: Mode) -> Column {
    Column { place, mode }
}

pub(super) const LAYOUT: Column = column(0, Mode::Varying);
pub(super) const HEADERS: Column = column(1, Mode::Fixed(2));
pub(super) const KIND: Column = column(2, Mode::Fixed(1));
pub(super) const MODE: Column = column(3, Mode::Fixed(2));
pub(super) const USER: Column = column(4, Mode::Fixed(2));
pub(super) const GROUP: Column = column(5, Mode::Fixed(2));
pub(super) const TIME: Column = column(6, Mode::Fixed(4));
pub(super) const NUMBER: Column = column(7, Mode::Rare);
pub(super) const LINKS: Column = column(8, Mode::Rare);
pub(super) const XATTR: Column = column(9, Mode::Varying);
pub(super) const DEVICE: Column = column(10, Mode::Fixed(4));
pub(super) const TARGET_LEN: Column = column(11, Mode::Varying);
pub(super) const TARGET: Column = column(12, Mode::Fixed(1));
pub(super) const DIRECTORY_AT: Column = column(13, Mode::Rare);
pub(super) const DIRECTORY_SIZE: Column = column(14, Mode::Rare);
pub(super) const PARENT: Column = column(15, Mode::Rare);
pub(super) const INDEX: Column = column(16, Mode::Rare);
pub(super) const ENTRIES: Column = column(17, Mode::Varying);
pub(super) const CHILD: Column = column(18, Mode::Rare);
pub(super) const NAME: Column = column(19, Mode::Fixed(1));
pub(super) const ENTRY_KIND: Column = column(20, Mode::Rare);
pub(super) const ENTRY_NUMBER: Column = column(21, Mode::Rare);
pub(super) const RUN: Column = column(22, Mode::Rare);
pub(super) const RUN_NUMBER: Column = column(23, Mode::Rare);
pub(super) const SIZE: Column = column(24, Mode::Varying);
pub(super) const HOLES: Column = column(25, Mode::Varying);
pub(super) const START: Column = column(26, Mode::Rare);
pub(super) const TWIN: Column = column(27, Mode::Varying);
pub(super) const TAIL: Column = column(28, Mode::Rare);
pub(super) const TAIL_AT: Column = column(29, Mode::Varying);
pub(super) const BLOCKS: Column = column(30, Mode::Fixed(4));
pub(super) const FRAGMENT_AT: Column = column(31, Mode::Rare);
pub(super) const FRAGMENT_LEN: Column = column(32, Mode::Fixed(4));
pub(super) const FRAGMENT_REST: Column = column(33, Mode::Rare);
pub(super) const EXPORT: Column = column(34, Mode::Rare);
pub(super) const BYTES: Column = column(35, Mode::Fixed(1));
pub(super) const XATTR_AT: Column = column(36, Mode::Rare);
pub(super) const XATTR_COUNT: Column = column(37, Mode::Varying);
pub(super) const XATTR_SIZE: Column = column(38, Mode::Varying);
const COLUMNS: usize = 39;

/// Either direction.
pub(super) trait Coder {
    /// The next value of a column. `actual` is what a writer writes, and of no meaning to a reader.
    /// `None` where a reader has no more, or the value does not go into the column.
    fn value(&mut self, column: Column, predicted: u64, actual: u64) -> Option<u64>;

    /// The next `length` bytes of a column, as they are.
    fn bytes(&mut self, column: Column, length: usize, actual: &[u8]) -> Option<Vec<u8>>;
}

/// Writes columns.
#[derive(Debug)]
pub(super) struct Writer {
    columns: Vec<Vec<u8>>,
    /// How many values have been as predicted, for each column.
    runs: Vec<u64>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { columns: vec![Vec::new(); COLUMNS], runs: vec![0; COLUMNS] }
    }

    /// All columns: their lengths, then their bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for column in &self.columns {
            put_len(&mut out, column.len());
        }
        out.extend(self.columns.concat());
        out
    }
}

impl Coder for Writer {
    fn value(&mut self, column: Column, predicted: u64, actual: u64) -> Option<u64> {
        let out = &mut self.columns[column.place];
        let difference = actual.wrapping_sub(predicted);
        match column.mode {
            Mode::Fixed(length) => {
                let bytes = difference.to_le_bytes();
                let (low, high) = bytes.split_at(length);
                if high.iter().any(|byte| *byte != 0) {
                    return None;
                }
                out.extend(low);
            }
            Mode::Varying => put(out, zigzag(difference)),
            Mode::Rare if difference == 0 => self.runs[column.place] += 1,
            Mode::Rare => {
                put(out, std::mem::take(&mut self.runs[column.place]));
                put(out, zigzag(difference));
            }
        }
        Some(actual)
    }

    fn bytes(&mut self, column: Column, length: usize, actual: &[u8]) -> Option<Vec<u8>> {
        self.columns[column.place].extend(actual);
        (actual.len() == length).then(|| actual.to_vec())
    }
}

/// Reads columns.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    columns: Vec<Input<'a>>,
    /// How many values are as predicted yet, and the difference of the one that follows; `None`
    /// where that has not been looked at.
    runs: Vec<Option<(u64, u64)>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input::new(bytes, "tables");
        let lengths: Vec<usize> = (0..COLUMNS)
            .map(|_| input.count("bytes of tables", bytes.len()).ok())
            .collect::<Option<_>>()?;
        let mut column = |length| Some(Input::new(input.bytes(length).ok()?, "tables"));
        let columns = lengths.into_iter().map(&mut column).collect::<Option<_>>()?;
        input.end().ok()?;
        Some(Self { columns, runs: vec![None; COLUMNS] })
    }

    /// The next difference of a column whose values are nearly always as predicted.
    fn rare(&mut self, place: usize) -> Option<u64> {
        let input = &mut self.columns[place];
        let (left, difference) = match self.runs[place] {
            Some(run) => run,
            // Nothing but what was predicted is left.
            None if input.is_empty() => (u64::MAX, 0),
            None => (input.number().ok()?, unzigzag(input.number().ok()?)),
        };
        if left == 0 {
            self.runs[place] = None;
            return Some(difference);
        }
        self.runs[place] = Some((left - 1, difference));
        Some(0)
    }
}

impl Coder for Reader<'_> {
    fn value(&mut self, column: Column, predicted: u64, _: u64) -> Option<u64> {
        let input = &mut self.columns[column.place];
        let difference = match column.mode {
            Mode::Fixed(length) => {
                let mut number = [0; 8];
                number[..length].copy_from_slice(input.bytes(length).ok()?);
                u64::from_le_bytes(number)
            }
            Mode::Varying => unzigzag(input.number().ok()?),
            Mode::Rare => self.rare(column.place)?,
        };
        Some(predicted.wrapping_add(difference))
    }

    fn bytes(&mut self, column: Column, length: usize, _: &[u8]) -> Option<Vec<u8>> {
        self.columns[column.place].bytes(length).ok().map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let values = [(LAYOUT, 5, 3), (NUMBER, 7, 7), (NUMBER, 7, 8), (NUMBER, 1, 1), (TIME, 0, 9)];
        let mut writer = Writer::new();
        for (column, predicted, actual) in values {
            assert_eq!(writer.value(column, predicted, actual), Some(actual));
        }
        writer.bytes(NAME, 3, b"abc").unwrap();
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes).unwrap();
        for (column, predicted, actual) in values {
            assert_eq!(reader.value(column, predicted, 0), Some(actual));
        }
        assert_eq!(reader.bytes(NAME, 3, b""), Some(b"abc".to_vec()));
        assert_eq!(reader.bytes(NAME, 1, b""), None);
        assert_eq!(reader.value(TIME, 0, 0), None);
        assert_eq!(reader.value(NUMBER, 4, 0), Some(4));
    }

    #[test]
    fn a_value_that_is_too_large_is_seen() {
        assert_eq!(Writer::new().value(KIND, 0, 256), None);
    }
}
