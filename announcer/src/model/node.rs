//! What a Node object asks of the node: to be rid of its VIPs.

use k8s_openapi::api::core::v1::Node;

/// The label that keeps a node out of load balancing, whatever its value, as Kubernetes' own controllers read it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint that says that a machine is shut down or broken.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a node should own no VIP, if there is a reason. `Ready` is none: the gossip knows better, and sooner.
pub(super) fn leaving(node: &Node) -> Option<&'static str> {
    let labelled = node.metadata.labels.iter().flatten().any(|(label, _)| label == EXCLUDED);
    let spec = node.spec.as_ref();
    let tainted = spec.is_some_and(|spec| spec.taints.iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE));
    if labelled {
        Some("its Node is labelled exclude-from-external-load-balancers")
    } else if tainted {
        Some("its Node is tainted out-of-service")
    } else if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        Some("its Node is cordoned")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: serde_json::Value) -> Node {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_node_leaves_when_it_is_excluded_cordoned_or_out_of_service_and_not_when_it_is_not_ready() {
        let labelled = serde_json::json!({"metadata": {"labels": {EXCLUDED: ""}}});
        let cordoned = serde_json::json!({"spec": {"unschedulable": true}});
        let tainted = serde_json::json!({"spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        for leaves in [labelled, cordoned, tainted] {
            assert!(leaving(&node(leaves.clone())).is_some(), "{leaves}");
        }
        let taint = serde_json::json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"});
        let unready = serde_json::json!({
            "spec": {"taints": [taint]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}
        });
        assert_eq!(leaving(&node(unready)), None);
    }
}
