//! Which images of a host a new one is made from.
//!
//! A recipe is made once for an image and its sources, and sent to every host that has those. So
//! few sources are taken, and one only for what it adds: hosts that differ in what they have
//! besides then still get the same recipe.

use crate::image::Digest;
use crate::time::Timestamp;

/// The most sources of a recipe.
pub const MOST: usize = 3;

/// Bytes below which an image is sent whole: a round of making and asking costs more.
pub const SMALLEST: u64 = 1 << 20;

/// The part of the image that a further source has to add: one in so many bytes.
const WORTH: u64 = 50;

/// An image that the host has, and the maker of the recipe too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub digest: Digest,
    /// Whether it goes or went by the name of the new one. Then it is like it also where no block
    /// is the same.
    pub same_name: bool,
    /// When it came to the controller.
    pub pushed: Timestamp,
}

/// The sources for an image of `size` bytes, in the order in which they are to be used; none where
/// it should be sent whole. `adds` says how many bytes of the new image are in blocks that an
/// image has, and that those before it have not.
///
/// The newest image of the same name comes first; then whichever adds most.
pub fn choose(
    size: u64,
    candidates: &[Candidate],
    adds: impl Fn(&[Digest], &Digest) -> u64,
) -> Vec<Digest> {
    let mut chosen = Vec::new();
    if size < SMALLEST {
        return chosen;
    }
    let named = candidates.iter().filter(|candidate| candidate.same_name);
    chosen.extend(named.max_by_key(|c| (c.pushed, c.digest)).map(|c| c.digest));
    while chosen.len() < MOST {
        let others = candidates.iter().filter(|c| !chosen.contains(&c.digest));
        let best = others.map(|c| (adds(&chosen, &c.digest), c.pushed, c.digest)).max();
        match best {
            Some((added, _, digest)) if added >= (size / WORTH).max(1) => chosen.push(digest),
            _ => break,
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// An image and the mebibytes of the new one that it has.
    type Image<'a> = (u8, bool, u64, &'a [u64]);

    fn chosen(size: u64, images: &[Image<'_>]) -> Vec<u8> {
        let candidates: Vec<Candidate> = images
            .iter()
            .map(|&(id, same_name, pushed, _)| Candidate {
                digest: [id; 32].into(),
                same_name,
                pushed: Timestamp(pushed),
            })
            .collect();
        let blocks = |digest: &Digest| -> BTreeSet<u64> {
            let image = images.iter().find(|image| image.0 == digest.as_bytes()[0]);
            image.map(|image| image.3.iter().copied().collect()).unwrap_or_default()
        };
        let adds = |before: &[Digest], digest: &Digest| {
            let there: BTreeSet<u64> = before.iter().flat_map(&blocks).collect();
            u64::try_from(blocks(digest).difference(&there).count()).unwrap() * MIB
        };
        choose(size, &candidates, adds).iter().map(|digest| digest.as_bytes()[0]).collect()
    }

    #[test]
    fn each_situation_has_its_sources() {
        let cases: [(&str, u64, &[Image<'_>], &[u8]); 8] = [
            ("nothing there", 50, &[], &[]),
            ("the one before", 50, &[(1, true, 1, &[1, 2, 3])], &[1]),
            ("the newest of its name", 50, &[(1, true, 1, &[1, 2]), (2, true, 2, &[1, 2])], &[2]),
            ("of its name, nothing the same", 50, &[(1, true, 1, &[])], &[1]),
            ("of another name, much the same", 50, &[(1, false, 1, &[1, 2])], &[1]),
            ("of another name, nothing the same", 50, &[(1, false, 1, &[])], &[]),
            (
                "what adds nothing is left out",
                50,
                &[(1, true, 1, &[1, 2]), (2, false, 2, &[1, 2]), (3, false, 1, &[2, 3])],
                &[1, 3],
            ),
            (
                "no more than three, the best of them",
                50,
                &[
                    (1, true, 1, &[1]),
                    (2, false, 1, &[2]),
                    (3, false, 1, &[3, 4]),
                    (4, false, 1, &[5, 6, 7]),
                ],
                &[1, 4, 3],
            ),
        ];
        for (what, size, images, wanted) in cases {
            assert_eq!(chosen(size * MIB, images), wanted, "{what}");
        }
    }

    #[test]
    fn a_small_image_is_sent_whole() {
        assert_eq!(chosen(MIB - 1, &[(1, true, 1, &[1])]), [0_u8; 0]);
    }

    #[test]
    fn the_order_of_what_is_there_changes_nothing() {
        let images: [Image<'_>; 4] =
            [(1, true, 1, &[1]), (2, true, 1, &[1, 2]), (3, false, 5, &[3]), (4, false, 5, &[4])];
        let wanted = chosen(50 * MIB, &images);
        for turn in 0..images.len() {
            let mut turned = images;
            turned.rotate_left(turn);
            assert_eq!(chosen(50 * MIB, &turned), wanted);
            turned.reverse();
            assert_eq!(chosen(50 * MIB, &turned), wanted);
        }
        assert_eq!(wanted.len(), MOST);
    }
}
