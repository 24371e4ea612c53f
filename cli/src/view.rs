//! What commands show, as plain data: each type is the documented shape of a JSON document, and
//! knows its table.
//!
//! Messages are taken apart here, so that a new field breaks the build until it is thought of.
//! Deliberately absent: the network, the terminal, and the time, which is handed in.

pub(crate) mod audit;
pub(crate) mod cost;
pub(crate) mod difference;
pub(crate) mod event;
pub(crate) mod fleet;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod image_prune;
pub(crate) mod infra;
pub(crate) mod instance;
pub(crate) mod lint;
pub(crate) mod lock;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod rollout;
pub(crate) mod secret;
pub(crate) mod staged;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
