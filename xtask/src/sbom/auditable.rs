//! Owns the list inside a binary, in the format of cargo auditable: zlib over JSON, dependencies by index. Must not know how it gets there.

use std::io::Write;

use anyhow::Result;
use auditable_serde::{DependencyKind, Package, Source, VersionInfo};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::sbom::graph::Graph;

pub fn section(graph: &Graph) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&serde_json::to_vec(&list(graph)?)?)?;
    Ok(encoder.finish()?)
}

fn list(graph: &Graph) -> Result<VersionInfo> {
    let packages = graph.packages.iter().enumerate().map(|(position, package)| {
        Ok(Package {
            name: package.name.clone(),
            version: package.version.parse()?,
            source: if package.published { Source::CratesIo } else { Source::Local },
            kind: if package.linked { DependencyKind::Runtime } else { DependencyKind::Build },
            dependencies: package.dependencies.iter().copied().collect(),
            root: position == graph.root,
        })
    });
    Ok(VersionInfo { packages: packages.collect::<Result<_>>()?, format: 0 })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::str::FromStr;

    use super::*;
    use crate::sbom::graph::tests::graph;

    #[test]
    fn a_reader_of_the_format_finds_every_package_its_kind_and_its_dependencies() {
        let section = section(&graph()).unwrap();
        let mut json = String::new();
        flate2::read::ZlibDecoder::new(&section[..]).read_to_string(&mut json).unwrap();
        let want = concat!(
            r#"{"packages":[{"name":"builds","version":"0.1.0","source":"crates.io","kind":"build","dependencies":[5]},"#,
            r#"{"name":"library","version":"1.0.0","source":"crates.io","dependencies":[5]},"#,
            r#"{"name":"macros","version":"1.1.0","source":"crates.io","kind":"build","dependencies":[3]},"#,
            r#"{"name":"quote","version":"3.0.0","source":"crates.io","kind":"build","dependencies":[5]},"#,
            r#"{"name":"reberth","version":"0.2.0","source":"local","dependencies":[0,1,2],"root":true},"#,
            r#"{"name":"shared","version":"2.0.0","source":"crates.io"}]}"#,
        );
        assert_eq!(json, want);
        // The crate rejects a list with two roots or a cycle.
        assert_eq!(VersionInfo::from_str(&json).unwrap(), list(&graph()).unwrap());
    }
}
