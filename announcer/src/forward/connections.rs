//! The connections that the kernel program remembers, as people ask for them: whose, to which pod, in which phase.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use forwarder_ebpf::{
    Address, Flow, Grant, Pod, SCTP, TCP,
    table::{Standing, State},
};

use super::{counters::Labels, wanted::Socket};
use crate::model::Protocol;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Begun: one packet from the client, or with UDP no answer yet.
    HalfOpen,
    /// In use, or silent.
    Established,
    /// Closed by both ends, less than a minute ago.
    Closing,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HalfOpen, Self::Established, Self::Closing];

    /// Its name in metrics and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }

    /// The phase of a connection that lies in a place of this state, in seconds; `None`: none does, or it is over.
    #[must_use]
    pub fn of(state: State, now: u32) -> Option<Self> {
        if !state.has(State::FORWARD) || state.has(State::BUSY) {
            return None;
        }
        match state.standing(now) {
            Standing::Free | Standing::Over => None,
            Standing::Closed => Some(Self::Closing),
            Standing::HalfOpen => Some(Self::HalfOpen),
            Standing::Datagrams | Standing::Quiet | Standing::Kept => Some(Self::Established),
        }
    }
}

/// A client's connection to a pod of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub client: SocketAddr,
    /// The socket on the VIP.
    pub service: Socket,
    /// The pod; `None`: its number is being given to another.
    pub pod: Option<SocketAddr>,
    /// How far it has come.
    pub phase: Phase,
    /// Since when the client was not heard, to the second.
    pub silent: Duration,
}

impl Connection {
    /// As it lies in the table.
    #[must_use]
    pub fn of(flow: &Flow, phase: Phase, pod: Option<&Pod>, now: u32) -> Self {
        let port = u16::from_be_bytes;
        let socket = |address: &Address, at: [u8; 2]| SocketAddr::new(ip(address), port(at));
        let silent = u64::try_from(now.wrapping_sub(flow.seen).cast_signed()).unwrap_or(0);
        Self {
            client: socket(&flow.client, flow.client_port),
            service: service(&flow.vip, flow.port, flow.protocol),
            pod: pod.filter(|pod| pod.state == Pod::THERE).map(|pod| socket(&pod.address, pod.port)),
            phase,
            silent: Duration::from_secs(silent),
        }
    }
}

/// What connections are told apart by when they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    vip: Address,
    port: [u8; 2],
    protocol: u8,
    /// The pod's number.
    pod: u16,
}

/// Connections counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    groups: HashMap<Group, u64>,
    /// All of them, by phase.
    pub phases: BTreeMap<Phase, u64>,
    /// How many the table has room for.
    pub room: u32,
}

/// Those in use, by whom they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Active {
    /// By service port.
    pub services: BTreeMap<Labels, u64>,
    /// By service port and pod.
    pub pods: BTreeMap<(Labels, SocketAddr), u64>,
}

impl Tally {
    /// None yet, of a table with so much room.
    #[must_use]
    pub fn of(room: u32) -> Self {
        Self { room, ..Self::default() }
    }

    /// Counts one more.
    pub fn count(&mut self, flow: &Flow, phase: Phase) {
        *self.phases.entry(phase).or_default() += 1;
        if phase == Phase::Established {
            let pod = Grant::from_word(flow.grant).pod;
            let group = Group { vip: flow.vip, port: flow.port, protocol: flow.protocol, pod };
            *self.groups.entry(group).or_default() += 1;
        }
    }

    /// By names: those of services that there are.
    #[must_use]
    pub fn active<'a>(
        &self,
        labels: impl Fn(&Socket) -> Option<&'a Labels>,
        pod: impl Fn(u16) -> Option<Pod>,
    ) -> Active {
        let mut active = Active::default();
        for (group, count) in &self.groups {
            let Some(labels) = labels(&service(&group.vip, group.port, group.protocol)) else { continue };
            *active.services.entry(labels.clone()).or_default() += count;
            if let Some(pod) = pod(group.pod).filter(|pod| pod.state == Pod::THERE) {
                let socket = SocketAddr::new(ip(&pod.address), u16::from_be_bytes(pod.port));
                *active.pods.entry((labels.clone(), socket)).or_default() += count;
            }
        }
        active
    }
}

fn ip(address: &Address) -> IpAddr {
    Ipv6Addr::from(*address).to_canonical()
}

fn service(vip: &Address, port: [u8; 2], protocol: u8) -> Socket {
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        SCTP => Protocol::Sctp,
        _ => Protocol::Udp,
    };
    Socket { vip: ip(vip), port: u16::from_be_bytes(port), protocol }
}

#[cfg(test)]
mod tests {
    use forwarder_ebpf::{
        mapped,
        table::{Home, TCP_CLOSED, TCP_IDLE, words},
    };

    use super::*;
    use crate::model::ServiceName;

    const NOW: u32 = 100_000;

    fn state(flags: u32, heard: u32) -> State {
        State::new(&Home::of(words(&mapped([10, 0, 0, 9])), [1, 2], TCP, 64), flags, heard)
    }

    fn flow(vip: u8, pod: u16) -> Flow {
        Flow {
            grant: Grant { pod, client_port: [1, 2], guard: 7 }.word(),
            client: mapped([10, 0, 0, 9]),
            vip: mapped([10, 0, 0, vip]),
            client_port: [1, 2],
            port: 80_u16.to_be_bytes(),
            protocol: TCP,
            pad: 0,
            backend: 1,
            tag: 1,
            counted: 1,
            seen: NOW - 5,
            begun: 0,
        }
    }

    fn pod(number: u8) -> Pod {
        let port = 8080_u16.to_be_bytes();
        let (state, way) = (Pod::THERE, Pod::DIRECT);
        let address = mapped([10, 1, 0, number]);
        Pod { address, port, way, state, seen: NOW, rest: 0, own: [0; 16], spare: [0; 16] }
    }

    fn labels(name: &str) -> Labels {
        let service = ServiceName { namespace: "default".into(), name: name.into() };
        Labels { service, port: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_phase_is_what_newcomers_would_find_there() {
        let both = State::FORWARD | State::REVERSE | State::TCP;
        let old = |silent: i32| NOW - silent.cast_unsigned();
        for (flags, heard, phase) in [
            (both, NOW, Some(Phase::Established)),
            (both | State::HALF_OPEN, NOW, Some(Phase::HalfOpen)),
            (both | State::BY_CLIENT, NOW, Some(Phase::Established)),
            (both | State::CLOSED, NOW, Some(Phase::Closing)),
            (both | State::CLOSED, old(TCP_CLOSED + 8), None),
            (both, old(TCP_IDLE + 8), None),
            (State::REVERSE | State::TCP, NOW, None),
            (both | State::BUSY, NOW, None),
            (State::FORWARD, NOW, Some(Phase::Established)),
        ] {
            assert_eq!(Phase::of(state(flags, heard), NOW), phase, "{flags:b} heard at {heard}");
        }
        assert_eq!(Phase::of(State::FREE, NOW), None);
    }

    #[test]
    fn those_in_use_are_counted_by_service_and_pod_and_those_of_no_service_are_not() {
        let mut tally = Tally::default();
        for (vip, pod, phase) in [
            (100, 1, Phase::Established),
            (100, 1, Phase::Established),
            (100, 2, Phase::Established),
            (101, 1, Phase::Established),
            (102, 1, Phase::Established),
            (100, 1, Phase::HalfOpen),
            (100, 1, Phase::Closing),
        ] {
            tally.count(&flow(vip, pod), phase);
        }
        // Two VIPs of one service, and one of which nothing is known.
        let web = labels("web");
        let of = |socket: &Socket| (socket.vip != IpAddr::from([10, 0, 0, 102])).then_some(&web);
        let active = tally.active(of, |number| (number == 1).then(|| pod(1)));
        assert_eq!(active.services, BTreeMap::from([(web.clone(), 4)]));
        assert_eq!(active.pods, BTreeMap::from([((web.clone(), "10.1.0.1:8080".parse().unwrap()), 3)]));
        assert_eq!(tally.phases, BTreeMap::from([(Phase::HalfOpen, 1), (Phase::Established, 5), (Phase::Closing, 1)]));
    }

    #[test]
    fn a_connection_says_both_ends_its_pod_and_how_long_the_client_was_silent() {
        let connection = Connection::of(&flow(100, 1), Phase::Established, Some(&pod(1)), NOW);
        assert_eq!(connection.client, "10.0.0.9:258".parse().unwrap());
        assert_eq!(connection.service.vip, IpAddr::from([10, 0, 0, 100]));
        assert_eq!(connection.pod, Some("10.1.0.1:8080".parse().unwrap()));
        assert_eq!(connection.silent, Duration::from_secs(5));
        assert_eq!(Connection::of(&flow(100, 1), Phase::Established, None, NOW - 6).silent, Duration::ZERO);
    }
}
