//! Owns what stands around the measured programs: holders of ports, clients, crowds, and what the kernel tells of them.
//! Must not know what is measured.

pub mod crowd;
pub mod holder;
pub mod poller;
pub mod proc;
pub mod said;
pub mod sockets;
pub mod visitors;
