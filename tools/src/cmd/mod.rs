//! The subcommands, one file each: from an agent's answer to text.

use anyhow::Result;
use serde_json::to_string_pretty;

use crate::{
    Outcome,
    args::{Args, Command, Output},
    render::Style,
};

mod backends;
mod drain;
mod dump;
mod flows;
mod members;
mod migrate;
mod status;
#[cfg(test)]
mod tests;
mod vips;

/// Does what was typed.
pub(crate) async fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Dump => return dump::run(&args.agent).await,
        Command::Drain { undo } => return drain::run(&args.agent, args.output, *undo).await,
        Command::Flows { service, limit } => {
            return flows::run(&args.agent, args.output, service.as_deref(), *limit).await;
        }
        Command::Migrate { files, namespace } => return migrate::run(files, namespace, args.output),
        Command::Rebalance => return drain::act(&args.agent, args.output, "/api/v1/rebalance").await,
        Command::Status | Command::Members | Command::Vips | Command::Backends => {}
    }
    let status = args.agent.status().await?;
    let style = Style::detect();
    let json = args.output == Output::Json;
    let text = match &args.command {
        Command::Members if json => to_string_pretty(&status.members)? + "\n",
        Command::Members => members::render(&status, style),
        Command::Vips if json => to_string_pretty(&status.vips)? + "\n",
        Command::Vips => vips::render(&status, style),
        Command::Backends if json => to_string_pretty(&status.backends)? + "\n",
        Command::Backends => backends::render(&status, style),
        _ => {
            let text = if json { to_string_pretty(&status)? + "\n" } else { status::render(&status, style) };
            return Ok(Outcome { code: status::code(&status), ..Outcome::ok(text) });
        }
    };
    Ok(Outcome::ok(text))
}
