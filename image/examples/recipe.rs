//! Makes a recipe of two images, and says what it costs.
//!
//! `cargo run --release -p shoal-image --example recipe -- NEW OUT OLD...`

use std::path::Path;
use std::time::Instant;

use shoal_image::{MakeOptions, make};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [new, out, old @ ..] = &arguments[..] else { return Err("NEW OUT OLD...".into()) };
    let old: Vec<&Path> = old.iter().map(Path::new).collect();
    let began = Instant::now();
    let options = MakeOptions::default();
    let (recipe, summary) = make(Path::new(new), &old, Path::new(out), &options, &mut |_, _| true)?;
    println!(
        "{} bytes in {:.1?}, {} segments",
        summary.wire_bytes,
        began.elapsed(),
        recipe.head().segments.len()
    );
    println!("{summary:?}");
    Ok(())
}
