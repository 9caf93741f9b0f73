//! Writes one thing to the API server.

use std::{net::IpAddr, time::SystemTime};

use kube::core::{
    Request,
    params::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    event::Event,
    plan::{Change, Write},
};
use crate::{
    model::{
        ServiceName,
        objects::{API_VERSION, Kind, ObjectKey},
    },
    source::kubernetes::{Access, vip::VipStatus, watched::Watched},
};

/// Who writes, as the API server notes it.
const MANAGER: &str = "crier";
/// The condition of pods.
const POD_CONDITION: &str = "crier.io/healthy";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces";

/// Writes it, and then tells of it.
pub(super) async fn apply(access: &Access, write: &Write) -> Result<(), kube::Error> {
    match &write.change {
        Change::Ingress { service, version, addresses } => ingress(access, service, version, addresses).await?,
        Change::Vip { service, uid, status } => vip(access, service, uid, status).await?,
        Change::NoVip { service } => no_vip(access, service).await?,
        Change::Status { object, status } => own_status(access, object, status).await?,
        Change::Pod { namespace, pod, healthy, .. } => pod_condition(access, namespace, pod, *healthy).await?,
        Change::Tell { .. } => {}
    }
    for event in &write.events {
        tell(access, event).await?;
    }
    Ok(())
}

async fn send(
    access: &Access,
    request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<(), kube::Error> {
    let _: Value = access.client.request(request.map_err(kube::Error::BuildRequest)?).await?;
    Ok(())
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The status as a whole: what is not in the list any more is to go.
async fn ingress(
    access: &Access,
    service: &ServiceName,
    version: &str,
    addresses: &[IpAddr],
) -> Result<(), kube::Error> {
    let ingress: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    let patch = json!({
        "metadata": {"resourceVersion": version},
        "status": {"loadBalancer": {"ingress": if ingress.is_empty() { Value::Null } else { ingress.into() }}},
    });
    let request = Request::new(Watched::Model(Kind::Service).path(Some(&service.namespace)));
    send(access, request.patch_subresource("status", &service.name, &merge(), &Patch::Merge(&patch))).await
}

async fn vip(access: &Access, service: &ServiceName, uid: &str, status: &VipStatus) -> Result<(), kube::Error> {
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": service.name, "uid": uid});
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "VIP",
        "metadata": {"name": service.name, "namespace": service.namespace, "ownerReferences": [owner]},
        "status": status,
    });
    let request = Request::new(Watched::Vip.path(Some(&service.namespace)));
    send(access, request.patch(&service.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object))).await
}

async fn no_vip(access: &Access, service: &ServiceName) -> Result<(), kube::Error> {
    let request = Request::new(Watched::Vip.path(Some(&service.namespace)));
    send(access, request.delete(&service.name, &DeleteParams::default())).await
}

async fn own_status(access: &Access, object: &ObjectKey, status: &Value) -> Result<(), kube::Error> {
    let request = Request::new(Watched::Model(object.kind).path(Some(&object.namespace)));
    let patch = json!({"status": status});
    send(access, request.patch_subresource("status", &object.name, &merge(), &Patch::Merge(&patch))).await
}

/// A strategic patch, which leaves the other conditions as they are. Without a time, so that it changes nothing if another agent
/// has said the same.
async fn pod_condition(access: &Access, namespace: &str, pod: &str, healthy: bool) -> Result<(), kube::Error> {
    let condition = json!({
        "type": POD_CONDITION,
        "status": if healthy { "True" } else { "False" },
        "reason": if healthy { "ProbeSucceeded" } else { "ProbeFailed" },
    });
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let patch = json!({"status": {"conditions": [condition]}});
    send(access, request.patch_subresource("status", pod, &merge(), &Patch::Strategic(&patch))).await
}

/// What was told already is not told again.
async fn tell(access: &Access, event: &Event) -> Result<(), kube::Error> {
    let object = event.object(&access.node, &now());
    let request = Request::new(format!("{EVENTS}/{}/events", event.regarding.namespace));
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    match send(access, request.create(&PostParams::default(), body)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        done => done,
    }
}

/// Now, in RFC 3339.
#[expect(clippy::disallowed_methods, reason = "edge: says when something was written")]
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}
