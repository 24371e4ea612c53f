//! Reads the versions of the compression libraries out of their headers: the libraries can only be
//! asked by unsafe calls.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let zlib = text_of(&include("DEP_Z_INCLUDE").join("zlib.h"));
    println!("cargo:rustc-env=SHOAL_ZLIB={}", defined(&zlib, "ZLIB_VERSION").trim_matches('"'));
    let xz = text_of(&include("DEP_LZMA_INCLUDE").join("lzma/version.h"));
    let numbers = ["LZMA_VERSION_MAJOR", "LZMA_VERSION_MINOR", "LZMA_VERSION_PATCH"];
    println!("cargo:rustc-env=SHOAL_XZ={}", numbers.map(|name| defined(&xz, name)).join("."));
}

/// What the build script of a library says of where its headers are.
fn include(variable: &str) -> PathBuf {
    env::var_os(variable).map(PathBuf::from).expect("both libraries are built from their sources")
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a name is defined as in a header of C.
fn defined<'a>(header: &'a str, name: &str) -> &'a str {
    let mut lines = header.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = lines.find(|words| words.len() == 3 && words[..2] == ["#define", name]);
    words.unwrap_or_else(|| panic!("the header does not define {name}"))[2]
}
