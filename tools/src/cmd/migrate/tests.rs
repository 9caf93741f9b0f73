//! What MetalLB's objects become.

use announcer::model::{objects::Object, parse::parse_file};

use super::{Migration, convert::convert, print, read::documents, vet};

const PRESENT: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata:
    name: first
    namespace: metallb-system
    labels: {zone: a}
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    resourceVersion: '7'
  spec:
    addresses: [10.0.0.5/24, '10.1.0.10-10.1.0.20', 'fd00::/120']
    autoAssign: false
    avoidBuggyIPs: true
    serviceAllocation: {priority: 50, namespaces: [shop], serviceSelectors: [{matchLabels: {tier: web}}]}
  status: {assignedIPv4: 2}
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: bgp-only, namespace: metallb-system}
  spec: {addresses: [10.9.0.0/28]}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: wire, namespace: metallb-system}
  spec:
    ipAddressPools: [first]
    interfaces: [eth0]
    nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n1}}]
    preferredNodeSelectors: [{weight: 10, preference: {matchLabels: {fast: 'yes'}}}]
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router, namespace: metallb-system}
spec: {myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: bgp, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {name: l2-abcde, namespace: metallb-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {metallb.universe.tf/address-pool: first}}
spec: {type: LoadBalancer, loadBalancerClass: metallb}
";

const FORMER: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    peers: [{peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500}]
    address-pools:
    - name: default
      protocol: layer2
      addresses: [192.168.1.240-192.168.1.250]
    - name: special
      protocol: layer2
      auto-assign: false
      avoid-buggy-ips: true
      addresses: [192.168.2.0/28]
    - name: routed
      protocol: bgp
      addresses: [198.51.100.0/24]
---
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: older, namespace: metallb-system}
spec: {protocol: layer2, addresses: [10.2.0.0/30], autoAssign: true}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data: {config.conf: 'mode: ipvs'}
";

/// The migration, and what the agent reads from its text.
fn migrated(text: &str) -> (Migration, Vec<Object>) {
    let mut migration = convert(&documents("test", text).unwrap(), "crier-system");
    let yaml = print(&migration.objects).unwrap();
    vet(&yaml, &mut migration);
    let objects = parse_file("out.yaml", &yaml).unwrap().into_iter().filter_map(|document| document.object).collect();
    (migration, objects)
}

fn names(objects: &[Object]) -> Vec<String> {
    let name = |object: &Object| object.metadata().name.clone().unwrap_or_default();
    objects.iter().map(name).collect()
}

/// The notes about an object that begins so.
fn notes<'a>(migration: &'a Migration, object: &str) -> Vec<&'a str> {
    let about = migration.notes.iter().filter(|note| note.object.starts_with(object));
    about.map(|note| note.message.as_str()).collect()
}

#[test]
fn pools_and_advertisements_keep_their_fields_and_the_agent_takes_them() {
    let (migration, objects) = migrated(PRESENT);
    assert_eq!(names(&objects), ["first", "bgp-only", "wire"], "{:?}", migration.notes);
    let [Object::IPAddressPool(pool), _, Object::L2Advertisement(advertisement)] = &objects[..] else {
        panic!("{objects:?}")
    };
    assert_eq!(pool.metadata.namespace.as_deref(), Some("crier-system"));
    assert_eq!(pool.metadata.labels.as_ref().unwrap()["zone"], "a");
    assert_eq!(pool.metadata.annotations, None);
    assert_eq!(pool.spec.addresses, ["10.0.0.0/24", "10.1.0.10-10.1.0.20", "fd00::/120"]);
    assert_eq!(pool.spec.auto_assign, Some(false));
    assert!(pool.spec.avoid_buggy_ips);
    assert_eq!(pool.spec.service_allocation.as_ref().unwrap().priority, 50);
    assert_eq!(advertisement.spec.ip_address_pools, ["first"]);
    assert_eq!(advertisement.spec.interfaces, ["eth0"]);
    assert_eq!(advertisement.spec.node_selectors.len(), 1);
}

#[test]
fn what_has_no_counterpart_is_said_with_what_to_do() {
    let (migration, _) = migrated(PRESENT);
    let said = |object: &str, word: &str| {
        let notes = notes(&migration, object);
        assert!(notes.iter().any(|note| note.contains(word)), "{object}, {word}: {:?}", migration.notes);
    };
    said("IPAddressPool metallb-system/first", "10.0.0.5/24 has been written as 10.0.0.0/24");
    said("IPAddressPool crier-system/bgp-only", "announced by nobody");
    said("L2Advertisement metallb-system/wire", "preferredNodeSelectors");
    said("BGPPeer metallb-system/router", "no BGP");
    said("BGPAdvertisement metallb-system/bgp", "L2Advertisement");
    said("Service shop/web", "loadBalancerClass is metallb");
    said("", "1 DaemonSet");
    assert!(notes(&migration, "ServiceL2Status").is_empty(), "what MetalLB says is not wished");
    assert_eq!(notes(&migration, "IPAddressPool crier-system/first"), [""; 0], "the first pool is announced");
}

#[test]
fn the_former_config_map_and_kind_become_pools_and_advertisements() {
    let (migration, objects) = migrated(FORMER);
    assert_eq!(names(&objects), ["default", "special", "routed", "layer2", "older", "older"], "{:?}", migration.notes);
    let Object::IPAddressPool(special) = &objects[1] else { panic!("{objects:?}") };
    assert_eq!((special.spec.auto_assign, special.spec.avoid_buggy_ips), (Some(false), true));
    let Object::L2Advertisement(layer2) = &objects[3] else { panic!("{objects:?}") };
    assert_eq!(layer2.spec.ip_address_pools, ["default", "special"]);
    let Object::L2Advertisement(older) = &objects[5] else { panic!("{objects:?}") };
    assert_eq!(older.spec.ip_address_pools, ["older"]);
    assert_eq!(notes(&migration, "ConfigMap metallb-system/config, pool routed").len(), 1);
    assert_eq!(notes(&migration, "ConfigMap metallb-system/config").len(), 2, "its peers, and the routed pool");
    assert!(notes(&migration, "ConfigMap kube-system/kube-proxy")[0].contains("strictARP"));
}

#[test]
fn what_the_agent_would_refuse_is_told_before_it_is_applied() {
    let pool = |address: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: p}}\nspec: {{addresses: ['{address}'], shiny: 1}}"
        )
    };
    let (migration, _) = migrated(&pool("10.0.0.20-10.0.0.10"));
    let said = notes(&migration, "IPAddressPool crier-system/p");
    assert!(said.iter().any(|note| note.contains("ends before it begins")), "{said:?}");
    let unknown = notes(&migration, "IPAddressPool p");
    assert_eq!(unknown, ["spec.shiny is not known and left out"]);
}
