//! What was measured. A run that is too long for one sitting goes on in the next: trials that a file has already are not
//! made again.

use std::{fs, path::PathBuf, time::SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::bench::{self, FOLDER, Output};
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

/// The file, open.
pub(crate) type Book = bench::Book<Record>;

/// Opens the file for a sitting.
pub(crate) fn open(output: &Output, command: &str, options: &str) -> Result<Book> {
    let mut book = Book::open(output, command)?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    book.write(Record::Sitting { machine: bench::machine(), options: format!("{command} {options}"), unix })?;
    Ok(book)
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
        println!("{}", table::all(&bench::read(&file)?));
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
    fn records_read_as_they_are_written_and_a_second_sitting_sees_the_first_only_if_it_appends() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = |append| Output { out: Some(folder.path().join("x.jsonl")), append };
        let mut book = open(&output(false), "trials", "").expect("open");
        book.write(record()).expect("written");
        let again = open(&output(true), "trials", "").expect("open");
        assert_eq!(again.records.len(), 3);
        assert!(matches!(&again.records[1], Record::Void { case, reason } if case.ipv6 && reason == "two\nlines"));
        assert_eq!(open(&output(false), "trials", "").expect("open").records.len(), 1);
        assert_eq!(bench::read::<Record>(&folder.path().join("x.jsonl.old")).expect("kept").len(), 3);
    }
}
