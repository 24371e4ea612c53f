//! Makes a recipe for a new image out of old ones, says what it costs, and carries it out.
//!
//! `cargo run --release -p shoal-image --example recipe -- DIR NEW OLD...`: DIR gets the recipe, and
//! while it runs the images, linked or copied.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use shoal_image::recipe::RecipeFile;
use shoal_image::{Assembler, MakeOptions, make};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, new, old @ ..] = &arguments[..] else { return Err("DIR NEW OLD...".into()) };
    let dir = Path::new(dir);
    fs::create_dir_all(dir)?;
    let sources: Vec<&Path> = old.iter().map(Path::new).collect();
    let options = MakeOptions::default();
    let began = Instant::now();
    let out = dir.join("recipe");
    let (recipe, summary) = make(Path::new(new), &sources, &out, &options, &mut |_, _| true)?;
    println!("made in {:.1?}: {summary:#?}", began.elapsed());
    let began = Instant::now();
    carry_out(&recipe, &sources, dir)?;
    println!("carried out in {:.1?}", began.elapsed());
    Ok(())
}

fn carry_out(recipe: &RecipeFile, sources: &[&Path], dir: &Path) -> Result<(), Box<dyn Error>> {
    let images = tempfile::tempdir_in(dir)?;
    for (base, source) in recipe.head().sources().iter().zip(sources) {
        let place = images.path().join(format!("{}.squashfs", base.sum));
        fs::hard_link(source, &place).or_else(|_| fs::copy(source, &place).map(drop))?;
    }
    let mut assembler = Assembler::open(recipe.head().clone(), images.path(), images.path(), 0)?;
    while let Some(segment) = assembler.next() {
        assembler.apply(segment, &recipe.read(segment)?)?;
    }
    assembler.finish()?;
    Ok(())
}
