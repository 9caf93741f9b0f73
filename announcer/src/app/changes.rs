//! Tells what changed between two moments, in the log and the counters: by these lines a takeover can be followed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use membership::{MemberState, NodeName, Standing, View};
use tokio::sync::watch;
use tracing::{info, warn};

use super::controller::Owners;
use crate::{
    log::Lines,
    metrics::{Events, Limits},
};

/// How often it is looked whether lines of the log were lost.
const LOST_LINES: Duration = Duration::from_secs(5);

/// Logs and counts changes of members' states.
pub(super) fn members(before: &View, now: &View, me: &NodeName, events: &Events) {
    for (name, member) in &now.members {
        let old = before.members.get(name).map(|member| member.state);
        if old == Some(member.state) {
            continue;
        }
        events.member_transition(member.state);
        if name == me {
            continue;
        }
        let address = member.address;
        match member.state {
            MemberState::Alive => info!(member = %name, %address, "member is alive"),
            MemberState::Suspect => info!(member = %name, %address, "member missed a probe"),
            MemberState::Restarting => {
                info!(member = %name, %address, "member restarts its agent: nothing of it is moved");
            }
            MemberState::Down => warn!(member = %name, %address, "member is down"),
            MemberState::Left => info!(member = %name, %address, "member left"),
        }
    }
}

/// Logs what this node counts for by now.
pub(super) fn standing(now: Standing) {
    match now {
        Standing::Whole => info!("this node sees most of its cluster"),
        Standing::Half => {
            warn!("this node sees only half of its cluster: it announces no more what it owned before");
        }
        Standing::Minority => warn!(
            "this node has just lost most of its cluster: it announces no more what it owned before, and takes only what it \
             can serve and nobody answers for"
        ),
    }
}

/// Logs and counts changes of owners.
pub(super) fn owners(before: &Owners, now: &Owners, events: &Events) {
    for (vip, owner) in now {
        let old = before.get(vip);
        if old.is_some_and(|old| old.node == owner.node && old.epoch == owner.epoch) {
            continue;
        }
        events.vip_transition(*vip, owner.reason.as_str());
        let from = old.map(|old| old.node.as_str());
        info!(%vip, owner = %owner.node, from, epoch = owner.epoch, reason = %owner.reason, "the VIP has an owner");
    }
    for (vip, old) in before {
        if !now.contains_key(vip) {
            warn!(%vip, from = %old.node, epoch = old.epoch, "the VIP has no owner");
        }
    }
}

/// Carries the bounds that a part hit, and counts in plain fields, over to the metrics, for as long as it publishes.
pub(super) async fn count_limits<T, L: Copy + Ord>(
    mut published: watch::Receiver<Arc<T>>,
    counts: impl Fn(&T) -> &BTreeMap<L, u64>,
    label: impl Fn(L) -> &'static str,
    limits: Limits,
) {
    let mut before = BTreeMap::new();
    loop {
        let now = counts(&published.borrow_and_update()).clone();
        for (limit, count) in &now {
            let new = count.saturating_sub(before.get(limit).copied().unwrap_or_default());
            if new > 0 {
                limits.add(label(*limit), new);
            }
        }
        before = now;
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Tells of lines of the log that were lost, in what is left of it and in the metrics.
pub(super) async fn count_lost_lines(lines: Lines, limits: Limits) {
    let mut tick = tokio::time::interval(LOST_LINES);
    let mut before = 0;
    loop {
        tick.tick().await;
        let lost = lines.lost();
        if lost > before {
            limits.add("log_lines", lost - before);
            warn!(lost = lost - before, "lines of the log were lost: standard error is not read fast enough");
            before = lost;
        }
    }
}
