//! Says what became of a packet, and whether that was right: from the packet before and after, the verdict and the counters, by
//! the standards and the scene. It knows nothing of how the kernel program decides.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{
    anatomy::{Anatomy, Body, ETHERNET, SCTP, TCP, UDP, port, residue, sctp_flags},
    discovery::{Question, Said},
    kernel::{Ran, Way},
    ledger::{Ends, Ledger},
    messages,
    parts::Parts,
    scene::{OTHERS, OWN, Scene, Service},
};

/// TC's verdicts.
pub(super) const NEXT: i32 = -1;
pub(super) const SHOT: i32 = 2;
pub(super) const REDIRECT: i32 = 7;
/// XDP's.
pub(super) const PASS: i32 = 2;
const TX: i32 = 3;
/// The hops left to a packet that is searched for: to begin with, and when it comes home.
const SEARCHED: u8 = 8;
const SEARCH_OVER: u8 = 6;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Left as it was, to whoever comes next.
    Passed,
    /// Dropped, and not counted: the agent answers it.
    Swallowed,
    Dropped(&'static str),
    HandedOn,
    Delivered,
    /// A pod's, given the VIP as its source.
    Replied,
    /// A ping, made its own answer.
    Answered,
    /// ARP or neighbour discovery for a VIP of this node, made its own answer.
    Resolved,
    /// To a port that the VIP does not have, and its sender is told.
    Refused,
    /// An ICMP error, told to the pod it is about.
    Told,
}

/// A packet that a program was run on.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) way: Way,
    pub(crate) came: &'a [u8],
    pub(crate) ran: &'a Ran,
    /// For which reasons drops were counted meanwhile.
    pub(crate) drops: &'a [&'static str],
}

/// The judge, who remembers which connections were delivered.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    scene: &'a Scene,
    pub(crate) ledger: Ledger,
    parts: Parts,
    /// The VIPs that another machine may have said to have: for them this node need not answer any more.
    heard: BTreeSet<IpAddr>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Self {
        Self { scene, ledger: Ledger::default(), parts: Parts::default(), heard: BTreeSet::new() }
    }

    /// The node is told anew which VIPs it has.
    pub(crate) fn forget_claims(&mut self) {
        self.heard.clear();
    }

    /// What became of a packet; what is wrong with that.
    pub(crate) fn judge(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        if let Some(packet) = Anatomy::of(case.came).filter(|packet| packet.body == Body::Later)
            && let Some(part) = packet.part
            && (case.way != Way::Ingress || self.to_vip(case.came).is_some())
        {
            return self.parts.judge(case, &packet, part);
        }
        let fate = self.judge_whole(case)?;
        self.parts.note(case, fate);
        Ok(fate)
    }

    fn judge_whole(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let said = if case.way == Way::Ingress { Said::of(case.came) } else { Said::default() };
        let asked = said.asks.filter(|question| self.scene.owned.contains(&question.target));
        let fate = match (&asked, case.ran.verdict) {
            (Some(question), REDIRECT) => self.resolved(case, question),
            _ => self.other(case),
        }?;
        let must = asked.is_some_and(|question| question.valid && !self.heard.contains(&question.target));
        need!(!must || fate == Fate::Resolved, "a question for a VIP of this node, and it is {fate:?}");
        self.heard.extend(said.claims);
        Ok(fate)
    }

    fn resolved(&self, case: &Case<'_>, question: &Question) -> Result<Fate, String> {
        need!(case.drops.is_empty(), "answered, and counted as {:?}", case.drops);
        need!(!self.heard.contains(&question.target), "answered for a VIP that another has");
        need!(case.ran.frame == question.answer, "the answer must be {}", super::hex(&question.answer));
        Ok(Fate::Resolved)
    }

    fn other(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let untouched = case.ran.frame == case.came;
        let dropped = case.way != Way::Xdp && case.ran.verdict == SHOT;
        need!(dropped || case.drops.is_empty(), "it was not dropped, but counted as {:?}", case.drops);
        match (case.way, case.ran.verdict) {
            (Way::Xdp, PASS) | (Way::Ingress | Way::Egress, NEXT) if untouched => self.passed(case),
            (Way::Ingress, SHOT) => self.dropped(case),
            (Way::Ingress, REDIRECT) if self.is_answer(case) => messages::answered(self.scene, case),
            (Way::Xdp, TX) | (Way::Ingress, REDIRECT) => self.handed_on(case),
            (Way::Ingress, NEXT) if is_error(case.came) => messages::told(&self.ledger, case),
            (Way::Ingress, NEXT) => self.delivered(case),
            (Way::Egress, NEXT) => self.replied(case),
            (way, verdict) => Err(format!("{way:?} must not say {verdict}")),
        }
    }

    /// Whether a packet that is sent back must be an answer: a ping, or for a port without a service.
    fn is_answer(&self, case: &Case<'_>) -> bool {
        let Some(packet) = self.to_vip(case.came) else { return false };
        match packet.body {
            Body::Echo { .. } => true,
            Body::Segment { protocol, at } => {
                packet.part.is_none() && self.service(&packet, protocol, at, case.came).is_none()
            }
            Body::Cut { .. } | Body::Error { .. } | Body::Discovery | Body::Later | Body::Unfit(_) => false,
        }
    }

    /// The packet, if it is for a VIP and this node.
    fn to_vip(&self, came: &[u8]) -> Option<Anatomy> {
        let ours = came.starts_with(&OWN);
        Anatomy::of(came).filter(|packet| ours && self.scene.vips.contains(&packet.destination))
    }

    fn passed(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        need!(
            case.way != Way::Ingress || self.to_vip(case.came).is_none(),
            "a VIP's packet must not reach the stack as it is"
        );
        if let Some(ends) = Ends::of(case.came) {
            self.ledger.passed(&ends, case.way == Way::Egress);
        }
        Ok(Fate::Passed)
    }

    fn dropped(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let Some(packet) = self.to_vip(case.came) else { return Err("no VIP's packet, and dropped".into()) };
        let right = self.right_reasons(&packet, case.came);
        if case.drops.is_empty() {
            need!(packet.body == Body::Discovery, "dropped, and not counted");
            return Ok(Fate::Swallowed);
        }
        let [reason] = case.drops else { return Err(format!("dropped once, and counted as {:?}", case.drops)) };
        need!(right.contains(reason), "dropped as {reason}, not as one of {right:?}");
        if let (Body::Segment { .. }, Some(ends)) = (packet.body, Ends::of(case.came)) {
            self.ledger.gone(&ends);
        }
        Ok(Fate::Dropped(reason))
    }

    /// Why a packet may be dropped.
    fn right_reasons(&self, packet: &Anatomy, came: &[u8]) -> Vec<&'static str> {
        match packet.body {
            Body::Discovery => Vec::new(),
            Body::Unfit(reasons) => reasons.to_vec(),
            Body::Later => vec!["fragment"],
            Body::Cut { .. } => vec!["malformed"],
            // From nobody, or with extension headers that would be sent back.
            Body::Echo { .. } => vec!["malformed", "extension"],
            // About no connection that is known; or where to it may be handed on, as the connection's own packets.
            Body::Error { .. } => vec!["stray_error", "no_backend", "ttl_expired"],
            Body::Segment { protocol, at } => match self.service(packet, protocol, at, came) {
                // An abort repeats a tag, which is not there.
                None if protocol == SCTP && came.len() < at + 20 => vec!["no_service", "rewrite"],
                None => vec!["no_service"],
                Some(service) if !lets_in(service, packet.source) => vec!["source_range"],
                Some(service) => {
                    let from_node = OTHERS.iter().any(|mac| came[6..12] == *mac);
                    let away = service.is_elsewhere();
                    let mut right = Vec::new();
                    right.extend((!away && !service.is_here() || away && from_node).then_some("no_backend"));
                    right.extend((away && packet.hops <= 1).then_some("ttl_expired"));
                    right.extend(service.is_here().then_some("client_port"));
                    right
                }
            },
        }
    }

    fn service(&self, packet: &Anatomy, protocol: u8, at: usize, came: &[u8]) -> Option<&'a Service> {
        self.scene.services.get(&(packet.destination, port(came, at + 2), protocol))
    }

    /// The packet, which has ports and is for a service that lets its client in; the service; its protocol and offset.
    fn carried(&self, came: &[u8]) -> Result<(Anatomy, &'a Service, u8, usize), String> {
        let Some(packet) = self.to_vip(came) else { return Err("carried, though not for this node and a VIP".into()) };
        let (protocol, at, service) = match packet.body {
            Body::Segment { protocol, at } | Body::Cut { protocol, at } => {
                (protocol, at, self.service(&packet, protocol, at, came))
            }
            Body::Error { quoted: Some(quoted), .. } if quoted.source == packet.destination => {
                let key = (quoted.source, port(came, quoted.at), quoted.protocol);
                (quoted.protocol, quoted.at, self.scene.services.get(&key))
            }
            _ => return Err(format!("carried, though it is {:?}", packet.body)),
        };
        let Some(service) = service else { return Err("carried, though there is no such service".into()) };
        let error = matches!(packet.body, Body::Error { .. });
        need!(error || lets_in(service, packet.source), "carried, though its client is not let in");
        Ok((packet, service, protocol, at))
    }

    fn handed_on(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let (came, left) = (case.came, &case.ran.frame);
        let (packet, service, protocol, at) = self.carried(came)?;
        need!(service.is_elsewhere(), "handed on, though no other node has it");
        need!(left.len() == came.len(), "it has {} bytes", left.len());
        need!(OTHERS.iter().any(|mac| left.starts_with(mac)), "handed to {:02x?}", &left[..6]);
        need!(left[6..12] == OWN, "handed on as if from {:02x?}", &left[6..12]);
        let hops = left[packet.hops_at()];
        let error = matches!(packet.body, Body::Error { .. });
        let searched = error || may_be_searched_for(service, protocol, at, came);
        let searched = searched && [SEARCHED, SEARCH_OVER].contains(&hops);
        need!(hops >= 1 && hops < packet.hops, "it had {} hops left, and has {hops}", packet.hops);
        need!(hops == packet.hops - 1 || searched, "it had {} hops left, and has {hops}", packet.hops);
        need!(left[..6] != came[6..12] || searched, "handed back to whom it came from");
        let mut expected = came.to_vec();
        copy(&mut expected, left, 0..12);
        copy(&mut expected, left, packet.hops_at()..packet.hops_at() + 1);
        header_is_right(&packet, came, left, &mut expected)?;
        need!(*left == expected, "more than MACs and hops has changed");
        if let Some(ends) = Ends::of(came) {
            self.ledger.gone(&ends);
        }
        Ok(Fate::HandedOn)
    }

    fn delivered(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let (came, left) = (case.came, &case.ran.frame);
        let (packet, service, protocol, at) = self.carried(came)?;
        need!(matches!(packet.body, Body::Segment { .. }), "delivered, though it is {:?}", packet.body);
        need!(service.is_here(), "delivered, though no pod is here");
        need!(left.len() == came.len(), "it has {} bytes", left.len());
        let pod = SocketAddr::new(address(left, packet.addresses()[1]), port(left, at + 2));
        need!(Scene::pods(pod.is_ipv6()).contains(&pod), "delivered to {pod}");
        let (own, seen) = (port(came, at), port(left, at));
        need!(own == seen || seen >= 1024, "the pod sees the privileged port {seen}");
        let mut expected = came.to_vec();
        let (begin, length) = packet.addresses()[1];
        copy(&mut expected, left, begin..begin + length);
        copy(&mut expected, left, at..at + 4);
        rewritten(&packet, protocol, at, came, left, expected)?;
        self.ledger.delivered(&Ends::of(came).ok_or("no ports")?, &Ends::of(left).ok_or("no ports")?)?;
        Ok(Fate::Delivered)
    }

    fn replied(&mut self, case: &Case<'_>) -> Result<Fate, String> {
        let (came, left) = (case.came, &case.ran.frame);
        let Some(packet) = Anatomy::of(came) else { return Err("rewritten, though it has no IP header".into()) };
        let Body::Segment { protocol, at } = packet.body else {
            return Err(format!("rewritten, though it is {:?}", packet.body));
        };
        need!(left.len() == came.len(), "it has {} bytes", left.len());
        let mut expected = came.to_vec();
        let (begin, length) = packet.addresses()[0];
        copy(&mut expected, left, begin..begin + length);
        copy(&mut expected, left, at..at + 4);
        rewritten(&packet, protocol, at, came, left, expected)?;
        self.ledger.replied(&Ends::of(came).ok_or("no ports")?, &Ends::of(left).ok_or("no ports")?)?;
        Ok(Fate::Replied)
    }
}

/// Both checksums are as right as they were, and nothing has changed but them and what is expected.
fn rewritten(
    packet: &Anatomy,
    protocol: u8,
    at: usize,
    came: &[u8],
    left: &[u8],
    mut expected: Vec<u8>,
) -> Result<(), String> {
    header_is_right(packet, came, left, &mut expected)?;
    if protocol == SCTP {
        need!(left[at..at + 4] == came[at..at + 4], "an SCTP packet's ports have changed");
        need!(left == expected, "more has changed than an end's address");
        return Ok(());
    }
    let checksum = at + if protocol == TCP { 16 } else { 6 };
    if protocol == UDP && came[checksum..checksum + 2] == [0, 0] {
        need!(left[checksum..checksum + 2] == [0, 0], "a datagram without a checksum was given one");
    } else {
        copy(&mut expected, left, checksum..checksum + 2);
        let none = protocol == UDP && left[checksum..checksum + 2] == [0, 0];
        need!(!none, "a datagram's checksum was taken away");
        let sum = |frame| segment_residue(packet, frame, at);
        need!(sum(came) == sum(left), "the checksum behind the IP header is wrong");
    }
    need!(left == expected, "more has changed than an end's address, the ports and checksums");
    Ok(())
}

/// The IPv4 header's checksum is as right as it was; what it is now is expected.
pub(super) fn header_is_right(packet: &Anatomy, came: &[u8], left: &[u8], expected: &mut [u8]) -> Result<(), String> {
    if let (Some(before), Some(after)) = (packet.header_v4(came), packet.header_v4(left)) {
        need!(residue([before]) == residue([after]), "the IPv4 header's checksum is wrong");
        copy(expected, left, ETHERNET + 10..ETHERNET + 12);
    }
    Ok(())
}

/// The residue of a segment with what its checksum covers of the IP header; lengths stay as they are.
fn segment_residue(packet: &Anatomy, frame: &[u8], at: usize) -> u64 {
    let [(source, length), _] = packet.addresses();
    residue([&frame[source..source + 2 * length], &frame[at..]])
}

/// An ICMP error about a packet of the VIP's own.
fn is_error(came: &[u8]) -> bool {
    matches!(Anatomy::of(came), Some(Anatomy { body: Body::Error { quoted: Some(_), .. }, .. }))
}

/// Mid-flow, or of a client whose pod is looked for.
fn may_be_searched_for(service: &Service, protocol: u8, at: usize, came: &[u8]) -> bool {
    let mid_flow = match protocol {
        TCP => !opens(came, at),
        SCTP => sctp_flags(came, at) != 0x02,
        _ => port(came, at + 2) == 443 && came.get(at + 8).is_some_and(|first| first & 0xc0 == 0x40),
    };
    mid_flow || service.affinity
}

/// Whether a TCP header has these flags: SYN without ACK.
fn opens(came: &[u8], at: usize) -> bool {
    came.get(at + 13).is_some_and(|flags| flags & 0x12 == 0x02)
}

fn lets_in(service: &Service, client: IpAddr) -> bool {
    service.sources.is_none_or(|sources| sources.contains(&client))
}

pub(super) fn address(frame: &[u8], (begin, length): (usize, usize)) -> IpAddr {
    let octets = &frame[begin..begin + length];
    match <[u8; 4]>::try_from(octets) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(octets).unwrap().into(),
    }
}

pub(super) fn copy(to: &mut [u8], from: &[u8], range: std::ops::Range<usize>) {
    to[range.clone()].copy_from_slice(&from[range]);
}
