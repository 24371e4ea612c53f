//! The wire: `shoal.v1` as generated, and the conversions between it and the core's types.
//!
//! The generated code is committed; `cargo xtask codegen` makes it anew. A message becomes a core
//! value in [`convert`] only, where each of its fields is taken apart by name, so that a new field
//! breaks the build until it is thought of.

pub mod convert;
mod secret;

#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::expect_used,
    clippy::as_conversions,
    missing_debug_implementations,
    unreachable_pub,
    rustdoc::all
)]
mod generated {
    pub mod v1 {
        include!("gen/shoal.v1.rs");
        pub mod store {
            include!("gen/shoal.v1.store.rs");
        }
    }
}

pub use generated::v1;

/// Descriptors of the public services, for gRPC reflection and for tests that walk every RPC.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptor.bin");

/// Bytes that one message may have, in either direction. A fleet may have 768 KiB, and a
/// host several fleets.
pub const LARGEST_MESSAGE: usize = 8 << 20;

/// Bytes of data in one message of a bulk stream; measured best for tonic on loopback.
pub const CHUNK: usize = 256 << 10;
