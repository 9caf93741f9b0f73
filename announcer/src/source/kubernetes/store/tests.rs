//! The store: lists, watches, a broken watch, a wiped server.

use serde_json::json;

use super::*;

const SERVICES: Watched = Watched::Model(Kind::Service);
const POOLS: Watched = Watched::Model(Kind::IPAddressPool);

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
}

fn pool(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "crier-system"}, "spec": {"addresses": ["10.0.0.0/28"]}})
}

fn list(store: &mut Store, what: Watched, identity: &str, objects: Vec<Value>) {
    store.take(what, News::Listing(identity.to_owned()));
    store.take(what, News::Page(objects));
    store.take(what, News::Listed);
    store.take(what, News::Reached);
}

fn list_all(store: &mut Store, identity: &str, services: Vec<Value>, pools: &[Value]) {
    for what in Watched::all().filter(|what| *what != SERVICES && *what != POOLS) {
        list(store, what, identity, Vec::new());
    }
    list(store, POOLS, identity, pools.to_vec());
    list(store, SERVICES, identity, services);
}

fn services(store: &Store) -> Vec<&str> {
    store.objects(Kind::Service).map(|(key, _)| key.name.as_str()).collect()
}

#[test]
fn what_a_new_list_does_not_have_is_gone_and_what_a_watch_says_counts() {
    let mut store = Store::default();
    list_all(&mut store, "a", vec![service("one"), service("two")], &[pool("lan")]);
    assert!(store.is_connected() && store.is_current());
    store.take(SERVICES, News::Changed(service("three")));
    store.take(SERVICES, News::Gone(service("one")));
    assert_eq!(services(&store), ["three", "two"]);
    list(&mut store, SERVICES, "a", vec![service("two")]);
    assert_eq!(services(&store), ["two"]);
    list(&mut store, POOLS, "a", Vec::new());
    assert_eq!(store.objects(Kind::IPAddressPool).count(), 0, "somebody wanted that");
}

#[test]
fn a_broken_watch_changes_nothing_but_is_told() {
    let mut store = Store::default();
    list_all(&mut store, "a", vec![service("one")], &[pool("lan")]);
    assert!(store.take(SERVICES, News::Lost("services: connection refused".to_owned())));
    assert!(!store.take(SERVICES, News::Lost("services: connection refused".to_owned())), "once is enough");
    assert!(!store.is_connected());
    assert_eq!(store.problems()[0].message, "services: connection refused");
    assert_eq!(services(&store), ["one"]);
    assert!(store.take(SERVICES, News::Reached));
    assert!(store.is_connected() && store.problems().is_empty());
}

#[test]
fn nothing_is_written_from_a_list_that_is_being_read_anew() {
    let mut store = Store::default();
    list_all(&mut store, "a", vec![service("one")], &[pool("lan")]);
    store.take(SERVICES, News::Outdated);
    assert!(!store.is_current() && store.problems().is_empty());
    store.take(SERVICES, News::Reached);
    assert!(store.is_current());
    store.take(SERVICES, News::Listing("a".to_owned()));
    store.take(SERVICES, News::Page(vec![service("two")]));
    assert!(!store.is_current(), "what is gone is not known yet");
    store.take(SERVICES, News::Listed);
    store.take(SERVICES, News::Reached);
    assert!(store.is_current());
    assert_eq!(services(&store), ["two"]);
}

#[test]
fn a_wiped_store_is_not_believed_until_there_is_a_pool_again() {
    let mut store = Store::default();
    list_all(&mut store, "a", vec![service("one")], &[pool("lan")]);
    list_all(&mut store, "b", vec![], &[]);
    assert_eq!(services(&store), ["one"]);
    assert!(!store.is_connected());
    assert!(store.problems()[0].message.contains("another cluster"));
    store.take(SERVICES, News::Changed(service("new")));
    assert_eq!(services(&store), ["one"]);
    store.take(POOLS, News::Changed(pool("lan")));
    assert_eq!(services(&store), ["new"]);
    assert!(store.is_connected() && store.problems().is_empty());
}

#[test]
fn a_store_that_was_restored_is_the_same_cluster() {
    let mut store = Store::default();
    list_all(&mut store, "a", vec![service("one")], &[pool("lan")]);
    list_all(&mut store, "b", vec![], &[]);
    list_all(&mut store, "a", vec![service("restored")], &[pool("lan")]);
    assert_eq!(services(&store), ["restored"]);
    assert!(store.is_connected());
}

#[test]
fn what_was_kept_on_disk_is_served_and_gives_way_to_what_the_server_says() {
    let kept = vec![(SERVICES, service("kept")), (Watched::Model(Kind::IPAddressPool), pool("lan"))];
    let mut store = Store::remembering("a".to_owned(), kept);
    assert_eq!(services(&store), ["kept"]);
    assert!(!store.is_connected() && !store.is_current());
    list_all(&mut store, "a", vec![service("one")], &[pool("lan")]);
    assert_eq!(services(&store), ["one"]);
}

#[test]
fn what_crier_has_given_is_known_by_its_vips_also_from_disk() {
    let on_request = json!({"metadata": {"name": "lan", "namespace": "crier-system"},
        "spec": {"addresses": ["10.0.0.0/28"], "autoAssign": false}});
    let mut web = service("web");
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}});
    let vip =
        json!({"metadata": {"name": "web", "namespace": "default"}, "status": {"addresses": [{"ip": "10.0.0.9"}]}});
    let served = |store: &Store| store.live.index.resolve().desired.services.len();
    let kept = vec![(SERVICES, web), (Watched::Model(Kind::IPAddressPool), on_request), (Watched::Vip, vip.clone())];
    let mut store = Store::remembering("a".to_owned(), kept);
    assert_eq!(served(&store), 1);
    store.take(Watched::Vip, News::Gone(vip));
    assert_eq!(served(&store), 0);
}
