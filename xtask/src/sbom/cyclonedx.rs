//! Owns the format of FILE.cdx.json: CycloneDX 1.5, <https://cyclonedx.org/docs/1.5/json/>. Must not know where packages come from.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::sbom::graph::{Graph, Package};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: Metadata<'a>,
    components: Vec<Component<'a>>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    component: Component<'a>,
}

#[derive(Serialize)]
struct Component<'a> {
    r#type: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: &'a str,
    version: &'a str,
    purl: String,
    licenses: [Licence<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    hashes: Option<[Hash<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
}

#[derive(Serialize)]
struct Licence<'a> {
    expression: &'a str,
}

#[derive(Serialize)]
struct Hash<'a> {
    alg: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    r#ref: String,
    depends_on: BTreeSet<String>,
}

pub fn document(graph: &Graph) -> Result<Vec<u8>> {
    let dependencies = graph.packages.iter().map(|package| Dependency {
        r#ref: reference(package),
        depends_on: package.dependencies.iter().map(|at| reference(&graph.packages[*at])).collect(),
    });
    let document = Document {
        bom_format: "CycloneDX",
        spec_version: "1.5",
        version: 1,
        metadata: Metadata { component: component(graph.root(), "application", None) },
        components: graph.others().map(|package| component(package, "library", Some(scope(package)))).collect(),
        dependencies: dependencies.collect(),
    };
    let mut written = Vec::new();
    document.serialize(&mut Serializer::with_formatter(&mut written, PrettyFormatter::with_indent(b" ")))?;
    written.push(b'\n');
    Ok(written)
}

fn component<'a>(package: &'a Package, kind: &'static str, scope: Option<&'static str>) -> Component<'a> {
    let hash = |content| [Hash { alg: "SHA-256", content }];
    Component {
        r#type: kind,
        reference: reference(package),
        name: &package.name,
        version: &package.version,
        purl: reference(package),
        licenses: [Licence { expression: &package.license }],
        hashes: package.checksum.as_deref().map(hash),
        scope,
    }
}

fn scope(package: &Package) -> &'static str {
    if package.linked { "required" } else { "excluded" }
}

/// A package URL, which also identifies the package in the document.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::graph::tests::graph;

    #[test]
    fn every_component_has_licence_scope_and_the_checksum_of_what_was_published() {
        let written: serde_json::Value = serde_json::from_slice(&document(&graph()).unwrap()).unwrap();
        assert_eq!(written["metadata"]["component"]["purl"], "pkg:cargo/reberth@0.2.0");
        let components = written["components"].as_array().unwrap();
        assert_eq!(components.len(), 5, "all but the program itself");
        let library = components.iter().find(|component| component["name"] == "library").unwrap();
        let want = serde_json::json!({
            "type": "library", "bom-ref": "pkg:cargo/library@1.0.0", "name": "library", "version": "1.0.0",
            "purl": "pkg:cargo/library@1.0.0", "licenses": [{"expression": "MIT OR Apache-2.0"}],
            "hashes": [{"alg": "SHA-256", "content": "12ab"}], "scope": "required",
        });
        assert_eq!(*library, want);
        assert!(components.iter().any(|component| component["name"] == "quote" && component["scope"] == "excluded"));
        let needs = serde_json::json!({"ref": "pkg:cargo/library@1.0.0", "dependsOn": ["pkg:cargo/shared@2.0.0"]});
        assert!(written["dependencies"].as_array().unwrap().contains(&needs));
    }
}
