//! `crierctl drain`: hands the node's VIPs over, make before break; `--undo` ends it.

use anyhow::Result;

use crate::{Outcome, args::Output, client::Agent};

/// Has the agent drain, or end its drain, and says what it said.
pub(crate) async fn run(agent: &Agent, output: Output, undo: bool) -> Result<Outcome> {
    let path = if undo { "/api/v1/undrain" } else { "/api/v1/drain" };
    let said = agent.act(path).await?;
    Ok(Outcome::ok(match output {
        Output::Table => said,
        Output::Json => serde_json::to_string_pretty(&serde_json::json!({ "outcome": said.trim_end() }))? + "\n",
    }))
}
