//! Owns the promise that the pages, images and manifests match the code. `UPDATE_DOCS=1 cargo test --test manifests` writes the generated
//! parts of the pages anew; without it they are only compared.
//!
//! | room | what is held against what |
//! | --- | --- |
//! | `generated` | the tables of settings, exit codes and phases on the pages, against the code |
//! | `typed` | flags, variables, values and command lines in pages, images and manifests, against what the program takes |
//! | `links` | links and anchors against files and headings; the README's length; the changelog against the version |
//! | `kubernetes` | the manifests' times and permissions against each other |
//! | `promises` | the table in tests/README.md against the tests |
//! | `documents` | reads all of these for the others |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod documents;
mod generated;
mod kubernetes;
mod links;
mod promises;
mod typed;
