//! What each scenario may cost the client, in one table, with the reasons.
//!
//! To hold the agents to a faster failover, change [`TAKEOVER`]: everything that waits for one follows.

use std::time::Duration;

/// From the fault to the first answer by the new owner, when the owner vanishes: detection by the watch at its
/// default of 50 ms x 3, agreement, claim, gratuitous ARP.
pub const TAKEOVER: Duration = Duration::from_millis(250);
/// What a client may notice of a move that needs no detection, since what forwards outlives the agent.
pub const BLINK: Duration = Duration::from_millis(50);
/// The last of many VIPs is served at most so long after the first.
pub const SPREAD: Duration = Duration::from_millis(100);

/// How long the client may go unserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Not one request is lost.
    Nothing,
    /// Up to [`BLINK`].
    Blink,
    /// Up to so many times [`TAKEOVER`].
    Takeovers(u32),
}

impl Limit {
    /// The longest outage it allows on a machine on which everything takes `slack` times as long; no outage at all
    /// stays none.
    #[must_use]
    pub fn outage(self, slack: f64) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::Blink => BLINK.mul_f64(slack),
            Self::Takeovers(count) => (TAKEOVER * count).mul_f64(slack),
        }
    }
}

/// Which established connections must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// All.
    All,
    /// Those to pods on nodes that the scenario does not touch.
    Elsewhere,
    /// None is promised.
    Unpromised,
}

/// What a scenario may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The longest outage.
    pub outage: Limit,
    /// The connections.
    pub connections: Connections,
    /// Why this much.
    pub why: &'static str,
}

const fn bound(outage: Limit, connections: Connections, why: &'static str) -> Bound {
    Bound { outage, connections, why }
}

/// The table; a scenario without a row does not pass the tests.
pub const TABLE: &[(&str, Bound)] = {
    use Connections::{All, Elsewhere, Unpromised};
    use Limit::{Blink, Nothing, Takeovers};
    &[
        ("drain", bound(Nothing, All, "planned: the next owner answers before this one stops")),
        ("sigterm", bound(Nothing, All, "planned: as a drain, and the hooks stay when the agent leaves")),
        ("kill-owner", bound(Blink, All, "the dead agent's hooks forward on, so late packets to the old MAC arrive")),
        ("kill-random", bound(Blink, All, "as kill-owner, or nothing if it owned nothing")),
        ("pause", bound(Blink, All, "a stopped agent's hooks forward on; resumed, it finds itself outvoted")),
        (
            "restart-all",
            bound(Blink, All, "the hooks of all nodes stay, and the client knows the owner's MAC meanwhile"),
        ),
        ("link-down", bound(Takeovers(1), Elsewhere, "one detection")),
        ("cut", bound(Takeovers(1), Elsewhere, "one detection")),
        ("mute", bound(Takeovers(1), Elsewhere, "its peers miss it as if it were gone")),
        ("deaf", bound(Takeovers(1), Elsewhere, "it finds that it hears nobody, and says so: one detection")),
        ("apart", bound(Takeovers(1), Unpromised, "both sides answer the client; each serves by the pods it reaches")),
        ("loss-1", bound(Blink, All, "retransmission; runs of lost datagrams are short")),
        ("loss-5", bound(Blink, All, "retransmission; runs of lost datagrams are short")),
        (
            "loss-20",
            bound(Takeovers(1), Unpromised, "the owner may be given up, rightly; TCP may stall beyond patience"),
        ),
        ("delay", bound(Blink, All, "a slow link is not a dead one; only the line's insertion may be seen")),
        ("flap", bound(Takeovers(1), Elsewhere, "one detection; who comes back takes nothing back")),
        (
            "restart-in-takeover",
            bound(
                Takeovers(4),
                Elsewhere,
                "both others may be gone at once: one alone waits for the start of the other",
            ),
        ),
        ("hundred", bound(Takeovers(1), Elsewhere, "one detection, whatever the number of VIPs")),
        ("full-disk", bound(Takeovers(1), Elsewhere, "state on disk is for the next start only: nothing waits for it")),
        ("hung-disk", bound(Takeovers(1), Elsewhere, "as full-disk: no task that serves may wait for the disk")),
    ]
};

/// What the scenario may cost.
#[must_use]
pub fn of(scenario: &str) -> Option<Bound> {
    TABLE.iter().find(|(name, _)| *name == scenario).map(|(_, bound)| *bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_machine_gets_more_time_but_no_lost_requests() {
        assert_eq!(Limit::Nothing.outage(3.0), Duration::ZERO);
        assert_eq!(Limit::Takeovers(2).outage(1.5), TAKEOVER * 3);
    }
}
