//! A scenario is a value: a name, the bed it lies on, and a function that strikes. The list of all is here.

use std::time::Duration;

use anyhow::Result;

use super::{
    bounds::{self, Bound},
    scenarios::{agents, disks, mass, network, planned},
    world::World,
};

/// The cluster a scenario happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bed {
    /// Three nodes with two pods each, two services, one of them dual-stack.
    Three,
    /// Three nodes with a pod each, a hundred services, all on one owner when the round begins.
    Hundred,
}

/// What is done to a cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name: a word, as in [`bounds::TABLE`].
    pub name: &'static str,
    /// What happens, for the report.
    pub what: &'static str,
    /// To which cluster.
    pub bed: Bed,
    /// The deed. What it does through the world is undone afterwards.
    pub strike: fn(&mut World) -> Result<()>,
    /// How long the faults stay in force at least, once the cluster has coped with them.
    pub hold: Duration,
    /// Words that explain an ERROR line in a log.
    pub errors: &'static [&'static str],
    /// What the machine must have; an error is why the scenario is skipped.
    pub needs: fn() -> Result<()>,
    /// Whether it belongs to the short set.
    pub short: bool,
}

impl Scenario {
    const fn new(name: &'static str, what: &'static str, strike: fn(&mut World) -> Result<()>) -> Self {
        Self {
            name,
            what,
            bed: Bed::Three,
            strike,
            hold: Duration::from_millis(500),
            errors: &[],
            needs: || Ok(()),
            short: false,
        }
    }

    const fn short(mut self) -> Self {
        self.short = true;
        self
    }

    const fn hold(mut self, milliseconds: u64) -> Self {
        self.hold = Duration::from_millis(milliseconds);
        self
    }

    /// What it may cost.
    ///
    /// # Panics
    /// When the table has no row for it, which a test excludes.
    #[must_use]
    pub fn bound(&self) -> Bound {
        #[expect(clippy::expect_used, reason = "a test holds the table to the list")]
        bounds::of(self.name).expect("every scenario has a bound")
    }
}

/// All scenarios, in the order in which they run: those of one bed together.
pub const ALL: &[Scenario] = &[
    Scenario::new("drain", "the owner is drained, and undrained", planned::drain).short(),
    Scenario::new("sigterm", "the owner's agent gets SIGTERM, and is started again", planned::sigterm).short(),
    Scenario::new("kill-owner", "SIGKILL to the owner's agent, and a new start", agents::kill_owner).short(),
    Scenario::new("kill-random", "SIGKILL to a random agent, and a new start", agents::kill_random),
    Scenario::new("pause", "SIGSTOP to the owner's agent for 5 s", agents::pause).hold(5000),
    Scenario::new("restart-all", "SIGKILL to all agents at once, and new starts", agents::restart_all).short(),
    Scenario::new("link-down", "the owner's link goes down", network::link_down).short(),
    Scenario::new("cut", "the owner's port passes nothing, with its link up", network::cut).short(),
    Scenario::new("mute", "the owner is heard by nobody, and hears all", network::mute).short(),
    Scenario::new("deaf", "the owner hears nobody, and is heard by all", network::deaf),
    Scenario::new("apart", "the owner and its peers do not hear each other; the client hears all", network::apart),
    Scenario::new("loss-1", "the owner's port loses 1 % each way", network::loss_1).hold(3000),
    Scenario::new("loss-5", "the owner's port loses 5 % each way", network::loss_5).hold(3000),
    Scenario::new("loss-20", "the owner's port loses 20 % each way", network::loss_20).hold(3000),
    Scenario::new("delay", "frames from and to the owner take 20 ms longer each way", network::delay).hold(3000),
    Scenario::new("flap", "the owner's link goes down and up every second, five times", network::flap),
    Scenario::new(
        "restart-in-takeover",
        "the owner is cut, a successor killed and started",
        agents::restart_in_takeover,
    ),
    Scenario {
        errors: &["No space left on device"],
        ..Scenario::new("full-disk", "a node restarts on a full disk, then the owner is cut", disks::full)
    },
    Scenario {
        needs: crate::faults::disk::can_hang,
        ..Scenario::new("hung-disk", "a node's disk hangs, then the owner is cut", disks::hung)
    },
    Scenario { bed: Bed::Hundred, ..Scenario::new("hundred", "the owner of 100 VIPs is cut", mass::hundred) },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_bound_and_every_bound_a_scenario() {
        let scenarios: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        let bounds: BTreeSet<_> = bounds::TABLE.iter().map(|(name, _)| *name).collect();
        assert_eq!(scenarios.iter().copied().collect::<BTreeSet<_>>(), bounds);
        assert_eq!((scenarios.len(), bounds::TABLE.len()), (bounds.len(), bounds.len()), "names are unique");
    }

    #[test]
    fn scenarios_of_a_bed_run_together() {
        assert!(ALL.is_sorted_by_key(|scenario| scenario.bed));
    }
}
