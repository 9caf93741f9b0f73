//! Each right that the manifest gives the agents is needed: without it something breaks, and it is said which right is missing.

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    manifests::{service, web},
    objects::{gated_pod, load_balancer, own, pool},
    observe::eventually,
    scenario::{Cluster, NAMESPACE, SETTLE, WEB, manifest},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// What is to be seen once a right was used.
type Effect = Box<dyn Fn(&Cluster) -> Result<()>>;

/// One verb on one kind.
#[derive(Debug, Clone, PartialEq)]
struct Right {
    group: String,
    resource: String,
    /// The only objects it is for; empty: all.
    names: Vec<String>,
    verb: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// A role of the manifest, with all that it allows.
fn role(kind: &str) -> Result<(Value, Vec<Right>)> {
    let text = manifest()?;
    for document in serde_norway::Deserializer::from_str(&text) {
        let object = Value::deserialize(document)?;
        if object["kind"] == kind {
            let rules: Vec<Rule> = serde_json::from_value(object["rules"].clone())?;
            return Ok((object, rules.iter().flat_map(Rule::rights).collect()));
        }
    }
    bail!("the manifest has no {kind}")
}

impl Rule {
    fn rights(&self) -> Vec<Right> {
        let mut rights = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let (group, resource, verb) = (group.clone(), resource.clone(), verb.clone());
                    rights.push(Right { group, resource, names: self.resource_names.clone(), verb });
                }
            }
        }
        rights
    }
}

impl Right {
    /// What the API server says to who has it not.
    fn refusal(&self) -> String {
        format!("cannot {} resource \"{}\" in API group \"{}\"", self.verb, self.resource, self.group)
    }

    fn is_held(&self, cluster: &Cluster) -> bool {
        let (kind, part) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let kind = if self.group.is_empty() { kind.to_owned() } else { format!("{kind}.{}", self.group) };
        let object = self.names.first().map_or(kind.clone(), |name| format!("{kind}/{name}"));
        let user = format!("--as=system:serviceaccount:{NAMESPACE}:crier");
        let part = format!("--subresource={part}");
        cluster.api().kubectl(&["auth", "can-i", &self.verb, &object, &user, &part, "-n", NAMESPACE]).is_ok()
    }
}

/// Gives the role these rights, and waits until that is in force for `changed`.
fn allow(cluster: &Cluster, role: &Value, rights: &[&Right], changed: &Right, held: bool) -> Result<()> {
    let rule = |right: &&Right| {
        let mut rule = json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]});
        if !right.names.is_empty() {
            rule["resourceNames"] = json!(right.names);
        }
        rule
    };
    let mut role = role.clone();
    role["rules"] = rights.iter().map(rule).collect();
    cluster.api().apply(&role.to_string())?;
    eventually(SETTLE, &format!("{changed:?}: {held}"), || {
        ensure!(changed.is_held(cluster) == held);
        Ok(())
    })
}

/// A cluster with what agents write about, and what is new in it for each right.
struct Bed {
    cluster: Cluster,
    count: u32,
}

impl Bed {
    fn next(&mut self) -> String {
        self.count += 1;
        format!("one-{}", self.count)
    }

    /// Waits until the agent's log, from a place on, says that it lacks the right.
    fn logs(&self, from: usize, right: &Right) -> Result<()> {
        eventually(SETTLE, &format!("the log says {:?}", right.refusal()), || {
            let log = self.cluster.agents[0].log();
            let new = log.get(from..).unwrap_or_default();
            // Quotation marks are escaped there.
            ensure!(new.replace('\\', "").contains(&right.refusal()), "it says\n{new}");
            Ok(())
        })
    }

    fn restart(&self) -> Result<()> {
        self.cluster.agents[0].kill()?;
        self.cluster.agents[0].start()
    }

    /// Does what needs the right. What it does without, and then does when it has the right again, is the returned check.
    fn attempt(&mut self, right: &Right) -> Result<Effect> {
        let name = self.next();
        let kind = right.resource.strip_suffix("/status").unwrap_or(&right.resource).to_owned();
        let of_kind = format!("{kind}/{name}");
        match (right.resource.as_str(), right.verb.as_str()) {
            (_, "list" | "watch") | ("namespaces", "get") => {
                self.restart()?;
                let (plural, refusal) = (kind, right.refusal());
                self.unwatched(&plural, &refusal)?;
                Ok(Box::new(|cluster| {
                    ensure!(cluster.agents[0].status()?.source.connected);
                    Ok(())
                }))
            }
            ("services/status", "patch") => {
                self.cluster.api().apply(&load_balancer(&name, json!({})))?;
                Ok(Box::new(move |cluster| {
                    ensure!(!cluster.recorded(&name)?.is_empty(), "it has no address");
                    Ok(())
                }))
            }
            ("vips", "create" | "patch") => {
                self.cluster.api().apply(&load_balancer(&name, json!({})))?;
                Ok(Box::new(move |cluster| cluster.vip_object(&name).map(drop)))
            }
            ("vips", "delete") => {
                self.cluster.expose(service(&name).tcp(WEB))?;
                eventually(SETTLE, "its object", || self.cluster.vip_object(&name))?;
                self.cluster.api().delete("default", &format!("service/{name}"))?;
                Ok(Box::new(move |cluster| {
                    ensure!(cluster.vip_object(&name).is_err(), "it is still there");
                    Ok(())
                }))
            }
            ("events", "create") => {
                self.cluster.api().apply(&load_balancer(&name, json!({"spec": {"loadBalancerIP": "10.99.0.1"}})))?;
                Ok(Box::new(move |cluster| {
                    ensure!(!cluster.events(&name)?.is_empty(), "nothing is told");
                    Ok(())
                }))
            }
            ("ipaddresspools/status" | "l2advertisements/status" | "healthchecks/status", "patch") => {
                self.cluster.api().apply(&match kind.as_str() {
                    "ipaddresspools" => pool(&name, &["10.88.0.0/30"], json!({"autoAssign": false})),
                    "l2advertisements" => own("L2Advertisement", &name, json!({"ipAddressPools": ["none"]})),
                    _ => own("HealthCheck", &name, json!({"services": ["none"]})),
                })?;
                Ok(Box::new(move |cluster| {
                    let status = cluster.api().get("default", &of_kind)?["status"].take();
                    ensure!(status["conditions"][0]["type"] == "Valid", "{status}");
                    Ok(())
                }))
            }
            ("pods/status", "patch") => {
                let pod = self.cluster.pods[0].name.clone();
                self.cluster.api().apply(&gated_pod(&pod, "n1"))?;
                let gate = json!({"metadata": {"annotations": {"crier.io/readiness-gate": "true"}}});
                self.cluster.api().patch("default", "service/web", &gate)?;
                Ok(Box::new(move |cluster| {
                    let pod = cluster.api().get("default", &format!("pod/{pod}"))?;
                    ensure!(pod["status"]["conditions"].to_string().contains("crier.io/healthy"), "{}", pod["status"]);
                    Ok(())
                }))
            }
            ("secrets", "get") => {
                self.restart()?;
                Ok(Box::new(|_| Ok(())))
            }
            ("secrets", "create") => {
                self.cluster.agents[0].kill()?;
                self.cluster.api().delete(NAMESPACE, "secret/crier-gossip")?;
                std::fs::remove_file(self.cluster.run_dir().join("n1/state/gossip.key"))?;
                self.cluster.agents[0].start()?;
                Ok(Box::new(|cluster| {
                    cluster.api().get(NAMESPACE, "secret/crier-gossip")?;
                    cluster.agents[0].status().map(drop)
                }))
            }
            _ => bail!("no test knows what {right:?} is for; take it out of the role, or say it here"),
        }
    }

    /// Waits until the agent says that a kind cannot be watched.
    fn unwatched(&self, plural: &str, refusal: &str) -> Result<()> {
        eventually(SETTLE, &format!("the status says {refusal:?}"), || {
            let source = self.cluster.agents[0].status()?.source;
            // Of which cluster it is, every watch asks.
            let says = |message: &str| message.contains(refusal) && message.contains("apply the ClusterRole");
            let told = source.problems.iter().any(|problem| says(&problem.message));
            ensure!(!source.connected && told, "{plural}: {source:?}");
            Ok(())
        })
    }
}

#[test]
fn without_any_one_of_its_rights_an_agent_fails_at_something_and_says_so_until_it_has_it_again() -> Result<()> {
    let mut cluster = Cluster::of("kube-rights", 1).pods(1).kubernetes().start()?;
    cluster.expose(web().tcp(WEB))?;
    let mut bed = Bed { cluster, count: 0 };
    for kind in ["ClusterRole", "Role"] {
        let (object, rights) = role(kind)?;
        ensure!(!rights.is_empty());
        for right in &rights {
            println!("without {} {} {}", right.verb, right.resource, right.group);
            let from = bed.cluster.agents[0].log().len();
            let others: Vec<&Right> = rights.iter().filter(|other| *other != right).collect();
            allow(&bed.cluster, &object, &others, right, false)?;
            let works = bed.attempt(right).with_context(|| format!("without {right:?}"))?;
            bed.logs(from, right)?;
            let is_silent = right.resource == "secrets" && right.verb == "get";
            ensure!(is_silent || works(&bed.cluster).is_err(), "all goes well without {right:?}");
            allow(&bed.cluster, &object, &rights.iter().collect::<Vec<_>>(), right, true)?;
            eventually(SETTLE, &format!("it goes well with {right:?}"), || works(&bed.cluster))?;
        }
    }
    bed.cluster.end_quietly();
    Ok(())
}
