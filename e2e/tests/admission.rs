//! What the custom resource definitions let in: all that the agents take, and none of the mistakes that can be seen when an
//! object is applied. Each is refused with what to write instead.

use announcer::model::parse::parse_file;
use anyhow::{Context, Result, anyhow, ensure};
use e2e::{kubernetes::ApiServer, scenario::manifest, topology::Lan};

/// Kind, spec, and what is said of it.
const MISTAKES: [(&str, &str, &str); 42] = [
    ("IPAddressPool", "{addresses: []}", "empty: list prefixes (10.0.0.0/28)"),
    ("IPAddressPool", "{autoAssign: true}", "spec.addresses: Required"),
    ("IPAddressPool", "{addresses: [10.0.0.10]}", "10.0.0.10 is neither a prefix"),
    ("IPAddressPool", "{addresses: [10.0.0.0/28, office]}", "spec.addresses[1]"),
    ("IPAddressPool", "{addresses: [10.0.0.0/33]}", "is neither a prefix"),
    ("IPAddressPool", "{addresses: [999.0.0.1-999.0.0.9]}", "is neither a prefix"),
    ("IPAddressPool", "{addresses: [10.0.0.1-10.0.0.2-10.0.0.3]}", "is neither a prefix"),
    ("IPAddressPool", "{addresses: [10.0.0.5/24]}", "10.0.0.5/24 has bits set behind its length"),
    ("IPAddressPool", "{addresses: ['10.0.0.1-fd00::1']}", "mixes IPv4 and IPv6"),
    ("IPAddressPool", "{addresses: [10.0.0.20-10.0.0.10]}", "ends before it begins"),
    ("IPAddressPool", "{addresses: [127.0.0.0/8]}", "loopback"),
    ("IPAddressPool", "{addresses: [224.0.0.1-224.0.0.9]}", "multicast"),
    ("IPAddressPool", "{addresses: [10.0.0.0/28], serviceAllocation: {priority: -1}}", "greater than or equal to 0"),
    ("IPAddressPool", "{addresses: [10.0.0.0/28], autoasign: true}", "autoasign"),
    (
        "IPAddressPool",
        "{addresses: [10.0.0.0/28], serviceAllocation: {serviceSelectors: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]}}",
        "\"In\", \"NotIn\"",
    ),
    (
        "IPAddressPool",
        "{addresses: [10.0.0.0/28], serviceAllocation: {serviceSelectors: [{matchExpressions: [{key: a, operator: In}]}]}}",
        "add values: [VALUE]",
    ),
    (
        "IPAddressPool",
        "{addresses: [10.0.0.0/28], serviceAllocation: {serviceSelectors: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]}}",
        "take no values",
    ),
    ("L2Advertisement", "{interfaces: ['eth 0']}", "must be an interface's name"),
    ("L2Advertisement", "{interfaces: [averyverylonginterface]}", "spec.interfaces[0]: Too long"),
    ("L2Advertisement", "{nodeSelectors: [{matchExpressions: [{key: a, operator: NotIn}]}]}", "add values: [VALUE]"),
    ("HealthCheck", "{}", "add services: [NAME] or serviceSelector"),
    ("HealthCheck", "{services: [a], tcp: {}, http: {}}", "either tcp or http"),
    ("HealthCheck", "{services: [a], interval: 200ms, timeout: 300ms}", "write a shorter timeout or a longer interval"),
    ("HealthCheck", "{services: [a], timeout: 2s}", "write a shorter timeout or a longer interval"),
    ("HealthCheck", "{services: [a], interval: fast}", "must be 10ms to 1h, as 500ms"),
    ("HealthCheck", "{services: [a], interval: 5ms}", "must be 10ms to 1h, as 500ms"),
    ("HealthCheck", "{services: [a], interval: 2h}", "must be 10ms to 1h, as 500ms"),
    ("HealthCheck", "{services: [a], interval: 99999999999999h}", "must be 10ms to 1h, as 500ms"),
    ("HealthCheck", "{services: [a], timeout: 1.5s}", "must be 1ms to the interval"),
    ("HealthCheck", "{services: [a], slowStart: 2h}", "must be 0s (off) to 1h"),
    ("HealthCheck", "{services: [a], rise: 0}", "greater than or equal to 1"),
    ("HealthCheck", "{services: [a], fall: 101}", "less than or equal to 100"),
    ("HealthCheck", "{services: [a], port: HTTP!}", "must be the name of one of the service's ports"),
    ("HealthCheck", "{services: [a], port: 0}", "a number from 1 to 65535"),
    ("HealthCheck", "{services: [a], tcp: {port: 70000}}", "less than or equal to 65535"),
    ("HealthCheck", "{services: [a], http: {path: healthz}}", "must begin with /"),
    ("HealthCheck", "{services: [a], http: {host: ''}}", "must be a host name"),
    ("HealthCheck", "{services: [a], http: {scheme: ftp}}", "\"HTTP\", \"HTTPS\""),
    ("HealthCheck", "{services: [a], http: {expectedStatuses: [99]}}", "greater than or equal to 100"),
    ("HealthCheck", "{services: [a], http: {expectedStatuses: [ok]}}", "should match"),
    ("HealthCheck", "{services: [a], weights: [{weight: 257}]}", "less than or equal to 256"),
    ("HealthCheck", "{services: [a], weights: [{weight: 1, addresses: ['10.1']}]}", "must be an IP address like"),
];

/// What is let in: each field, and the odd but right.
const RIGHT: [(&str, &str); 7] = [
    (
        "IPAddressPool",
        "{addresses: [10.0.0.0/28, 10.0.0.32/32, 10.0.1.10-10.0.1.20, 10.0.2.1 - 10.0.3.1, 10.9.0.255-10.10.0.0, 'fd00::/64', 'fd00:1::10-fd00:1::20'], \
         autoAssign: false, avoidBuggyIPs: true, serviceAllocation: {priority: 10, namespaces: [a], namespaceSelectors: [{matchLabels: {a: b}}], \
         serviceSelectors: [{matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists}]}]}}",
    ),
    ("L2Advertisement", "{}"),
    (
        "L2Advertisement",
        "{ipAddressPools: [a], ipAddressPoolSelectors: [{}], interfaces: [eth0.100], serviceSelectors: [{matchLabels: {a: b}}], \
         nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n1}}]}",
    ),
    ("HealthCheck", "{services: [a]}"),
    ("HealthCheck", "{services: [a], interval: 100ms}"),
    ("HealthCheck", "{services: [a], port: 80, tcp: {port: 81}, timeout: 1s}"),
    (
        "HealthCheck",
        "{serviceSelector: {}, port: http, interval: 1m30s, timeout: 500ms, rise: 1, fall: 100, slowStart: 30s, \
         http: {path: '/a?b=c', host: 'x:80', scheme: HTTPS, port: 8443, expectedStatuses: [200, 200-299, '204']}, \
         weights: [{weight: 0, addresses: [10.1.2.3, 'fd00::/64']}, {weight: 256, nodes: [n1]}]}",
    ),
];

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: crier.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: crier-system}}\nspec: {spec}\n"
    )
}

#[test]
fn mistakes_are_refused_when_they_are_applied_with_what_to_write_instead() -> Result<()> {
    let lan = Lan::new().api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.define(&manifest()?)?;

    let right: String =
        (0..).zip(RIGHT).map(|(number, (kind, spec))| document(kind, &format!("right-{number}"), spec)).collect();
    api.apply(&right)?;
    for document in parse_file("right.yaml", &right).map_err(|problem| anyhow!("{problem}"))? {
        ensure!(document.problems.is_empty(), "the agents do not take it: {:?}", document.problems);
    }

    api.apply(&document("L2Advertisement", "emptied", "{ipAddressPools: [lan], interfaces: [eth0]}"))?;
    api.apply(&document("L2Advertisement", "emptied", "{}"))?;
    let emptied = api.get("crier-system", "l2advertisement/emptied")?.to_string();
    for document in parse_file("emptied.json", &emptied).map_err(|problem| anyhow!("{problem}"))? {
        ensure!(document.object.is_some() && document.problems.is_empty(), "{emptied}: {:?}", document.problems);
    }

    let names = || (0..).map(|number| format!("mistake-{number}-"));
    let wrong: String =
        names().zip(MISTAKES).map(|(name, (kind, spec, _))| document(kind, &format!("{name}x"), spec)).collect();
    let said = format!("{:#}", api.apply(&wrong).err().context("all mistakes were let in")?);
    for (name, (kind, spec, expected)) in names().zip(MISTAKES) {
        let about = said.split("Error from server").find(|part| part.contains(&name));
        let about = about.with_context(|| format!("{kind} {spec} was let in:\n{said}"))?;
        ensure!(about.contains(expected), "{kind} {spec} is refused without {expected:?}: {about}");
    }
    Ok(())
}

/// That each right is needed is shown by `kubernetes_rights.rs`; here, that those that would do harm are not there.
#[test]
fn agents_may_read_no_other_secrets_and_change_nothing_but_what_is_their_own() -> Result<()> {
    let lan = Lan::new().api_server().build()?;
    let api = ApiServer::on(&lan)?;
    api.define(&manifest()?)?;
    let may = |verb: &str, resource: &str, namespace: &str| {
        let account = "--as=system:serviceaccount:crier-system:crier";
        // Its exit code is 1 for "no".
        let answer = api.kubectl(&["auth", "can-i", verb, resource, "-n", namespace, account]);
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    ensure!(may("get", "secrets/crier-gossip", "crier-system"), "the account has no rights at all");
    for (verb, resource, namespace) in [
        ("get", "secrets/crier-gossip", "default"),
        ("get", "secrets/another", "crier-system"),
        ("list", "secrets", "crier-system"),
        ("patch", "secrets/crier-gossip", "crier-system"),
        ("create", "secrets", "default"),
        ("patch", "services", "default"),
        ("create", "services", "default"),
        ("patch", "ipaddresspools.crier.io", "crier-system"),
        ("delete", "ipaddresspools.crier.io", "crier-system"),
        ("list", "pods", "default"),
        ("patch", "pods", "default"),
        ("patch", "nodes", ""),
        ("create", "pods", "crier-system"),
    ] {
        ensure!(!may(verb, resource, namespace), "they may {verb} {resource} in {namespace}");
    }
    Ok(())
}
