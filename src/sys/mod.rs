//! Owns what the kernel is asked for directly: the only room with `unsafe`. Must not know policy.

pub mod netlink;
pub mod pidfd;
