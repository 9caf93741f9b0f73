//! The hooks answer ARP and neighbour discovery while no agent does: packets run through the programs by the kernel itself.

use std::{net::IpAddr, time::Duration};

use announcer::forward::Mode;
use forwarder_ebpf::Message;

use crate::{
    frames::{arp, from_mac, neighbour, solicited_node},
    fuzz::{
        kernel::{Kernel, Ran, Way},
        scene::{OTHERS, OWN, ROUTER, Scene, address},
    },
    lan::Lan,
    lease::Hooks,
    rig::Agent,
};

const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// An agent that is gone has left its VIPs for so long.
const LONG: Duration = Duration::from_secs(3600);

/// A node that owns `.100` and `.101`, of both families, and has no agent that answers.
struct Bed {
    lan: Lan,
    agent: Agent,
    kernel: Kernel,
    hooks: Hooks,
}

impl Bed {
    fn new() -> Self {
        let lan = Lan::new(1);
        let host = &lan.nodes[0];
        let mut agent = Agent::start_in(host, Mode::Xdp);
        agent.apply(host, &Scene::new().wanted(host.index("eth0")));
        let kernel = Kernel::of(host, agent.pins.path());
        let mut hooks = Hooks::of(&kernel);
        for v6 in [false, true] {
            [100, 101].into_iter().for_each(|number| hooks.own(address(v6, number)));
        }
        hooks.lease(Duration::ZERO, LONG);
        Self { lan, agent, kernel, hooks }
    }

    fn run(&self, frame: &[u8]) -> Ran {
        self.lan.nodes[0].run(|| self.kernel.run(Way::Ingress, frame).unwrap())
    }

    fn answers(&self) -> u64 {
        self.agent.counters().messages[&Message::Neighbour]
    }

    /// Sends a question, to which this must be the answer.
    fn expect(&self, question: &[u8], answer: &[u8]) {
        let before = self.answers();
        let ran = self.run(question);
        assert_eq!((ran.verdict, &ran.frame[..]), (REDIRECT, answer));
        assert_eq!(self.answers(), before + 1);
    }

    /// Sends what must be left to others as it is, or, if it is for the VIP's own address, to the agent alone.
    fn is_silent(&self, frame: &[u8]) {
        let before = self.answers();
        let ran = self.run(frame);
        let verdict = if frame[..6] == OWN && frame[12] == 0x86 { SHOT } else { NEXT };
        assert_eq!((ran.verdict, &ran.frame[..]), (verdict, frame));
        assert_eq!(self.answers(), before);
    }

    /// Whether questions for a VIP are answered.
    fn answers_for(&self, vip: IpAddr) -> bool {
        self.run(&question(vip)).verdict == REDIRECT
    }
}

fn vip(v6: bool) -> IpAddr {
    address(v6, 100)
}

fn client(v6: bool) -> IpAddr {
    address(v6, 9)
}

/// As hosts ask that know nothing.
fn question(vip: IpAddr) -> Vec<u8> {
    if vip.is_ipv4() {
        return arp(BROADCAST, 1, (ROUTER, client(false)), (NOBODY, vip));
    }
    let (group, mac) = solicited_node(vip);
    neighbour(mac, [client(true), group], [SOLICITATION, 0], vip, &link(1, ROUTER))
}

/// An option with a link-layer address: source 1, target 2.
fn link(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

/// What the node says to the router's question.
fn advertisement(vip: IpAddr) -> Vec<u8> {
    let flags = SOLICITED | OVERRIDE;
    from_mac(neighbour(ROUTER, [vip, client(true)], [ADVERTISEMENT, flags], vip, &link(2, OWN)), OWN)
}

fn arp_reply(asker: IpAddr) -> Vec<u8> {
    from_mac(arp(ROUTER, 2, (OWN, vip(false)), (ROUTER, asker)), OWN)
}

#[test]
fn arp_for_a_vip_is_answered_to_who_asked_whether_it_asked_all_or_this_node_or_probes() {
    let bed = Bed::new();
    let nobody: IpAddr = [0, 0, 0, 0].into();
    for (to, known) in [(BROADCAST, NOBODY), (OWN, NOBODY), (OWN, OWN)] {
        for asker in [client(false), nobody] {
            let question = arp(to, 1, (ROUTER, asker), (known, vip(false)));
            bed.expect(&question, &arp_reply(asker));
            // As short frames are on the wire.
            let padded = [&question[..], &[0; 18]].concat();
            bed.expect(&padded, &[arp_reply(asker), vec![0; 18]].concat());
        }
    }
}

#[test]
fn a_solicitation_is_answered_by_a_solicited_advertisement_that_overrides() {
    let bed = Bed::new();
    let (vip, client) = (vip(true), client(true));
    bed.expect(&question(vip), &advertisement(vip));
    // Neighbour unreachability detection: to the VIP itself, mostly without an option.
    let ask = |option: &[u8]| neighbour(OWN, [client, vip], [SOLICITATION, 0], vip, option);
    for question in [ask(&[]), ask(&link(1, ROUTER)), ask(&[14, 1, 1, 2, 3, 4, 5, 6])] {
        bed.expect(&question, &advertisement(vip));
    }
    // Where the option says another MAC than the frame, the answer goes there.
    let elsewhere = from_mac(ask(&link(1, ROUTER)), OTHERS[0]);
    bed.expect(&elsewhere, &advertisement(vip));
}

#[test]
fn who_looks_for_a_duplicate_is_answered_before_all_and_unsolicited() {
    let bed = Bed::new();
    let (vip, nobody): (_, IpAddr) = (vip(true), [0_u16; 8].into());
    let (group, mac) = solicited_node(vip);
    let all: IpAddr = "ff02::1".parse().unwrap();
    let answer = neighbour([0x33, 0x33, 0, 0, 0, 1], [vip, all], [ADVERTISEMENT, OVERRIDE], vip, &link(2, OWN));
    for option in [&[][..], &[14, 1, 1, 2, 3, 4, 5, 6]] {
        let question = neighbour(mac, [nobody, group], [SOLICITATION, 0], vip, option);
        bed.expect(&question, &from_mac(answer.clone(), OWN));
    }
    bed.is_silent(&neighbour(OWN, [nobody, vip], [SOLICITATION, 0], vip, &[]));
}

#[test]
fn only_vips_of_this_node_on_this_uplink_are_answered_for() {
    let mut bed = Bed::new();
    let lo = bed.kernel.interface + 1;
    for v6 in [false, true] {
        bed.is_silent(&question(address(v6, 102)));
        bed.is_silent(&question(address(v6, 50)));
        bed.hooks.own_on(lo, address(v6, 102));
        bed.is_silent(&question(address(v6, 102)));
        assert!(bed.answers_for(vip(v6)));
        bed.hooks.disown(vip(v6));
        bed.is_silent(&question(vip(v6)));
    }
}

#[test]
fn the_hooks_are_silent_while_an_agent_is_present_and_when_the_lease_has_ended() {
    let mut bed = Bed::new();
    for v6 in [false, true] {
        bed.hooks.lease(LONG, 2 * LONG);
        bed.is_silent(&question(vip(v6)));
        bed.hooks.lease(Duration::ZERO, Duration::ZERO);
        bed.is_silent(&question(vip(v6)));
        bed.hooks.lease(Duration::ZERO, LONG);
        assert!(bed.answers_for(vip(v6)));
    }
}

/// All ways in which another machine says that it has an address.
fn claims(v6: bool) -> Vec<Vec<u8>> {
    let vip = vip(v6);
    if v6 {
        let all = "ff02::1".parse().unwrap();
        let group = [0x33, 0x33, 0, 0, 0, 1];
        let unsolicited = neighbour(group, [vip, all], [ADVERTISEMENT, OVERRIDE], vip, &link(2, OTHERS[0]));
        let bare = neighbour(group, [vip, all], [ADVERTISEMENT, OVERRIDE], vip, &[]);
        return [unsolicited, bare].map(|frame| from_mac(frame, OTHERS[0])).into();
    }
    let say = |operation, target| arp(BROADCAST, operation, (OTHERS[0], vip), target);
    let to_us = arp(OWN, 2, (OTHERS[0], vip), (OWN, address(false, 11)));
    let frames = [say(1, (NOBODY, vip)), say(2, (NOBODY, vip)), say(2, (BROADCAST, vip)), to_us];
    frames.map(|frame| from_mac(frame, OTHERS[0])).into()
}

#[test]
fn whoever_is_heard_to_have_a_vip_ends_the_answers_for_it_until_an_agent_knows() {
    let mut bed = Bed::new();
    for v6 in [false, true] {
        for claim in claims(v6) {
            bed.hooks.own(vip(v6));
            assert!(bed.answers_for(vip(v6)));
            bed.is_silent(&claim);
            bed.is_silent(&question(vip(v6)));
            assert!(bed.answers_for(address(v6, 101)), "of the other nothing was heard");
            // An agent that has gone on for so long since must have heard it as well, and still has the VIP.
            bed.hooks.lease_from(Duration::from_secs(2), Duration::ZERO, LONG);
            assert!(bed.answers_for(vip(v6)));
            bed.hooks.lease(Duration::ZERO, LONG);
            assert!(!bed.answers_for(vip(v6)));
        }
    }
}

#[test]
fn its_own_announcement_that_comes_back_silences_nobody() {
    let bed = Bed::new();
    bed.is_silent(&from_mac(arp(BROADCAST, 1, (OWN, vip(false)), (NOBODY, vip(false))), OWN));
    let (group, all) = ([0x33, 0x33, 0, 0, 0, 1], "ff02::1".parse().unwrap());
    let own = neighbour(group, [vip(true), all], [ADVERTISEMENT, OVERRIDE], vip(true), &link(2, OWN));
    bed.is_silent(&from_mac(own, OWN));
    assert!(bed.answers_for(vip(false)) && bed.answers_for(vip(true)));
}

#[test]
fn a_question_that_is_none_is_left_alone() {
    let bed = Bed::new();
    let changed = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let arp = question(vip(false));
    // Hardware, protocol, lengths, operation, a sender that is a group.
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (21, 8), (22, 0x33)] {
        bed.is_silent(&changed(&arp, at, value));
    }
    bed.is_silent(&arp[..41]);
    let group = question(vip(true));
    let unicast = neighbour(OWN, [client(true), vip(true)], [SOLICITATION, 0], vip(true), &link(1, ROUTER));
    for question in [group, unicast] {
        // The hop limit, by which it is of this segment; the code; an option without length; one with a group's MAC; and a
        // sender that is a group.
        for (at, value) in [(21, 254), (55, 1), (79, 0), (80, 0x33), (22, 0xff)] {
            bed.is_silent(&changed(&question, at, value));
        }
        bed.is_silent(&question[..77]);
    }
}
