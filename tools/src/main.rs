//! `crierctl`: looks into a running agent and acts on it.
//!
//! [`args`] says what can be typed, [`client`] asks an agent, [`render`] makes tables, and each subcommand is a file in
//! [`cmd`]: from the answer to the text. Nothing here decides anything; what an agent tells is in
//! [`announcer::http::status`]. `migrate` alone asks no agent.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

mod args;
mod client;
mod cmd;
mod render;

use args::Args;

/// The agent could not be asked, or its answer not be understood.
const UNREACHABLE: u8 = 1;

/// What a subcommand has to say.
struct Outcome {
    /// What goes to standard output.
    text: String,
    /// What goes to standard error beside it.
    notes: String,
    /// The exit code.
    code: u8,
}

impl Outcome {
    /// Success, with this text.
    fn ok(text: String) -> Self {
        Self { text, notes: String::new(), code: 0 }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match cmd::run(&args).await {
        Ok(outcome) => say(&outcome),
        Err(error) => {
            // Nothing can be done if not even this can be written.
            let _ = writeln!(io::stderr(), "crierctl: {error:#}");
            ExitCode::from(UNREACHABLE)
        }
    }
}

/// Writes the outcome. A reader that has seen enough (`crierctl dump | head`) is no error.
fn say(outcome: &Outcome) -> ExitCode {
    // Nothing can be done if not even this can be written.
    let _ = io::stderr().write_all(outcome.notes.as_bytes());
    let mut out = io::stdout().lock();
    match out.write_all(outcome.text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "crierctl: cannot write: {error}");
            ExitCode::from(UNREACHABLE)
        }
        Ok(()) | Err(_) => ExitCode::from(outcome.code),
    }
}
