//! What was measured, a line of JSON each, written as it comes: a run that is interrupted can still be tabulated, and one
//! that is too long for one sitting goes on in the next.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{case::Case, soak::Soaked, table, trial::Outcome, vips::Served};

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A sitting begins.
    Sitting {
        /// Where and with which build, and how busy the machine was.
        machine: String,
        /// What repeats it.
        options: String,
        /// Seconds since 1970.
        unix: u64,
    },
    /// A trial.
    Trial { case: Case, outcome: Outcome },
    /// A trial that told nothing: the bed did not come to rest, or the trial not to an end.
    Void { case: Case, reason: String },
    /// Many VIPs at once.
    Vips(Served),
    /// Nothing failed.
    Soak(Soaked),
}

/// Where the records go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// The file; by default `target/bench/COMMAND.jsonl`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Add to the file; trials that it has already are not made again. Otherwise a file that is there gets `.old`
    /// behind its name.
    #[arg(long)]
    append: bool,
}

/// Where files are by default.
const FOLDER: &str = "target/bench";

/// The file, open.
pub(crate) struct Book {
    file: File,
    /// What it says.
    pub(crate) records: Vec<Record>,
}

impl Book {
    pub(crate) fn open(output: &Output, command: &str, options: &str) -> Result<Self> {
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
        let mut book = Self { file, records };
        eprintln!("records go to {}", path.display());
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        book.write(Record::Sitting { machine: table::machine(), options: format!("{command} {options}"), unix })?;
        Ok(book)
    }

    /// Adds a record at once.
    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        let line = serde_json::to_string(&record)? + "\n";
        self.file.write_all(line.as_bytes()).context("cannot write the records")?;
        self.records.push(record);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

/// Reads lines; a last one that was cut short by an interrupt is left out.
fn parse(text: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if line.ends_with('\n') {
            records.push(serde_json::from_str(line).with_context(|| format!("line {number}"))?);
        }
    }
    Ok(records)
}

/// `bench_failover table`: the tables of what the files say.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Files of records; by default all in target/bench.
    files: Vec<PathBuf>,
}

pub(crate) fn tabulate(options: &Options) -> Result<()> {
    let mut files = options.files.clone();
    if files.is_empty() {
        let there = fs::read_dir(FOLDER).with_context(|| format!("there is no {FOLDER}"))?;
        let paths = there.flatten().map(|entry| entry.path());
        files = paths.filter(|path| path.extension().is_some_and(|ext| ext == "jsonl")).collect();
        files.sort();
    }
    ensure!(!files.is_empty(), "there are no records in {FOLDER}");
    for file in files {
        println!("{}", table::all(&read(&file)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Fault, System};

    fn record() -> Record {
        let case = Case { system: System::CrierFast, fault: Fault::Cut, ipv6: true, everywhere: false };
        Record::Void { case, reason: "two\nlines".to_owned() }
    }

    #[test]
    fn records_read_as_they_are_written_and_a_cut_line_is_left_out() {
        let line = serde_json::to_string(&record()).expect("written");
        assert!(!line.contains('\n'), "{line}");
        let records = parse(&format!("{line}\n{line}\n{}", &line[..20])).expect("read");
        assert_eq!(records.len(), 2);
        assert!(matches!(&records[0], Record::Void { case, reason } if case.ipv6 && reason == "two\nlines"));
        assert!(parse("{}\n").is_err(), "a whole line that is none is a mistake");
    }

    #[test]
    fn a_second_sitting_sees_the_first_only_if_it_appends() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = |append| Output { out: Some(folder.path().join("x.jsonl")), append };
        let mut book = Book::open(&output(false), "trials", "").expect("open");
        book.write(record()).expect("written");
        book.file.write_all(b"{\"cut short").expect("written");
        assert_eq!(Book::open(&output(true), "trials", "").expect("open").records.len(), 3);
        assert_eq!(Book::open(&output(false), "trials", "").expect("open").records.len(), 1);
        assert_eq!(read(&folder.path().join("x.jsonl.old")).expect("kept").len(), 3);
    }
}
