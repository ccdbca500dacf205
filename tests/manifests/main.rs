//! Owns the promise that the pages, images and manifests match the code. `UPDATE_DOCS=1 cargo test --test manifests` writes the generated
//! parts of the pages again; without it they are only compared.
//!
//! | module | what is compared with what |
//! | --- | --- |
//! | `generated` | the tables of settings, exit codes and phases on the pages, with the code |
//! | `typed` | flags, variables, values and command lines in pages, images and manifests, with what the program accepts |
//! | `links` | links and anchors with files and headings; the README's length; the changelog with the version |
//! | `kubernetes` | the manifests' times and permissions with each other |
//! | `promises` | the table in tests/README.md with the tests |
//! | `documents` | reads all of these for the others |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod documents;
mod generated;
mod kubernetes;
mod links;
mod promises;
mod typed;
