//! Which address a service gets, step by step as MetalLB's own scenarios have it (docs/kubernetes.md has the list). One agent
//! and no pods: what is looked at is what the agent writes.

use anyhow::{Result, ensure};
use e2e::{
    objects::{annotated, load_balancer, merge, own, pool},
    observe::eventually,
    scenario::{Cluster, SETTLE},
};
use serde_json::{Value, json};

/// One agent and no pool.
fn cluster(name: &str) -> Result<Cluster> {
    let cluster = Cluster::of(name, 1).pods(0).kubernetes().start()?;
    cluster.api().delete("default", "ipaddresspool/lan")?;
    Ok(cluster)
}

fn apply(cluster: &Cluster, objects: &[String]) -> Result<()> {
    cluster.api().apply(&objects.join("\n---\n"))
}

/// A service with labels in a namespace.
fn labelled(name: &str, namespace: &str, tier: &str) -> String {
    load_balancer(name, json!({"metadata": {"namespace": namespace, "labels": {"tier": tier}}}))
}

/// Spec fields of a pool for some services.
fn meant_for(allocation: &Value) -> Value {
    json!({"serviceAllocation": allocation})
}

#[test]
fn a_pool_is_chosen_by_request_namespace_labels_and_priority() -> Result<()> {
    let cluster = cluster("kube-pools")?;
    let by_request = json!({"autoAssign": false});
    let from = |name, pool: &str| load_balancer(name, annotated(&[("crier.io/address-pool", pool)]));
    let mut six = annotated(&[("crier.io/address-pool", "cidr")]);
    merge(&mut six, json!({"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}}));
    apply(
        &cluster,
        &[
            pool("range", &["10.77.0.110-10.77.0.110"], by_request.clone()),
            pool("cidr", &["10.77.0.112/32", "fd77::112/128"], by_request),
            from("in-range", "range"),
            load_balancer("in-cidr", six),
            load_balancer("anywhere", json!({})),
        ],
    )?;
    cluster.has("in-range", &["10.77.0.110"])?;
    cluster.has("in-cidr", &["fd77::112"])?;
    cluster.told("anywhere", &["AssignmentFailed", "no IPAddressPool may give it an address"])?;
    let automatic = json!({"spec": {"autoAssign": true}});
    cluster.api().patch("default", "ipaddresspool/cidr", &automatic)?;
    cluster.has("anywhere", &["10.77.0.112"])?;

    // From here on pools are for namespaces, for services, for both; the lower priority number first.
    let team = |team: &str| json!({"matchLabels": {"team": team}});
    let tier = |tier: &str| json!({"matchLabels": {"tier": tier}});
    let namespace = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}})
            .to_string()
    };
    apply(
        &cluster,
        &[
            namespace("blue"),
            namespace("green"),
            pool("common", &["10.77.0.118/32"], json!({})),
            pool("by-name", &["10.77.0.113/32"], meant_for(&json!({"namespaces": ["blue"]}))),
            pool("by-label", &["10.77.0.114/32"], meant_for(&json!({"namespaceSelectors": [team("green")]}))),
            pool(
                "by-service",
                &["10.77.0.115/32"],
                meant_for(&json!({"serviceSelectors": [tier("web")], "priority": 5})),
            ),
            pool(
                "by-both",
                &["10.77.0.116/32"],
                meant_for(&json!({"namespaces": ["blue"], "serviceSelectors": [tier("db")], "priority": 5})),
            ),
            pool(
                "first",
                &["10.77.0.117/32"],
                meant_for(&json!({"namespaceSelectors": [team("green")], "priority": 3})),
            ),
        ],
    )?;
    for (name, namespace, tier, address) in [
        ("a", "blue", "web", "10.77.0.115"),
        ("b", "blue", "db", "10.77.0.116"),
        ("c", "blue", "web", "10.77.0.113"),
        ("d", "green", "db", "10.77.0.117"),
        ("e", "green", "db", "10.77.0.114"),
        ("f", "default", "db", "10.77.0.118"),
    ] {
        cluster.api().apply(&labelled(name, namespace, tier))?;
        cluster.has(&format!("{namespace}/{name}"), &[address])?;
    }
    // Labels are followed; who fits nowhere any more keeps what it has, and is told.
    let label = |team: &str| json!({"metadata": {"labels": {"team": team}}});
    cluster.api().patch("", "namespace/green", &label("none"))?;
    cluster.told("green/d", &["no IPv4 address is left", "pool common has 1, 1 taken"])?;
    cluster.api().patch("blue", "service/a", &json!({"metadata": {"labels": {"tier": "none"}}}))?;
    cluster.told("blue/a", &["Mistake", "pool by-name has 1, 1 taken", "the last good version is served"])?;
    cluster.has("blue/a", &["10.77.0.115"])?;
    cluster.api().delete("blue", "service/c")?;
    cluster.has("blue/a", &["10.77.0.113"])?;
    cluster.end_quietly();
    Ok(())
}

fn stack(name: &str, policy: &str, families: &[&str]) -> String {
    let families = if families.is_empty() { json!({}) } else { json!({"spec": {"ipFamilies": families}}) };
    let mut more = json!({"spec": {"ipFamilyPolicy": policy}});
    merge(&mut more, families);
    load_balancer(name, more)
}

#[test]
fn a_service_that_prefers_two_families_has_what_there_is_through_all_changes() -> Result<()> {
    let cluster = cluster("kube-families")?;
    let four = pool("a-four", &["10.77.0.110/32"], json!({}));
    let dual = pool("dual", &["10.77.0.111/32", "fd77::111/128"], json!({}));
    apply(&cluster, &[four.clone(), dual, stack("prefer", "PreferDualStack", &[])])?;
    // Both of one pool, though another comes first; IPv4 first, unless IPv6 is named first.
    cluster.has("prefer", &["10.77.0.111", "fd77::111"])?;
    cluster.judged("ipaddresspool/dual", "Exhausted=True", &["1 of 1 IPv4"])?;
    eventually(SETTLE, "the pool counts both families", || {
        let status = cluster.api().get("default", "ipaddresspool/dual")?["status"].take();
        ensure!(status["addresses"] == "2" && status["used"] == 2 && status["free"] == "0", "{status}");
        let used = cluster.agents[0].metrics()?;
        let used = used.metric("crier_pool_addresses").label("pool", "dual").label("state", "used").sum();
        ensure!((used - 2.0).abs() < f64::EPSILON, "{used}");
        Ok(())
    })?;
    cluster.api().delete("default", "service/prefer")?;
    cluster.api().apply(&stack("six", "PreferDualStack", &["IPv6", "IPv4"]))?;
    cluster.has("six", &["fd77::111", "10.77.0.111"])?;

    // Where there is one family it has one. The other comes when there is one, and IPv6 goes first if it was named first.
    cluster.api().delete("default", "ipaddresspool/dual")?;
    cluster.has("six", &["10.77.0.110"])?;
    let grown = |first: &str| pool("a-four", &[first, "fd77::110/128", "fd77::112/128"], json!({}));
    cluster.api().apply(&grown("10.77.0.110/32"))?;
    eventually(SETTLE, "it has a second address", || {
        let found = cluster.recorded("six")?;
        ensure!(found.len() == 2 && found[0].is_ipv6() && found[1].to_string() == "10.77.0.110", "{found:?}");
        Ok(())
    })?;

    // A pool that shrinks: what is gone is replaced, the rest stays.
    let before = cluster.recorded("six")?;
    cluster.api().apply(&grown("10.77.0.113/32"))?;
    cluster.has("six", &[&before[0].to_string(), "10.77.0.113"])?;
    cluster.api().delete("default", "service/six")?;

    // The policy changes.
    cluster.api().apply(&pool("a-four", &["10.77.0.110/32", "fd77::110/128"], json!({})))?;
    let both = ["10.77.0.110", "fd77::110"];
    for (policy, addresses) in [
        ("SingleStack", &both[..1]),
        ("PreferDualStack", &both),
        ("SingleStack", &both[..1]),
        ("RequireDualStack", &both),
        ("PreferDualStack", &both),
    ] {
        cluster.api().apply(&stack("switch", policy, &[]))?;
        cluster.has("switch", addresses)?;
    }

    // Who needs both has none of one; who prefers both does not leave what it has for a pool that has both.
    cluster.api().delete("default", "service/switch")?;
    apply(&cluster, &[four, stack("require", "RequireDualStack", &[])])?;
    cluster.told("require", &["AssignmentFailed", "spec.ipFamilies", "no IPv6 address"])?;
    cluster.has("require", &[])?;
    cluster.api().delete("default", "service/require")?;
    cluster.api().apply(&stack("stays", "PreferDualStack", &[]))?;
    cluster.has("stays", &["10.77.0.110"])?;
    cluster.api().apply(&pool("dual", &["10.77.0.111/32", "fd77::111/128"], json!({})))?;
    cluster.has("stays", &["10.77.0.110", "fd77::111"])?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn an_address_is_kept_over_restarts_given_back_when_it_is_not_needed_and_found_again_when_pools_come_back() -> Result<()>
{
    let cluster = cluster("kube-kept")?;
    let one = pool("one", &["10.77.0.110/32"], json!({}));
    apply(&cluster, &[one.clone(), load_balancer("a", json!({}))])?;
    cluster.has("a", &["10.77.0.110"])?;
    for service in ["b", "c"] {
        cluster.api().apply(&load_balancer(service, json!({})))?;
        cluster.told(service, &["Warning AssignmentFailed", "no IPv4 address is left: pool one has 1, 1 taken"])?;
    }
    cluster.judged("ipaddresspool/one", "Exhausted=True", &["AllTaken", "1 of 1"])?;
    let agent = &cluster.agents[0];
    for _ in 0..5 {
        agent.kill()?;
        agent.start()?;
        cluster.settle()?;
        eventually(SETTLE, "it is connected", || {
            ensure!(agent.status()?.source.connected);
            Ok(())
        })?;
        cluster.has("a", &["10.77.0.110"])?;
        ensure!(cluster.recorded("b")?.is_empty() && cluster.recorded("c")?.is_empty());
    }

    cluster.api().delete("default", "service/a")?;
    cluster.has("b", &["10.77.0.110"])?;
    cluster.api().patch("default", "service/b", &json!({"spec": {"type": "ClusterIP"}}))?;
    cluster.has("c", &["10.77.0.110"])?;
    ensure!(cluster.recorded("b")?.is_empty() && cluster.vip_object("b").is_err(), "it was given back first");

    cluster.api().delete("default", "ipaddresspool/one")?;
    cluster.has("c", &[])?;
    cluster.told("c", &["Warning AddressReleased", "there is no IPAddressPool at all"])?;
    cluster.api().apply(&one)?;
    cluster.has("c", &["10.77.0.110"])?;
    let two = |addresses| pool("two", &[addresses], json!({}));
    cluster.api().apply(&two("10.77.0.111/32"))?;
    cluster.api().delete("default", "ipaddresspool/one")?;
    cluster.has("c", &["10.77.0.111"])?;
    cluster.api().apply(&two("10.77.0.112-10.77.0.113"))?;
    eventually(SETTLE, "it has an address of what is left", || {
        let found = cluster.recorded("c")?;
        ensure!(
            found.len() == 1 && ["10.77.0.112", "10.77.0.113"].contains(&found[0].to_string().as_str()),
            "{found:?}"
        );
        Ok(())
    })?;
    cluster.judged("ipaddresspool/two", "Exhausted=False", &["1 of 2"])?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn services_share_an_address_while_their_key_and_ports_allow_it() -> Result<()> {
    let cluster = cluster("kube-shared")?;
    let shared = |name: &str, key: &str, port: u16, address: &str| {
        let mut more = annotated(&[("crier.io/allow-shared-ip", key), ("crier.io/loadBalancerIPs", address)]);
        merge(&mut more, json!({"spec": {"ports": [{"name": "http", "port": port}]}}));
        load_balancer(name, more)
    };
    let chosen = pool("chosen", &["10.77.0.110/32", "10.77.0.111/32"], json!({}));
    apply(&cluster, &[chosen, shared("a", "k", 80, ""), shared("b", "k", 81, "")])?;
    cluster.has("a", &["10.77.0.110"])?;
    cluster.has("b", &["10.77.0.110"])?;
    // Who changes so that it fits no more goes; who fits again may stay where it is.
    for change in [shared("b", "k", 80, ""), shared("b", "other", 81, "")] {
        cluster.api().apply(&change)?;
        cluster.has("b", &["10.77.0.111"])?;
        cluster.api().delete("default", "service/b")?;
        cluster.api().apply(&shared("b", "k", 81, ""))?;
        cluster.has("b", &["10.77.0.110"])?;
    }
    // The same where an address is asked for; it is told what stands against it.
    cluster.api().apply(&shared("c", "", 82, "10.77.0.110"))?;
    cluster.told("c", &["AssignmentFailed", "belongs to Service default/a", "crier.io/allow-shared-ip"])?;
    cluster.api().apply(&shared("c", "k", 81, "10.77.0.110"))?;
    cluster.told("c", &["AssignmentFailed", "port 81/TCP already belongs to Service default/b"])?;
    cluster.api().apply(&shared("c", "k", 82, "10.77.0.110"))?;
    cluster.has("c", &["10.77.0.110"])?;
    ensure!(cluster.recorded("a")? == cluster.recorded("b")?, "the others stay");
    cluster.end_quietly();
    Ok(())
}

#[test]
fn requests_are_read_by_all_their_names_and_mistakes_are_told_with_what_to_write() -> Result<()> {
    let cluster = cluster("kube-requests")?;
    apply(
        &cluster,
        &[
            pool("lan", &["10.77.0.110-10.77.0.119", "fd77::110-fd77::119"], json!({})),
            pool("aside", &["10.77.0.120/32"], json!({"autoAssign": false})),
        ],
    )?;
    let class = |class: &str| json!({"spec": {"loadBalancerClass": class}});
    let alias = |key: &str, value: &str| annotated(&[(key, value)]);
    for (name, more, address) in [
        ("field", json!({"spec": {"loadBalancerIP": "10.77.0.111"}}), "10.77.0.111"),
        ("alias", alias("metallb.io/loadBalancerIPs", "10.77.0.112"), "10.77.0.112"),
        ("old-alias", alias("metallb.universe.tf/loadBalancerIPs", "10.77.0.113"), "10.77.0.113"),
        ("pool-alias", alias("metallb.io/address-pool", "aside"), "10.77.0.120"),
    ] {
        cluster.api().apply(&load_balancer(name, more))?;
        cluster.has(name, &[address])?;
    }
    let mut sharer = annotated(&[("metallb.io/allow-shared-ip", "k"), ("metallb.io/loadBalancerIPs", "10.77.0.114")]);
    cluster.api().apply(&load_balancer("one", sharer.clone()))?;
    merge(&mut sharer, json!({"spec": {"ports": [{"name": "http", "port": 81}]}}));
    cluster.api().apply(&load_balancer("other", sharer))?;
    cluster.has("one", &["10.77.0.114"])?;
    cluster.has("other", &["10.77.0.114"])?;

    apply(
        &cluster,
        &[load_balancer("foreign", class("example.org/other")), load_balancer("ours", class("crier.io/crier"))],
    )?;
    cluster.addresses("ours")?;
    for (name, more, words) in [
        ("outside", alias("crier.io/loadBalancerIPs", "10.99.0.1"), "no IPAddressPool contains 10.99.0.1; add it to"),
        (
            "nowhere",
            alias("crier.io/address-pool", "nope"),
            "there is no IPAddressPool named \"nope\" (there are: aside, lan)",
        ),
        ("garbled", alias("crier.io/loadBalancerIPs", "here"), "\"here\" is not an IP address"),
    ] {
        cluster.api().apply(&load_balancer(name, more))?;
        cluster.told(name, &["Warning AssignmentFailed", "metadata.annotations.crier.io/", words])?;
    }
    ensure!(
        cluster.recorded("foreign")?.is_empty() && cluster.events("foreign")?.is_empty(),
        "another class is not ours"
    );

    // What the schema lets through.
    let check = |status: &str| {
        own("HealthCheck", "check", json!({"services": ["one"], "http": {"expectedStatuses": [status]}}))
    };
    let advertise = |pool: &str| own("L2Advertisement", "lan", json!({"ipAddressPools": [pool]}));
    apply(
        &cluster,
        &[
            pool("twisted", &["fd77::9-fd77::1"], json!({"autoAssign": false})),
            pool("twice", &["10.77.0.119-10.77.0.130"], json!({"autoAssign": false})),
            check("300-200"),
            advertise("nope"),
        ],
    )?;
    cluster.judged(
        "ipaddresspool/twisted",
        "Valid=False",
        &["Mistake", "spec.addresses[0]: ", "ends before it begins"],
    )?;
    cluster.judged("ipaddresspool/twice", "Valid=True", &["Warning", "spec.addresses[0]: ", "keep pools apart"])?;
    cluster.judged("healthcheck/check", "Valid=False", &["Mistake", "spec.http.expectedStatuses"])?;
    cluster.judged("l2advertisement/lan", "Valid=True", &["Warning", "there is no IPAddressPool named \"nope\""])?;
    apply(&cluster, &[check("200-300"), advertise("lan")])?;
    cluster.judged("healthcheck/check", "Valid=True", &["Accepted"])?;
    cluster.judged("l2advertisement/lan", "Valid=True", &["Accepted"])?;
    cluster.judged("ipaddresspool/lan", "Valid=True", &[])?;
    cluster.end_quietly();
    Ok(())
}
