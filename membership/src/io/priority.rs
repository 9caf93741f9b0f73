//! The priority of the watch's thread: real-time if that can be had, else the best that can.

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::gettid,
};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

const FIFO: ThreadSchedulePolicy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
const ORDINARY: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
/// Real-time priority, of 99: above everything ordinary, below what keeps a machine running.
const WANTED: u8 = 10;
/// What the library calls a nice value of -20, and one of -1.
const NICEST: (u8, u8) = (99, 51);

/// What a thread may run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// Real-time, of 99.
    RealTime(u8),
    /// A negative nice value, in the library's measure.
    Nice(u8),
}

/// Gives the calling thread the best priority that it may have, and says in the log what is lost by it.
pub(super) fn prefer() {
    for limit in [Resource::RLIMIT_RTPRIO, Resource::RLIMIT_NICE] {
        // What is allowed must also be asked for. Refused, the lower limit holds.
        let _ = getrlimit(limit).and_then(|(_, hard)| setrlimit(limit, hard, hard));
    }
    let got = best(|rank| set(rank).is_ok());
    let lost = "on a busy machine it may wake late, and take others for silent or be taken for silent. Grant CAP_SYS_NICE \
        (systemd: AmbientCapabilities=CAP_SYS_NICE or LimitRTPRIO=10, Kubernetes: securityContext.capabilities.add: \
        [SYS_NICE])";
    match got {
        Some(Rank::RealTime(priority)) => tracing::debug!(priority, thread = %gettid(), "the watch runs in real time"),
        Some(rank @ Rank::Nice(_)) => {
            tracing::warn!(nice = nice(rank), "the watch has a high, but no real-time priority: {lost}");
        }
        None => tracing::warn!("the watch has no higher priority than other programs: {lost}"),
    }
}

/// The first rank that `allowed` grants.
fn best(mut allowed: impl FnMut(Rank) -> bool) -> Option<Rank> {
    let real_time = (1..=WANTED).rev().map(Rank::RealTime);
    let nice = (NICEST.1..=NICEST.0).rev().map(Rank::Nice);
    real_time.chain(nice).find(|rank| allowed(*rank))
}

fn set(rank: Rank) -> Result<(), thread_priority::Error> {
    let (value, policy) = parts(rank);
    set_thread_priority_and_policy(thread_native_id(), measure(value)?, policy)
}

fn parts(rank: Rank) -> (u8, ThreadSchedulePolicy) {
    match rank {
        Rank::RealTime(value) => (value, FIFO),
        Rank::Nice(value) => (value, ORDINARY),
    }
}

fn measure(value: u8) -> Result<ThreadPriority, thread_priority::Error> {
    let value = ThreadPriorityValue::try_from(value).map_err(|_| thread_priority::Error::Priority("out of range"))?;
    Ok(ThreadPriority::Crossplatform(value))
}

/// The nice value of a rank, as people know it.
fn nice(rank: Rank) -> Option<i32> {
    let (value, policy) = parts(rank);
    measure(value).ok()?.to_posix(policy).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_comes_first_then_as_nice_as_is_allowed() {
        assert_eq!(best(|_| true), Some(Rank::RealTime(WANTED)));
        assert_eq!(best(|rank| !matches!(rank, Rank::RealTime(5..))), Some(Rank::RealTime(4)), "RLIMIT_RTPRIO 4");
        let only_nice = best(|rank| matches!(rank, Rank::Nice(_)));
        assert_eq!(only_nice.and_then(nice), Some(-20));
        let limited = best(|rank| nice(rank).is_some_and(|nice| matches!(rank, Rank::Nice(_)) && nice >= -5));
        assert_eq!(limited.and_then(nice), Some(-5), "RLIMIT_NICE 25");
        assert_eq!(best(|_| false), None);
    }

    #[test]
    fn no_rank_is_below_what_every_program_has() {
        let nice: Vec<_> = (NICEST.1..=NICEST.0).filter_map(|value| nice(Rank::Nice(value))).collect();
        assert!(nice.iter().all(|nice| (-20..0).contains(nice)), "{nice:?}");
        assert!(nice.is_sorted_by(|low, high| low >= high));
    }
}
