//! Plans are carried out on objects in memory until nothing is left to write.

use std::time::{Duration, UNIX_EPOCH};

use membership::claims::Owner;
use serde_json::{Value, json};

use super::*;
use crate::model::objects::Kind;
use crate::source::kubernetes::{
    picture,
    store::Store,
    watch::News,
    watched::{Watched, metadata},
};

/// An API server's objects, to which what is planned is done.
struct Server {
    store: Store,
    owners: Owners,
    pools: Vec<Value>,
    services: BTreeMap<String, Value>,
    vips: BTreeMap<String, Value>,
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}
    })
}

fn pool(addresses: &str) -> Value {
    json!({"metadata": {"name": "lan", "namespace": "crier-system", "generation": 1}, "spec": {"addresses": [addresses]}})
}

const SERVICES: Watched = Watched::Model(Kind::Service);
const POOLS: Watched = Watched::Model(Kind::IPAddressPool);

impl Server {
    fn new(pools: &[Value], services: Vec<Value>) -> Self {
        let mut store = Store::default();
        for what in Watched::all() {
            store.take(what, News::Listing("a".to_owned()));
            let objects = match what {
                POOLS => pools.to_vec(),
                SERVICES => services.clone(),
                _ => Vec::new(),
            };
            store.take(what, News::Page(objects));
            store.take(what, News::Listed);
            store.take(what, News::Reached);
        }
        let services = services.into_iter().map(|one| (metadata(&one, "name").unwrap(), one)).collect();
        Self { store, owners: Owners::new(), pools: pools.to_vec(), services, vips: BTreeMap::new() }
    }

    fn plan(&mut self) -> Vec<Write> {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (_, picture) = picture::take(&mut self.store, now);
        assert!(picture.current);
        plan(&Scene::new(&picture, &self.owners, &View::default(), now))
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let service = self.services.get_mut(name).unwrap();
        change(service);
        self.store.take(SERVICES, News::Changed(service.clone()));
    }

    /// Does what is planned until nothing is; what was done.
    fn settle(&mut self) -> Vec<Write> {
        let mut done = Vec::new();
        for _ in 0..8 {
            let planned: Vec<_> =
                self.plan().into_iter().filter(|write| !matches!(write.change, Change::Tell { .. })).collect();
            if planned.is_empty() {
                return done;
            }
            for write in planned {
                self.carry_out(&write.change);
                done.push(write);
            }
        }
        panic!("it never ends: {done:#?}");
    }

    fn carry_out(&mut self, change: &Change) {
        match change {
            Change::Ingress { service, addresses, .. } => self.change(&service.name, |object| {
                let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
                object["status"] = json!({"loadBalancer": {"ingress": ingress}});
            }),
            Change::Vip { service, uid, status } => {
                let metadata =
                    json!({"name": service.name, "namespace": service.namespace, "ownerReferences": [{"uid": uid}]});
                let object = json!({"metadata": metadata, "status": status});
                assert!(!object.to_string().contains("null"), "the API server refuses {object}");
                self.store.take(Watched::Vip, News::Changed(object.clone()));
                self.vips.insert(service.name.clone(), object);
            }
            Change::NoVip { service } => {
                let object = self.vips.remove(&service.name).unwrap();
                self.store.take(Watched::Vip, News::Gone(object));
            }
            Change::Status { object, status } => {
                assert_eq!(object.kind, Kind::IPAddressPool);
                let found = self.store.objects(Kind::IPAddressPool).find(|(key, _)| key.name == object.name);
                let mut pool = serde_json::to_value(found.unwrap_or_else(|| panic!("no {object}")).1).unwrap();
                pool["status"] = status.clone();
                self.store.take(POOLS, News::Changed(pool));
            }
            Change::Pod { .. } | Change::Tell { .. } => {}
        }
    }

    fn ingress(&self, name: &str) -> Vec<String> {
        let ingress = self.services[name]["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().map(|one| one["ip"].as_str().unwrap().to_owned()).collect()
    }
}

fn notes(writes: &[Write]) -> String {
    writes.iter().flat_map(|write| &write.events).map(|event| format!("{event:?}\n")).collect()
}

fn owner(node: &str, epoch: u64) -> Owner {
    Owner {
        node: node.parse().unwrap(),
        epoch,
        since_ms: 1_700_000_000_000,
        reason: membership::claims::Reason::FirstClaim,
    }
}

#[test]
fn a_new_service_gets_an_address_an_object_and_events_and_then_nothing_is_left_to_write() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    let done = server.settle();
    let [address] = &server.ingress("web")[..] else { panic!("{done:?}") };
    assert!(notes(&done).contains(&format!("assigned {address} from IPAddressPool lan")));
    let status = &server.vips["web"]["status"];
    assert_eq!((status["owner"].as_str(), status["backends"].as_str()), (Some(""), Some("0/0")));
    server.owners.insert(address.parse().unwrap(), owner("n2", 3));
    let done = server.settle();
    assert!(notes(&done).contains("is announced by node n2"), "{}", notes(&done));
    server.owners.insert(address.parse().unwrap(), owner("n1", 4));
    let done = server.settle();
    assert!(notes(&done).contains("is announced by node n1, before by node n2"), "{}", notes(&done));
    assert_eq!(server.vips["web"]["status"]["since"], "2023-11-14T22:13:20Z");
}

#[test]
fn services_of_other_types_and_classes_are_not_touched() {
    let mut other = service("other");
    other["spec"]["loadBalancerClass"] = "example.org/other".into();
    other["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    let mut internal = service("internal");
    internal["spec"]["type"] = "ClusterIP".into();
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![other, internal]);
    server.settle();
    assert_eq!(server.ingress("other"), ["192.0.2.1"]);
    assert!(server.vips.is_empty());
}

#[test]
fn what_was_ours_is_released_when_the_type_changes_and_nothing_else() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    server.change("web", |object| {
        object["spec"]["type"] = "ClusterIP".into();
        let ours = object["status"]["loadBalancer"]["ingress"][0].clone();
        object["status"]["loadBalancer"]["ingress"] = json!([ours, {"ip": "192.0.2.1"}]);
    });
    server.settle();
    assert_eq!(server.ingress("web"), ["192.0.2.1"]);
    assert!(server.vips.is_empty());
}

#[test]
fn an_address_of_another_load_balancer_stays_as_long_as_no_pool_is_for_its_service() {
    let mut metallbs = service("web");
    metallbs["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    let mut only_on_request = pool("10.0.0.8/30");
    only_on_request["spec"]["autoAssign"] = false.into();
    for pools in [vec![], vec![only_on_request]] {
        let mut server = Server::new(&pools, vec![metallbs.clone()]);
        server.settle();
        assert_eq!(server.ingress("web"), ["192.0.2.1"], "with {pools:?}");
        assert!(!notes(&server.plan()).contains("AssignmentFailed"), "nobody asked for one");
        assert!(server.vips.is_empty());
    }
    let mut server = Server::new(&[pool("192.0.2.0/30")], vec![metallbs]);
    server.settle();
    assert_eq!(server.ingress("web"), ["192.0.2.1"], "a pool that has it takes it over");
    assert_eq!(server.vips["web"]["status"]["ips"], "192.0.2.1");
}

#[test]
fn an_address_is_released_with_its_pool() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    server.store.take(POOLS, News::Gone(pool("10.0.0.8/30")));
    let done = server.settle();
    assert!(notes(&done).contains("released 10.0.0."), "{}", notes(&done));
    assert_eq!(server.ingress("web"), [""; 0]);
    assert!(server.vips.is_empty());
}

#[test]
fn a_service_that_is_gone_takes_its_object_along() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    let gone = server.services.remove("web").unwrap();
    server.store.take(SERVICES, News::Gone(gone));
    server.settle();
    assert!(server.vips.is_empty());
}

#[test]
fn a_full_pool_is_told_to_the_service_and_by_a_condition() {
    let mut server = Server::new(&[pool("10.0.0.8-10.0.0.8")], vec![service("one"), service("two")]);
    server.settle();
    let planned = server.plan();
    let told = notes(&planned);
    assert!(told.contains("AssignmentFailed") && told.contains("pool lan has 1, 1 taken"), "{told}");
    let (_, picture) = picture::take(&mut server.store, UNIX_EPOCH);
    let status = &picture.judged.values().next().unwrap().status;
    assert_eq!((status["used"].as_u64(), status["free"].as_str()), (Some(1), Some("0")));
    let exhausted = &status["conditions"][1];
    assert_eq!((exhausted["type"].as_str(), exhausted["status"].as_str()), (Some("Exhausted"), Some("True")));
    assert!(exhausted["message"].as_str().unwrap().contains("1 of 1"));
}

#[test]
fn a_pool_is_exhausted_when_one_of_its_families_is() {
    let mut both = pool("10.0.0.8/32");
    both["spec"]["addresses"] = json!(["10.0.0.8/32", "fd00::/64"]);
    let mut server = Server::new(&[both], vec![service("web")]);
    server.settle();
    let (_, picture) = picture::take(&mut server.store, UNIX_EPOCH);
    let exhausted = &picture.judged.values().next().unwrap().status["conditions"][1];
    assert_eq!(exhausted["status"], "True", "{exhausted}");
    assert_eq!(exhausted["message"], "1 of 1 IPv4 addresses are taken");
}

#[test]
fn what_asks_for_an_address_in_words_nobody_understands_gets_none_and_is_told() {
    let mut web = service("web");
    web["metadata"]["annotations"] = json!({"crier.io/loadBalancerIPs": "here"});
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![web]);
    server.settle();
    let told = notes(&server.plan());
    assert!(server.ingress("web").is_empty() && told.contains("AssignmentFailed") && told.contains("here"), "{told}");
}

#[test]
fn a_service_that_keeps_its_last_good_version_is_told_so() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    let before = server.ingress("web");
    server.change("web", |object| {
        object["metadata"]["annotations"] = json!({"crier.io/loadBalancerIPs": "10.9.9.9"});
    });
    server.settle();
    let told = notes(&server.plan());
    assert_eq!(server.ingress("web"), before);
    assert!(told.contains("Mistake") && told.contains("the last good version is served"), "{told}");
}

#[test]
fn both_families_come_from_one_pool_if_one_has_both_and_the_first_one_named_goes_first() {
    let named = |name: &str, addresses: &[&str]| {
        let mut object = pool("");
        object["metadata"]["name"] = name.into();
        object["spec"]["addresses"] = json!(addresses);
        object
    };
    let mut web = service("web");
    web["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    web["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    let pools = [named("a", &["10.0.0.8/32"]), named("b", &["10.0.0.9/32", "fd00::9/128"])];
    let mut server = Server::new(&pools, vec![web]);
    server.settle();
    assert_eq!(server.ingress("web"), ["fd00::9", "10.0.0.9"]);
}

#[test]
fn an_advertisement_for_an_interface_that_no_node_has_is_told_so() {
    let interface = membership::Interface { name: "eth0".into(), mac: [2; 6], prefixes: Vec::new() };
    let facts = membership::Facts { interfaces: vec![interface], ..Default::default() };
    let member = membership::Member {
        address: "127.0.0.1:1".parse().unwrap(),
        generation: 1,
        state: membership::MemberState::Alive,
        document: membership::NodeDocument { facts, ..Default::default() },
    };
    let view = View { members: BTreeMap::from([("n1".parse().unwrap(), member)]), caught_up: true };
    let judged = picture::Judged { interfaces: vec!["eth0".to_owned(), "eth9".to_owned()], ..Default::default() };
    let key = ObjectKey { kind: Kind::L2Advertisement, namespace: "default".into(), name: "lan".into() };
    let picture = Picture { judged: BTreeMap::from([(key, judged)]), ..Picture::default() };
    let changes = conditions::plan(&picture, &view, UNIX_EPOCH);
    let [Change::Status { status, .. }] = &changes[..] else { panic!("{changes:?}") };
    let valid = &status["conditions"][0];
    assert_eq!((&valid["status"], &valid["reason"]), (&json!("True"), &json!("Warning")));
    assert_eq!(
        valid["message"],
        "spec.interfaces[1]: no node that is up has an uplink named \"eth9\" (there are: eth0)"
    );
}

#[test]
fn a_pod_passes_when_all_its_probes_do_and_waits_for_the_first_answer() {
    let mut web = service("web");
    web["metadata"]["annotations"] = json!({"crier.io/readiness-gate": "true", "crier.io/health-check": "tcp"});
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![web]);
    let endpoint = json!({"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": false},
        "targetRef": {"kind": "Pod", "name": "p", "uid": "u"}});
    let slice = json!({"metadata": {"name": "web-a", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [endpoint]});
    server.store.take(Watched::Model(Kind::EndpointSlice), News::Changed(slice));
    server.settle();
    let (_, picture) = picture::take(&mut server.store, UNIX_EPOCH);
    let service = picture.assigned.services.values().next().unwrap();
    assert_eq!(picture.assigned.gated.len(), 1);
    let target = crate::health::target_of(&service.ports[0].backends[0], service.ports[0].check.as_ref().unwrap());
    let said = |verdict: Option<membership::Verdict>| {
        let health = verdict.into_iter().map(|verdict| (target, verdict)).collect();
        let document = membership::NodeDocument { health, ..Default::default() };
        let member = membership::Member {
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            state: membership::MemberState::Alive,
            document,
        };
        let view = View { members: BTreeMap::from([("n1".parse().unwrap(), member)]), caught_up: true };
        gate::verdicts(&picture, &view).into_iter().map(|(pod, passes)| (pod.name, passes)).collect::<Vec<_>>()
    };
    assert_eq!(said(None), []);
    assert_eq!(said(Some(membership::Verdict::Unhealthy)), [("p".to_owned(), false)]);
    assert_eq!(said(Some(membership::Verdict::Healthy)), [("p".to_owned(), true)], "though it is not ready yet");
}

#[test]
fn a_pool_that_shrinks_moves_its_services_to_what_is_left() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    let before = server.ingress("web");
    let left = (8..12).map(|n| format!("10.0.0.{n}")).find(|one| *one != before[0]).unwrap();
    server.store.take(POOLS, News::Changed(pool(&format!("{left}-{left}"))));
    server.settle();
    assert_eq!(server.ingress("web"), [left]);
}

#[test]
fn a_pool_that_gives_nothing_unasked_any_more_leaves_services_what_they_have() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![service("web")]);
    server.settle();
    let before = server.ingress("web");
    let mut on_request = pool("10.0.0.8/30");
    on_request["spec"]["autoAssign"] = false.into();
    server.store.take(POOLS, News::Changed(on_request));
    server.settle();
    assert_eq!((server.ingress("web"), before.len()), (before, 1));
}

#[test]
fn a_pool_that_gives_nothing_unasked_takes_no_address_that_another_load_balancer_gave() {
    let mut on_request = pool("10.0.0.8/30");
    on_request["spec"]["autoAssign"] = false.into();
    let mut web = service("web");
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}});
    let mut server = Server::new(&[on_request], vec![web]);
    assert!(server.settle().iter().all(|write| matches!(write.change, Change::Status { .. })));
    assert!(server.vips.is_empty());
}

#[test]
fn an_object_with_a_mistake_is_told_the_field_and_what_to_write() {
    let mut server = Server::new(&[pool("10.0.0.8/30")], vec![]);
    server.settle();
    server.store.take(POOLS, News::Changed(pool("10.0.0.8/33")));
    let writes = server.plan();
    let Some(Change::Status { status, .. }) = writes.first().map(|write| &write.change) else { panic!("{writes:?}") };
    let valid = &status["conditions"][0];
    assert_eq!(
        (valid["type"].as_str(), valid["status"].as_str(), valid["reason"].as_str()),
        (Some("Valid"), Some("False"), Some("Mistake"))
    );
    assert!(valid["message"].as_str().unwrap().starts_with("spec.addresses[0]: "), "{valid}");
    let mut told = pool("10.0.0.8/33");
    told["status"] = status.clone();
    server.store.take(POOLS, News::Changed(told));
    assert_eq!(server.plan(), [], "once is enough, also for an object of which no version could ever be read");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(48))]

    /// Services come and go, and pools change under them; an agent that starts anew agrees with one that has seen it all.
    #[test]
    fn no_address_is_given_twice_or_from_outside_a_pool_and_a_new_agent_would_change_none(
        steps in proptest::collection::vec((0_u8..3, 0_u8..12, 8_u8..24, 1_u8..12), 1..12)
    ) {
        let mut server = Server::new(&[pool("10.0.0.8-10.0.0.15")], vec![]);
        for (what, index, first, size) in steps {
            let name = format!("s{index}");
            match (what, server.services.remove(&name)) {
                (0, Some(gone)) => drop(server.store.take(SERVICES, News::Gone(gone))),
                (1, there) => {
                    server.services.extend(there.map(|there| (name, there)));
                    let range = pool(&format!("10.0.0.{first}-10.0.0.{}", first + size));
                    server.pools = vec![range.clone()];
                    server.store.take(POOLS, News::Changed(range));
                }
                (_, there) => {
                    let object = there.unwrap_or_else(|| service(&name));
                    server.services.insert(name.clone(), object);
                    server.change(&name, |_| {});
                }
            }
            server.settle();
            let range: Vec<String> = (0..=255).map(|n| format!("10.0.0.{n}")).collect();
            let offered = server.pools[0]["spec"]["addresses"][0].as_str().unwrap().to_owned();
            let (first, last) = offered.split_once('-').unwrap();
            let at = |text: &str| range.iter().position(|one| one == text).unwrap();
            let given: Vec<String> = server.services.keys().flat_map(|name| server.ingress(name)).collect();
            proptest::prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len(), "twice: {:?}", &given);
            proptest::prop_assert!(given.iter().all(|one| (at(first)..=at(last)).contains(&at(one))), "{given:?} of {offered}");
            let room = at(last) - at(first) + 1;
            proptest::prop_assert_eq!(given.len(), room.min(server.services.len()), "as many as there is room for");

            let mut fresh = Server::new(&server.pools, server.services.values().cloned().collect());
            let moved: Vec<_> = fresh.plan().into_iter().filter(|write| matches!(write.change, Change::Ingress { .. })).collect();
            proptest::prop_assert!(moved.is_empty(), "{moved:?}");
        }
    }
}
