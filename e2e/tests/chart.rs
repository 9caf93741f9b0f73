//! The Helm chart gives by default what `deploy/crier.yaml` has; and what dashboards and alerts ask for exists.
//!
//! Helm itself is asked where it is installed (or `HELM` names it). Everywhere, a renderer of the few constructs that the chart's
//! templates keep to gives the same answer.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_norway::Value;

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Value>;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(deploy(file)).with_context(|| format!("deploy/{file}"))
}

/// The objects of a text, without what the two may differ in: annotations, and how a ConfigMap's YAML is written.
fn objects(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let mut object = Value::deserialize(document)?;
        let Some(kind) = object.get("kind").and_then(Value::as_str).map(str::to_owned) else { continue };
        if let Some(metadata) = object["metadata"].as_mapping_mut() {
            metadata.remove("annotations");
        }
        if kind == "ConfigMap" {
            let config = object["data"]["crier.yaml"].as_str().context("no crier.yaml")?;
            object["data"]["crier.yaml"] = serde_norway::from_str(config)?;
        }
        if kind == "DaemonSet"
            && let Some(annotations) = object["spec"]["template"]["metadata"]["annotations"].as_mapping_mut()
        {
            annotations.remove("checksum/config");
        }
        let name = object["metadata"]["name"].as_str().context("no name")?.to_owned();
        objects.insert((kind, name), object);
    }
    Ok(objects)
}

fn assert_same(chart: &Objects, kinds: &[&str]) -> Result<()> {
    let manifest = objects(&read("crier.yaml")?)?;
    let of_kinds = manifest.iter().filter(|((kind, _), _)| kinds.contains(&kind.as_str()));
    let mut compared = 0;
    for (key, object) in of_kinds {
        let rendered = chart.get(key).with_context(|| format!("the chart has no {key:?}"))?;
        assert_eq!(rendered, object, "{key:?} of the chart and of deploy/crier.yaml");
        compared += 1;
    }
    assert_eq!(chart.len(), compared, "the chart has more: {:?}", chart.keys());
    Ok(())
}

/// The value at a path as `.Values.image.tag`, or of the context as `.`.
fn lookup<'a>(path: &str, values: &'a Value, context: &'a Value) -> Result<&'a Value> {
    if path == "." {
        return Ok(context);
    }
    let keys = path.strip_prefix(".Values.").with_context(|| format!("{path} is not rendered here"))?;
    keys.split('.').try_fold(values, |value, key| value.get(key)).with_context(|| format!("values.yaml has no {keys}"))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Sequence(list) => list.is_empty(),
        Value::Mapping(map) => map.is_empty(),
        Value::Number(_) | Value::Tagged(_) => false,
    }
}

/// Renders a template with the default values.
fn render(template: &str, values: &Value) -> Result<String> {
    let mut text = String::new();
    // Of each `with`: its value, and whether what stands in it is left out.
    let mut contexts: Vec<(&Value, bool)> = Vec::new();
    for line in template.lines() {
        let context = contexts.last().map_or(&Value::Null, |(value, _)| value);
        let skipped = contexts.iter().any(|(_, skipped)| *skipped);
        let trimmed = line.trim().trim_start_matches("{{-").trim_end_matches("}}").trim();
        if !line.trim().starts_with("{{-") {
            if !skipped {
                text += &inline(line, values, context)?;
            }
        } else if let Some(path) = trimmed.strip_prefix("with ") {
            let value = lookup(path, values, context)?;
            contexts.push((value, is_empty(value)));
        } else if trimmed == "end" {
            contexts.pop().context("an end too many")?;
        } else if let Some(call) = trimmed.strip_prefix("toYaml ") {
            let (path, width) =
                call.split_once(" | nindent ").with_context(|| format!("{line} is not rendered here"))?;
            let indent = " ".repeat(width.parse()?);
            let yaml = serde_norway::to_string(lookup(path, values, context)?)?;
            text.extend((!skipped).then(|| yaml.lines().map(|line| format!("{indent}{line}\n")).collect::<String>()));
        } else {
            bail!("{line} is not rendered here: keep to `with`, `toYaml` and plain values");
        }
    }
    Ok(text)
}

/// A line with its `{{ … }}` filled in.
fn inline(line: &str, values: &Value, context: &Value) -> Result<String> {
    let mut filled = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (call, after) = after.split_once(" }}").with_context(|| format!("{line} is cut"))?;
        filled += before;
        filled += &match call {
            ".Release.Namespace" => "crier-system".to_owned(),
            "toYaml .Values.config | sha256sum" => "x".to_owned(),
            call => {
                let (path, default) = call.split_once(" | default ").unwrap_or((call, ""));
                let value = lookup(path, values, context)?;
                let chart: Value = serde_norway::from_str(&read("helm/crier/Chart.yaml")?)?;
                let value =
                    if default == ".Chart.AppVersion" && is_empty(value) { &chart["appVersion"] } else { value };
                value.as_str().with_context(|| format!("{call} is no text"))?.to_owned()
            }
        };
        rest = after;
    }
    Ok(filled + rest + "\n")
}

#[test]
fn the_chart_gives_the_objects_of_the_manifest() -> Result<()> {
    let values: Value = serde_norway::from_str(&read("helm/crier/values.yaml")?)?;
    let mut text = String::new();
    for template in ["rbac", "configmap", "daemonset"] {
        text += "---\n";
        text += &render(&read(&format!("helm/crier/templates/{template}.yaml"))?, &values)?;
    }
    let kinds =
        ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "DaemonSet"];
    assert_same(&objects(&text)?, &kinds)
}

#[test]
fn helm_gives_the_objects_of_the_manifest_but_the_namespace() -> Result<()> {
    let helm = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let template = |set: &str| {
        let chart = deploy("helm/crier");
        let mut command = Command::new(&helm);
        command.args(["template", "crier", "--namespace", "crier-system", "--kube-version", "1.31.0", "--set", set]);
        command.arg(chart).output()
    };
    let Ok(output) = template("") else {
        println!("skipped: {helm} is not installed");
        return Ok(());
    };
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kinds = [
        "CustomResourceDefinition",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "DaemonSet",
    ];
    assert_same(&objects(&String::from_utf8(output.stdout)?)?, &kinds)?;

    let all = template("podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true")?;
    let all = String::from_utf8(all.stdout)?;
    for kind in ["PodMonitor", "PrometheusRule"] {
        ensure!(all.contains(&format!("kind: {kind}\n")), "{kind} is not rendered");
    }
    let mistaken = template("config=1")?;
    ensure!(!mistaken.status.success() && String::from_utf8_lossy(&mistaken.stderr).contains("config"));
    Ok(())
}

/// The names of metrics in a text, without what a histogram's series add to theirs.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    let words =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.starts_with("crier_"));
    words.map(|word| ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word))
}

#[test]
fn every_metric_of_the_dashboard_and_the_alerts_is_documented() -> Result<()> {
    let documented = fs::read_to_string(deploy("../docs/metrics.md"))?;
    for file in ["prometheus/alerts.yaml", "grafana/crier.json"] {
        let text = read(file)?;
        // It is what it should be: YAML reads both.
        let _: Value = serde_norway::from_str(&text).with_context(|| format!("deploy/{file}"))?;
        ensure!(metrics(&text).count() > 10, "deploy/{file} asks for nothing");
        for metric in metrics(&text) {
            ensure!(
                documented.contains(&format!("| `{metric}` |")),
                "deploy/{file}: {metric} is not in docs/metrics.md"
            );
        }
    }
    Ok(())
}
