//! Vigils: who watches a machine whose agent restarts, since no heartbeat of it can be missed meanwhile.
//!
//! One peer asks it on the wire, ten times a second, as a client asks: its hooks answer for its VIPs, or, where it has none
//! there, its network stack for its own address. `MISSES` questions without an answer: the machine is gone, too, and
//! its grace is over everywhere. Pure: questions out, answers and the time in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use membership::NodeName;

use super::{assign::Seat, question::ask};
use crate::wire::MacAddr;

/// Between questions.
const INTERVAL: Duration = Duration::from_millis(100);
/// How many may stay unanswered: a lost one or two mean nothing.
const MISSES: u32 = 4;

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// From where.
    pub seat: Seat,
    /// For which address.
    pub target: IpAddr,
    /// The machine's Ethernet address on that segment.
    pub mac: MacAddr,
    /// The life that ended: another restart is another vigil.
    pub generation: u64,
}

#[derive(Debug)]
struct Vigil {
    post: Post,
    /// Questions since the last answer.
    unanswered: u32,
    due: Instant,
}

/// All vigils of this node.
#[derive(Debug, Default)]
pub struct Vigils {
    kept: BTreeMap<NodeName, Vigil>,
    /// Machines that did not answer, by the life that ended.
    gone: BTreeMap<NodeName, u64>,
}

impl Vigils {
    /// Watches exactly these from now on.
    pub fn handle_posts(&mut self, posts: &BTreeMap<NodeName, Post>, now: Instant) {
        let same = |node: &NodeName, generation: u64| posts.get(node).is_some_and(|post| post.generation == generation);
        self.kept.retain(|node, vigil| same(node, vigil.post.generation));
        self.gone.retain(|node, generation| same(node, *generation));
        for (node, post) in posts {
            let vigil = self.kept.entry(node.clone());
            vigil.and_modify(|vigil| vigil.post.clone_from(post)).or_insert_with(|| Vigil {
                post: post.clone(),
                unanswered: 0,
                due: now,
            });
        }
    }

    /// Somebody on an uplink says that an address is at `mac`.
    pub fn handle_answer(&mut self, interface: &str, address: IpAddr, mac: MacAddr) {
        for vigil in self.kept.values_mut() {
            let post = &vigil.post;
            if (post.seat.interface.as_str(), post.target, post.mac) == (interface, address, mac) {
                vigil.unanswered = 0;
            }
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.kept.iter().filter(|(node, _)| !self.gone.contains_key(*node)).map(|(_, vigil)| vigil.due).min()
    }

    /// The questions that are due: interface and frame.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(String, Vec<u8>)> {
        let mut questions = Vec::new();
        for (node, vigil) in self.kept.iter_mut().filter(|(_, vigil)| vigil.due <= now) {
            if vigil.unanswered >= MISSES {
                self.gone.insert(node.clone(), vigil.post.generation);
                continue;
            }
            vigil.unanswered += 1;
            vigil.due = now + INTERVAL;
            let seat = &vigil.post.seat;
            questions.extend(
                ask(seat, vigil.post.target, Some(vigil.post.mac)).map(|frame| (seat.interface.clone(), frame)),
            );
        }
        questions
    }

    /// The machines that are gone.
    #[must_use]
    pub fn gone(&self) -> BTreeSet<NodeName> {
        self.gone.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    fn node() -> NodeName {
        "n2".parse().unwrap()
    }

    fn post(generation: u64) -> BTreeMap<NodeName, Post> {
        let address: IpAddr = "10.77.0.1".parse().unwrap();
        let seat = Seat { interface: "eth0".into(), mac: MacAddr(2, 0, 0, 0, 0, 1), address };
        let target = "10.77.0.100".parse().unwrap();
        [(node(), Post { seat, target, mac: MAC, generation })].into()
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]
        Instant::now()
    }

    /// Lets time pass; answers the questions if told so. How many there were.
    fn run(vigils: &mut Vigils, now: &mut Instant, time: Duration, answers: bool) -> usize {
        let end = *now + time;
        let mut asked = 0;
        while let Some(due) = vigils.poll_timeout().filter(|due| *due <= end) {
            *now = due.max(*now);
            asked += vigils.handle_timeout(*now).len();
            if answers {
                vigils.handle_answer("eth0", "10.77.0.100".parse().unwrap(), MAC);
            }
        }
        *now = end;
        asked
    }

    #[test]
    fn a_machine_that_answers_is_asked_on_and_one_that_does_not_is_gone_within_half_a_second() {
        let mut now = start();
        let mut vigils = Vigils::default();
        vigils.handle_posts(&post(1), now);
        let asked = run(&mut vigils, &mut now, Duration::from_secs(5), true);
        assert!((50..=51).contains(&asked), "{asked}");
        assert_eq!(vigils.gone(), BTreeSet::new());
        run(&mut vigils, &mut now, Duration::from_millis(350), false);
        assert_eq!(vigils.gone(), BTreeSet::new(), "a few may be lost");
        run(&mut vigils, &mut now, Duration::from_millis(150), false);
        assert_eq!(vigils.gone(), [node()].into());
        assert_eq!(vigils.poll_timeout(), None, "that is said and done");
    }

    #[test]
    fn anothers_answer_does_not_count() {
        let mut now = start();
        let mut vigils = Vigils::default();
        vigils.handle_posts(&post(1), now);
        for _ in 0..10 {
            run(&mut vigils, &mut now, Duration::from_millis(100), false);
            vigils.handle_answer("eth0", "10.77.0.100".parse().unwrap(), MacAddr(2, 0, 0, 0, 0, 3));
            vigils.handle_answer("eth1", "10.77.0.100".parse().unwrap(), MAC);
            vigils.handle_answer("eth0", "10.77.0.2".parse().unwrap(), MAC);
        }
        assert_eq!(vigils.gone(), [node()].into());
    }

    #[test]
    fn the_next_restart_is_another_vigil() {
        let mut now = start();
        let mut vigils = Vigils::default();
        vigils.handle_posts(&post(1), now);
        run(&mut vigils, &mut now, Duration::from_secs(1), false);
        vigils.handle_posts(&post(2), now);
        assert_eq!(vigils.gone(), BTreeSet::new());
        assert!(run(&mut vigils, &mut now, Duration::from_millis(300), true) > 2);
        vigils.handle_posts(&BTreeMap::new(), now);
        assert_eq!(vigils.poll_timeout(), None);
    }
}
