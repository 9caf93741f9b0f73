//! Where MetalLB's objects come from: files, folders, standard input, or a cluster by way of `kubectl`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_norway::Value;

/// What is asked of a cluster: arguments of `kubectl get`. Kinds that it does not have are passed over.
const ASKED: [&[&str]; 11] = [
    &["ipaddresspools.metallb.io"],
    &["l2advertisements.metallb.io"],
    &["addresspools.metallb.io"],
    &["bgpadvertisements.metallb.io"],
    &["bgppeers.metallb.io"],
    &["bfdprofiles.metallb.io"],
    &["communities.metallb.io"],
    &["configmaps", "--field-selector=metadata.name=config"],
    &["configmaps", "--field-selector=metadata.name=metallb-memberlist-config"],
    &["configmaps", "--field-selector=metadata.name=kube-proxy"],
    &["services"],
];

/// The objects of all files and folders; `-` is standard input.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            objects.extend(documents("standard input", &text)?);
        } else if path.is_dir() {
            for file in manifests(path)? {
                objects.extend(from_file(&file)?);
            }
        } else {
            objects.extend(from_file(path)?);
        }
    }
    Ok(objects)
}

fn from_file(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    documents(&path.display().to_string(), &text)
}

/// The manifests directly in a folder, in order of their names.
fn manifests(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The objects in a text: JSON is YAML too. A `List` is its items.
pub(super) fn documents(name: &str, text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let tree = Value::deserialize(document).with_context(|| format!("{name} cannot be read"))?;
        match tree.get("items").and_then(Value::as_sequence) {
            Some(items) => objects.extend(items.iter().cloned()),
            None if tree.is_null() => {}
            None => objects.push(tree),
        }
    }
    Ok(objects)
}

/// The objects of the cluster that `kubectl` talks to.
pub(super) fn live() -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for asked in ASKED {
        let output = Command::new("kubectl").arg("get").args(asked).args(["-A", "-o", "json"]).output().context(
            "cannot run kubectl; where it runs: kubectl get ipaddresspools,l2advertisements -A -o yaml | crierctl migrate -f -",
        )?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            objects.extend(documents("kubectl's answer", &String::from_utf8_lossy(&output.stdout))?);
        } else if !said.contains("have a resource type") {
            bail!("kubectl get {}: {}", asked.join(" "), said.trim());
        }
    }
    Ok(objects)
}
