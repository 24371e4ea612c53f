//! The work on one recipe, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::image::Image;
use super::plan::{Cut, Fate, Shelf, cut};
use super::similar::{Known, fingerprints};
use super::window::Draft;
use super::{MakeError, MakeOptions, Summary, Wire, tables};
use crate::codec::codecs;
use crate::index::{BlockKind, Index, IndexBlock};
use crate::number::{count, short, wide};
use crate::recipe::{Base, Head, Kind, RecipeFile, RecipeWriter, Reference, SegmentHead, limits};

/// The fewest fingerprints: one in 128 bytes.
const DENSE: u32 = 7;

/// The plain bytes for which there are as many; with more, there are fewer for each.
const DENSE_BYTES: u64 = 512 << 20;

/// A recipe in the making.
#[derive(Debug)]
pub(super) struct Work<'a> {
    target: &'a Image,
    sources: &'a [Image],
    bases: Vec<Base>,
    options: MakeOptions,
    fates: Vec<Fate>,
    cuts: Vec<Cut>,
    /// The tables of the new image in normal form.
    normal: Option<Vec<u8>>,
    /// All blocks that can be referred to: those of the sources, then those of the new image.
    known: Known,
    /// The image and the block in it that each number in `known` stands for.
    places: Vec<(u8, u32)>,
    /// The fingerprints of the new image's blocks that are not copied.
    prints: BTreeMap<usize, Vec<u32>>,
    /// The segment that each block of the new image is in.
    segment_of: Vec<u32>,
}

type Made = (Vec<u8>, u64, Wire);

impl<'a> Work<'a> {
    /// Looks at all images.
    pub(super) fn new(
        target: &'a Image,
        sources: &'a [Image],
        options: MakeOptions,
    ) -> Result<Self, MakeError> {
        let bases = sources.iter().map(|source| source.base).collect();
        let shelf = Shelf::new(sources.iter().map(|source| &source.index));
        let mut work = Self::begin(target, sources, bases, options, shelf.copies(&target.index));
        work.normal = tables::proven(target)?;
        if work.normal.is_some() {
            work.take_tables();
        }
        work.look_at_target()?;
        work.cut();
        work.look_at_sources()?;
        Ok(work)
    }

    /// Looks at the new image only.
    pub(super) fn from_indexes(
        target: &'a Image,
        bases: &[(Base, Index)],
        options: MakeOptions,
    ) -> Self {
        let shelf = Shelf::new(bases.iter().map(|(_, index)| index));
        let bases = bases.iter().map(|(base, _)| *base).collect();
        let mut work = Self::begin(target, &[], bases, options, shelf.copies(&target.index));
        work.cut();
        work
    }

    fn begin(
        target: &'a Image,
        sources: &'a [Image],
        bases: Vec<Base>,
        options: MakeOptions,
        fates: Vec<Fate>,
    ) -> Self {
        Self {
            target,
            sources,
            bases,
            options,
            fates,
            cuts: Vec::new(),
            normal: None,
            known: Known::default(),
            places: Vec::new(),
            prints: BTreeMap::new(),
            segment_of: Vec::new(),
        }
    }

    /// Blocks of the tables are not sent one by one.
    fn take_tables(&mut self) {
        let superblock = &self.target.index.superblock;
        let tables = superblock.inode_table..superblock.bytes_used;
        for (block, fate) in self.target.index.blocks.iter().zip(&mut self.fates) {
            if tables.contains(&block.offset) {
                *fate = Fate::Tables;
            }
        }
    }

    fn cut(&mut self) {
        self.cuts = cut(&self.target.index, &self.fates);
        self.segment_of = vec![0; self.fates.len()];
        for (segment, cut) in (0..).zip(&self.cuts) {
            self.segment_of[cut.blocks.clone()].fill(segment);
        }
    }

    /// Fingerprints for about each so many bytes, as a power of two.
    fn sparse(&self) -> u32 {
        let images = self.sources.iter().chain([self.target]);
        let bytes: u64 = images.map(|image| image.index.size.saturating_mul(3)).sum();
        let factor = u32::try_from(bytes / DENSE_BYTES).unwrap_or(u32::MAX).max(1);
        DENSE + factor.ilog2()
    }

    /// Tries to rebuild the blocks that have to be sent, and takes their fingerprints.
    fn look_at_target(&mut self) -> Result<(), MakeError> {
        let sent: Vec<usize> =
            (0..self.fates.len()).filter(|block| self.fates[*block] == Fate::Literal).collect();
        let sparse = self.sparse();
        let target = self.target;
        let looked = in_parallel(
            self.options.threads,
            &sent,
            || target.recompressor(),
            |recompressor, block| {
                let block = &target.index.blocks[*block];
                let Some(plain) = target.plain(block)? else {
                    return Ok((Fate::Literal, Vec::new()));
                };
                let mut fate = Fate::Literal;
                if block.compressed
                    && let Some(recompressor) = recompressor
                    && let Some(variant) = target.proven(block, &plain, recompressor)?
                {
                    fate = Fate::Rebuild { plain: short(plain.len()), variant };
                }
                if block.compressed && fate == Fate::Literal {
                    return Ok((fate, Vec::new()));
                }
                Ok((fate, fingerprints(&plain, sparse)))
            },
        )?;
        for (block, (fate, prints)) in sent.into_iter().zip(looked) {
            self.fates[block] = fate;
            if !prints.is_empty() {
                self.prints.insert(block, prints);
            }
        }
        Ok(())
    }

    /// Takes the fingerprints of all blocks that can be referred to.
    fn look_at_sources(&mut self) -> Result<(), MakeError> {
        if self.prints.is_empty() {
            return Ok(());
        }
        for (number, source) in (0..).zip(self.sources) {
            let blocks = (0..).zip(&source.index.blocks).filter(|(_, block)| is_content(block));
            self.places.extend(blocks.map(|(block, _)| (number, block)));
        }
        let sparse = self.sparse();
        let places = &self.places;
        let sources = self.sources;
        let looked = in_parallel(
            self.options.threads,
            places,
            || (),
            |(), (source, block)| {
                let source = &sources[usize::from(*source)];
                let plain = source.plain(&source.index.blocks[count(*block)])?;
                Ok(plain.map_or_else(Vec::new, |plain| fingerprints(&plain, sparse)))
            },
        )?;
        let itself = u8::try_from(self.sources.len()).expect("a few sources");
        let mut pieces = Vec::new();
        for (number, prints) in (0..).zip(looked) {
            pieces.extend(prints.into_iter().map(|print| (print, number)));
        }
        for (block, prints) in &self.prints {
            let number = short(self.places.len());
            if is_content(&self.target.index.blocks[*block]) {
                self.places.push((itself, short(*block)));
                pieces.extend(prints.iter().map(|print| (*print, number)));
            }
        }
        self.known = Known::new(pieces);
        Ok(())
    }

    /// Makes all segments and writes them.
    pub(super) fn write(
        &self,
        out: &Path,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(RecipeFile, Summary), MakeError> {
        let total = self.target.index.size;
        let mut writer = RecipeWriter::create(out)?;
        let mut summary = self.summary();
        let mut done = 0;
        let numbers: Vec<usize> = (0..self.cuts.len()).collect();
        for some in numbers.chunks(self.options.threads.max(1)) {
            if !progress(done, total) {
                return Err(MakeError::Cancelled);
            }
            let made = in_parallel(some.len(), some, || (), |(), number| self.segment(*number))?;
            for (encoded, output, wire) in made {
                writer.add(&encoded, output)?;
                done += output;
                summary.wire.copied += wire.copied;
                summary.wire.rebuilt += wire.rebuilt;
                summary.wire.literal += wire.literal;
                summary.wire.metadata += wire.metadata;
            }
        }
        let recipe = writer.finish(|segments| self.head(segments))?;
        let head = wide(recipe.head().encode().len());
        summary.wire.copied += head;
        summary.wire_bytes = head + recipe.head().encoded();
        progress(total, total);
        Ok((recipe, summary))
    }

    fn head(&self, segments: Vec<SegmentHead>) -> Head {
        let superblock = &self.target.index.superblock;
        let kind = Kind::Delta {
            sources: self.bases.clone(),
            codecs: codecs(),
            compressor: superblock.compressor,
            options: self.target.options.clone(),
            block_size: superblock.block_size,
        };
        Head { target: self.target.sum(), size: self.target.index.size, kind, segments }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (block, fate) in self.target.index.blocks.iter().zip(&self.fates) {
            let length = u64::from(block.length);
            match fate {
                Fate::Copy { .. } => summary.copied += length,
                Fate::Literal => summary.literal += length,
                Fate::Rebuild { .. } => {
                    summary.rebuilt += length;
                    summary.rebuilt_blocks += 1;
                }
                Fate::Tables => summary.metadata += length,
            }
        }
        summary
    }

    fn segment(&self, number: usize) -> Result<Made, MakeError> {
        let cut = &self.cuts[number];
        if cut.tables {
            return self.tables();
        }
        let draft = Draft::new(self.target, &self.fates, cut)?;
        let references = self.references(number, cut);
        let prefix = self.prefix(&references)?;
        draft.finish(references, &prefix, self.options.level)
    }

    /// The tables, against those of all sources.
    fn tables(&self) -> Result<Made, MakeError> {
        let superblock = &self.target.index.superblock;
        let stored = superblock.bytes_used - superblock.inode_table;
        let normal = self.normal.clone().unwrap_or_default();
        let mut prefix = Vec::new();
        let mut references = Vec::new();
        // The last source is the nearest to the window.
        for (source, number) in self.sources.iter().zip(0..).collect::<Vec<_>>().into_iter().rev() {
            if let Some(old) = tables::of(source)?
                && prefix.len() + old.len() <= limits::PREFIX
            {
                references.push(Reference::Tables { source: number });
                prefix.extend(old);
            }
        }
        Draft::tables(normal, stored).finish(references, &prefix, self.options.level)
    }

    /// The blocks that a segment's window is coded against.
    fn references(&self, segment: usize, cut: &Cut) -> Vec<Reference> {
        let itself = u8::try_from(self.sources.len()).expect("a few sources");
        let usable = |number: u32| {
            let (image, block) = self.places[count(number)];
            image != itself || count(self.segment_of[count(block)]) < segment
        };
        let mut gains: BTreeMap<u32, usize> = BTreeMap::new();
        for (_, prints) in self.prints.range(cut.blocks.clone()) {
            for (number, gain) in self.known.like(prints, usable) {
                *gains.entry(number).or_default() += gain;
            }
        }
        let mut best: Vec<(usize, u32)> =
            gains.into_iter().map(|(number, gain)| (gain, number)).collect();
        best.sort_unstable_by(|one, other| other.cmp(one));
        let mut room = limits::PREFIX;
        let mut chosen = BTreeSet::new();
        for (_, number) in best {
            let plain = self.block_size();
            if plain > room || chosen.len() == limits::PARTS {
                break;
            }
            room -= plain;
            chosen.insert(number);
        }
        chosen.into_iter().map(|number| self.reference(number)).collect()
    }

    fn block_size(&self) -> usize {
        let images = self.sources.iter().chain([self.target]);
        count(images.map(|image| image.index.superblock.block_size).max().unwrap_or(0))
    }

    fn place(&self, number: u32) -> (u8, &Image, &IndexBlock) {
        let (source, block) = self.places[count(number)];
        let image = self.sources.get(usize::from(source)).unwrap_or(self.target);
        (source, image, &image.index.blocks[count(block)])
    }

    fn reference(&self, number: u32) -> Reference {
        let (source, _, block) = self.place(number);
        let IndexBlock { offset, length: stored, compressed, .. } = *block;
        Reference::Block { source, offset, stored, compressed }
    }

    /// The plain bytes of references.
    fn prefix(&self, references: &[Reference]) -> Result<Vec<u8>, MakeError> {
        let mut prefix = Vec::new();
        for reference in references {
            if let Reference::Block { source, offset, stored, compressed } = *reference {
                let image = self.sources.get(usize::from(source)).unwrap_or(self.target);
                let block = IndexBlock {
                    offset,
                    length: stored,
                    kind: BlockKind::Data,
                    compressed,
                    hash: [0; 32],
                };
                let plain = image.plain(&block)?;
                prefix
                    .extend(plain.ok_or_else(|| MakeError::Changed { path: image.path.clone() })?);
            }
        }
        Ok(prefix)
    }
}

/// Whether a block can be referred to.
fn is_content(block: &IndexBlock) -> bool {
    matches!(block.kind, BlockKind::Data | BlockKind::Fragment)
}

/// Does the same to all things with several threads; the results are in the order of the things.
fn in_parallel<T: Sync, S, R: Send>(
    threads: usize,
    things: &[T],
    state: impl Fn() -> S + Sync,
    act: impl Fn(&mut S, &T) -> Result<R, MakeError> + Sync,
) -> Result<Vec<R>, MakeError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut state = state();
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(number) else { return Ok::<_, MakeError>(done) };
            done.push((number, act(&mut state, thing)?));
        }
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, 64)).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok::<_, MakeError>(all)
    })?;
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
