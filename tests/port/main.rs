//! Owns the tests of ports against a real kernel, each in a separate network namespace. Must not know the app or HTTP.
//! Here a second thread is the other instance, and a child is the holder; the harness kills and reaps what it starts.
#![allow(clippy::disallowed_methods, unsafe_code)]
// A test that panics has failed, as intended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod blocking;
mod claims;
mod events;
mod held;
mod hold;
mod holders;
mod machine;
mod net;
