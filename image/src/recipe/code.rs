//! Numbers and bytes, written and read with bounds.

use super::RecipeError;

/// The most bytes of a number: seven bits in each.
const NUMBER_LEN: usize = 10;

/// Appends a number in as few bytes as it needs, the low bits first (LEB128).
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Appends a length in memory.
pub(crate) fn put_len(out: &mut Vec<u8>, length: usize) {
    put(out, u64::try_from(length).expect("no slice is longer than a u64 counts"));
}

/// A difference as a number that is small where the difference is, whatever its sign.
pub(crate) fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (difference >> 63).wrapping_neg()
}

/// The difference that [`zigzag`] made a number of.
pub(crate) fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Reads from a part of a recipe.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
    part: &'static str,
}

impl<'a> Input<'a> {
    /// Reads `bytes`, which errors call `part`.
    pub(crate) fn new(bytes: &'a [u8], part: &'static str) -> Self {
        Self { rest: bytes, part }
    }

    /// The next `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], RecipeError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(RecipeError::Short { part: self.part })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecipeError> {
        Ok(*self.bytes(N)?.first_chunk().expect("as many as were asked for"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, RecipeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next number. One that is spelled longer than it need be is refused: a recipe has one
    /// spelling, and so one id.
    pub(crate) fn number(&mut self) -> Result<u64, RecipeError> {
        let mut number: u64 = 0;
        for place in 0..NUMBER_LEN {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * u32::try_from(place).expect("at most ten");
            if bits.leading_zeros() < shift || (byte == 0 && place > 0) {
                return Err(RecipeError::damaged("a number is badly spelled"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(RecipeError::damaged("a number is badly spelled"))
    }

    /// The next number, which may be at most `limit`.
    pub(crate) fn at_most(&mut self, what: &'static str, limit: u64) -> Result<u64, RecipeError> {
        let asked = self.number()?;
        if asked > limit {
            return Err(RecipeError::TooMuch { what, asked, limit });
        }
        Ok(asked)
    }

    /// The next number of bytes or things in memory, which may be at most `limit`.
    pub(crate) fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, RecipeError> {
        let bound = u64::try_from(limit).unwrap_or(u64::MAX);
        let count = self.at_most(what, bound)?;
        Ok(usize::try_from(count).expect("at most a usize"))
    }

    /// The next number of bytes, in the width of a block's length.
    pub(crate) fn length(&mut self, what: &'static str, limit: u32) -> Result<u32, RecipeError> {
        let length = self.at_most(what, limit.into())?;
        Ok(u32::try_from(length).expect("at most a u32"))
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// That nothing is left.
    pub(crate) fn end(self) -> Result<(), RecipeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(RecipeError::damaged("more follows its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, number);
            assert!(out.len() <= NUMBER_LEN);
            let mut input = Input::new(&out, "test");
            assert_eq!(input.number(), Ok(number));
            assert_eq!(input.end(), Ok(()));
            let mut cut = Input::new(&out[..out.len() - 1], "test");
            assert_eq!(cut.number(), Err(RecipeError::Short { part: "test" }));
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0xff, 0x80, 0x00],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        ] {
            let error = Input::new(bytes, "test").number().expect_err("badly spelled");
            assert!(matches!(error, RecipeError::Damaged { .. }), "{error}");
        }
    }
}
