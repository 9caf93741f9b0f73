//! The object `VIP`: what the agents say of a service's addresses, for people to look at. One per service, of its name.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::watched::metadata;
use crate::model::ServiceName;

/// What is said of a service's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VipStatus {
    /// Who has the first address; empty: nobody.
    pub(super) owner: String,
    /// Since when, in RFC 3339. The API server takes no null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// Why.
    pub(super) reason: String,
    /// Pods that get connections.
    pub(super) healthy: u32,
    /// Pods.
    pub(super) total: u32,
    /// Both, for a column.
    pub(super) backends: String,
    /// All addresses, for a column.
    pub(super) ips: String,
    /// Each address.
    pub(super) addresses: Vec<VipAddress>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VipAddress {
    pub(super) ip: IpAddr,
    #[serde(default)]
    pub(super) pool: String,
    #[serde(default)]
    pub(super) owner: String,
    #[serde(default)]
    pub(super) epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    #[serde(default)]
    pub(super) reason: String,
}

/// The object as the API server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VipRecord {
    /// The UID of the Service it belongs to.
    pub(super) service_uid: String,
    pub(super) status: VipStatus,
}

/// The object, as far as [`read`] reads it.
pub(super) fn object(name: &ServiceName, record: &VipRecord) -> Value {
    json!({
        "metadata": {"name": name.name, "namespace": name.namespace, "ownerReferences": [{"uid": record.service_uid}]},
        "status": record.status,
    })
}

/// Reads the object; `None` if it has no name. What cannot be read of it is written anew.
pub(super) fn read(object: &Value) -> Option<(ServiceName, VipRecord)> {
    let name = ServiceName { namespace: metadata(object, "namespace")?, name: metadata(object, "name")? };
    let owners: Vec<Value> = metadata(object, "ownerReferences").unwrap_or_default();
    let uid = owners.first().and_then(|owner| owner.get("uid")).and_then(Value::as_str).unwrap_or_default();
    let status = object.get("status").and_then(|status| VipStatus::deserialize(status).ok()).unwrap_or_default();
    Some((name, VipRecord { service_uid: uid.to_owned(), status }))
}
