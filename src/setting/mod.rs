//! Owns what all settings have in common: their names and defaults, the text forms that several of them share, and where a value came
//! from. Must not know any one setting's type, nor who acts on it: the rooms read it, and it reads none of them.

pub mod source;
pub mod table;
pub mod value;

pub use source::{Source, Sources};
