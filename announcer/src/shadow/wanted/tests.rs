use membership::{Claim, Facts, Member, MemberState, NodeDocument, Reason};

use super::*;

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100));

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn mac(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

/// Three nodes on one segment; `n1` owns the VIP and names `n2`.
fn view() -> View {
    let member = |n: u8| {
        let prefixes = vec![format!("10.77.0.{n}/24").parse().unwrap()];
        let interfaces = vec![Interface { name: "eth0".into(), mac: mac(n), prefixes }];
        Member {
            address: ([10, 77, 0, n], 9651).into(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument {
                facts: Facts { interfaces, forwarding: true, ..Facts::default() },
                ..NodeDocument::default()
            },
        }
    };
    let mut view = View { members: (1..=3).map(|n| (name(n), member(n))).collect(), caught_up: true };
    let claim = Claim { epoch: 1, since_ms: 0, standby: standby::id(&name(2)) };
    view.members.get_mut(&name(1)).unwrap().document.claims.insert(VIP, claim);
    view
}

fn on(node: u8, network: &str, view: &View) -> Wishes {
    let owner = Owner { node: name(1), epoch: 1, since_ms: 0, reason: Reason::Found };
    let uplink = Uplink {
        name: "eth7".into(),
        index: 7,
        mac: mac(node),
        prefixes: vec![network.parse().unwrap()],
        up: true,
        carrier: true,
    };
    wanted(view, &BTreeMap::from([(VIP, owner)]), [&uplink].into_iter(), &name(node))
}

fn on_n2(view: &View) -> Wishes {
    on(2, "10.77.0.2/24", view)
}

const OWNER: Key = Key { interface: 7, mac: [2, 0, 0, 0, 0, 1] };

#[test]
fn the_node_that_the_owner_names_stands_in_and_no_other() {
    let wishes = on_n2(&view());
    let wish = &wishes.shadows[&OWNER];
    assert_eq!((wish.owner.clone(), wish.vips.clone()), (name(1), BTreeSet::from([VIP])));
    assert_eq!(wish.addresses, ["10.77.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(wishes.present, [mac(1), mac(2), mac(3)].into());
    assert!(on(3, "10.77.0.3/24", &view()).shadows.is_empty(), "n3 is not named");
    assert!(on(1, "10.77.0.1/24", &view()).shadows.is_empty(), "the owner itself");
}

#[test]
fn only_on_a_segment_that_both_are_on() {
    assert!(on(2, "10.99.0.2/24", &view()).shadows.is_empty());
}

#[test]
fn a_mac_that_another_member_has_is_nobodys_to_stand_in_for() {
    let mut twin = view();
    twin.members.get_mut(&name(3)).unwrap().document.facts.interfaces[0].mac = mac(1);
    assert!(on_n2(&twin).shadows.is_empty());
    twin.members.get_mut(&name(3)).unwrap().state = MemberState::Down;
    assert_eq!(on_n2(&twin).shadows.len(), 1, "the dead have none");
    let mut own = view();
    own.members.get_mut(&name(1)).unwrap().document.facts.interfaces[0].mac = mac(2);
    assert!(on_n2(&own).shadows.is_empty(), "this node's own");
}

#[test]
fn a_mac_that_is_no_single_hosts_is_left_alone() {
    for odd in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut view = view();
        view.members.get_mut(&name(1)).unwrap().document.facts.interfaces[0].mac = odd;
        assert!(on_n2(&view).shadows.is_empty(), "{odd:?}");
    }
}

#[test]
fn the_dead_and_those_who_do_not_forward_are_not_stood_in_for() {
    let mut view = view();
    view.members.get_mut(&name(1)).unwrap().state = MemberState::Down;
    let wishes = on_n2(&view);
    assert!(wishes.shadows.is_empty() && !wishes.present.contains(&mac(1)));
    let owner = view.members.get_mut(&name(1)).unwrap();
    owner.state = MemberState::Alive;
    owner.document.facts.forwarding = false;
    assert!(on_n2(&view).shadows.is_empty());
}

#[test]
fn it_follows_the_owners_document_to_a_new_mac() {
    let mut view = view();
    view.members.get_mut(&name(1)).unwrap().document.facts.interfaces[0].mac = mac(9);
    assert_eq!(on_n2(&view).shadows.keys().map(|key| key.mac).collect::<Vec<_>>(), [mac(9)]);
}
