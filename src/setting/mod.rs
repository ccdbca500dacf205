//! Owns what all settings have in common: names and defaults, shared text forms, and the source of a value. Must not know any setting's
//! type, nor which room acts on it: other rooms use this one, and it uses none of them.

pub mod source;
pub mod table;
pub mod value;

pub use source::{Source, Sources};
