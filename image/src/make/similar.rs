//! Which blocks are alike: by fingerprints of short pieces, taken where the content says.
//!
//! A rolling hash over 32 bytes goes over the plain bytes, and where some of its bits are zero,
//! the piece is taken. So the same bytes give the same fingerprints wherever they stand.

/// The bytes that a fingerprint is of.
const PIECE: usize = 32;

/// The most blocks that a piece is looked for in: one that is in more says little.
const COMMON: usize = 24;

/// The fewest new pieces that make a block worth its place in a prefix.
const WORTH: usize = 2;

/// The most blocks that one block is coded against.
const BEST: usize = 6;

/// A random number for every byte.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state: u64 = 0x5368_6f61_6c21_0001;
    let mut at = 0;
    while at < 256 {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
}

/// The fingerprints of a block's plain bytes, about one in `1 << sparse` bytes; in order, each once.
pub(super) fn fingerprints(plain: &[u8], sparse: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut hash: u64 = 0;
    for (at, byte) in plain.iter().enumerate() {
        hash = (hash << 2).wrapping_add(GEAR[usize::from(*byte)]);
        if hash >> (64 - sparse) == 0 && at >= PIECE {
            let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            found.push(u32::try_from(mixed).expect("32 bits are left"));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// All blocks that others can be coded against, by their fingerprints.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// A fingerprint and a block with it. In order.
    pieces: Vec<(u32, u32)>,
}

impl Known {
    pub(super) fn new(mut pieces: Vec<(u32, u32)>) -> Self {
        pieces.sort_unstable();
        Self { pieces }
    }

    /// The blocks with a fingerprint.
    fn with(&self, fingerprint: u32) -> impl Iterator<Item = u32> {
        let begin = self.pieces.partition_point(|piece| piece.0 < fingerprint);
        let rest = self.pieces[begin..].iter();
        rest.take_while(move |piece| piece.0 == fingerprint).map(|piece| piece.1)
    }

    /// The blocks that have most in common with one of these fingerprints, the best first, with how
    /// many pieces each has that none before it has. Only those count that `usable` says.
    pub(super) fn like(
        &self,
        fingerprints: &[u32],
        usable: impl Fn(u32) -> bool,
    ) -> Vec<(u32, usize)> {
        let mut votes: Vec<(u32, u32)> = Vec::new();
        for fingerprint in fingerprints {
            let blocks = self.with(*fingerprint).filter(|block| usable(*block));
            votes.extend(blocks.take(COMMON).map(|block| (block, *fingerprint)));
        }
        votes.sort_unstable();
        let mut best = Vec::new();
        while best.len() < BEST {
            let groups = votes.chunk_by(|one, other| one.0 == other.0);
            // The last of several: what stands later is nearer in the prefix.
            let Some(most) = groups.max_by_key(|group| group.len()) else { break };
            if most.len() < WORTH {
                break;
            }
            best.push((most[0].0, most.len()));
            let covered: Vec<u32> = most.iter().map(|vote| vote.1).collect();
            votes.retain(|vote| covered.binary_search(&vote.1).is_err());
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, mut state: u32) -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn moved_bytes_keep_their_fingerprints() {
        let bytes = noise(100_000, 5);
        let here = fingerprints(&bytes, 7);
        let moved = fingerprints(&[&noise(1001, 9)[..], &bytes].concat(), 7);
        let kept = here.iter().filter(|one| moved.binary_search(one).is_ok()).count();
        assert!(here.len() > 500 && kept + 2 >= here.len(), "{kept} of {}", here.len());
    }

    #[test]
    fn the_likest_block_comes_first() {
        let blocks: Vec<Vec<u8>> = (1..9).map(|seed| noise(50_000, seed)).collect();
        let pieces = (0_u32..).zip(&blocks).flat_map(|(number, block)| {
            fingerprints(block, 7).into_iter().map(move |piece| (piece, number))
        });
        let known = Known::new(pieces.collect());
        let mixed = [&blocks[3][..30_000], &blocks[6][40_000..]].concat();
        let like = known.like(&fingerprints(&mixed, 7), |_| true);
        let order: Vec<u32> = like.iter().map(|block| block.0).collect();
        assert_eq!(order, [3, 6]);
        assert!(known.like(&fingerprints(&mixed, 7), |block| block > 6).is_empty());
        assert!(known.like(&fingerprints(&noise(50_000, 99), 7), |_| true).is_empty());
    }
}
