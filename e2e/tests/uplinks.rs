//! Agents with two uplinks, each on a segment of its own, with VIPs on both.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use e2e::{
    manifests::{service, web},
    scenario::{Cluster, DNS, WEB},
    sniffer::{Frame, Kind, Sniffer},
    traffic::Transport,
};

const POOL: &str = "\
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: backbone, namespace: default}
spec:
  addresses: [10.79.0.100-10.79.0.119, \"fd79::100-fd79::119\"]
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: backbone, namespace: default}
spec:
  ipAddressPools: [backbone]
";

/// Whether the frame is from the VIP's service, or to it.
fn is_about(frame: &Frame, vip: IpAddr) -> bool {
    matches!(frame.kind, Kind::Ip { source, destination, ports: Some(_), .. } if source == vip || destination == vip)
}

#[test]
fn each_segments_vips_are_served_by_pods_of_all_nodes_and_on_that_segment_alone() -> Result<()> {
    let back = ["10.79.0.100", "fd79::100"];
    let cluster = Cluster::three("two-uplinks")
        .nothing_moves_by_itself()
        .service(web().tcp(WEB).udp(DNS).dual_stack())
        .service(service("back").tcp(WEB).udp(DNS).dual_stack().at(&back))
        .backbone()
        .interfaces(&["eth0", "eth1"])
        .build()?;
    cluster.manifests.write("backbone.yaml", POOL)?;
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    cluster.settle()?;

    let wires = ["eth0", "eth1"].map(|interface| Sniffer::start(&cluster.client().ns, interface));
    let [first, second] = wires;
    let (first, second) = (first?, second?);
    let front = [cluster.vip4(), cluster.vip6()].map(|vip| (vip, &first, &second));
    let [back4, back6] = back.map(str::parse::<IpAddr>);
    let back = [back4?, back6?].map(|vip| (vip, &second, &first));
    for (vip, own, other) in front.into_iter().chain(back) {
        for (transport, port) in [(Transport::Tcp, WEB), (Transport::Udp, DNS)] {
            let pods = cluster.ask_many(transport, SocketAddr::new(vip, port), 60)?;
            ensure!(cluster.by_node(&pods).len() == 3, "{vip} {transport:?}: {pods:?}");
        }
        ensure!(own.count(|frame| is_about(frame, vip)) > 0, "{vip} is not on its segment");
        ensure!(other.count(|frame| is_about(frame, vip)) == 0, "{vip} is on the other segment");
    }
    Ok(())
}
