//! Who tests what, case by case.

use membership::{Facts, Findings, Member, NodeDocument, claims::Reason};

use super::*;
use crate::model::{Service, ServiceName, TrafficPolicy, Vip};

const VIP: &str = "10.77.0.100";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn uplink(n: u8, prefixes: &[String]) -> Interface {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 0, n], prefixes }
}

fn member(n: u8, segment: &str) -> Member {
    let uplinks = vec![uplink(n, &[format!("{segment}.{n}/24"), format!("fd77::{n}/64")])];
    let facts = Facts { interfaces: uplinks, ..Facts::default() };
    Member {
        address: "127.0.0.1:1".parse().unwrap(),
        generation: 1,
        state: MemberState::Alive,
        document: NodeDocument { facts, ..NodeDocument::default() },
    }
}

/// So many nodes on one segment, all candidates; the first owns [`VIP`].
struct Set {
    view: View,
    candidates: BTreeSet<NodeName>,
    vip: IpAddr,
}

impl Set {
    fn new(nodes: u8) -> Self {
        let members = (1..=nodes).map(|n| (name(n), member(n, "10.77.0"))).collect();
        Self { view: View { members, caught_up: true }, candidates: (1..=nodes).map(name).collect(), vip: ip(VIP) }
    }

    fn assignment(&self, me: u8) -> Assignment {
        self.assignment_with(me, true)
    }

    fn assignment_with(&self, me: u8, usable: bool) -> Assignment {
        let owner = Owner { node: name(1), epoch: 4, since_ms: 0, reason: Reason::FirstClaim };
        let scene = Scene {
            view: Arc::new(self.view.clone()),
            candidates: [(self.vip, Arc::new(self.candidates.clone()))].into(),
            owners: Arc::new([(self.vip, owner)].into()),
        };
        let advertise = vec![Advertise { nodes: None, interfaces: BTreeSet::new() }];
        let vips = vec![Vip { address: self.vip, pool: String::new(), advertise }];
        let service = Service {
            vips,
            ports: Vec::new(),
            traffic_policy: TrafficPolicy::Cluster,
            preferred: None,
            affinity: None,
            sources: BTreeSet::new(),
        };
        let desired = Desired {
            services: [(ServiceName { namespace: "default".into(), name: "web".into() }, service)].into(),
            ..Desired::default()
        };
        assign(&name(me), &scene, &desired, |_| usable)
    }

    fn testers(&self) -> Vec<u8> {
        let nodes = 1..=u8::try_from(self.view.members.len()).unwrap();
        nodes.filter(|n| !self.assignment(*n).jobs.is_empty()).collect()
    }

    fn tester(&self) -> u8 {
        let testers = self.testers();
        assert_eq!(testers.len(), 1, "{testers:?}");
        testers[0]
    }
}

#[test]
fn one_candidate_behind_the_owner_tests_and_when_it_dies_the_next_does() {
    let mut set = Set::new(5);
    let mut seen = BTreeSet::from([1]);
    while seen.len() < 5 {
        let tester = set.tester();
        assert!(set.assignment(tester).jobs[&set.vip].may_replace);
        assert!(seen.insert(tester), "{tester} is dead, or the owner");
        set.view.members.get_mut(&name(tester)).unwrap().state = MemberState::Down;
        set.candidates.remove(&name(tester));
    }
    assert_eq!((set.testers(), set.assignment(1).untested), (vec![], 1), "the owner is alone and says so");
}

#[test]
fn a_job_says_from_where_to_ask_and_whom_else() {
    let mut set = Set::new(3);
    for (vip, own) in [(VIP, ["10.77.0.1", "10.77.0.2", "10.77.0.3"]), ("fd77::100", ["fd77::1", "fd77::2", "fd77::3"])]
    {
        set.vip = ip(vip);
        let tester = set.tester();
        let other = 5 - tester;
        let host = |n: u8| Host { address: ip(own[usize::from(n) - 1]), mac: MacAddr(2, 0, 0, 0, 0, n) };
        let assignment = set.assignment(tester);
        let job = &assignment.jobs[&set.vip];
        assert_eq!((&job.owner, job.epoch, job.owner_host, job.witness), (&name(1), 4, host(1), Some(host(other))));
        assert_eq!((job.seat.mac, job.seat.address), (host(tester).mac, host(tester).address));
        assert_eq!(
            assignment.controls().keys().copied().collect::<BTreeSet<_>>(),
            [host(1), host(other)].map(|h| h.address).into()
        );
    }
}

#[test]
fn one_member_whose_agent_runs_watches_a_machine_whose_agent_restarts() {
    let mut set = Set::new(4);
    set.view.members.get_mut(&name(1)).unwrap().state = MemberState::Restarting;
    let watchers = |set: &Set| -> Vec<u8> { (1..=4).filter(|n| !set.assignment(*n).posts.is_empty()).collect() };
    let watcher = watchers(&set)[0];
    assert_eq!(watchers(&set), [watcher]);
    assert_eq!(set.testers(), Vec::<u8>::new(), "no answer of an agent is expected meanwhile");
    let post = set.assignment(watcher).posts[&name(1)].clone();
    assert_eq!((post.mac, post.seat.mac), (MacAddr(2, 0, 0, 0, 0, 1), MacAddr(2, 0, 0, 0, 0, watcher)));
    set.view.members.get_mut(&name(watcher)).unwrap().state = MemberState::Restarting;
    let posts = watchers(&set).into_iter().map(|n| set.assignment(n).posts);
    assert_eq!(
        posts.flat_map(BTreeMap::into_keys).collect::<Vec<_>>(),
        [name(1), name(watcher)],
        "each is watched once"
    );
    assert!(watchers(&set).iter().all(|n| ![1, watcher].contains(n)), "by one whose agent runs");
}

#[test]
fn who_is_on_another_segment_cannot_test() {
    let mut set = Set::new(3);
    let tester = set.tester();
    set.view.members.insert(name(tester), member(tester, "10.78.0"));
    assert_eq!(set.tester(), 5 - tester);
    assert_eq!(set.assignment(5 - tester).jobs[&set.vip].witness, None);
    set.view.members.insert(name(5 - tester), member(5 - tester, "10.78.0"));
    assert_eq!((set.testers(), set.assignment(1).untested), (vec![], 1));
}

#[test]
fn an_address_of_its_own_is_no_segment() {
    let mut set = Set::new(2);
    for n in [1, 2] {
        let uplinks = vec![uplink(n, &[format!("10.77.0.{n}/24"), format!("{VIP}/32")])];
        set.view.members.get_mut(&name(n)).unwrap().document.facts.interfaces = uplinks;
    }
    assert_eq!(set.assignment(2).jobs[&set.vip].seat.address, ip("10.77.0.2"));
}

#[test]
fn who_may_not_own_the_vip_looks_but_does_not_replace() {
    let mut set = Set::new(3);
    set.candidates = [name(1)].into();
    assert!(!set.assignment(set.tester()).jobs[&set.vip].may_replace);
}

#[test]
fn who_was_silent_itself_is_not_to_replace_another() {
    let mut set = Set::new(3);
    let tester = set.tester();
    let findings = Findings { silent: [name(tester)].into(), ..Findings::default() };
    set.view.members.get_mut(&name(1)).unwrap().document.facts.findings = findings;
    assert_eq!(set.tester(), 5 - tester);
    set.candidates = [name(1), name(tester)].into();
    assert!(!set.assignment(set.tester()).jobs[&set.vip].may_replace);
}

#[test]
fn an_owner_that_may_be_dying_is_left_to_the_membership() {
    let mut set = Set::new(3);
    set.view.members.get_mut(&name(1)).unwrap().state = MemberState::Suspect;
    assert!(!set.assignment(set.tester()).jobs[&set.vip].may_replace);
    set.view.members.get_mut(&name(1)).unwrap().state = MemberState::Down;
    assert_eq!(set.testers(), Vec::<u8>::new());
}

#[test]
fn an_uplink_without_carrier_asks_nothing() {
    let set = Set::new(2);
    assert_eq!(set.assignment_with(2, true).jobs.len(), 1);
    assert_eq!(set.assignment_with(2, false).jobs.len(), 0);
}
