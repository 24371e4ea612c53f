//! A controller in this process, on loopback, with real mutual TLS: enrolment, access, agents'
//! streams and sessions, and what is left of it all after a restart.

#![allow(clippy::unwrap_used)] // in a test's helpers a panic is the failure that it should be

mod access;
mod agent;
mod agents;
mod enrolment;
mod events;
mod golden;
mod link;
mod order;
mod removal;
mod restart;
mod secrets;
mod sessions;
mod stand;
