//! From answers to verdicts: the rise and fall of one target.
//!
//! ```text
//!                 first answer decides at once
//!   unknown --- success ---> Healthy ---- `fall` failures in a row ---> Unhealthy
//!      \------- failure --------------------------------------------------^  |
//!                              ^------------ `rise` successes in a row ------/
//! ```

use std::{collections::BTreeMap, time::SystemTime};

use membership::{Target, Verdict};

/// What came of one probe, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The pod answered as its check demands.
    Success(String),
    /// It did not.
    Failure(String),
    /// This node could not ask (it has run out of descriptors, ports or memory), which says nothing about the pod:
    /// no verdict changes by it.
    NotAsked(String),
}

impl Answer {
    /// The label value of `crier_probe_results_total{result}`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Success(_) => "success",
            Self::Failure(_) => "failure",
            Self::NotAsked(_) => "not_asked",
        }
    }

    /// The reason in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Success(reason) | Self::Failure(reason) | Self::NotAsked(reason) => reason,
        }
    }
}

/// What the prober says of a target, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict, as it is gossiped.
    pub verdict: Verdict,
    /// When the verdict last changed, by this node's wall clock; for display only.
    pub since: SystemTime,
    /// What the last probe found, such as `connection refused`, `timeout after 500ms` or
    /// `HTTP 503, expected 200-399`. A healthy target may show a failure here that has not happened often enough yet.
    pub reason: String,
}

/// What the prober says of all its targets. Targets that have not answered or failed once are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The judgement on each target.
    pub targets: BTreeMap<Target, Judgement>,
    /// The targets in their slow start: the eighths of its share that each gets. None of them is judged unhealthy; new
    /// ones are not judged yet.
    pub warming: BTreeMap<Target, u8>,
}

impl Verdicts {
    /// The bare verdicts: what goes into [`membership::NodeDocument::health`].
    #[must_use]
    pub fn health(&self) -> BTreeMap<Target, Verdict> {
        let judged = self.targets.iter().map(|(target, judgement)| (*target, judgement.verdict));
        let warming = self.warming.iter().map(|(target, eighths)| (*target, Verdict::Warming(*eighths)));
        judged.chain(warming).collect()
    }
}

/// What an answer did to a target's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The verdict was made or has turned.
    Turned(Verdict),
    /// Only the reason is another.
    Reworded,
    /// Nothing that is reported changed.
    None,
}

/// The state of one target: its judgement, and how far the answers have spoken against it.
#[derive(Debug, Clone, Default)]
pub struct TargetState {
    judgement: Option<Judgement>,
    /// Answers in a row that contradict the verdict.
    against: u32,
}

impl TargetState {
    /// The judgement; `None` until the first answer.
    #[must_use]
    pub fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    /// Takes one answer into account. `rise` and `fall` count as 1 if they are 0; `wall` becomes
    /// [`Judgement::since`] if the verdict turns.
    pub fn observe(&mut self, answer: Answer, rise: u32, fall: u32, wall: SystemTime) -> Effect {
        let (seen, reason) = match answer {
            Answer::Success(reason) => (Verdict::Healthy, reason),
            Answer::Failure(reason) => (Verdict::Unhealthy, reason),
            Answer::NotAsked(_) => return Effect::None,
        };
        let Some(judgement) = &mut self.judgement else {
            self.judgement = Some(Judgement { verdict: seen, since: wall, reason });
            return Effect::Turned(seen);
        };
        let reworded = judgement.reason != reason;
        judgement.reason = reason;
        self.against = if seen == judgement.verdict { 0 } else { self.against.saturating_add(1) };
        let enough = match judgement.verdict {
            Verdict::Healthy | Verdict::Warming(_) => fall.max(1),
            Verdict::Unhealthy => rise.max(1),
        };
        if self.against >= enough {
            self.against = 0;
            judgement.verdict = seen;
            judgement.since = wall;
            return Effect::Turned(seen);
        }
        if reworded { Effect::Reworded } else { Effect::None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn answer(letter: char) -> Answer {
        match letter {
            '+' => Answer::Success("ok".into()),
            '-' => Answer::Failure("no".into()),
            _ => Answer::NotAsked("too many open files".into()),
        }
    }

    /// The verdict after each answer, as a word: `h`ealthy, `u`nhealthy, `?` unknown.
    fn walk(answers: &str, rise: u32, fall: u32) -> String {
        let mut state = TargetState::default();
        let verdict = |state: &TargetState| match state.judgement().map(|judgement| judgement.verdict) {
            None => '?',
            Some(Verdict::Healthy | Verdict::Warming(_)) => 'h',
            Some(Verdict::Unhealthy) => 'u',
        };
        answers
            .chars()
            .map(|letter| {
                state.observe(answer(letter), rise, fall, SystemTime::UNIX_EPOCH);
                verdict(&state)
            })
            .collect()
    }

    #[test]
    fn the_transition_table() {
        for (rise, fall, answers, verdicts) in [
            (2, 3, "+", "h"),
            (2, 3, "-", "u"),
            (2, 3, "+---", "hhhu"),
            (2, 3, "+--+---", "hhhhhhu"),
            (2, 3, "-++", "uuh"),
            (2, 3, "-+-++", "uuuuh"),
            (2, 3, "+---+-++", "hhhuuuuh"),
            (1, 1, "+-+-", "huhu"),
            (0, 0, "+-+-", "huhu"),
            (2, 3, "ooo", "???"),
            (2, 3, "o-", "?u"),
            (2, 2, "+-o-", "hhhu"),
        ] {
            assert_eq!(walk(answers, rise, fall), verdicts, "answers {answers} with rise {rise}, fall {fall}");
        }
    }

    #[test]
    fn since_moves_only_when_the_verdict_turns() {
        let mut state = TargetState::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        for (second, letter, since) in [(1, '+', 1), (2, '-', 1), (3, '-', 3), (4, '-', 3), (5, '+', 5)] {
            state.observe(answer(letter), 1, 2, at(second));
            assert_eq!(state.judgement().unwrap().since, at(since), "second {second}");
        }
    }

    #[test]
    fn a_changed_reason_is_reported_without_a_turn() {
        let mut state = TargetState::default();
        let mut failed = |reason: &str| state.observe(Answer::Failure(reason.into()), 2, 3, SystemTime::UNIX_EPOCH);
        assert_eq!(failed("connection refused"), Effect::Turned(Verdict::Unhealthy));
        assert_eq!(failed("connection refused"), Effect::None);
        assert_eq!(failed("timeout after 500ms"), Effect::Reworded);
    }

    proptest! {
        #[test]
        fn a_verdict_turns_exactly_when_the_last_answers_all_contradict_it(
            answers in proptest::collection::vec(any::<bool>(), 1..60), rise in 1_u32..5, fall in 1_u32..5,
        ) {
            let text: String = answers.iter().map(|ok| if *ok { '+' } else { '-' }).collect();
            let verdicts: Vec<bool> = walk(&text, rise, fall).chars().map(|letter| letter == 'h').collect();
            prop_assert_eq!(verdicts[0], answers[0]);
            let mut turned_at = 0;
            for i in 1..answers.len() {
                let before = verdicts[i - 1];
                let needed = if before { fall } else { rise } as usize;
                let contradicted = i - turned_at >= needed
                    && answers[i + 1 - needed..=i].iter().all(|ok| *ok != before);
                prop_assert_eq!(verdicts[i] != before, contradicted, "answer {} of {}", i, &text);
                if contradicted {
                    turned_at = i;
                }
            }
        }
    }
}
