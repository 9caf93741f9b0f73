//! Namesakes: another agent that runs under this node's name.
//!
//! Of a name, peers believe the highest generation and refuse what is lower (`session.rs`). A new life whose files and
//! clock were lost is told the generation of the former one and jumps above it: once, and at once. Two agents of one
//! name outrun each other for ever. Nothing can make both members; what can be done is to say so, and to keep the pace
//! down, so that peers see one of the two for a minute rather than both by turns. So after its first jump an agent that
//! is outrun waits before it jumps again, for a second, doubled each time up to a minute, each time more or less by a
//! quarter. After a while without it all is forgotten.
//!
//! A generation alone is no proof of a second agent: there may be peers that know different former lives. Being outrun
//! for a third time is; so is a datagram under this name from another session.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The first wait of one that is outrun again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long without being outrun or seeing another, all is forgotten. Longer than two agents take turns.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Between the first and the second line in the log; doubled with each
const FIRST_SILENCE: Duration = Duration::from_secs(10);
/// up to this.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
/// Datagrams of a namesake within so long count as one.
const ONE_SIGHTING: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Namesake {
    /// Times this life was outrun.
    outruns: u32,
    /// It is outrun, and waits until then.
    until: Option<Instant>,
    pause: Duration,
    /// When it was outrun or saw another last.
    last: Option<Instant>,
    sighted: Option<Instant>,
    /// Where another was heard.
    address: Option<SocketAddr>,
    conflicts: u64,
    /// No line in the log before.
    next_line: Option<Instant>,
    silence: Duration,
    complaint: bool,
}

impl Default for Namesake {
    fn default() -> Self {
        Self {
            outruns: 0,
            until: None,
            pause: FIRST_PAUSE,
            last: None,
            sighted: None,
            address: None,
            conflicts: 0,
            next_line: None,
            silence: FIRST_SILENCE,
            complaint: false,
        }
    }
}

impl Namesake {
    /// A peer knows this name by a generation not below this life's. Whether to jump above it now; else it is to be
    /// asked again when the peer says so again. `jitter` is in `0.0..1.0`.
    pub(crate) fn outrun(&mut self, now: Instant, jitter: f64) -> bool {
        self.forget(now);
        self.last = Some(now);
        let Some(until) = self.until else {
            self.outruns = self.outruns.saturating_add(1);
            if self.outruns == 1 {
                return true;
            }
            self.until = Some(now + self.pause.mul_f64(0.75 + jitter / 2.0));
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            if self.outruns > 2 {
                self.note_conflict(now);
            }
            return false;
        };
        if now < until {
            return false;
        }
        self.until = None;
        true
    }

    /// A datagram that opens came under this name, but from another session.
    pub(crate) fn see(&mut self, address: SocketAddr, now: Instant) {
        self.forget(now);
        self.last = Some(now);
        self.address = Some(address);
        if self.sighted.is_none_or(|sighted| now.saturating_duration_since(sighted) >= ONE_SIGHTING) {
            self.sighted = Some(now);
            self.note_conflict(now);
        }
    }

    /// A peer says where it heard the one that outran this node.
    pub(crate) fn locate(&mut self, address: SocketAddr) {
        self.address = Some(address);
    }

    /// Where another agent of this name is, as far as is known, if that is to be said in the log now.
    pub(crate) fn take_complaint(&mut self) -> Option<Option<SocketAddr>> {
        std::mem::take(&mut self.complaint).then_some(self.address)
    }

    /// How often another agent of this name has shown itself.
    pub(crate) fn conflicts(&self) -> u64 {
        self.conflicts
    }

    fn note_conflict(&mut self, now: Instant) {
        self.conflicts += 1;
        if self.next_line.is_none_or(|at| at <= now) {
            self.complaint = true;
            self.next_line = Some(now + self.silence);
            self.silence = (self.silence * 2).min(LONGEST_SILENCE);
        }
    }

    fn forget(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= FORGOTTEN) {
            *self = Self { conflicts: self.conflicts, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn epoch() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need an arbitrary origin of time")]
        Instant::now()
    }

    fn elsewhere() -> SocketAddr {
        "10.0.0.9:9651".parse().unwrap()
    }

    /// When it jumps, in seconds, while it is outrun at all times; and when it says so in the log.
    fn chased(namesake: &mut Namesake, start: Instant, seconds: u32) -> (Vec<u32>, Vec<u32>) {
        let (mut jumps, mut lines) = (Vec::new(), Vec::new());
        for second in 0..seconds {
            if namesake.outrun(start + SECOND * second, 0.5) {
                jumps.push(second);
            }
            lines.extend(namesake.take_complaint().map(|_| second));
        }
        (jumps, lines)
    }

    #[test]
    fn a_new_life_jumps_above_its_former_one_at_once_and_complains_of_nobody() {
        let mut namesake = Namesake::default();
        assert!(namesake.outrun(epoch(), 0.0));
        assert_eq!((namesake.take_complaint(), namesake.conflicts()), (None, 0));
    }

    #[test]
    fn one_that_is_outrun_again_and_again_jumps_ever_more_rarely_down_to_once_a_minute() {
        let (jumps, lines) = chased(&mut Namesake::default(), epoch(), 400);
        // Between a jump and being outrun again there is a second here.
        assert_eq!(jumps, [0, 2, 5, 10, 19, 36, 69, 130, 191, 252, 313, 374]);
        assert_eq!(lines, [3, 20, 70, 131, 253], "at once when it is certain, then ever more rarely");
    }

    #[test]
    fn waits_differ_by_the_jitter() {
        let [early, late] = [0.0, 0.999].map(|jitter| {
            let (mut namesake, start) = (Namesake::default(), epoch());
            namesake.outrun(start, jitter);
            assert!(!namesake.outrun(start, jitter));
            (0..2000).find(|ms| namesake.outrun(start + Duration::from_millis(*ms), jitter)).unwrap()
        });
        assert_eq!((early, late), (750, 1250));
    }

    #[test]
    fn a_datagram_under_this_name_is_said_at_once_with_its_address_and_counted_once_a_second() {
        let (mut namesake, start) = (Namesake::default(), epoch());
        for ms in 0..2500 {
            namesake.see(elsewhere(), start + Duration::from_millis(ms));
            assert_eq!(namesake.take_complaint(), (ms == 0).then_some(Some(elsewhere())));
        }
        assert_eq!(namesake.conflicts(), 3);
    }

    #[test]
    fn after_a_while_in_peace_the_next_jump_is_at_once_again() {
        let (mut namesake, start) = (Namesake::default(), epoch());
        chased(&mut namesake, start, 100);
        let conflicts = namesake.conflicts();
        assert!(conflicts > 0);
        assert!(!namesake.outrun(start + 400 * SECOND, 0.5) || !namesake.outrun(start + 401 * SECOND, 0.5));
        assert!(namesake.outrun(start + 1100 * SECOND, 0.5));
        assert_eq!(namesake.conflicts(), conflicts + 1, "counters do not go back");
    }
}
