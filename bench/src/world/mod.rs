//! Owns the environment of the measured programs: holders of ports, clients, crowds, and what the kernel reports about them. Must not know
//! what is measured.

pub mod crowd;
pub mod holder;
pub mod poller;
pub mod proc;
pub mod sockets;
pub mod stderr;
pub mod visitors;
