//! What is told of a run: a table for the terminal, and a page with plots that needs nothing beside it.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    bounds,
    run::Outcome,
    scenario::{ALL, Scenario},
    stats::Summary,
    svg::{Strip, escape, strips},
    timeline::timeline,
};

/// A run.
#[derive(Debug, Default)]
pub struct Run {
    /// The seed that repeats it.
    pub seed: u64,
    /// What bounds were stretched by.
    pub slack: f64,
    /// Processors, kernel, load; for the reader.
    pub machine: String,
    /// All rounds.
    pub outcomes: Vec<Outcome>,
    /// Scenarios that were not played, and why.
    pub skipped: Vec<(String, String)>,
    /// What did not hold over the whole run, or made a round impossible.
    pub failures: Vec<String>,
    /// What agents held first and last.
    pub holdings: Vec<String>,
}

/// The rounds of one scenario.
struct Row<'a> {
    scenario: &'a Scenario,
    rounds: Vec<&'a Outcome>,
}

const HEADINGS: [&str; 9] = [
    "scenario",
    "rounds",
    "outage ms median / p95 / max",
    "bound ms",
    "lost median / max",
    "twice",
    "connections survived / lost / of these promised",
    "settled s max",
    "verdict",
];

impl Row<'_> {
    fn summary(&self, value: impl Fn(&Outcome) -> f64) -> Summary {
        Summary::of(self.rounds.iter().map(|round| value(round)))
    }

    fn cells(&self, slack: f64) -> [String; 9] {
        let outage = self.summary(|round| round.outage);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let lost = self.summary(|round| round.lost as f64);
        let sum = |count: fn(&Outcome) -> usize| self.rounds.iter().map(|round| count(round)).sum::<usize>();
        let (betrayed, bereft) = (sum(|round| round.betrayed.len()), sum(|round| round.bereft));
        let failed = self.rounds.iter().filter(|round| !round.failures.is_empty()).count();
        [
            self.scenario.name.to_owned(),
            self.rounds.len().to_string(),
            format!("{:.0} / {:.0} / {:.0}", outage.median, outage.p95, outage.most),
            format!("{:.0}", limit(self.scenario, slack)),
            format!("{:.0} / {:.0}", lost.median, lost.most),
            self.rounds.iter().map(|round| round.duplicates).sum::<u64>().to_string(),
            format!("{} / {} / {betrayed}", sum(|round| round.survived), betrayed + bereft),
            format!("{:.1}", self.summary(|round| round.settling).most),
            if failed == 0 { "holds".to_owned() } else { format!("{failed} FAILED") },
        ]
    }
}

fn limit(scenario: &Scenario, slack: f64) -> f64 {
    scenario.bound().outage.outage(slack).as_secs_f64() * 1000.0
}

impl Run {
    /// Everything that did not hold, with what repeats it.
    #[must_use]
    pub fn all_failures(&self) -> Vec<String> {
        let of_rounds = self.outcomes.iter().flat_map(|outcome| {
            let Outcome { scenario, round, failures, .. } = outcome;
            let again = format!("SEED={} ONLY={scenario}", self.seed);
            failures.iter().map(move |failure| format!("{scenario}, round {round} ({again}): {failure}"))
        });
        of_rounds.chain(self.failures.iter().cloned()).collect()
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let rows = ALL.iter().map(|scenario| Row {
            scenario,
            rounds: self.outcomes.iter().filter(|outcome| outcome.scenario == scenario.name).collect(),
        });
        rows.filter(|row| !row.rounds.is_empty()).collect()
    }

    /// The table, as Markdown with aligned columns.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<_> = self.rows().iter().map(|row| row.cells(self.slack)).collect();
        let headings = HEADINGS.map(str::to_owned);
        let widths: Vec<_> = (0..HEADINGS.len())
            .map(|column| rows.iter().chain([&headings]).map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut table = String::new();
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        for row in [headings.as_slice(), &rule].into_iter().chain(rows.iter().map(<[String; 9]>::as_slice)) {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(table, "| {cell:width$} ");
            }
            table += "|\n";
        }
        for (name, why) in &self.skipped {
            let _ = writeln!(table, "\n{name} was skipped: {why}");
        }
        table
    }

    /// The outages of all scenarios, each a strip, with the bounds.
    #[must_use]
    pub fn outages(&self) -> String {
        let strip = |row: &Row| Strip {
            label: row.scenario.name.to_owned(),
            values: row.rounds.iter().map(|round| round.outage).collect(),
            bound: limit(row.scenario, self.slack),
        };
        strips(&self.rows().iter().map(strip).collect::<Vec<_>>(), "ms")
    }

    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut html = String::from(HEAD);
        let failures = self.all_failures();
        let verdict = if failures.is_empty() { "All invariants hold." } else { "Invariants are broken." };
        let _ = writeln!(
            html,
            "<p><b>{verdict}</b> Seed {}, {} rounds. {} Bounds are stretched by {}.</p>",
            self.seed,
            self.outcomes.len(),
            escape(&self.machine),
            self.slack
        );
        list(&mut html, "Broken", &failures);
        html += "<h2>Outages</h2>\n<p>Each dot is a round: the longest time in which the client was not served. The \
                 upright mark is the bound.</p>\n";
        html += &self.outages();
        html += "<table><tr>";
        HEADINGS.iter().for_each(|heading| html += &format!("<th>{heading}</th>"));
        html += "</tr>\n";
        for row in self.rows() {
            html += "<tr>";
            row.cells(self.slack).iter().for_each(|cell| html += &format!("<td>{}</td>", escape(cell)));
            html += "</tr>\n";
        }
        html += "</table>\n<h2>Scenarios</h2>\n";
        for row in self.rows() {
            let Scenario { name, what, .. } = row.scenario;
            let why = bounds::of(name).map_or("", |bound| bound.why);
            let _ = writeln!(html, "<h3>{name}</h3>\n<p>{}. Bound: {}.</p>", escape(what), escape(why));
            html += &timeline(&row.rounds);
        }
        list(&mut html, "What the agents held, first and last", &self.holdings);
        let skipped: Vec<_> = self.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        list(&mut html, "Skipped", &skipped);
        html + "</body></html>\n"
    }

    /// Writes `report.html`, `outages.svg` and `table.md`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (file, text) in [("report.html", self.html()), ("outages.svg", self.outages()), ("table.md", self.table())]
        {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Chaos</title>\n<style>\
body { font-family: sans-serif; max-width: 1000px; margin: 2em auto; color: #333 } table { border-collapse: collapse; \
font-size: 12px } td, th { border: 1px solid #ddd; padding: 3px 8px; text-align: left } svg { max-width: 100% }\
</style></head>\n<body><h1>Chaos</h1>\n";

fn list(html: &mut String, title: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(html, "<h2>{title}</h2>\n<ul>");
    items.iter().for_each(|item| *html += &format!("<li>{}</li>\n", escape(item)));
    *html += "</ul>\n";
}

/// Processors, kernel and load of this machine.
#[must_use]
pub fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    format!("{processors} processors, Linux {}, load {load} at the beginning.", read("/proc/sys/kernel/osrelease"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let round = |scenario, round, outage, failures: &[&str]| Outcome {
            scenario,
            round,
            outage,
            survived: 12,
            failures: failures.iter().map(|failure| (*failure).to_owned()).collect(),
            ..Outcome::default()
        };
        Run {
            seed: 7,
            slack: 1.0,
            outcomes: vec![
                round("cut", 1, 300.0, &[]),
                round("cut", 2, 900.0, &["too <late>"]),
                round("drain", 1, 0.0, &[]),
            ],
            ..Run::default()
        }
    }

    #[test]
    fn a_failure_names_scenario_round_seed_and_what() {
        assert_eq!(run().all_failures(), ["cut, round 2 (SEED=7 ONLY=cut): too <late>"]);
    }

    #[test]
    fn the_table_has_a_row_for_each_scenario_that_was_played() {
        let table = run().table();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("| 600 / 900 / 900") && table.contains("1 FAILED"), "{table}");
    }

    #[test]
    fn the_page_is_whole_and_escapes_what_it_quotes() {
        let html = run().html();
        assert!(html.contains("too &lt;late&gt;") && html.ends_with("</html>\n"));
        assert_eq!(html.matches("<svg ").count(), 3, "the strips and two timelines");
        assert!(!html.contains("src=") && !html.contains("href="), "needs nothing beside it");
    }
}
