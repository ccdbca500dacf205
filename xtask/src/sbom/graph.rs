//! Owns which packages a binary consists of, which of them are only used to build it, and what each depends on. Must not know in which
//! format that is written.
//!
//! The graph comes from `cargo tree`, which resolves features for the program alone, as a build does. `cargo metadata` unites them over the
//! whole workspace and the tests: it includes packages that are in no binary. It is used only for the properties of a package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use serde::Deserialize;

use crate::binary::Binary;
use crate::command::read;
use crate::tree::Tree;

/// Name and version. They sort in the order that every document uses.
type Id = (String, String);

/// The dependencies of each package.
type Edges = BTreeMap<Id, BTreeSet<Id>>;

/// The packages of a binary, sorted by name and version.
pub struct Graph {
    pub packages: Vec<Package>,
    /// The index of the program itself.
    pub root: usize,
}

pub struct Package {
    pub name: String,
    pub version: String,
    /// Linked into the binary. The others are macros, build scripts, and their dependencies.
    pub linked: bool,
    /// The indices of its dependencies.
    pub dependencies: BTreeSet<usize>,
    /// An SPDX expression.
    pub license: String,
    /// From crates.io; otherwise part of this repository.
    pub published: bool,
    /// The checksum of the published package.
    pub checksum: Option<String>,
    /// The folder with its sources.
    pub folder: PathBuf,
}

impl Graph {
    pub fn of(tree: &Tree, binary: Binary) -> Result<Self> {
        let shown = |kinds: &str| {
            let mut cargo = tree.cargo("tree");
            cargo.args(["--package", "reberth", "--target", binary.arch.triple()]).args(binary.features());
            edges(&read(cargo.args(["--edges", kinds, "--prefix", "depth", "--format", " {p}"]))?)
        };
        let (all, linked) = (shown("normal,build")?, shown("normal,no-proc-macro")?);
        let metadata: Metadata = serde_json::from_str(&read(tree.cargo("metadata").args(["--format-version", "1"]))?)?;
        let lock: Lock = toml::from_str(&fs::read_to_string(tree.root.join("Cargo.lock"))?)?;
        assemble(&all, &linked, metadata, lock)
    }

    pub fn root(&self) -> &Package {
        &self.packages[self.root]
    }

    /// All packages except the program itself.
    pub fn others(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().enumerate().filter(|(position, _)| *position != self.root).map(|(_, package)| package)
    }
}

/// What `cargo metadata` reports about every package that could be needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// Cargo.lock.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Parses the output of `cargo tree --prefix depth --format ' {p}'`: a depth, a name and a version on each line, below the package that
/// needs it. A package whose dependencies have already been printed is repeated without them.
fn edges(printed: &str) -> Result<Edges> {
    let mut edges = Edges::new();
    let mut above: Vec<Id> = Vec::new();
    for line in printed.lines() {
        let mut words = line.split(' ');
        let mut next = || words.next().with_context(|| format!("cargo tree printed '{line}': depth, name, version"));
        let (depth, name, version): (usize, _, _) = (next()?.parse()?, next()?, next()?.trim_start_matches('v'));
        let id = (name.to_owned(), version.to_owned());
        above.truncate(depth);
        if let Some(parent) = above.last() {
            edges.entry(parent.clone()).or_default().insert(id.clone());
        }
        edges.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(edges)
}

fn assemble(all: &Edges, linked: &Edges, metadata: Metadata, lock: Lock) -> Result<Graph> {
    let positions: BTreeMap<&Id, usize> = all.keys().enumerate().map(|(position, id)| (id, position)).collect();
    let mut described: BTreeMap<Id, Described> =
        metadata.packages.into_iter().map(|one| ((one.name.clone(), one.version.clone()), one)).collect();
    let mut checksums: BTreeMap<Id, Option<String>> =
        lock.package.into_iter().map(|one| ((one.name, one.version), one.checksum)).collect();
    let mut packages = Vec::new();
    for (id, dependencies) in all {
        let (name, version) = id.clone();
        let described = described.remove(id).with_context(|| format!("cargo metadata has no {name} {version}"))?;
        let Some(license) = described.license else {
            bail!("{name} {version} names no licence: depend on nothing that cannot be passed on");
        };
        packages.push(Package {
            linked: linked.contains_key(id),
            dependencies: dependencies.iter().map(|id| positions[id]).collect(),
            // Older packages use a slash for it.
            license: license.replace('/', " OR "),
            published: described.source.is_some(),
            checksum: checksums.remove(id).flatten(),
            folder: described.manifest_path.parent().context("a manifest lies in a folder")?.to_owned(),
            name,
            version,
        });
    }
    let root =
        packages.iter().position(|package| package.name == "reberth").context("the program is not in its graph")?;
    Ok(Graph { packages, root })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A program with a library, a macro and a build script. `shared` is needed by the library and by the build.
    const ALL: &str = "\
0 reberth v0.2.0 (/somewhere)
1 library v1.0.0
2 shared v2.0.0
1 macros v1.1.0 (proc-macro)
2 quote v3.0.0
3 shared v2.0.0 (*)
1 library v1.0.0 (*)
1 builds v0.1.0
2 shared v2.0.0
";
    const LINKED: &str = "0 reberth v0.2.0 (/somewhere)\n1 library v1.0.0\n2 shared v2.0.0\n";

    pub fn graph() -> Graph {
        let (all, linked) = (edges(ALL).unwrap(), edges(LINKED).unwrap());
        let packages = all.keys().map(|(name, version)| Described {
            name: name.clone(),
            version: version.clone(),
            license: Some("MIT/Apache-2.0".to_owned()),
            source: (name != "reberth").then(|| "registry+https://github.com/rust-lang/crates.io-index".to_owned()),
            manifest_path: format!("/registry/{name}/Cargo.toml").into(),
        });
        let metadata = Metadata { packages: packages.collect() };
        let checksum =
            Locked { name: "library".to_owned(), version: "1.0.0".to_owned(), checksum: Some("12ab".to_owned()) };
        assemble(&all, &linked, metadata, Lock { package: vec![checksum] }).unwrap()
    }

    #[test]
    fn what_is_needed_once_at_run_time_is_linked_and_the_rest_only_builds() {
        let graph = graph();
        let told: Vec<_> = graph.packages.iter().map(|one| (one.name.as_str(), one.linked)).collect();
        let want = [
            ("builds", false),
            ("library", true),
            ("macros", false),
            ("quote", false),
            ("reberth", true),
            ("shared", true),
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn a_package_shown_a_second_time_keeps_its_dependencies() {
        let graph = graph();
        let names =
            |package: &Package| package.dependencies.iter().map(|at| graph.packages[*at].name.as_str()).collect();
        let told: Vec<Vec<_>> = graph.packages.iter().map(names).collect();
        assert_eq!(
            told,
            [
                vec!["shared"],
                vec!["shared"],
                vec!["quote"],
                vec!["shared"],
                vec!["builds", "library", "macros"],
                vec![]
            ]
        );
    }

    #[test]
    fn a_package_without_a_licence_is_refused() {
        let described = Described {
            name: "reberth".to_owned(),
            version: "0.2.0".to_owned(),
            license: None,
            source: None,
            manifest_path: "/Cargo.toml".into(),
        };
        let all = edges("0 reberth v0.2.0 (/)\n").unwrap();
        let found = assemble(&all, &all, Metadata { packages: vec![described] }, Lock { package: Vec::new() });
        assert!(found.err().unwrap().to_string().starts_with("reberth 0.2.0 names no licence"));
    }
}
