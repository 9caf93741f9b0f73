//! The timeline of a scenario: a line for each round, with what was done and when the client was not served.

use super::{
    run::Outcome,
    svg::{Anchor, Canvas, colour},
};

const LABELS: f64 = 70.0;
const PLOT: f64 = 800.0;
const ROW: f64 = 30.0;
const TOP: f64 = 22.0;

/// Draws the rounds, all from the start of their traffic on one axis in seconds.
#[must_use]
pub fn timeline(rounds: &[&Outcome]) -> String {
    let longest = rounds.iter().map(|round| round.seconds).fold(1.0, f64::max).ceil();
    let x = |seconds: f64| LABELS + PLOT * (seconds / longest).clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let height = TOP + ROW * rounds.len() as f64 + 6.0;
    let mut canvas = Canvas::new(LABELS + PLOT + 30.0, height);
    for tick in 0..=10 {
        let seconds = longest * f64::from(tick) / 10.0;
        canvas.line((x(seconds), TOP), (x(seconds), height - 6.0), colour::GRID);
        canvas.text((x(seconds), TOP - 8.0), Anchor::Middle, colour::INK, &format!("{seconds:.1} s"));
    }
    let mut top = TOP;
    for round in rounds {
        let line = top + 20.0;
        canvas.text((LABELS - 10.0, line + 4.0), Anchor::End, colour::INK, &format!("round {}", round.round));
        canvas.line((x(0.0), line), (x(round.seconds), line), colour::GOOD);
        for gap in &round.gaps {
            // A single request is narrower than a pixel.
            let width = (x(gap.from + gap.length) - x(gap.from)).max(1.0);
            let title = format!("not served for {:.1} ms from {:.3} s", gap.length * 1000.0, gap.from);
            canvas.bar((x(gap.from), line - 5.0), (width, 10.0), colour::BAD, &title);
        }
        let mut free_from = 0.0;
        for event in &round.events {
            let at = x(event.at);
            canvas.bar((at, line - 8.0), (1.5, 16.0), colour::INK, &format!("{:.3} s: {}", event.at, event.what));
            // Texts that would overlap are left to the pointer.
            if at >= free_from {
                canvas.text((at, line - 10.0), Anchor::Start, colour::INK, &event.what);
                #[expect(clippy::cast_precision_loss, reason = "the length of a label")]
                let width = 6.0 * event.what.chars().count() as f64;
                free_from = at + width;
            }
        }
        top += ROW;
    }
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::run::{Event, Gap};

    #[test]
    fn outages_and_events_are_drawn_to_scale() {
        let round = Outcome {
            seconds: 4.0,
            gaps: vec![Gap { from: 2.0, length: 1.0 }],
            events: vec![Event { at: 1.0, what: "cut n1 & co".into() }],
            ..Outcome::default()
        };
        let svg = timeline(&[&round]);
        let (from, width) = (LABELS + PLOT / 2.0, PLOT / 4.0);
        assert!(svg.contains(&format!(r#"<rect x="{from:.1}" y="37.0" width="{width:.1}""#)), "{svg}");
        assert!(svg.contains("cut n1 &amp; co</text>"));
        assert!(svg.contains("not served for 1000.0 ms from 2.000 s"));
    }
}
