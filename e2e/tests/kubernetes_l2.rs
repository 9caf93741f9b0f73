//! Who announces an address, and on which interface, step by step as MetalLB's own scenarios have it (docs/kubernetes.md has
//! the list). Three agents, a client that asks, and pods that answer.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use e2e::{
    backbone,
    manifests::{Endpoint, service, web},
    objects::{advertisement, annotated, load_balancer, pool},
    observe::{eventually, neighbour, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::Transport,
};
use serde_json::{Value, json};

/// Long enough for what should not happen.
const A_WHILE: Duration = Duration::from_secs(2);

/// The nodes of these names.
fn hosts(names: &[&str]) -> Value {
    json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]}])
}

fn advertise(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    cluster.api().apply(&advertisement(name, spec))
}

/// Waits until one of `nodes` owns the address, as the agents and its object say, and answers; that node.
fn owned_by(cluster: &Cluster, service: &str, vip: IpAddr, nodes: &[&str]) -> Result<String> {
    eventually(SETTLE, &format!("one of {nodes:?} owns {vip}"), || {
        let owner = cluster.agreed_owner(vip, &cluster.running())?;
        ensure!(nodes.contains(&owner.as_str()), "{owner} does");
        let said = cluster.vip_object(service)?;
        ensure!(said["owner"] == owner.as_str() && said["ips"].as_str().is_some_and(|ips| !ips.is_empty()), "{said}");
        cluster.get(vip)?;
        Ok(owner)
    })
}

/// Waits until nobody owns it, and its object says why in these words.
fn owned_by_nobody(cluster: &Cluster, service: &str, vip: IpAddr, why: &str) -> Result<()> {
    eventually(SETTLE, &format!("nobody owns {vip}: {why}"), || {
        for agent in &cluster.agents {
            ensure!(agent.status()?.owner(vip).is_none(), "{} names an owner", agent.name);
        }
        let said = cluster.vip_object(service)?;
        let reason = said["reason"].as_str().unwrap_or_default();
        ensure!(said["owner"] == "" && reason.contains(why), "{said}");
        Ok(())
    })
}

fn stays(cluster: &Cluster, vip: IpAddr, owner: &str) -> Result<()> {
    throughout(A_WHILE, &format!("{owner} keeps {vip}"), || {
        let now = cluster.owner(vip)?;
        ensure!(now == owner, "{now} has it");
        Ok(())
    })
}

#[test]
fn a_service_is_reached_by_both_policies_and_protocols_and_its_object_follows_it() -> Result<()> {
    let mut cluster = Cluster::three("kube-policy").kubernetes().service(web().tcp(WEB).udp(DNS)).start()?;
    let vip = cluster.vip4();
    let first = owned_by(&cluster, "web", vip, &["n1", "n2", "n3"])?;
    for (transport, port) in [(Transport::Tcp, WEB), (Transport::Udp, DNS)] {
        let pods = cluster.ask_many(transport, SocketAddr::new(vip, port), 60)?;
        ensure!(cluster.by_node(&pods).len() == 3, "{transport:?} {pods:?}");
    }
    let object = cluster.api().get("default", "vip/web")?;
    let uid = cluster.api().get("default", "service/web")?["metadata"]["uid"].take();
    ensure!(object["metadata"]["ownerReferences"][0]["uid"] == uid, "{object}");
    ensure!(cluster.vip_object("web")?["backends"] == "6/6", "{object}");

    // Local: where the endpoints are, and they move.
    for node in ["n2", "n3", "n1"].into_iter().filter(|node| *node != first).chain([first.as_str()]) {
        let there: Vec<Endpoint> = cluster.pods.iter().filter(|pod| pod.node == node).map(Into::into).collect();
        cluster.edit("web", |web| {
            *web = web.clone().local();
            web.endpoints = there;
        })?;
        owned_by(&cluster, "web", vip, &[node])?;
        let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(vip, WEB), 20)?;
        ensure!(cluster.by_node(&pods).keys().eq([node]), "{pods:?}");
        cluster.told("web", &["Announced", &format!("announced by node {node}")])?;
    }
    cluster.edit("web", |web| web.endpoints.clear())?;
    owned_by_nobody(&cluster, "web", vip, "a usable pod")?;
    cluster.told("web", &["Warning NotAnnounced", &vip.to_string()])?;

    cluster.api().delete("default", "service/web")?;
    eventually(SETTLE, "its object goes with it", || {
        ensure!(cluster.vip_object("web").is_err() && cluster.agents[0].status()?.vips.is_empty());
        Ok(())
    })?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn an_address_moves_from_nodes_that_are_excluded_or_fail_and_stays_where_it_has_moved() -> Result<()> {
    let cluster =
        Cluster::three("kube-moves").kubernetes().service(web().tcp(WEB)).nothing_moves_by_itself().start()?;
    let vip = cluster.vip4();
    let first = cluster.owner(vip)?;
    // Whether a node's pods have a network is seen by their probes; to announce, it needs its uplink.
    let unavailable = json!({"conditions": [{"type": "NetworkUnavailable", "status": "True"}]});
    cluster.api().patch_status("", &format!("node/{first}"), &unavailable)?;
    stays(&cluster, vip, &first)?;

    let label = |value: Value| json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}}});
    cluster.api().patch("", &format!("node/{first}"), &label("".into()))?;
    let second = cluster.new_owner(vip, &first)?;
    owned_by(&cluster, "web", vip, &[&second])?;
    cluster.api().patch("", &format!("node/{first}"), &label(Value::Null))?;
    stays(&cluster, vip, &second)?;

    cluster.agent(&second)?.kill()?;
    let third = cluster.new_owner(vip, &second)?;
    owned_by(&cluster, "web", vip, &[&third])?;
    cluster.told("web", &[&format!("announced by node {third}, before by node {second}")])?;
    cluster.agent(&second)?.start()?;
    cluster.settle()?;
    stays(&cluster, vip, &third)?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn an_address_is_announced_on_the_interfaces_and_nodes_of_the_advertisements_that_cover_it() -> Result<()> {
    let mut cluster = Cluster::three("kube-selectors")
        .kubernetes()
        .backbone()
        .interfaces(&["eth0", "eth1"])
        .service(web().tcp(WEB))
        .nothing_moves_by_itself()
        .start()?;
    cluster.api().apply(&pool("back", &["10.79.0.100/32"], json!({})))?;
    let on = |interface: &str| json!({"ipAddressPools": ["back"], "interfaces": [interface]});
    advertise(&cluster, "back", on("eth1"))?;
    let vip = cluster.expose(service("back").tcp(WEB).at(&["10.79.0.100"]))?[0];
    let owner = owned_by(&cluster, "back", vip, &["n1", "n2", "n3"])?;
    let mac = backbone::mac(cluster.lan.host(&owner)?);
    ensure!(neighbour(cluster.client(), vip)? == Some(mac), "it is that interface's MAC");

    // Changed live, to one that nobody has: told by object, event and condition. Two advertisements are a union.
    advertise(&cluster, "back", on("eth9"))?;
    owned_by_nobody(&cluster, "back", vip, "names (eth9); uplinks are eth0, eth1")?;
    cluster.told("back", &["Warning NotAnnounced", "eth9"])?;
    cluster.judged("l2advertisement/back", "Valid=True", &["Warning", "spec.interfaces[0]: no node", "\"eth9\""])?;
    let mut both = on("eth1");
    both["nodeSelectors"] = hosts(&["n2"]);
    advertise(&cluster, "and", both)?;
    owned_by(&cluster, "back", vip, &["n2"])?;
    ensure!(neighbour(cluster.client(), vip)? == Some(backbone::mac(cluster.lan.host("n2")?)));
    advertise(&cluster, "back", on("eth1"))?;
    cluster.judged("l2advertisement/back", "Valid=True", &["Accepted"])?;
    cluster.agent("n2")?.kill()?;
    owned_by(&cluster, "back", vip, &["n1", "n3"])?;
    cluster.agent("n2")?.start()?;
    cluster.settle()?;

    // Nodes by name, two advertisements, and by labels that come and go.
    let lan = cluster.vip4();
    for node in ["n3", "n1"] {
        advertise(&cluster, "lan", json!({"nodeSelectors": hosts(&[node])}))?;
        owned_by(&cluster, "web", lan, &[node])?;
    }
    advertise(&cluster, "more", json!({"nodeSelectors": hosts(&["n2"])}))?;
    cluster.agent("n1")?.kill()?;
    owned_by(&cluster, "web", lan, &["n2"])?;
    cluster.agent("n1")?.start()?;
    cluster.settle()?;
    cluster.api().delete("default", "l2advertisement/more")?;
    let rack = |label: Value| json!({"metadata": {"labels": {"rack": label}}});
    advertise(&cluster, "lan", json!({"nodeSelectors": [{"matchLabels": {"rack": "a"}}]}))?;
    owned_by_nobody(&cluster, "web", lan, "no node may own it")?;
    cluster.judged("l2advertisement/lan", "Valid=True", &["spec.nodeSelectors: matches no node"])?;
    for node in ["n2", "n3"] {
        cluster.api().patch("", &format!("node/{node}"), &rack("a".into()))?;
        owned_by(&cluster, "web", lan, &[node])?;
        cluster.api().patch("", &format!("node/{node}"), &rack(Value::Null))?;
    }
    owned_by_nobody(&cluster, "web", lan, "no node may own it")?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn a_service_is_announced_by_the_advertisements_whose_selectors_match_it() -> Result<()> {
    let cluster =
        Cluster::three("kube-services").kubernetes().service(web().tcp(WEB)).nothing_moves_by_itself().start()?;
    let vip = cluster.vip4();
    let labels = |tier: &str| json!({"metadata": {"labels": {"tier": tier}}});
    let of = |tiers: &[&str], nodes: &[&str]| {
        let services: Vec<_> = tiers.iter().map(|tier| json!({"matchLabels": {"tier": tier}})).collect();
        json!({"serviceSelectors": services, "nodeSelectors": hosts(nodes)})
    };
    advertise(&cluster, "lan", of(&["web"], &["n1"]))?;
    owned_by_nobody(&cluster, "web", vip, "no L2Advertisement covers it")?;
    cluster.judged("ipaddresspool/lan", "Valid=True", &["Warning", &vip.to_string(), "add an L2Advertisement"])?;
    cluster.api().patch("default", "service/web", &labels("web"))?;
    owned_by(&cluster, "web", vip, &["n1"])?;
    // Any of several selectors; and of two advertisements that fit, one node.
    advertise(&cluster, "lan", of(&["db", "web"], &["n2"]))?;
    owned_by(&cluster, "web", vip, &["n2"])?;
    advertise(&cluster, "other", of(&["web"], &["n3"]))?;
    stays(&cluster, vip, "n2")?;
    // One fits the service, the other its node: nobody.
    advertise(&cluster, "lan", of(&["db"], &["n2"]))?;
    owned_by(&cluster, "web", vip, &["n3"])?;
    cluster.api().patch("default", "service/web", &labels("none"))?;
    owned_by_nobody(&cluster, "web", vip, "no L2Advertisement covers it")?;
    cluster.end_quietly();
    Ok(())
}

/// Waits until the running agents and the objects of all services name one node other than `old`; that node.
fn one_node(cluster: &Cluster, vip: IpAddr, services: &[String], old: &str) -> Result<String> {
    eventually(SETTLE, &format!("{services:?} are at one node and not at {old:?}"), || {
        let mut owners = BTreeSet::new();
        for node in cluster.running() {
            owners.extend(cluster.agent(node)?.status()?.owner(vip).map(str::to_owned));
        }
        for service in services {
            owners.extend(cluster.vip_object(service)?["owner"].as_str().map(str::to_owned));
        }
        ensure!(owners.len() == 1 && !owners.contains(old) && !owners.contains(""), "{owners:?}");
        Ok(owners.into_iter().collect())
    })
}

#[test]
fn services_that_share_an_address_are_announced_by_one_node() -> Result<()> {
    let cluster = Cluster::three("kube-one-node").kubernetes().nothing_moves_by_itself().start()?;
    let shared = |name: &str, port: u16, family: &str, address: &str| {
        let mut more = annotated(&[("crier.io/allow-shared-ip", "k"), ("crier.io/loadBalancerIPs", address)]);
        let ports = json!([{"name": "http", "port": port}]);
        more["spec"] = json!({"ports": ports, "ipFamilies": [family], "ipFamilyPolicy": "SingleStack"});
        load_balancer(name, more)
    };
    for (family, address) in [("IPv4", "10.77.0.101"), ("IPv6", "fd77::101")] {
        let names = [format!("a-{}", family.to_lowercase()), format!("b-{}", family.to_lowercase())];
        for (name, port) in names.iter().zip([80, 81]) {
            cluster.api().apply(&shared(name, port, family, address))?;
        }
        let vip: IpAddr = address.parse()?;
        let first = one_node(&cluster, vip, &names, "")?;
        cluster.agent(&first)?.kill()?;
        one_node(&cluster, vip, &names, &first)?;
        cluster.agent(&first)?.start()?;
        cluster.settle()?;
    }
    cluster.end_quietly();
    Ok(())
}

#[test]
fn a_preferred_node_is_one_of_those_that_may_and_who_has_none_is_served_all_the_same() -> Result<()> {
    let mut cluster =
        Cluster::three("kube-preferred").kubernetes().service(web().tcp(WEB)).nothing_moves_by_itself().start()?;
    let vip = cluster.vip4();
    let prefer = |node: &str| json!({"metadata": {"annotations": {"crier.io/preferred-node": node}}});
    let other = cluster.expose(service("other").tcp(WEB))?[0];
    let elsewhere = cluster.owner(other)?;
    // No such node: as if nothing was said.
    let before = cluster.owner(vip)?;
    cluster.api().patch("default", "service/web", &prefer("n9"))?;
    stays(&cluster, vip, &before)?;
    // A node; it is cordoned, and takes it back.
    let cordon = |cordoned: bool| json!({"spec": {"unschedulable": cordoned}});
    cluster.api().patch("default", "service/web", &prefer("n2"))?;
    owned_by(&cluster, "web", vip, &["n2"])?;
    cluster.api().patch("", "node/n2", &cordon(true))?;
    owned_by(&cluster, "web", vip, &["n1", "n3"])?;
    cluster.api().patch("", "node/n2", &cordon(false))?;
    owned_by(&cluster, "web", vip, &["n2"])?;
    // What may not be is not preferred.
    advertise(&cluster, "lan", json!({"nodeSelectors": hosts(&["n1", "n3"])}))?;
    owned_by(&cluster, "web", vip, &["n1", "n3"])?;
    advertise(&cluster, "lan", json!({"ipAddressPools": ["lan"]}))?;
    owned_by(&cluster, "web", vip, &["n2"])?;
    ensure!(elsewhere == "n2" || cluster.owner(other)? == elsewhere, "the other service has its own wish: none");
    ensure!(cluster.running().into_iter().collect::<BTreeSet<_>>().len() == 3);
    cluster.end_quietly();
    Ok(())
}
