//! What benchmarks have in common: records in a file, the machine they ran on, Markdown.
//!
//! What is measured is a line of JSON each, written as it comes: a run that is interrupted can still be tabulated.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

/// Where records are by default.
pub const FOLDER: &str = "target/bench";

/// Where the records go.
#[derive(Debug, Clone, Args)]
pub struct Output {
    /// The file; by default `target/bench/COMMAND.jsonl`.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Add to the file. Otherwise a file that is there gets `.old` behind its name.
    #[arg(long)]
    pub append: bool,
}

/// A file of records, open.
#[derive(Debug)]
pub struct Book<R> {
    file: File,
    /// What it says.
    pub records: Vec<R>,
}

impl<R: Serialize + DeserializeOwned> Book<R> {
    /// Opens the file; a last line that was cut short by an interrupt is taken off.
    ///
    /// # Errors
    /// When it cannot be written, or a line of it is no record.
    pub fn open(output: &Output, command: &str) -> Result<Self> {
        let path = output.out.clone().unwrap_or_else(|| Path::new(FOLDER).join(format!("{command}.jsonl")));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.exists() && !output.append {
            let mut old = path.clone().into_os_string();
            old.push(".old");
            fs::rename(&path, old)?;
        }
        let records = if path.exists() { read(&path)? } else { Vec::new() };
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let whole = fs::read(&path)?.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(u64::try_from(whole)?)?;
        eprintln!("records go to {}", path.display());
        Ok(Self { file, records })
    }

    /// Adds a record at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, record: R) -> Result<()> {
        let line = serde_json::to_string(&record)? + "\n";
        self.file.write_all(line.as_bytes()).context("cannot write the records")?;
        self.records.push(record);
        Ok(())
    }
}

/// The records of a file.
///
/// # Errors
/// When it cannot be read, or a line of it is no record.
pub fn read<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

/// Reads lines; a last one that was cut short by an interrupt is left out.
fn parse<R: DeserializeOwned>(text: &str) -> Result<Vec<R>> {
    let mut records = Vec::new();
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if line.ends_with('\n') {
            records.push(serde_json::from_str(line).with_context(|| format!("line {number}"))?);
        }
    }
    Ok(records)
}

/// A Markdown table, or nothing when there are no rows.
#[must_use]
pub fn markdown(head: &str, rows: &[String]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns = head.matches('|').count().saturating_sub(1);
    format!("{head}\n|{}\n{}\n\n", "---|".repeat(columns), rows.join("\n"))
}

/// What this is measured with.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("", |(_, name)| name);
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{cores} cores ({}), Linux {}, {build} build, {}", model.trim(), kernel.trim(), load())
}

/// The load averages.
#[must_use]
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_they_are_written_and_a_cut_line_is_left_out() {
        let line = serde_json::to_string("two\nlines").expect("written");
        let records: Vec<String> = parse(&format!("{line}\n{line}\n{}", &line[..4])).expect("read");
        assert_eq!(records, ["two\nlines", "two\nlines"]);
        assert!(parse::<String>("{}\n").is_err(), "a whole line that is none is a mistake");
    }

    #[test]
    fn a_second_sitting_sees_the_first_only_if_it_appends() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = |append| Output { out: Some(folder.path().join("x.jsonl")), append };
        let mut book = Book::open(&output(false), "x").expect("open");
        book.write(1_u32).expect("written");
        book.file.write_all(b"{\"cut short").expect("written");
        assert_eq!(Book::<u32>::open(&output(true), "x").expect("open").records, [1]);
        assert!(Book::<u32>::open(&output(false), "x").expect("open").records.is_empty());
        assert_eq!(read::<u32>(&folder.path().join("x.jsonl.old")).expect("kept"), [1]);
    }

    #[test]
    fn a_table_without_rows_is_left_out() {
        assert_eq!(markdown("| a | b |", &[]), "");
        assert_eq!(markdown("| a | b |", &["| 1 | 2 |".to_owned()]), "| a | b |\n|---|---|\n| 1 | 2 |\n\n");
    }
}
