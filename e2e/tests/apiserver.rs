//! The API server of the testbed is a real one: what the scenarios on it rest on.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use e2e::{
    kubernetes::{ApiServer, PORT},
    observe::eventually,
    scenario::SETTLE,
    topology::Lan,
};
use serde_json::json;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80}]}
";

/// An account that may read Services and nothing else.
const READER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: crier-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: crier-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [''], resources: [services], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: crier-system}]
";

#[test]
fn what_is_applied_is_read_back_and_its_status_can_be_written() -> Result<()> {
    let lan = Lan::new().nodes(1).api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.apply(SERVICE)?;
    let service = api.get("default", "service/web")?;
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]), "{service}");

    api.patch_status("default", "service/web", &json!({"loadBalancer": {"ingress": [{"ip": "10.77.0.100"}]}}))?;
    api.patch("default", "service/web", &json!({"metadata": {"labels": {"a": "b"}}}))?;
    let service = api.get("default", "service/web")?;
    assert_eq!(service["status"]["loadBalancer"]["ingress"][0]["ip"], "10.77.0.100");
    assert_eq!(service["metadata"]["labels"]["a"], "b");

    api.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}")?;
    let address = json!([{"type": "InternalIP", "address": "10.77.0.1"}]);
    api.patch_status("", "node/n1", &json!({"addresses": address}))?;
    assert_eq!(api.list("nodes")?[0]["status"]["addresses"], address);

    api.delete("default", "service/web")?;
    assert!(api.get("default", "service/web").is_err(), "it is gone");
    Ok(())
}

#[test]
fn a_pod_with_a_node_and_objects_of_new_kinds_come_and_go() -> Result<()> {
    let lan = Lan::new().api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  nodeName: n1
  containers: [{name: web, image: web}]
  readinessGates: [{conditionType: crier.io/healthy}]
",
    )?;
    api.patch_status("default", "pod/web", &json!({"conditions": [{"type": "crier.io/healthy", "status": "True"}]}))?;
    assert_eq!(api.get("default", "pod/web")?["status"]["conditions"][0]["type"], "crier.io/healthy");
    api.delete("default", "pod/web")?;

    api.define(
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.test.crier.io}
spec:
  group: test.crier.io
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
",
    )?;
    let thing =
        |size| format!("{{apiVersion: test.crier.io/v1, kind: Thing, metadata: {{name: a}}, spec: {{size: {size}}}}}");
    api.apply(&thing("3"))?;
    assert_eq!(api.list("things")?[0]["spec"]["size"], 3);
    let refusal = format!("{:#}", api.apply(&thing("large")).expect_err("the schema says integer"));
    assert!(refusal.contains("spec.size"), "{refusal}");
    Ok(())
}

#[test]
fn objects_survive_its_end_and_go_when_it_is_wiped() -> Result<()> {
    let lan = Lan::new().api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.apply(SERVICE)?;
    let first = api.get("default", "service/web")?;

    api.kill()?;
    assert!(api.get("default", "service/web").is_err(), "nobody answers");
    assert!(api.kill().is_err(), "it does not run");
    api.start()?;
    assert_eq!(api.get("default", "service/web")?, first, "after a kill");

    api.stop()?;
    api.start()?;
    assert_eq!(api.get("default", "service/web")?, first, "after an orderly end");

    api.stop()?;
    api.wipe()?;
    assert!(api.get("default", "service/web").is_err(), "after it was wiped");
    assert!(api.get("default", "service/kubernetes").is_ok(), "and it is at work");
    Ok(())
}

#[test]
fn an_account_on_a_node_may_what_its_role_says_until_the_server_is_cut_off() -> Result<()> {
    let lan = Lan::new().nodes(1).api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.apply(SERVICE)?;
    api.apply(READER)?;
    let kubeconfig = api.kubeconfig_for(&api.token("crier-system", "reader")?)?;
    let node = lan.host("n1")?;
    let reader = |arguments: &[&str]| {
        let arguments = [&["--request-timeout=2s"], arguments].concat();
        api.kubectl_from(node, &kubeconfig, &arguments)
    };

    let seen = eventually(SETTLE, "the role is in force", || reader(&["get", "services", "-A", "-o", "name"]))?;
    assert!(seen.contains("service/web"), "{seen}");
    for forbidden in [
        &["delete", "service", "web"][..],
        &["patch", "service", "web", "--subresource=status", "-p", "{}"],
        &["get", "secrets", "-A"],
    ] {
        let refusal = format!("{:#}", reader(forbidden).expect_err("it may only read Services"));
        assert!(refusal.contains("Forbidden"), "{forbidden:?}: {refusal}");
    }

    lan.cut("api")?;
    assert!(reader(&["get", "services"]).is_err(), "nothing passes");
    assert!(api.get("default", "service/web").is_ok(), "the test still reaches it");
    lan.heal("api")?;
    eventually(SETTLE, "the node reaches it again", || reader(&["get", "services"]))?;

    api.freeze()?;
    let address = SocketAddr::from((lan.host("api")?.v4, PORT));
    node.ns.run(|| Ok(TcpStream::connect(address)?)).context("a server that hangs takes connections")?;
    assert!(reader(&["get", "services"]).is_err(), "and answers nothing");
    api.thaw()?;
    eventually(SETTLE, "it goes on", || reader(&["get", "services"]))?;

    api.wipe()?;
    assert!(reader(&["get", "services"]).is_err(), "the account is gone, and its token with it");
    Ok(())
}

#[test]
fn it_is_said_what_is_missing() -> Result<()> {
    let lan = Lan::new().nodes(1).build()?;
    let error = format!("{:#}", ApiServer::on(&lan).expect_err("it has no host"));
    ensure!(error.contains(".api_server()"), "{error}");
    Ok(())
}
