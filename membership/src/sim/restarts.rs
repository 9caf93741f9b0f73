//! Announced restarts: gossip and claims together, as in an agent.

use std::net::IpAddr;

use super::*;
use crate::{Action, Claim, Interface, Listen, MemberState, Ownership, election::Candidates};

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
const NODES: usize = 3;
const VIPS: u8 = 6;

fn facts(index: usize, listening: bool) -> Facts {
    let interface = Interface { name: "eth0".into(), mac: [index as u8; 6], prefixes: Vec::new() };
    Facts { interfaces: vec![interface], forwarding: true, listening, ..Facts::default() }
}

/// Agents: the simulated gossip, and the claims machine of each that runs.
struct Agents {
    sim: Sim,
    claims: BTreeMap<usize, Ownership>,
    generation: u64,
    /// Who took which VIP since this was last emptied, with the epoch.
    taken: Vec<(usize, IpAddr, u64)>,
}

impl Agents {
    /// A cluster in which every VIP has an owner.
    fn settled(seed: u64) -> Self {
        let mut agents = Self { sim: Sim::new(seed), claims: BTreeMap::new(), generation: 1000, taken: Vec::new() };
        for index in 0..NODES {
            agents.boot(index, None);
        }
        agents.run(10 * SECOND);
        agents.taken.clear();
        assert_eq!(agents.owners(1).len(), usize::from(VIPS));
        agents
    }

    fn boot(&mut self, index: usize, resume: Option<(BTreeMap<IpAddr, Claim>, Instant)>) {
        self.generation += 1;
        self.sim.boot(index, config(index, self.generation));
        self.sim.command(index, Command::SetFacts(facts(index, true)));
        let mut ownership = Ownership::new(name(index), Listen::default(), self.sim.now);
        if let Some((claims, until)) = resume {
            ownership.resume(claims, until);
        }
        self.claims.insert(index, ownership);
    }

    /// Stops an agent that says it will be back: what it leaves for its next life.
    fn announce_restart(&mut self, index: usize) -> (BTreeMap<IpAddr, Claim>, Instant) {
        let left = self.claims.remove(&index).map(|ownership| ownership.claims()).unwrap_or_default();
        for _ in 0..3 {
            self.sim.command(index, Command::Restart(GRACE));
            self.run(Duration::from_millis(10));
        }
        self.sim.crash(index);
        (left, self.sim.now + GRACE)
    }

    /// Lets time pass; claims are decided anew every 10 ms.
    fn run(&mut self, time: Duration) {
        let end = self.sim.now + time;
        while self.sim.now < end {
            self.sim.run(Duration::from_millis(10));
            for index in self.claims.keys().copied().collect::<Vec<_>>() {
                self.decide(index);
            }
        }
    }

    fn decide(&mut self, index: usize) {
        let view = self.sim.view(index);
        let candidates = view
            .up()
            .filter(|(_, member)| !member.document.facts.listening && !member.document.facts.interfaces.is_empty());
        let candidates: Arc<BTreeSet<NodeName>> = Arc::new(candidates.map(|(name, _)| name.clone()).collect());
        let vips: Candidates = (1..=VIPS).map(|vip| (IpAddr::from([10, 0, 9, vip]), Arc::clone(&candidates))).collect();
        let Some(ownership) = self.claims.get_mut(&index) else { return };
        ownership.handle_input(&view, &vips, self.sim.now, 1);
        let mut facts_now = None;
        while let Some(action) = ownership.poll_action() {
            match action {
                Action::Publish(claims) => self.sim.command(index, Command::SetClaims(claims)),
                Action::Announce { vip, epoch, .. } => self.taken.push((index, vip, epoch)),
                Action::Listening(listening) => facts_now = Some(facts(index, listening)),
                Action::Withdraw { .. } | Action::Reannounce { .. } => {}
            }
        }
        // After the claims, as agents do: who hears that a node is awake knows what it claims.
        if let Some(facts) = facts_now {
            self.sim.command(index, Command::SetFacts(facts));
        }
    }

    fn owners(&self, viewer: usize) -> BTreeMap<IpAddr, (NodeName, u64)> {
        self.claims[&viewer].owners().iter().map(|(vip, owner)| (*vip, (owner.node.clone(), owner.epoch))).collect()
    }

    fn state(&mut self, of: usize) -> Option<MemberState> {
        self.sim.member(1, of).map(|member| member.state)
    }
}

#[test]
fn an_announced_restart_moves_no_vip() {
    for seed in 0..12 {
        let mut agents = Agents::settled(seed);
        agents.sim.weather = if seed % 2 == 0 { FAIR } else { FOUL };
        let before = agents.owners(1);
        let left = agents.announce_restart(0);
        assert!(!left.0.is_empty(), "seed {seed}: it owned something");
        agents.run(Duration::from_millis(200 + 600 * seed));
        assert_eq!(agents.state(0), Some(MemberState::Restarting), "seed {seed}");
        assert_eq!(agents.owners(1), before, "seed {seed}: while it is away");
        let claims = left.0.clone();
        agents.boot(0, Some(left));
        agents.run(GRACE + SECOND);
        for viewer in 0..NODES {
            assert_eq!(agents.owners(viewer), before, "seed {seed}: n{viewer}, with the same epochs");
        }
        assert_eq!(agents.state(0), Some(MemberState::Alive));
        assert!(
            agents.taken.iter().all(|(node, vip, epoch)| *node == 0 && claims[vip].epoch == *epoch),
            "{:?}",
            agents.taken
        );
    }
}

#[test]
fn who_does_not_come_back_within_the_grace_is_replaced() {
    let mut agents = Agents::settled(20);
    let before = agents.owners(1);
    let (left, until) = agents.announce_restart(0);
    agents.run(until - agents.sim.now - Duration::from_millis(100));
    assert_eq!(agents.owners(1), before);
    agents.run(SECOND);
    assert_eq!(agents.state(0), Some(MemberState::Down));
    let owners = agents.owners(1);
    assert_eq!(owners.len(), usize::from(VIPS));
    assert!(owners.values().all(|(node, _)| *node != name(0)), "{owners:?}");
    // One that comes late has nothing to take up.
    let now = agents.owners(1);
    agents.boot(0, Some((left, until)));
    agents.run(4 * SECOND);
    assert_eq!(agents.owners(1), now);
}

#[test]
fn a_machine_that_is_gone_in_the_grace_is_replaced_at_once_by_all() {
    let mut agents = Agents::settled(21);
    agents.announce_restart(0);
    agents.run(SECOND);
    agents.sim.command(2, Command::Lost(name(0)));
    agents.run(Duration::from_millis(50));
    assert_eq!(agents.state(0), Some(MemberState::Down));
    let owners = agents.owners(1);
    assert!(owners.values().all(|(node, _)| *node != name(0)), "{owners:?}");
}

#[test]
fn an_agent_that_lost_what_it_left_gives_its_vips_up_when_it_is_awake() {
    let mut agents = Agents::settled(22);
    agents.announce_restart(0);
    agents.run(SECOND);
    agents.boot(0, None);
    agents.run(2 * SECOND);
    let owners = agents.owners(1);
    assert_eq!(owners.len(), usize::from(VIPS), "each is somebody's, by an ordinary election: {owners:?}");
    assert_eq!(owners, agents.owners(0));
}

#[test]
fn who_joins_in_the_grace_takes_nothing() {
    let mut agents = Agents::settled(23);
    let before = agents.owners(1);
    let left = agents.announce_restart(0);
    agents.run(SECOND);
    let away = agents.announce_restart(2);
    agents.run(Duration::from_millis(500));
    agents.boot(2, Some(away));
    agents.run(3 * SECOND);
    assert_eq!(agents.owners(2), before, "it has been told that the other is away");
    agents.boot(0, Some(left));
    agents.run(3 * SECOND);
    assert_eq!(agents.owners(1), before);
}
