//! The fleet file.
