//! Lines out of what a program prints, piece by piece. Pure.

/// Bytes of a line; a longer one is told in parts.
const LONGEST: usize = 8 << 10;

/// The part of a line that has come so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece; gives the lines that it ends, without their line breaks and none that are
    /// empty.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for byte in piece {
            let ends = matches!(byte, b'\n' | b'\r');
            if !ends {
                self.rest.push(*byte);
            }
            if ends || self.rest.len() >= LONGEST {
                lines.extend(self.end());
            }
        }
        lines
    }

    /// What was printed after the last line break.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.rest);
        (!line.trim_ascii().is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        for size in [1, 2, 3, 100] {
            let mut lines = Lines::default();
            let pieces = b"one\r\n\n  \ntwo\x1b[m\nthr".chunks(size);
            let all: Vec<_> = pieces.flat_map(|piece| lines.push(piece)).collect();
            assert_eq!(all, [b"one".to_vec(), b"two\x1b[m".to_vec()]);
            assert_eq!(lines.end(), Some(b"thr".to_vec()));
            assert_eq!(lines.end(), None);
        }
    }

    #[test]
    fn what_never_ends_its_line_takes_no_more_than_a_few() {
        let mut lines = Lines::default();
        let all = lines.push(&[b'x'; 3 * LONGEST + 1]);
        assert_eq!(all.len(), 3);
        assert_eq!(lines.end(), Some(b"x".to_vec()));
    }
}
